"""Given cuts: how many ranks and which grids stages get that begin where somebody says.

    given       conv1 ... pool3 | conv4 ... pool5 | fc6 ... loss
    tables      1  2  4  8        1  2  4  8        1  2  4  8      seconds and bytes of a stage on a group of so many
    dealt out   4                 2                 2               ranks: `partition`, whose units are the stages

Grids are those of the search: what `layerwise` finds for the network on a group's ranks.  For the tables of a group all
stages have groups of that size, one behind the other, whether or not there are so many ranks: what a stage costs on
its group hardly depends on where the group begins.  What is chosen is placed as it is, priced and simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.placed import place_network
from gridnn.network.stages import Stages, cut_network
from gridnn.plan.job import Job
from gridnn.plan.pipeline.candidates import Candidates, Pipelined, faster
from gridnn.plan.pipeline.costs import PipelineCost
from gridnn.plan.pipeline.partition import Floats
from gridnn.plan.pipeline.runcost import plans_of
from gridnn.plan.pipeline.runs import Runs
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.search import EVERY_SIZE, PATIENCE, passes_of, sizes_of
from gridnn.plan.pipeline.stagecost import pipeline_cost


def best_cut_at(
    job: Job, first: Sequence[str], schedule: str, *, form: str = "replay", groups: Sequence[int] | None = None,
    memory_bytes: float | None = None,
) -> Pipelined:  # fmt: skip
    """Return the best pipelined plan found whose stages begin at some layers.

    Parameters
    ----------
    first
        First layers of the stages; that of the network need not be named.
    form, groups, memory_bytes
        As `best_pipelines` has them.

    Raises
    ------
    InputError
        If stages cannot begin there, there are more of them than ranks, groups are not one a stage or not P ranks
        together, or nothing fits.
    """
    stages = cut_network(job.network, first)
    _check(job, stages, groups)
    sizes = sizes_of(job.procs, job.procs + 1 - stages.count, every=job.procs <= EVERY_SIZE)
    best, idle = None, 0
    for passes in passes_of(job, schedule):
        mine = replace(job, passes=passes)
        tables = Candidates(mine, _runs(mine, stages, sorted({*(groups or sizes)})), groups)
        now = tables.best(Schedule(schedule, 1, passes, form), [stages.count], memory_bytes)
        idle = 0 if faster(now, best) else idle + 1
        best = now if faster(now, best) else best
        if best is not None and idle >= PATIENCE:
            break
    if best is None:
        raise InputError(
            f"no pipeline whose stages begin at {', '.join(stages.first)} "
            + (
                "adds up to all processes"
                if memory_bytes is None
                else f"fits in {memory_bytes / 1e9:.3g} GB a rank"
            )
            + "; give the number of stages alone, and the search cuts elsewhere"
        )
    return best


def _check(job: Job, stages: Stages, groups: Sequence[int] | None) -> None:
    begin = ", ".join(stages.first)
    if stages.count > job.procs:
        raise InputError(
            f"{stages.count} stages ({begin}) on {job.procs} processes: each needs at least one; ask for fewer stages"
        )
    if groups is None:
        return
    shown = ", ".join(map(str, groups))
    if len(groups) != stages.count:
        raise InputError(
            f"{len(groups)} groups of ranks ({shown}) for {stages.count} stages ({begin}); give one for each stage"
        )
    if min(groups) < 1 or sum(groups) != job.procs:
        raise InputError(
            f"groups of {shown} ranks are {sum(groups)} together, but there are {job.procs}; give each stage at least "
            f"one rank, and all of them {job.procs}"
        )


def _runs(job: Job, stages: Stages, groups: Sequence[int]) -> Runs:
    """Return tables whose units are the stages."""
    plans, costs = plans_of(job, groups), []
    for ranks, plan in plans.items():
        apart = {name: Scheme(plan[name].grid, k * ranks) for name, k in stages.of.items()}
        placed = place_network(job.network, apart, job.per_pass, stages.count * ranks)
        costs.append(pipeline_cost(placed, stages, job.machine, job.widths, job.passes, states=job.states))

    def table(name: str) -> Floats:
        return np.stack([_added([getattr(each, name) for each in cost.stages]) for cost in costs], axis=-1)

    arrive_s = np.stack([_added(_arriving_s(cost)) for cost in costs], axis=-1)
    held = [table(f"{name}_bytes") for name in ("weight", "kept", "input", "worst")]
    return Runs(
        stages.first, tuple(plans), tuple(plans.values()), stages.first, table("forward_s"), table("backward_s"),
        table("spared_s"), table("update_s"), arrive_s, *held,
    )  # fmt: skip


def _added(each: Sequence[float]) -> Floats:
    """Return sums over runs (K + 1, K + 1); those of one stage are what counts, there is no room for others."""
    ends = np.concatenate([[0.0], np.cumsum(each)])
    return np.asarray(ends[None, :] - ends[:, None])


def _arriving_s(cost: PipelineCost) -> list[float]:
    """Return the seconds in which a pass arrives at each stage."""
    found = dict.fromkeys(range(len(cost.stages)), 0.0)
    for move in cost.transfers:
        found[move.target] += move.forward_s
    return list(found.values())
