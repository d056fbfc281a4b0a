"""Pipelined plans beside plain ones: which is faster, by how much, and a pipelined plan as a plan.

| asked for                  | stages                            | grids                                 |
|----------------------------|-----------------------------------|---------------------------------------|
| nothing, or a schedule     | of the search                     | of the search                         |
| a grid for each stage      | first layers given, or of the     | as given                              |
| ("n2 k2 | n4")             | search for groups of those sizes  |                                       |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.placed import check_scheme, place_network
from gridnn.network.stages import Stages, cut_network
from gridnn.plan.job import Job
from gridnn.plan.pipeline.memory import pipeline_memory
from gridnn.plan.pipeline.schedule import EXACT, Schedule
from gridnn.plan.pipeline.search import Pipelined, best_pipelines, passes_of
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost
from gridnn.plan.plan import Plan
from gridnn.plan.search import MODEL_ERROR

WEIGHED = 32
"""Processes up to which plain plans are compared with pipelined ones unasked: the search takes half a minute."""
FLUSHED = tuple(name for name in EXACT if name != "sequential")


class Weighed(NamedTuple):
    """The best pipelined plan beside a plain one; None where none could be better."""

    best: Pipelined | None
    plain_s: float
    words: str

    @property
    def wins(self) -> bool:
        """Whether the pipeline is faster by more than the model's error."""
        return self.best is not None and self.best.step_s < (1 - MODEL_ERROR) * self.plain_s


def weigh(
    job: Job, plain_s: float, schedules: Sequence[str] = FLUSHED, memory_bytes: float | None = None
) -> Weighed:
    """Compare pipelined plans of some schedules with a plain one that takes `plain_s` a step, overlap counted.

    Parameters
    ----------
    memory_bytes
        What a rank has, if that limits pipelines.
    """
    if job.procs < 2:
        return Weighed(None, plain_s, "no pipelines: one process")
    if job.procs > WEIGHED:
        return Weighed(
            None, plain_s, f"pipelines not weighed above {WEIGHED} processes; name a schedule for them"
        )
    if all(passes_of(job, name) == (1,) for name in schedules):
        return Weighed(
            None,
            plain_s,
            "no pipelines: with batch norm passes are what was asked for, and one pass fills none",
        )
    try:
        found = best_pipelines(job, schedules, memory_bytes=memory_bytes)
    except InputError as error:
        return Weighed(None, plain_s, f"no pipelines: {error}")
    name, best = min(found.items(), key=lambda entry: (entry[1].step_s, entry[1].memory_bytes))
    gain = 1 - best.step_s / plain_s if plain_s else 0.0
    beside = f"{abs(gain):.1%} {'faster' if gain > 0 else 'slower'} than without stages"
    if 0 < gain < MODEL_ERROR:
        beside += f", less than the model's error of {MODEL_ERROR:.0%}"
    passes = best.schedule.passes
    return Weighed(
        best, plain_s, f"best pipeline ({name}, {best.schedule.stages} stages, {passes} passes): {beside}"
    )


def staged(job: Job, text: str, schedule: str, form: str, first: Sequence[str] = ()) -> Pipelined:
    """Return the pipelined plan of a grid for each stage, such as ``"n2 | k2"``.

    Parameters
    ----------
    first
        First layers of the stages; left out, stages that take about the same time.

    Raises
    ------
    InputError
        If grids cannot be read, are not as many as stages, or have not the ranks of the job together.
    """
    grids = [GridShape.parse(part) for part in text.split("|")]
    sizes = [grid.size for grid in grids]
    if sum(sizes) != job.procs:
        raise InputError(
            f'plan "{text}" has stages of {", ".join(map(str, sizes))} ranks, {sum(sizes)} together, but {job.procs} '
            f"{'is' if job.procs == 1 else 'are'} running; start {sum(sizes)} or change the grids"
        )
    if first:
        stages = cut_network(job.network, first)
        if stages.count != len(grids):
            raise InputError(
                f'plan "{text}" has {len(grids)} grids for {stages.count} stages ({", ".join(stages.first)}); give one '
                "grid for each stage, and the first layer of each"
            )
    else:
        stages = best_pipelines(job, (schedule,), groups=sizes, form=form)[schedule].stages
    begins = [0, *accumulate(sizes)]
    schemes = {name: Scheme(grids[k], begins[k]) for name, k in stages.of.items()}
    return pipelined(job, stages, schemes, Schedule(schedule, stages.count, job.passes, form), tuple(sizes))


def pipelined(
    job: Job, stages: Stages, schemes: Mapping[str, Scheme], schedule: Schedule, ranks: tuple[int, ...]
) -> Pipelined:
    """Return a pipelined plan with its price."""
    for name, scheme in schemes.items():
        check_scheme(name, scheme, job.batch // job.passes, job.procs)
    placed = place_network(job.network, schemes, job.per_pass, job.procs)
    cost = pipeline_cost(placed, stages, job.machine, job.widths, job.passes, states=job.states)
    held = pipeline_memory(schedule, cost, job.states)
    most = max(each.total_bytes for each in held)
    return Pipelined(schedule, stages, ranks, schemes, cost, simulate(schedule, cost).step_s, most)


def plan_of(job: Job, found: Pipelined, origin: str, predicted: Mapping[str, Any] | None = None) -> Plan:
    """Return a pipelined plan as a plan."""
    return Plan(
        job.network.name, job.network.digest, job.procs, job.batch, found.schemes, origin, predicted or {},
        found.schedule.passes, schedule=found.schedule.name, form=found.schedule.form, stages=found.stages.first,
    )  # fmt: skip
