"""Search for pipelined plans: how many stages and passes, where stages are cut, which ranks and grids they have.

| choice    | among                                                                                               |
|-----------|-----------------------------------------------------------------------------------------------------|
| passes    | those of the job; of a job with one pass and no batch norm, 2, 4, 8, ... as far as they divide the  |
|           | batch, until two in a row bring nothing.  With batch norm passes change what is computed            |
| stages    | 2 to as many as there are units (`runs`) and ranks                                                  |
| ranks     | groups of powers of two and divisors of P, in any order; then, for the best passes, of every size   |
|           | where P is at most `EVERY_SIZE`                                                                     |
| cut       | units: the optimum of `partition`, with groups inside nodes and across, and with groups of equal    |
|           | size; what `merge` leaves, its ranks dealt out by `partition`                                       |
| grids     | of a group of q ranks: those `layerwise` finds for the network on q ranks, from the group's first on|

Of all that the tables predict to be fast, the `SHORTLIST` first are placed, priced (`stagecost`) and simulated, and the
fastest of them is the answer: the optimum of tables, not of simulated time.  Where several stages fit a network the
idea is Akintoye et al. 2022 as `partition` and `merge` reconstruct it; grids inside of stages are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.plan.job import Job
from gridnn.plan.pipeline.candidates import Candidates, faster
from gridnn.plan.pipeline.candidates import Pipelined as Pipelined
from gridnn.plan.pipeline.runcost import runs_of
from gridnn.plan.pipeline.runs import units_of
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.space import degrees

EVERY_SIZE = 8
"""Ranks up to which groups may have any size."""
PATIENCE = 2
"""Numbers of passes, each twice the last, that may bring nothing before no more are tried."""


def best_pipelines(
    job: Job, schedules: Sequence[str] = ("gpipe", "1f1b"), *, stages: int | None = None,
    groups: Sequence[int] | None = None, memory_bytes: float | None = None, form: str = "replay",
) -> dict[str, Pipelined]:  # fmt: skip
    """Return the best pipelined plan found for each schedule.

    Parameters
    ----------
    stages
        How many, if that is not to be chosen.
    groups
        Ranks of every stage in order, if they are not to be chosen.
    memory_bytes
        What a rank has: weights, gradients, optimizer state and the arrays of all open passes must fit.
    form
        Of a delayed schedule.

    Raises
    ------
    InputError
        For more stages than the network or the job has room for, groups that are not P ranks together, or a limit that
        nothing fits.
    """
    counts = _counts(job, stages, groups)
    found: dict[str, Pipelined] = {}
    tables: dict[tuple[int, bool], Candidates] = {}
    for name in schedules:
        best, idle, tried = None, 0, passes_of(job, name)
        for passes in tried:
            coarse = _candidates(tables, job, passes, counts, groups, every=False)
            now = coarse.best(Schedule(name, 1, passes, form), counts, memory_bytes)
            idle = 0 if faster(now, best) else idle + 1
            best = now if faster(now, best) else best
            if best is not None and idle >= PATIENCE:
                break
        if groups is None and job.procs <= EVERY_SIZE:
            passes = tried[0] if best is None else best.schedule.passes
            fine = _candidates(tables, job, passes, counts, groups, every=True)
            now = fine.best(Schedule(name, 1, passes, form), counts, memory_bytes)
            best = now if faster(now, best) else best
        if best is None:
            raise _nothing_fits(tables, name, form, counts, memory_bytes)
        found[name] = best
    return found


def passes_of(job: Job, schedule: str) -> tuple[int, ...]:
    """Return the numbers of passes to try, fewest first."""
    if job.passes > 1 or any(isinstance(node.spec, s.BatchNorm) for node in job.network.nodes):
        return (job.passes,)
    every = [m for m in range(2, job.batch + 1) if job.batch % m == 0]
    powers = [m for m in every if m & (m - 1) == 0]
    # Without a flush one pass a step keeps all stages busy; with one it keeps one of them busy.
    alone = (1,) if schedule not in ("gpipe", "1f1b") or not every else ()
    return (*alone, *(powers or every))


def sizes_of(procs: int, most: int, *, every: bool) -> list[int]:
    """Return the sizes groups may have, none above `most`: powers of two and divisors of P, or every one."""
    some = {*degrees(procs), *(1 << i for i in range(procs.bit_length()))}
    return [size for size in range(1, most + 1) if every or size in some]


def _counts(job: Job, stages: int | None, groups: Sequence[int] | None) -> list[int]:
    """Return the numbers of stages to try."""
    units = units_of(job.network)
    if groups is not None:
        if min(groups, default=0) < 1 or sum(groups) != job.procs:
            raise InputError(
                f"groups of {', '.join(map(str, groups)) or 'no'} ranks are {sum(groups)} together, but there are "
                f"{job.procs}; give each stage at least one rank, and all of them {job.procs}"
            )
        if stages not in (None, len(groups)):
            raise InputError(
                f"{stages} stages, but {len(groups)} groups of ranks; give one group for each stage"
            )
        stages = len(groups)
    if stages is None and min(len(units), job.procs) < 2:
        raise InputError(
            f"{job.procs} processes, and {len(units)} units of {job.network.name} that can be stages: a pipeline "
            "needs at least 2 of each; plan without stages"
        )
    if stages is None:
        return list(range(2, min(len(units), job.procs) + 1))
    if not 1 <= stages <= len(units):
        raise InputError(
            f"{stages} stages: network {job.network.name} has {len(job.network.nodes)} layers in {len(units)} units "
            f"(a layer that multiplies, and what follows it), and a stage is one or more; ask for 1 to {len(units)}"
        )
    if stages > job.procs:
        raise InputError(
            f"{stages} stages on {job.procs} processes: each needs at least one; ask for fewer stages"
        )
    return [stages]


def _candidates(
    known: dict[tuple[int, bool], Candidates], job: Job, passes: int, counts: Sequence[int],
    groups: Sequence[int] | None, *, every: bool,
) -> Candidates:  # fmt: skip
    """Return the candidates of a number of passes; all schedules share them."""
    if (passes, every) not in known:
        sizes = sizes_of(job.procs, job.procs + 1 - min(counts), every=every)
        split = replace(job, passes=passes)
        known[passes, every] = Candidates(split, runs_of(split, sorted({*(groups or sizes)})), groups)
    return known[passes, every]


def _nothing_fits(
    known: Mapping[tuple[int, bool], Candidates], name: str, form: str, counts: Sequence[int],
    memory_bytes: float | None,
) -> InputError:  # fmt: skip
    """Return what is to be said where no plan was found."""
    if memory_bytes is None:
        return InputError(
            f"no pipeline of {counts[0]} to {counts[-1]} stages: groups of ranks that the network can use do not add "
            "up to all processes; take a number of processes with small factors, such as a power of two"
        )
    leanest = min(
        each.leanest(Schedule(name, 1, passes, form), counts) for (passes, _), each in known.items()
    )
    return InputError(
        f"memory: no pipeline fits in {memory_bytes / 1e9:.3g} GB a rank; the leanest found for schedule {name} needs "
        f"about {leanest / 1e9:.3g} GB; give more memory or more processes, or a smaller batch"
    )
