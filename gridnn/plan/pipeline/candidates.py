"""Candidates: what could be a pipelined plan with some number of passes, and the fastest of them for a schedule.

    tables of runs  --partition, merge-->  cuts  --shortlist-->  placed, priced  --simulate-->  the fastest that fits

Cuts and their prices do not depend on the schedule's order, so schedules share them, but for stages that replay
(`runs`); what is open at once does, and with it what fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.placed import place_network
from gridnn.network.stages import Stages, cut_network
from gridnn.plan.job import Job
from gridnn.plan.pipeline.costs import PipelineCost
from gridnn.plan.pipeline.memory import pipeline_memory
from gridnn.plan.pipeline.merge import merge
from gridnn.plan.pipeline.partition import Floats, Partition, partition
from gridnn.plan.pipeline.runs import Runs
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost

SHORTLIST = 6
"""Candidates of a schedule that are priced and simulated, for each number of passes."""
GAP = 0.01
"""Relative cost above the optimum at which a partition may be taken: a tenth of the model's error."""

Key = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Pipelined:
    """A pipelined plan.

    Attributes
    ----------
    schedule
        With its numbers of stages and passes.
    stages
        Where they begin.
    ranks
        Of each stage, the first of which begins at rank 0, each other behind the one before.
    schemes
        Of every layer.
    step_s
        Seconds of a step, simulated.
    memory_bytes
        Of a rank, in the stage that needs most.
    """

    schedule: Schedule
    stages: Stages
    ranks: tuple[int, ...]
    schemes: Mapping[str, Scheme]
    cost: PipelineCost
    step_s: float
    memory_bytes: int


class Candidates:
    """What could be the plan for one number of passes; what was priced once is kept."""

    def __init__(self, job: Job, runs: Runs, groups: Sequence[int] | None) -> None:
        self.job, self.runs, self.groups = job, runs, groups
        # Only where the job has several nodes is there a border to heed.
        self.node = next((ranks for ranks in job.machine.units if 1 < ranks < job.procs), 0)
        self._priced: dict[tuple[Key, bool], tuple[Stages, dict[str, Scheme], PipelineCost]] = {}

    def best(self, kind: Schedule, counts: Sequence[int], memory_bytes: float | None) -> Pipelined | None:
        """Return the fastest of the shortlist of a schedule, of any of some numbers of stages; None if none fits."""
        asked: dict[Key, Partition] = {}
        for count in counts:
            for each in self._cuts(replace(kind, stages=count), memory_bytes, alone=len(counts) == 1):
                asked.setdefault(each[:2], each)
        best = None
        for each in sorted(asked.values(), key=lambda each: each.cost_s)[:SHORTLIST]:
            now = self._simulated(replace(kind, stages=len(each.first)), each)
            fits_in = memory_bytes is None or now.memory_bytes <= memory_bytes
            best = now if fits_in and faster(now, best) else best
        return best

    def leanest(self, kind: Schedule, counts: Sequence[int]) -> float:
        """Return the least memory, by the tables, that a plan of some number of stages needs of a rank."""
        found = np.inf
        for count in counts:
            schedule = replace(kind, stages=count)
            needs = np.stack([self.runs.needs_bytes(schedule, k) for k in range(count)])
            best = partition(
                np.zeros_like(needs), self._given(needs), self.runs.groups, self.job.procs, "slowest"
            )
            found = found if best is None else min(found, best.slow_s)
        return float(found)

    def _cuts(self, schedule: Schedule, memory_bytes: float | None, *, alone: bool) -> list[Partition]:
        """Return the cuts of a number of stages; `alone` if no other number will do."""
        runs, procs = self.runs, self.job.procs
        rule = "step" if schedule.exact else "slowest"
        fill_s, slow_s = runs.stages(schedule, memory_bytes)
        slow_s = self._given(slow_s)
        nodes = sorted({0, self.node})
        found = [partition(fill_s, slow_s, runs.groups, procs, rule, node, GAP) for node in nodes]
        equal, rest = divmod(procs, schedule.stages)
        if self.groups is None and not rest and equal in runs.groups:
            g = [runs.groups.index(equal)]
            found.append(partition(fill_s[..., g], slow_s[..., g], [equal], procs, rule, gap=GAP))
        if self.groups is None:
            found.append(self._merged(schedule, fill_s, slow_s, memory_bytes, alone=alone))
        return [each for each in found if each is not None]

    def _merged(
        self, schedule: Schedule, fill_s: Floats, slow_s: Floats, memory_bytes: float | None, *, alone: bool
    ) -> Partition | None:
        """Return what merging leaves for equal groups, and all ranks dealt out to its stages."""
        g = max(
            (g for g, q in enumerate(self.runs.groups) if q * schedule.stages <= self.job.procs), default=0
        )
        try:  # by the tables of the first stage, which has the most passes open
            first = merge(fill_s[0, :, :, g], slow_s[0, :, :, g], schedule.stages).first
        except InputError:
            return None  # nothing merged fits in memory; what is cut otherwise may
        if len(first) < 2 or (alone and len(first) != schedule.stages):
            return None
        fewer = replace(schedule, stages=len(first))
        fill_s, slow_s = self.runs.stages(fewer, memory_bytes)
        only = np.full(slow_s.shape[:3], np.inf)
        for k, (start, stop) in enumerate(pairwise((*first, len(self.runs.units)))):
            only[k, start, stop] = 0.0
        rule = "step" if schedule.exact else "slowest"
        return partition(
            fill_s, slow_s + only[..., None], self.runs.groups, self.job.procs, rule, self.node, GAP
        )

    def _given(self, costs: Floats) -> Floats:
        """Return costs that are infinite for groups other than those given."""
        if self.groups is None:
            return costs
        mine = np.equal.outer(np.array(self.groups), np.array(self.runs.groups))  # (K, G)
        return np.where(mine[:, None, None, :], costs, np.inf)

    def _simulated(self, schedule: Schedule, cut: Partition) -> Pipelined:
        stages, schemes, cost = self._price(cut, replayed=schedule.replays(0))
        held = pipeline_memory(schedule, cost, self.job.states)
        step_s = simulate(schedule, cost).step_s
        return Pipelined(
            schedule, stages, cut.ranks, schemes, cost, step_s, max(each.total_bytes for each in held)
        )

    def _price(self, cut: Partition, *, replayed: bool) -> tuple[Stages, dict[str, Scheme], PipelineCost]:
        key = (cut.first, cut.ranks), replayed
        if key not in self._priced:
            names = self.runs.masked_later if replayed else self.runs.units
            job, stages = self.job, cut_network(self.job.network, [names[i] for i in cut.first])
            begins = [0, *accumulate(cut.ranks)]
            schemes = {
                name: Scheme(self.runs.schemes[self.runs.groups.index(cut.ranks[k])][name].grid, begins[k])
                for name, k in stages.of.items()
            }
            placed = place_network(job.network, schemes, job.per_pass, job.procs)
            cost = pipeline_cost(placed, stages, job.machine, job.widths, job.passes, states=job.states)
            self._priced[key] = stages, schemes, cost
        return self._priced[key]


def faster(now: Pipelined | None, best: Pipelined | None) -> bool:
    """Return whether a plan is faster than the best so far, or the first."""
    return now is not None and (best is None or now.step_s < best.step_s)
