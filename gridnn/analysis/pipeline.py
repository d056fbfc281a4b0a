"""Pipelines: layers in stages that work at the same time, by schedule and number of stages, beside one plan for all.

| row        | what is best among                                            | gradients                              |
|------------|---------------------------------------------------------------|----------------------------------------|
| none       | grids of all ranks (one stage); the row the others are        | of one process                         |
|            | compared with                                                 |                                        |
| sequential | cuts, groups of ranks, passes (see `plan.pipeline.search`)    | of one process                         |
| gpipe 1f1b | the same                                                      | of one process                         |
| delayed    | the same, in both forms                                       | late by `late` steps                   |
| local      | the same                                                      | of each stage's own loss               |

A step is simulated (`plan.pipeline.simulate`): stages that wait for each other, transfers one after the other.  Only
rows whose gradients are those of one process train like it: the others buy time with staleness or another loss, and a
shorter step says nothing about how many of them are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gridnn.analysis.chart import Bars, Lanes, Series, Span
from gridnn.analysis.table import Cell, Column, Table
from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.plan.job import Job
from gridnn.plan.pipeline.memory import pipeline_memory
from gridnn.plan.pipeline.runcost import units_of
from gridnn.plan.pipeline.schedule import SCHEDULES, Schedule
from gridnn.plan.pipeline.search import Pipelined, best_pipelines
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.timeline import Timeline

NONE = "none"
NAMES = (*(name for name in SCHEDULES if name != "delayed"), "delayed replay", "delayed stash")
"""Schedules as rows have them: the delayed one in its two forms."""
MOST_STAGES = 8
"""Up to so many stages, in doublings, are looked at where none are asked for."""
COLUMNS = (
    Column("schedule"),
    Column("exact", head="exact", about="whether gradients are those of one process"),
    Column("stages", "count"),
    Column("passes", "count", about="micro-batches of a step"),
    Column("ranks", about="of each stage"),
    Column("first", about="first layer of each stage", hidden=True),
    Column("step_s", "s", "step", "simulated, in the long run"),
    Column("speedup", "ratio", "speed-up", "against the best plan without stages"),
    Column("busiest_s", "s", "busiest", "what the busiest stage has to do in a step"),
    Column("bubble", "ratio", about="which part of a step ranks wait for other stages, on the average"),
    Column("late", "count", about="steps by which gradients of the first stage are late"),
    Column("open", "count", about="passes, at most, that a stage has open at once"),
    Column("memory_bytes", "bytes", "memory", "of a rank of the stage that needs most"),
    Column("between_bytes", "bytes", "between stages", "of all ranks in a step, forward and backward"),
    Column("lates", about="steps by which gradients of each stage are late", hidden=True),
    Column("opens", about="passes, at most, that each stage has open", hidden=True),
    Column("memories", about="bytes of a rank of each stage", hidden=True),
    Column("bubbles", about="which part of a step each stage waits", hidden=True),
)
_NOTES = (
    "step is simulated: communication inside a stage as a run hides it, between stages beside the work of both; sums "
    "of gradients behind the last backward of their stage.",
    "where gradients are not exact a shorter step is not a shorter training: late gradients and losses of stages may "
    "need more steps, or fail.  What the losses of `local` stages compute is not counted.",
)


@dataclass(frozen=True, eq=False)
class Row:
    """A plan and its timeline; `name` is of `NAMES`, or `NONE` for one stage."""

    name: str
    plan: Pipelined
    timeline: Timeline


def pipelines(
    job: Job, names: Sequence[str] = NAMES, stages: Sequence[int] = ()
) -> tuple[list[Row], list[str]]:
    """Return the best plan of each schedule and number of stages, after that without stages; and what cannot be.

    Parameters
    ----------
    names
        Of `NAMES`.
    stages
        Left out, doublings from 2 up to `MOST_STAGES`, as far as network and ranks go.

    Raises
    ------
    InputError
        If a name is not known, nothing is asked for, or none of the numbers of stages can be.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f'schedule "{unknown[0]}" is not known; use some of {", ".join(NAMES)}')
    if not names:
        raise InputError(f"no schedule to look at; give some of {', '.join(NAMES)}")
    most = min(job.procs, len(units_of(job.network)), MOST_STAGES)
    counts = sorted(set(stages)) or [k for k in (2, 4, 8) if k <= most] or [2]
    rows = [_row(NONE, best_pipelines(job, ("sequential",), stages=1)["sequential"])]
    refused: list[str] = []
    for count in counts:
        try:
            rows += _of(job, names, count)
        except InputError as error:
            refused.append(str(error))
    if len(rows) == 1:
        raise InputError(refused[0])
    order = {name: at for at, name in enumerate((NONE, *names))}
    rows.sort(key=lambda row: (order[row.name], row.plan.stages.count))
    return rows, refused


def _of(job: Job, names: Sequence[str], count: int) -> Iterator[Row]:
    """Yield the best plan of each schedule of a number of stages, those of one form priced together."""
    for form in ("replay", "stash"):
        mine = [name for name in names if (name == "delayed stash") == (form == "stash")]
        found = best_pipelines(job, [name.split()[0] for name in mine], stages=count, form=form)
        yield from (_row(name, found[name.split()[0]]) for name in mine)


def _row(name: str, plan: Pipelined) -> Row:
    return Row(name, plan, simulate(plan.schedule, plan.cost))


def pipeline(job: Job, names: Sequence[str] = NAMES, stages: Sequence[int] = ()) -> Table:
    """Return a row for each schedule and number of stages; see `pipelines`."""
    return pipeline_table(job, *pipelines(job, names, stages))


def pipeline_table(job: Job, rows: Sequence[Row], refused: Sequence[str] = ()) -> Table:
    """Return plans as a table; the first row is what others are compared with."""
    base_s = rows[0].timeline.step_s
    title = f"{job.network.name} on {job.procs} processes of {job.machine.name}: pipelines, batch {job.batch}"
    notes = list(_NOTES)
    if job.passes > 1:
        notes.append(f"a step has the {job.passes} passes asked for, without stages too.")
    elif any(isinstance(node.spec, s.BatchNorm) for node in job.network.nodes):
        notes.append(
            "a step has one pass: with batch norm more of them change what is computed, so they are yours to ask for "
            "(--passes); with one, exact schedules have nothing to do at the same time."
        )
    else:
        notes.append("passes are those that make the shortest step; --passes asks for others.")
    cells = (_cells(job, row, base_s) for row in rows)
    return Table(
        title, COLUMNS, tuple(tuple(each[c.key] for c in COLUMNS) for each in cells), notes=(*notes, *refused)
    )


def _cells(job: Job, row: Row, base_s: float) -> dict[str, Cell]:
    plan, line, schedule = row.plan, row.timeline, row.plan.schedule
    waits = sum(n * part for n, part in zip(plan.ranks, line.bubbles, strict=True))
    memories = [each.total_bytes for each in pipeline_memory(schedule, plan.cost, job.states)]
    return {
        "schedule": row.name, "exact": schedule.exact, "stages": schedule.stages, "passes": schedule.passes,
        "ranks": " ".join(map(str, plan.ranks)), "first": " ".join(plan.stages.first), "step_s": line.step_s,
        "speedup": base_s / line.step_s if line.step_s else None, "busiest_s": max(line.busy_s),
        "bubble": waits / job.procs, "late": line.staleness[0], "open": max(line.open), "memory_bytes": max(memories),
        "between_bytes": between_bytes(schedule, plan), "lates": _words(line.staleness), "opens": _words(line.open),
        "memories": _words(memories), "bubbles": " ".join(f"{part:.4g}" for part in line.bubbles),
    }  # fmt: skip


def between_bytes(schedule: Schedule, plan: Pipelined) -> int:
    """Return the bytes that all ranks of all stages receive from other stages in a step."""
    back = schedule.name != "local"
    return schedule.passes * sum(x.forward_bytes + back * x.backward_bytes for x in plan.cost.transfers)


def _words(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def pipeline_chart(table: Table) -> Bars:
    """Return the steps as bars: what the busiest stage does, and what the step takes beside that."""
    rows = table.records()
    busy, step = table.numbers("busiest_s"), table.numbers("step_s")
    return Bars(
        table.title, "schedule, stages, passes", "seconds of a step",
        tuple(_label(r) for r in rows),
        (Series("compute and update of the busiest stage", busy, "step"),
         Series("wait", tuple(max(0.0, a - b) for a, b in zip(step, busy, strict=True)), "step")),
        tuple("" if r["speedup"] is None else f"{r['speedup']:.2f}x" for r in rows),
        "Above: how much faster than without stages.  Brackets: gradients are not those of one process.",
    )  # fmt: skip


def _label(record: dict[str, Cell]) -> str:
    if record["schedule"] == NONE:
        return NONE
    name = str(record["schedule"]) if record["exact"] else f"({record['schedule']})"
    return f"{name} {record['stages']} x {record['passes']}"


def fastest(rows: Sequence[Row]) -> Row:
    """Return the row with the shortest step of those with stages, of exact ones where there are any."""
    piped = [row for row in rows if row.name != NONE]
    exact = [row for row in piped if row.plan.schedule.exact]
    return min(exact or piped, key=lambda row: row.timeline.step_s)


def pipeline_lanes(row: Row) -> Lanes:
    """Return the timeline of a plan, a lane a stage."""
    line, ranks = row.timeline, row.plan.ranks
    lanes = tuple(
        f"stage {k}, {n} rank{'s' if n > 1 else ''} from {first}"
        for k, (n, first) in enumerate(zip(ranks, row.plan.stages.first, strict=True))
    )
    spans = (
        Span(lane, each.start_s, each.stop_s, f"{each.task.verb} {each.task.number}", each.task.verb)
        for lane, of in zip(lanes, line.lanes, strict=True)
        for each in of.intervals
        if each.stop_s > each.start_s
    )
    return Lanes(f"{row.name}: when each stage works", lanes, tuple(spans), f"{line.steps} steps simulated.")
