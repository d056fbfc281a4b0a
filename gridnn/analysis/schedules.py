"""Runs in stages beside each other: what a schedule gains in throughput, and what it costs in accuracy and memory.

| table       | a row is          | predicted            | counted           | measured                               |
|-------------|-------------------|----------------------|-------------------|----------------------------------------|
| `schedules` | a run             | step, bubble, memory | late, by schedule | samples a second, loss, accuracy, ...  |
| `stages`    | a stage of a run  | bubble, memory       | late              | bubble of traced steps, memory         |

Runs without stages have a row among the schedules, to be compared with; schedules that are exact must have their loss
and accuracy but for rounding, others need not.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.analysis.runs import Run
from gridnn.analysis.table import Cell, Column, Table

NONE = "none"
_SCHEDULES = (
    Column("run"), Column("network", hidden=True), Column("schedule", about="none: one stage of all ranks"),
    Column("form", hidden=True), Column("exact", about="whether gradients are those of one process"),
    Column("stages", "count"), Column("passes", "count"), Column("ranks", "count"), Column("batch", "count"),
    Column("steps", "count"),
    Column("samples_per_s", "ratio", "samples/s", "batch over the median step"),
    Column("predicted_samples_per_s", "ratio", "predicted", "batch over the predicted step"),
    Column("loss", "ratio", about="of the last step"), Column("accuracy", "ratio", about="on the test data"),
    Column("late", "count", about="steps between a batch and the update by its gradient, the most, counted"),
    Column("predicted_bubble", "ratio", "bubble predicted", "share of a step that ranks wait for other stages"),
    Column("bubble", "ratio", "measured", "the same, of the traced steps"),
    Column("predicted_memory_bytes", "bytes", "memory predicted", "of the rank that needs most"),
    Column("memory_bytes", "bytes", "measured"),
)  # fmt: skip
_STAGES = (
    Column("run"), Column("stage"), Column("first", head="from", about="first layer"), Column("ranks", "count"),
    Column("predicted_late", "count", "late predicted", "steps between a batch and the update by its gradient"),
    Column("late", "count", "counted"),
    Column("predicted_bubble", "ratio", "bubble predicted", "share of a step that the stage waits, simulated"),
    Column("bubble", "ratio", "measured", "share of the traced steps that its ranks waited for others"),
    Column("predicted_memory_bytes", "bytes", "memory predicted", "of its rank that needs most"),
    Column("memory_bytes", "bytes", "measured"),
)  # fmt: skip
_NOTES = (
    "measured bubbles are the time inside calls that wait for other stages: for messages that are on their way, too, "
    "and where ranks are more than cores",
)


def schedules(runs: Sequence[Run]) -> Table:
    """Return throughput and accuracy of runs by schedule; no rows where none has stages."""
    rows: list[tuple[Cell, ...]] = []
    for run in runs if any(run.stages for run in runs) else ():
        s, schedule, batch, staged = run.summary, run.schedule, run.job.batch, run.stages is not None
        told = None if run.timeline is None else run.timeline.bubbles
        kept = () if s.pipeline is None else s.pipeline.stages
        waited = [x.bubble for x in kept if x.bubble is not None]
        weights = [1] if run.stages is None else [len(x) for x in run.ranks]
        rows.append((
            run.name, run.plan.network, schedule.name if staged else NONE,
            schedule.form if schedule.name == "delayed" else "", schedule.exact, schedule.stages, run.job.passes,
            run.job.procs, batch, s.steps, batch / s.step_s if s.step_s else None,
            batch / run.overlapped_s if run.overlapped_s else None, s.loss, s.test_accuracy,
            max((x.staleness for x in kept), default=None if staged else 0),
            None if told is None else _mean(told, weights),
            _mean(waited, weights) if staged and len(waited) == len(weights) else None,
            s.predicted_memory_bytes, s.memory_bytes,
        ))  # fmt: skip
    return Table("Schedules beside each other", _SCHEDULES, tuple(rows), None, _NOTES if rows else ())


def stages(runs: Sequence[Run]) -> Table:
    """Return what became of every stage of pipelined runs."""
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        if run.timeline is None or run.summary.pipeline is None:
            continue
        told = run.timeline
        for k, x in enumerate(run.summary.pipeline.stages):
            rows.append((
                run.name, k, x.first, x.ranks, run.schedule.delay(k), x.staleness, told.bubbles[k], x.bubble,
                x.predicted_memory_bytes, x.memory_bytes,
            ))  # fmt: skip
    return Table("Stages of pipelined runs", _STAGES, tuple(rows), None, _NOTES if rows else ())


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return the mean over the ranks of stages."""
    return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
