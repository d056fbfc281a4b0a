"""Sensitivity: what changes with latency, bandwidth, batch, image size or processes, and which strategy is fastest.

| over    | values                             | left out                                                         |
|---------|------------------------------------|------------------------------------------------------------------|
| alpha   | times the machine's, on all levels | 1/16 to 16 by doublings                                          |
| beta    | times the machine's, on all levels | 1/16 to 16 by doublings                                          |
| batch   | samples of a step                  | 1/16 to 16 times the study's, where that is whole                |
| image   | pixels of the first space extent   | 1/2, 3/4, 1, 3/2, 2 times the usual; the others in proportion    |
| procs   | processes                          | 1/16 to 16 times, where that is whole                            |

`flip_map` (see `flips`) draws which strategy is fastest over two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gridnn.analysis.chart import Lines, Series
from gridnn.analysis.flips import flip_map as flip_map
from gridnn.analysis.parts import Schemes
from gridnn.analysis.rivals import rivals
from gridnn.analysis.settings import LABELS, MACHINE, OVER, SHORT, job_at, title_of, values_of
from gridnn.analysis.strategies import HEADS, KNOWN, SEARCHED, Choice, check_strategies, choices, promising
from gridnn.analysis.study import Study
from gridnn.analysis.table import Cell, Column, Table
from gridnn.network.source import Source
from gridnn.plan.job import Job
from gridnn.plan.search import MODEL_ERROR


def sensitivity(
    study: Study, procs: int, over: str, values: Sequence[float] | None = None,
    strategies: Iterable[str] = KNOWN, source: Source | str | None = None, near: Sequence[Schemes] = (),
) -> Table:  # fmt: skip
    """Return the seconds of a step of every strategy over one quantity.

    Parameters
    ----------
    over
        One of `OVER`.
    values
        Factors of the machine's alpha or beta, batches, pixels or processes; left out, a series around the study's.
    near
        Layer-wise plans of the study that are known: they save the time to find one.
    source
        Where the network comes from, to build it for other images.

    Raises
    ------
    InputError
        If the quantity or a strategy is not known, a value cannot be, or the network has no image or no source.
    """
    names = check_strategies(strategies)
    usual, points = values_of(study, procs, over, values, source)
    jobs = [job_at(study, procs, {over: value}, source) for value in points]
    rows: list[tuple[Cell, ...]] = []
    for value, job, found in zip(
        points, jobs, _all(study.job(procs), jobs, names, over, points, near), strict=True
    ):
        ranked = sorted(found.values(), key=lambda choice: choice.step_s)
        best = ranked[0].step_s
        for name, x in found.items():
            hidden_s = float(x.parts.hidden_s[0])
            rows.append(
                (over, usual, value, HEADS.get(name, name), job.procs, job.batch, x.step_s,
                 float(x.parts.compute_s[0]), float(x.parts.comm_s[0]), hidden_s, x.step_s / best,
                 x is ranked[0], x.step_s < best * (1 + MODEL_ERROR), x.proved)
            )  # fmt: skip
    columns = (
        Column("over", hidden=True), Column("usual", hidden=True), Column("value", "", SHORT[over]), Column("strategy"),
        Column("procs", "count", "P", hidden=over != "procs"), Column("batch", "count", hidden=True),
        Column("step_s", "s", "step"), Column("compute_s", "s", "compute"),
        Column("comm_s", "s", "communication"), Column("hidden_s", "s", "hidden"),
        Column("to_fastest", "ratio", "to fastest"), Column("fastest"),
        Column("about_fastest", "", f"within {MODEL_ERROR:.0%}", "as fast as the fastest, to the error of the model"),
        Column("proved", hidden=True),
    )  # fmt: skip
    return Table(
        f"{title_of(study, procs, over)}: a step over {LABELS[over]}", columns, tuple(rows),
        notes=tuple(_notes(over, rows, [c.key for c in columns])),
    )  # fmt: skip


def _all(
    usual: Job,
    jobs: Sequence[Job],
    names: Sequence[str],
    over: str,
    points: Sequence[float],
    known: Sequence[Schemes],
) -> Iterator[dict[str, Choice]]:
    """Yield the plans of every job: over the machine the best of those at the ends, otherwise near a neighbour's."""
    if over in MACHINE:
        factors = [(v, 1.0) if over == "alpha" else (1.0, v) for v in points]
        found_ = rivals(usual, names, [(1.0, 1.0), factors[0], factors[-1]], known)
        yield from (found_.choices(alpha, beta) for alpha, beta in factors)
        return
    same = len({job.procs for job in jobs}) == 1
    around = [jobs[at] for at in sorted({0, len(jobs) // 2, len(jobs) - 1})]
    rows = promising(around) if same and len(jobs) > 3 and {"uniform", "dynamic"} & set(names) else []
    # From the study's own value outwards, where there is one: a plan is looked for around its neighbour's.
    start = jobs.index(usual) if same and usual in jobs else 0
    found: dict[int, dict[str, Choice]] = {}
    for at in (start, *range(start - 1, -1, -1), *range(start + 1, len(jobs))):
        job, near = jobs[at], known if jobs[at] == usual and usual.procs > SEARCHED else ()
        if at != start and "dynamic" in names:
            before = at + 1 if at < start else at - 1
            if job.procs > SEARCHED and jobs[before].procs in (job.procs, job.procs // 2, job.procs // 4):
                near = [found[before]["dynamic"].degrees]
        found[at] = choices(job, names, near, rows)
    yield from (found[at] for at in range(len(jobs)))


def _notes(over: str, rows: Sequence[tuple[Cell, ...]], keys: Sequence[str]) -> Iterator[str]:
    turns, last = list[str](), None
    for row in (row for row in (dict(zip(keys, row, strict=True)) for row in rows) if row["fastest"]):
        if row["strategy"] != last:
            last = row["strategy"]
            turns.append(f"{last} from {row['value']:g} on" if turns else str(last))
    yield f"fastest over {LABELS[over]}: {', '.join(turns)}."
    yield (
        "seconds are those of a search's tables, one layer after the other; strategies choose their plan anew at each "
        "value."
    )


def sensitivity_chart(table: Table) -> Lines:
    """Return the seconds of a step over the values, a line a strategy."""
    rows = table.records()
    x = tuple(dict.fromkeys(float(row["value"]) for row in rows))  # type: ignore[arg-type]
    by = {(float(row["value"]), row["strategy"]): float(row["step_s"]) for row in rows}  # type: ignore[arg-type]
    names = dict.fromkeys(str(row["strategy"]) for row in rows)
    over, usual = str(rows[0]["over"]), float(rows[0]["usual"])  # type: ignore[arg-type]
    here = ((usual, "as it is"),) if min(x) <= usual <= max(x) else ()
    return Lines(
        table.title, LABELS[over], "seconds a step", x,
        tuple(Series(name, tuple(by.get((value, name)) for value in x)) for name in names), uprights=here,
    )  # fmt: skip


__all__ = ["LABELS", "OVER", "flip_map", "sensitivity", "sensitivity_chart"]
