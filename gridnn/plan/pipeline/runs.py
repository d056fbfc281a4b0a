"""Runs: what every run of units of a network would cost as a stage, on groups of every size, and for a schedule.

A *unit* is what no stage is cut inside of: a layer with weights that multiplies, and what follows it up to the next.
What follows shrinks outputs or rewrites them, so a cut before it would move more or the same (docstring of `units_of`).

    layers    conv1 relu1 pool1 | conv2 relu2 pool2 flatten | fc1 relu3 | fc2 loss
    units     0                 | 1                         | 2         | 3

    from    to 1   to 2   to 3   to 4       a table for each quantity and group: seconds, bytes
    0       [0,1)  [0,2)  [0,3)  [0,4)
    1              [1,2)  [1,3)  [1,4)      a stage of units 1 and 2 is at row 1, column 3
    2                     [2,3)  [2,4)

`runcost` fills them, `partition` and `merge` cut by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.plan.pipeline.partition import Floats
from gridnn.plan.pipeline.schedule import EXACT, Schedule

HEADS = (s.Conv, s.ConvTranspose, s.Linear, s.Embedding, s.LSTM, s.Attention, s.Upsample)
"""Kinds with which a unit begins."""


@dataclass(frozen=True, eq=False)
class Runs:
    """What runs cost: of [i, j) at row i, column j, groups in the last dim (U + 1, U + 1, G).

    Attributes
    ----------
    units
        First layer of each unit (U,).
    groups
        Ranks of each group (G,).
    schemes
        Of every layer on each group, from rank 0 on (G,).
    forward_s, backward_s
        Of one pass.
    update_s
        Of one step.
    arrive_s
        Of one pass, forward; its gradient goes back in as long.
    weight_bytes, kept_bytes, input_bytes, worst_bytes
        As `StageCost` has them.
    """

    units: tuple[str, ...]
    groups: tuple[int, ...]
    schemes: tuple[dict[str, Scheme], ...]
    forward_s: Floats
    backward_s: Floats
    update_s: Floats
    arrive_s: Floats
    weight_bytes: Floats
    kept_bytes: Floats
    input_bytes: Floats
    worst_bytes: Floats

    def stages(self, schedule: Schedule, memory_bytes: float | None = None) -> tuple[Floats, Floats]:
        """Return fill_s and slow_s of `partition` for a schedule (K, U + 1, U + 1, G).

        With M passes, w the seconds of a pass at a stage and a those of what arrives there, one way,

            gpipe, 1f1b      fill = w + 2 a     slow = (M - 1) max(w, a) + update
            sequential       fill = M (w + 2 a) slow = update
            delayed, local   fill = 0           slow = M max(w, a) + update            w with the replay

        For equal stages that is the step of `simulate`; else it errs, and what is chosen is simulated.

        Parameters
        ----------
        memory_bytes
            Of a rank; runs that need more cannot be that stage.
        """
        m, fill, slow = schedule.passes, list[Floats](), list[Floats]()
        for k in range(schedule.stages):
            work = self.forward_s * (2 if schedule.replays(k) else 1) + self.backward_s
            each, there_and_back = np.maximum(work, self.arrive_s), work + 2 * self.arrive_s
            if schedule.name == "sequential":
                fill_s, slow_s = m * there_and_back, self.update_s
            elif schedule.name in EXACT:
                fill_s, slow_s = there_and_back, (m - 1) * each + self.update_s
            else:
                fill_s, slow_s = np.zeros_like(each), m * each + self.update_s
            if memory_bytes is not None:
                slow_s = np.where(self.needs_bytes(schedule, k) <= memory_bytes, slow_s, np.inf)
            fill.append(fill_s)
            slow.append(slow_s)
        return np.stack(fill), np.stack(slow)

    def needs_bytes(self, schedule: Schedule, stage: int) -> Floats:
        """Return what runs need of a rank's memory as some stage of a schedule, as `stage_memory` adds it up.

        Older weights, which a stage that stashes keeps, are at most half of all weight bytes: as much is taken.
        """
        others = schedule.open(stage) - 1
        each = self.weight_bytes + self.kept_bytes + self.worst_bytes
        if schedule.replays(stage):
            return each + others * self.input_bytes
        return each + others * self.kept_bytes + schedule.versions(stage) * self.weight_bytes / 2


def units_of(network: Network) -> tuple[str, ...]:
    """Return the first layer of each unit.

    A unit begins with one of `HEADS`.  Batch norm, activation and dropout move as much as what they follow, pools and
    the loss less; sums and concatenations read several outputs and make one.  Layers that share weights are in one.
    """
    at = {node.name: i for i, node in enumerate(network.nodes)}
    heads = [i for i, node in enumerate(network.nodes) if i == 0 or isinstance(node.spec, HEADS)]
    tied = [(at[owner], at[name]) for name, owner in network.tied.items()]
    return tuple(network.nodes[i].name for i in heads if not any(owner < i <= other for owner, other in tied))
