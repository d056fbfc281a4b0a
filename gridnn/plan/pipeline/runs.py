"""Runs: what every run of units of a network would cost as a stage, on groups of every size, and for a schedule.

A *unit* is what no stage is cut inside of: a layer with weights that multiplies, and what follows it up to the next.
What follows shrinks outputs or rewrites them, so a cut before it would move more or the same (docstring of `units_of`).
But behind a stage that replays a cut lies before a ReLU at its end: what masks by the output of the product is then
the next stage, and the product need not be made again (`masked_later`).

    layers    conv1 relu1 pool1 | conv2 relu2 pool2 flatten | fc1 relu3 | fc2 loss
    units     0                 | 1                         | 2         | 3
    replay    0                 | 1                         | 2     | 3

    from    to 1   to 2   to 3   to 4       a table for each quantity and group: seconds, bytes
    0       [0,1)  [0,2)  [0,3)  [0,4)
    1              [1,2)  [1,3)  [1,4)      a stage of units 1 and 2 is at row 1, column 3
    2                     [2,3)  [2,4)

`runcost` fills them, `partition` and `merge` cut by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network.fusion import absorbable
from gridnn.network.graph import Network
from gridnn.plan.pipeline.partition import Floats
from gridnn.plan.pipeline.schedule import EXACT, Schedule

SPARED = (s.Conv, s.ConvTranspose, s.Linear)
"""Kinds whose backward reads no output of their own but to mask by it."""
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
    masked_later
        First layer of a stage that begins with the unit, behind one that replays (U,).
    forward_s, backward_s
        Of one pass.
    spared_s
        Of `forward_s`, what a replay leaves out.
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
    masked_later: tuple[str, ...]
    forward_s: Floats
    backward_s: Floats
    spared_s: Floats
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
            work = self.forward_s + self.backward_s
            if schedule.replays(k):
                work = work + self.forward_s - self.spared_s
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


def masked_later(network: Network, units: Sequence[str]) -> tuple[str, ...]:
    """Return where a stage begins for each unit behind one that replays: at the ReLU before it, if that ends a product.

    The product rectifies what it sends (`network.fusion`), the ReLU masks the gradient before it sends that back.
    """
    nodes, hosts = network.nodes, absorbable(network)
    specs = {node.name: node.spec for node in nodes}
    found = []
    for name in units:
        at = next(i for i, node in enumerate(nodes) if node.name == name)
        before = nodes[at - 1].name if at else ""
        spare = (
            at > 1 and hosts.get(before) == nodes[at - 2].name and isinstance(specs[hosts[before]], SPARED)
        )
        found.append(before if spare else name)
    return tuple(found)
