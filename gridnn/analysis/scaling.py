"""Scaling: seconds and efficiency over processes for every strategy, and where cutting the batch ends.

| mode   | batch                                          | speed-up            | efficiency               |
|--------|------------------------------------------------|---------------------|--------------------------|
| strong | the study's at every P                         | T(P0) / T(P)        | T(P0) P0 / (T(P) P)      |
| weak   | the study's at the smallest P = P0, then B P/P0 | T(P0) P / (T(P) P0) | T(P0) / T(P)             |

Both are samples a second against the smallest P, of the same strategy.  An axis `n` is at most the samples of a pass:

    P <= B    every process has samples                      data      n = P
    P >  B    "n" ends                                       data      n = B, P - B processes idle
              k, c cut the model on, h, w the domain         domain    n = B, h w = P / B

Costs are those of a search's tables at any P (see `parts`): within a few parts in a thousand of a run's own traffic
where all processes have work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gridnn.analysis.chart import Bars, Chart, Lines, Series
from gridnn.analysis.own import UserPlans, check_plans, own_choice
from gridnn.analysis.parts import Schemes, gather, received_bytes
from gridnn.analysis.several import asked_of, processes
from gridnn.analysis.strategies import HEADS, KNOWN, SEARCHED, Choice, check_strategies, choices
from gridnn.analysis.study import Study
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.moves import Floats
from gridnn.errors import InputError
from gridnn.geometry.grid import AXES, GridShape
from gridnn.plan.job import Job

MODES = ("strong", "weak")
COLUMNS = (
    Column("mode", hidden=True),
    Column("strategy"),
    Column("procs", "count", "P"),
    Column("batch", "count", "batch"),
    Column("grid", about="the grid of all layers, or how many there are and the longest axes"),
    Column("step_s", "s", "step", "computing and communicating one after the other"),
    Column("compute_s", "s", "compute"),
    Column("comm_s", "s", "communication"),
    Column("hidden_s", "s", "hidden", "communication that goes on behind computing"),
    Column("overlapped_s", "s", "step, hidden out", "the step without what is hidden"),
    Column("samples_per_s", "", "samples/s", hidden=True),
    Column("speedup", "ratio", "speed-up", "samples a second against the smallest P of the strategy"),
    Column("efficiency", "ratio", "efficiency", "speed-up by processes added"),
    Column("received_bytes", "bytes", "received", "bytes into the busiest rank in a step, by the tables"),
    Column("memory_bytes", "bytes", "memory", "of the rank that needs most, added over layers"),
    Column("idle", "count", "idle", "processes without work, on the average over computing"),
    Column("beyond", "", "beyond the batch", "where P is above the samples of a pass: what is cut besides n"),
    Column("proved", "", "proved", "the best of its kind, or the best found"),
    Column("most_n", "count", hidden=True, about="samples of a pass: the most that n can cut"),
)


def scaling(
    study: Study, procs: Sequence[int], mode: str = "strong", strategies: Iterable[str] = KNOWN,
    plans: UserPlans | None = None, workers: int = 1,
) -> Table:  # fmt: skip
    """Return seconds and efficiency over processes, a row for each strategy and number of processes.

    Parameters
    ----------
    mode
        "strong": the batch stays; "weak": it grows with the processes from the study's at the smallest.
    plans
        Plans of one's own, beside the strategies.
    workers
        Processes that find them; with several, a script that calls this must be importable without running.

    Raises
    ------
    InputError
        If there are no processes, a strategy or a mode is not known, a plan is for none of the processes, or the batch
        of weak scaling is no whole number of samples.
    """
    counts, names = sorted(set(procs)), check_strategies(strategies)
    if not counts:
        raise InputError("no numbers of processes to scale over; give some, such as 8, 16, 32")
    if mode not in MODES:
        raise InputError(f'scaling "{mode}" is not known; use one of {", ".join(MODES)}')
    jobs = [study.job(p, study.batch if mode == "strong" else _grown(study, p, counts[0])) for p in counts]
    own = dict(plans or {})
    check_plans(own, names, jobs)
    rows: list[dict[str, Cell]] = []
    made: list[tuple[Job, dict[str, Choice], Callable[[], Floats]]] = []
    before: tuple[int, Schemes] | None = None
    later = jobs[len(jobs) // 5 :] if "dynamic" in names else []
    with processes(min(workers - 1, 1) if later else 0) as pool:
        # Layer-wise plans follow from each other; all others may be found meanwhile, for those that come later.
        ahead = {job.procs: asked_of(pool, _but_layerwise, job, names) for job in later}
        for job in jobs:
            carried = (
                before is not None and job.procs > SEARCHED and job.procs in (2 * before[0], 4 * before[0])
            )
            near = [before[1]] if before is not None and carried else ()
            known = ahead[job.procs]() if pool is not None and job.procs in ahead else None
            found = choices(job, names, near, found=known)
            before = (job.procs, found["dynamic"].degrees) if "dynamic" in found else None
            found |= {
                name: choice
                for name, plan in own.items()
                if (choice := own_choice(job, name, plan)) is not None
            }
            moved = asked_of(pool, _received, job, [choice.degrees for choice in found.values()])
            made.append((job, found, moved))
        for job, found, moved in reversed(made):  # the other process begins at the other end
            rows += [_row(mode, job, x, float(m)) for x, m in zip(found.values(), moved(), strict=True)]
    order = {name: at for at, name in enumerate((*names, *own))}
    rows.sort(key=lambda row: (order[str(row["strategy"])], row["procs"]))
    _against_first(rows)
    for row in rows:
        row["strategy"] = HEADS.get(str(row["strategy"]), row["strategy"])
    table = tuple(tuple(row[c.key] for c in COLUMNS) for row in rows)
    # In the title where it is one for all.
    columns = tuple(replace(c, hidden=c.hidden or (c.key == "batch" and mode == "strong")) for c in COLUMNS)
    title = f"{study.network.name} on {study.machine.name}: {mode} scaling, {_batches(jobs)}"
    return Table(title, columns, table, notes=tuple(_notes(mode, jobs, rows)))


def _but_layerwise(job: Job, names: Sequence[str]) -> dict[str, Choice]:
    """Return the plans of all strategies but the layer-wise one, and of "uniform"."""
    others = dict.fromkeys([*(n for n in names if n != "dynamic"), "uniform"])
    return choices(job, list(others))


def _received(job: Job, plans: Sequence[Schemes]) -> Floats:
    """Return the bytes that the busiest rank receives, of each of some plans."""
    return received_bytes(job, gather(job, plans))


def _grown(study: Study, procs: int, first: int) -> int:
    batch, rest = divmod(study.batch * procs, first)
    if rest or batch % study.passes:
        raise InputError(
            f"weak scaling: batch {study.batch} at {first} processes is {study.batch * procs / first:g} at {procs}, "
            f"which cannot be split into {study.passes} equal passes of whole samples; take processes that are "
            f"multiples of {first}"
        )
    return batch


def _row(mode: str, job: Job, choice: Choice, moved: float) -> dict[str, Cell]:
    x = choice.parts
    compute_s, comm_s, hidden_s = (float(v[0]) for v in (x.compute_s, x.comm_s, x.hidden_s))
    beyond = ""
    if job.procs > job.per_pass:
        longest = np.max(list(choice.degrees.values()), axis=0)
        beyond = " ".join(a for a, size in zip(AXES[1:], longest[1:], strict=True) if size > 1) or "idle"
    return {
        "mode": mode, "strategy": choice.strategy, "procs": job.procs, "batch": job.batch,
        "grid": _grids(choice), "step_s": compute_s + comm_s, "compute_s": compute_s, "comm_s": comm_s,
        "hidden_s": hidden_s, "overlapped_s": compute_s + comm_s - hidden_s,
        "samples_per_s": job.batch / (compute_s + comm_s), "speedup": None, "efficiency": None,
        "received_bytes": round(moved), "memory_bytes": round(float(x.memory_bytes[0])),
        "idle": max(0, round(job.procs - float(x.busy[0]))), "beyond": beyond, "proved": choice.proved,
        "most_n": job.per_pass,
    }  # fmt: skip


def _grids(choice: Choice) -> str:
    grids = list(dict.fromkeys(choice.degrees.values()))
    longest = GridShape(tuple(int(x) for x in np.max(grids, axis=0)))  # type: ignore[arg-type]
    return str(longest) if len(grids) == 1 else f"{len(grids)} grids, up to {longest}"


def _against_first(rows: Sequence[dict[str, Cell]]) -> None:
    """Set speed-up and efficiency of every strategy against its row of the smallest number of processes."""
    smallest = min(int(row["procs"]) for row in rows)  # type: ignore[arg-type]
    first = {row["strategy"]: row for row in rows if row["procs"] == smallest}
    for row in rows:
        if row["strategy"] in first:
            rates = [float(x["samples_per_s"]) for x in (row, first[row["strategy"]])]  # type: ignore[arg-type]
            row["speedup"] = rates[0] / rates[1]
            row["efficiency"] = rates[0] / rates[1] * smallest / int(row["procs"])  # type: ignore[arg-type]


def _batches(jobs: Sequence[Job]) -> str:
    first, last = jobs[0].batch, jobs[-1].batch
    return f"batch {first}" if first == last else f"batch {first} to {last}"


def _notes(mode: str, jobs: Sequence[Job], rows: Sequence[dict[str, Cell]]) -> Iterable[str]:
    """Say what the numbers mean, where batch parallelism ends, what goes on, and where more processes are no gain."""
    if mode == "weak":
        yield (
            f"weak scaling: the batch is {jobs[0].batch} at {jobs[0].procs} processes and grows with them, so "
            "each process has the same samples."
        )
    over = [job for job in jobs if job.procs > job.per_pass]
    if over:
        what = "samples" if over[0].passes == 1 else "samples of a pass"
        end = f"batch parallelism ends at P = {over[0].per_pass}, the {what}: n cannot cut a sample"
        last = {str(row["strategy"]): row for row in rows if row["procs"] == over[-1].procs}
        idle = [HEADS.get(n, n) for n, row in last.items() if row["beyond"] == "idle"]
        on = [
            f"{HEADS.get(n, n)} by {row['beyond']}"
            for n, row in last.items()
            if row["beyond"] not in ("idle", "")
        ]
        yield end + (f"; beyond it processes are idle by {' and '.join(idle)}." if idle else ".")
        if on:
            yield f"cutting beyond it goes on to P = {over[-1].procs}: {', '.join(on)}."
        if domain := [n for n, row in last.items() if {"d", "h", "w"} & set(str(row["beyond"]).split())]:
            yield f"those that cut images there (d, h, w): {', '.join(HEADS.get(n, n) for n in domain)}."
    if mode == "strong" and len(jobs) > 1:
        yield "the shortest step is at " + ", ".join(_shortest(rows)) + "."
    if not all(row["proved"] for row in rows):
        yield "where it is not proved, a plan is the best found around those of fewer processes."
    yield (
        "seconds and bytes are those of a search's tables; step is computing and communicating one after the other, "
        "by which plans are chosen; hidden is the part of communication that a run does meanwhile, an estimate."
    )


def _shortest(rows: Sequence[dict[str, Cell]]) -> Iterable[str]:
    best: dict[str, dict[str, Cell]] = {}
    for row in rows:
        name = str(row["strategy"])
        # Less than a thousandth is no gain.
        if name not in best or float(row["step_s"]) < 0.999 * float(best[name]["step_s"]):  # type: ignore[arg-type]
            best[name] = row
    for name, row in best.items():
        yield f"P = {row['procs']} for {HEADS.get(name, name)}"


def scaling_charts(table: Table, strategy: str | None = None) -> tuple[Chart, ...]:
    """Return seconds and efficiency over processes, and what the steps of one strategy are made of.

    Parameters
    ----------
    strategy
        Which one; left out, the fastest at the most processes.

    Raises
    ------
    InputError
        If the table has no such strategy.
    """
    rows = table.records()
    counts = tuple(sorted({int(row["procs"]) for row in rows}))  # type: ignore[arg-type]
    names = list(dict.fromkeys(str(row["strategy"]) for row in rows))
    by = {(str(row["strategy"]), row["procs"]): row for row in rows}
    if strategy is None:
        strategy = min(
            (n for n in names if (n, counts[-1]) in by), key=lambda n: float(by[n, counts[-1]]["step_s"])  # type: ignore[arg-type]
        )  # fmt: skip
    shown = HEADS.get(strategy, strategy)
    if shown not in names:
        raise InputError(f'strategy "{strategy}" is not in the table; it has {", ".join(names)}')
    mode = str(rows[0]["mode"])

    def series(key: str) -> list[Series]:
        return [Series(n, tuple(_number(by.get((n, p)), key) for p in counts)) for n in names]

    first = min(float(row["step_s"]) for row in rows if row["procs"] == counts[0])  # type: ignore[arg-type]
    ideal = tuple(first * counts[0] / p if mode == "strong" else first for p in counts)
    most = int(by[shown, counts[-1]]["most_n"]) if (shown, counts[-1]) in by else 0  # type: ignore[arg-type]
    ends = ((float(most), "P = B"),) if mode == "strong" and counts[0] <= most <= counts[-1] else ()
    x, mine = tuple(map(float, counts)), [by[shown, p] for p in counts if (shown, p) in by]
    split = [
        Series("compute", tuple(_number(r, "compute_s") for r in mine)),
        Series("communication not hidden", tuple(_less(r, "comm_s", "hidden_s") for r in mine)),
        Series("communication hidden", tuple(_number(r, "hidden_s") for r in mine)),
    ]
    return (
        Lines(table.title, "processes", "seconds a step", x,
              (*series("step_s"), Series("ideal", ideal, dashed=True)), uprights=ends),
        Lines(f"{mode} scaling: efficiency", "processes", "efficiency", x,
              (*series("efficiency"), Series("ideal", (1.0,) * len(x), dashed=True)), log_y=False, uprights=ends),
        Bars(f"{mode} scaling: what a step of {shown} is made of", "processes", "seconds",
             tuple(str(r["procs"]) for r in mine),
             tuple(split),
             caption="Stacked, a bar is the step that hides nothing."),
    )  # fmt: skip


def _number(row: Mapping[str, Cell] | None, key: str) -> float | None:
    return None if row is None or row[key] is None else float(row[key])  # type: ignore[arg-type]


def _less(row: Mapping[str, Cell], key: str, other: str) -> float:
    return float(row[key]) - float(row[other])  # type: ignore[arg-type]
