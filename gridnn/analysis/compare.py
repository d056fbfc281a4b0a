"""What became of the plans of some runs: predicted, counted and measured, side by side.

| table         | a row is             | predicted                | counted | measured                          |
|---------------|----------------------|--------------------------|---------|-----------------------------------|
| `runs`        | a run                | step, bytes, memory      | bytes   | step (median of all), memory      |
| `orders`      | a job                |                          |         | tau of the order of its plans     |
| `swaps`       | two plans            | the one is quicker       |         | the other is                      |
| `layers`      | a layer of a run     | its passes, slowest rank |         | the same, median of traced steps  |
| `collectives` | what a run moves     | seconds, bytes           | bytes   | seconds that its ranks saw        |
| `movements`   | the same, by layer   |                          |         |                                   |
| `residue`     | a machine's constant | what the file says       |         | what these runs would have it be  |
| `schedules`   | a run, if any has    | bubble, memory           | late    | throughput and accuracy           |
| `stages`      | a stage: `schedules` | the same                 | the same| bubble, memory                    |

Bytes and messages are exact, so predicted and counted must be equal; seconds are told as they are.  A step of a run in
stages is predicted by simulating its schedule, which hides what a run can hide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from operator import mul
from pathlib import Path

from gridnn.analysis.chart import Bars, Series
from gridnn.analysis.compare_steps import DATA, collectives, layers, measured_of, movements
from gridnn.analysis.residue import Residue, residue
from gridnn.analysis.runs import Run, open_runs
from gridnn.analysis.schedules import NONE, schedules, stages
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.machine import Machine

_RUNS = (
    Column("run"), Column("network"), Column("plan", about="a grid for all layers, or how many there are"),
    Column("machine", hidden=True), Column("ranks"), Column("batch"), Column("steps"),
    Column("predicted_s", "s", "predicted", "a step, nothing hidden"),
    Column("overlapped_s", "s", "overlapped", "a step that hides what a run can hide"),
    Column("measured_s", "s", "measured", "median of all steps"),
    Column("error", "ratio", about="predicted / measured - 1"),
    Column("overlapped_error", "ratio", "overl. error", "overlapped / measured - 1"),
    Column("recorded_s", "s", hidden=True, about="predicted when the run began"),
    Column("predicted_bytes", "bytes", "bytes predicted", "received by all ranks in the whole run"),
    Column("counted_bytes", "bytes", "counted"), Column("equal", about="messages and bytes, under every key"),
    Column("predicted_memory_bytes", "bytes", "memory predicted", "of the rank that needs most"),
    Column("measured_memory_bytes", "bytes", "measured"),
)  # fmt: skip
_ORDERS = (
    Column("network"), Column("batch"), Column("ranks"), Column("plans"),
    Column("tau", "ratio", about="Kendall's tau-b of predicted and measured seconds: 1 the same order, -1 the reverse"),
    Column("overlapped_tau", "ratio", "overl. tau"), Column("wrong", head="wrong pairs"), Column("pairs"),
    Column("error", "ratio", "mean |error|"), Column("overlapped_error", "ratio", "overl. |error|"),
)  # fmt: skip
_SWAPS = (
    Column("predicted_quicker", head="predicted quicker"), Column("measured_quicker", head="measured quicker"),
    Column("predicted_s", "s", "predicted"), Column("predicted_other_s", "s", "against"),
    Column("measured_s", "s", "measured"), Column("measured_other_s", "s", "against"),
    Column("measured_ratio", "ratio", "apart by", "the slower over the quicker, measured"),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Predicted, counted and measured of some runs; the tables are those of the module.

    Attributes
    ----------
    machine
        The machine with its constants as the runs would have them; None where they cannot say.
    """

    runs: Table
    orders: Table
    swaps: Table
    layers: Table
    collectives: Table
    movements: Table
    residue: Table
    schedules: Table
    stages: Table
    machine: Machine | None


def compare(runs: Sequence[str | Path], machine: str | Machine | None = None) -> Comparison:
    """Hold what was predicted of some runs against what was counted and measured.

    Parameters
    ----------
    runs
        Run folders, or folders of runs.
    machine
        A machine to price all of them on; None takes for each the one that it was planned on.

    Raises
    ------
    InputError
        If a folder is no finished run, or a run's network or machine cannot be had.
    """
    opened = open_runs(runs, machine)
    pairs = [(run, measured_of(run)) for run in opened]
    learned: Residue = residue(pairs)
    orders, swaps = _orders(opened)
    return Comparison(
        _runs(opened), orders, swaps, layers(pairs), collectives(pairs), movements(pairs), learned.table,
        schedules(opened), stages(opened), learned.machine,
    )  # fmt: skip


def compare_chart(found: Comparison) -> Bars:
    """Return the seconds of a step of every run: predicted beside measured.

    Measured parts are means of the ranks, so that they add up to a step; a run without them has its whole step.  So are
    predicted parts of a run in stages, which work at the same time: what they do, and what they wait.
    """
    names = tuple(map(str, found.runs.column("run")))
    alone, piped = _apart(found, names)
    parts = [
        ("predicted", "compute", tuple(map(mul, _sums(found.layers, "predicted_s", names), alone))),
        (
            "predicted",
            "communication",
            tuple(map(mul, _sums(found.collectives, "predicted_s", names), alone)),
        ),
        ("predicted", "stages at work", tuple(step - wait for step, wait in piped)),
        ("predicted", "waits for stages", tuple(wait for _, wait in piped)),
        ("measured", "compute", _sums(found.layers.where(lambda r: r["layer"] != DATA), "mean_s", names)),
        ("measured", "communication", _sums(found.collectives, "mean_s", names)),
        ("measured", "data", _sums(found.layers.where(lambda r: r["layer"] == DATA), "mean_s", names)),
    ]
    steps = found.runs.numbers("measured_s")
    told = [sum(row) for row in zip(*(by for side, _, by in parts if side == "measured"), strict=True)]
    whole = tuple(0.0 if seen else step for seen, step in zip(told, steps, strict=True))
    parts.append(("measured", "step", whole))
    series = tuple(Series(name, values, side) for side, name, values in parts if any(values))
    caption = "left: predicted, nothing hidden; right: measured, mean of the ranks"
    return Bars("A step of every run", "run", "seconds of a step", names, series, caption=caption)


def _apart(found: Comparison, names: Sequence[str]) -> tuple[list[bool], list[tuple[float, float]]]:
    """Return which runs have no stages; and of others the predicted step and the mean wait in it, else nothing."""
    bubbles = {
        row["run"]: row["predicted_bubble"] for row in found.schedules.records() if row["schedule"] != NONE
    }
    steps = dict(zip(names, found.runs.numbers("predicted_s"), strict=True))
    piped = [
        (steps[name], steps[name] * float(bubbles[name] or 0.0)) if name in bubbles else (0.0, 0.0)
        for name in names
    ]
    return [name not in bubbles for name in names], piped


def _sums(table: Table, key: str, names: Sequence[str]) -> tuple[float, ...]:
    """Return the sum of a column for every run."""
    sums = dict.fromkeys(names, 0.0)
    for row in table.records():
        sums[str(row["run"])] += float(row[key] or 0.0)
    return tuple(sums.values())


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau-b (Kendall 1945) of two rows of numbers; None where one has no order."""
    signs = [(_sign(a[i] - a[j]), _sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    ordered = sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)
    return sum(x * y for x, y in signs) / sqrt(ordered) if ordered else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _runs(runs: Sequence[Run]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        s, told, hidden = run.summary, run.step_s, run.overlapped_s
        rows.append((
            run.name, run.plan.network, run.plan.summary, run.job.machine.name, run.job.procs, run.job.batch, s.steps,
            told, hidden, s.step_s, _error(told, s.step_s), _error(hidden, s.step_s), s.predicted_step_s,
            s.predicted_bytes, s.counted_bytes, _equal(run),
            s.predicted_memory_bytes, s.memory_bytes,
        ))  # fmt: skip
    notes = ["errors are predicted / measured - 1; the last line has the means of their absolute values"]
    if piped := [r.name for r in runs if r.stages is not None]:
        notes.append(f"in stages, so that predicted is the simulated step: {', '.join(piped)}")
    if others := [r.name for r in runs if r.summary.predicted_step_s > 0 and _changed(r)]:
        notes.append(
            "priced anew, for the machine, the buckets or the formulas are not those that told the run "
            f"its seconds: {', '.join(others)}"
        )
    if old := [r.name for r in runs if r.traffic is None]:
        notes.append(f"no traffic.json, only the sums were compared: {', '.join(old)}")
    made = Table("Runs", _RUNS, tuple(rows))
    means = {key: _mean(map(abs, _numbers(made.column(key)))) for key in ("error", "overlapped_error")}
    last: dict[str, Cell] = {c.key: None for c in _RUNS}
    last |= {"run": "mean |error|", **means, "equal": all(map(bool, made.column("equal")))}
    return Table(made.title, _RUNS, made.rows, tuple(last.values()), tuple(notes))


def _changed(run: Run) -> bool:
    return abs(run.step_s / run.summary.predicted_step_s - 1) > 1e-6


def _equal(run: Run) -> bool:
    """Return whether what was counted is what was predicted, key by key where the run says so."""
    s = run.summary
    rows = () if run.traffic is None else run.traffic.rows
    return s.predicted_bytes == s.counted_bytes and all(
        (r.predicted_messages, r.predicted_bytes) == (r.counted_messages, r.counted_bytes) for r in rows
    )


def _orders(runs: Sequence[Run]) -> tuple[Table, Table]:
    """Return the order of plans of every job, and the pairs that were predicted the wrong way round."""
    jobs: dict[tuple[str, str, int, int, int, str], list[Run]] = {}
    for run in runs:
        plan = run.plan
        at = (plan.network, plan.digest, plan.batch, plan.passes, plan.procs, plan.dtype)
        jobs.setdefault(at, []).append(run)
    rows: list[tuple[Cell, ...]] = []
    swaps: list[tuple[Cell, ...]] = []
    for (network, _, batch, _, procs, _), here in jobs.items():
        told, hidden = [r.step_s for r in here], [r.overlapped_s for r in here]
        took = [r.summary.step_s for r in here]
        wrong = 0
        for i, j in combinations(range(len(here)), 2):
            if (told[i] - told[j]) * (took[i] - took[j]) >= 0:
                continue
            a, b = (i, j) if told[i] < told[j] else (j, i)
            wrong += 1
            names = tuple(f"{here[x].name} ({here[x].plan.summary})" for x in (a, b))
            swaps.append((*names, told[a], told[b], took[a], took[b], took[a] / took[b] if took[b] else None))
        tau = (kendall_tau(told, took), kendall_tau(hidden, took)) if len(here) > 1 else (None, None)
        errors = (
            _mean(abs(e) for p, m in zip(by, took, strict=True) if (e := _error(p, m)) is not None)
            for by in (told, hidden)
        )
        pairs = len(here) * (len(here) - 1) // 2
        rows.append((network, batch, procs, len(here), *tau, wrong, pairs, *errors))
    swaps.sort(key=lambda row: -float(row[-1] or 0.0))
    return Table("Order of the plans of a job", _ORDERS, tuple(rows)), Table(
        "Pairs that were predicted the wrong way round, nothing hidden", _SWAPS, tuple(swaps)
    )


def _error(predicted: float, measured: float | None) -> float | None:
    return predicted / measured - 1 if measured else None


def _numbers(cells: Iterable[Cell]) -> list[float]:
    return [float(cell) for cell in cells if cell is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
