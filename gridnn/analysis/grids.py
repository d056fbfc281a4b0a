"""All Pr x Pc of one number of processes, side by side: the bar charts of Gholami et al. 2018, Figs 6 and 7.

| `cut`      | variant  | convolutions and what goes along       | fully connected       | as in   |
|------------|----------|----------------------------------------|-----------------------|---------|
| "all"      | model    | k = Pr, n = Pc                         | k = Pr, n = Pc        | Fig. 6  |
| "all"      | domain   | h = Pr, n = Pc                         | k = Pr, n = Pc        | Eq. 9   |
| "fc-only"  | model    | n = P                                  | k = Pr, n = Pc        | Fig. 7  |
| "fc-only"  | domain   | h = P / B, n = B, where P is above B   | k = Pr, n = Pc        | Fig. 10 |

`source` says what prices them: "machine" is the exact traffic of a run on the levels of the machine; "paper" is Eq. 9
(Eq. 8 where no domain is cut) as printed, with the machine's outermost alpha and beta, for any number of processes.
The equations leave changes of grids, pools and statistics out and count 3 d_i where d_i and 2 d_{i-1} move.  Computing
is the machine's both times: the paper measured it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gridnn.analysis.chart import Bars, Series
from gridnn.analysis.cost import PlanCost
from gridnn.analysis.costs import costs_of
from gridnn.analysis.equations import by_equations, outermost
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.paper.gholami import seconds
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.plan.baselines import fully_connected
from gridnn.plan.explain.equations import paper_terms
from gridnn.plan.job import Job

CUTS = ("all", "fc-only")
SOURCES = ("machine", "paper")
COLUMNS = (
    Column("pr", about="processes that cut the model or the domain"),
    Column("pc", about="processes that cut the batch"),
    Column("grid", head="Pr x Pc"),
    Column("variant", about="what Pr cuts: model (k) or domain (h)"),
    Column("compute_s", "s", "compute"),
    Column("batch_comm_s", "s", "batch comm", "sums of gradients"),
    Column("model_comm_s", "s", "model comm", "all other communication"),
    Column("comm_s", "s", "communicate"),
    Column("overlapped_s", "s", "overlapped", "a step that hides what a run can hide", hidden=True),
    Column("total_s", "s", "total"),
    Column("speedup", "ratio", about="of the total, over pure batch"),
    Column("comm_speedup", "ratio", "comm speedup", "of the communication, over pure batch"),
    Column("equation_comm_s", "s", "Eq. 9 comm", "what Eq. 9 as printed says the communication takes"),
    Column("received_bytes", "bytes", "received"),
    Column("memory_bytes", "bytes", "memory", "of the rank that needs most"),
    Column("source", about="traffic, tables or equations", hidden=True),
    Column("note"),
)


@dataclass(frozen=True)
class _Grid:
    """A row: Pr x Pc, what Pr cuts, the grid of convolutions and of fully connected layers; or why it cannot be."""

    pr: int
    pc: int
    variant: str
    conv: GridShape
    fc: GridShape
    trouble: str = ""
    remark: str = ""


def grids(job: Job, cut: str = "all", source: str = "machine") -> Table:
    """Return a row for every Pr x Pc of P processes, Pr * Pc = P, by what Pr cuts.

    Parameters
    ----------
    cut
        "all": one Pr x Pc for every layer; "fc-only": convolutions by batch, fully connected layers on Pr x Pc.
    source
        "machine" or "paper".

    Raises
    ------
    InputError
        If no grid fits, or "paper" is asked about a network that its equations do not know.
    """
    if cut not in CUTS or source not in SOURCES:
        raise InputError(
            f'cut "{cut}", source "{source}"; cuts are {", ".join(CUTS)}, sources {", ".join(SOURCES)}'
        )
    late, rows = fully_connected(job.network), _grids(job, cut)
    able = [g for g in rows if not g.trouble]
    if not able:
        raise InputError(
            f"{job.procs} processes and a batch of {job.per_pass}: no Pr x Pc fits, since {rows[-1].trouble}; take "
            "fewer processes, a number with more divisors, or a larger batch"
        )
    plans = [_schemes(job, g, late) for g in able]
    found = costs_of(job, plans) if source == "machine" else [by_equations(job, plan) for plan in plans]
    priced = {g: (cost, _equation_s(job, plan)) for g, cost, plan in zip(able, found, plans, strict=True)}
    cells = [_row(g, priced.get(g), found[0]) for g in rows]
    word = "every layer on Pr x Pc" if cut == "all" else "fully connected layers on Pr x Pc"
    title = f"{job.network.name}, batch {job.batch}, {job.procs:,} processes of {job.machine.name}: {word}"
    return Table(title, COLUMNS, tuple(cells), None, _notes(source, able, found[0].source))


def grids_chart(table: Table) -> Bars:
    """Return the bars: computing, sums of gradients, other communication; total and communication speed-up above."""
    rows = [r for r in table.records() if r["total_s"] is not None]
    several = len({r["variant"] for r in rows}) > 1
    names = tuple(f"{r['grid']}{' domain' * (several and r['variant'] == 'domain')}" for r in rows)
    parts = (("compute", "compute_s"), ("batch comm", "batch_comm_s"), ("model comm", "model_comm_s"))
    series = tuple(Series(name, tuple(_number(r[key]) for r in rows), "step") for name, key in parts)
    marks = tuple(
        f"{_number(r['speedup']):.1f}x"
        + ("" if r["comm_speedup"] is None else f" ({_number(r['comm_speedup']):.1f}x)")
        for r in rows
    )
    return Bars(
        table.title, "Pr x Pc", "seconds of a step", names, series, marks,
        "Above: total and, in brackets, communication against the first bar.",
    )  # fmt: skip


def _grids(job: Job, cut: str) -> list[_Grid]:
    """Return all rows, by Pr, the model before the domain."""
    procs, batch, found = job.procs, job.per_pass, list[_Grid]()
    late = fully_connected(job.network)
    rows = _least_rows(job, late)
    widest = max(
        (job.network.shapes[n.name][0] for n in job.network.nodes if job.network.shapes[n.name]), default=1
    )
    parts = -(-procs // batch)  # of an image, where there are more processes than samples
    for pr in _divisors(procs):
        pc = procs // pr
        trouble = f"Pc {pc} is above the {batch} samples of a pass" if pc > batch else ""
        remark = (
            f"k{pr} is above the {widest} channels of the widest layer: ranks wait" if pr > widest else ""
        )
        fc, k_grid = GridShape.of(k=pr, n=pc), GridShape.of(k=pr, n=pc)
        if cut == "all":
            found.append(_Grid(pr, pc, "model", k_grid, fc, trouble, remark))
            if 1 < pr <= rows:
                found.append(_Grid(pr, pc, "domain", GridShape.of(h=pr, n=pc), fc, trouble))
        elif procs <= batch:
            found.append(_Grid(pr, pc, "model", GridShape.of(n=procs), fc, trouble, remark))
        elif procs % parts or parts > rows:
            trouble = (
                f"images cannot be cut in {parts} equal parts of the {rows} rows that every convolution has"
            )
            found.append(_Grid(pr, pc, "domain", GridShape.of(n=procs), fc, trouble))
        else:
            conv = GridShape.of(h=parts, n=procs // parts)
            found.append(_Grid(pr, pc, "domain", conv, fc, trouble, remark))
    return found


def _least_rows(job: Job, late: set[str]) -> int:
    """Return the least height of an output of a convolution; 0 where there are no images."""
    shapes = job.network.shapes
    if any(isinstance(n.spec, s.SEQUENCES) for n in job.network.nodes):
        return 0
    convs = [
        n for n in job.network.nodes if isinstance(n.spec, s.Conv | s.ConvTranspose) and n.name not in late
    ]
    return min((shapes[n.name][-2] for n in convs if len(shapes[n.name]) > 2), default=0)


def _divisors(number: int) -> list[int]:
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


def _schemes(job: Job, grid: _Grid, late: set[str]) -> dict[str, Scheme]:
    conv, fc = Scheme(grid.conv), Scheme(grid.fc)
    return {node.name: fc if node.name in late else conv for node in job.network.nodes}


def _equation_s(job: Job, schemes: Mapping[str, Scheme]) -> float | None:
    """Return the seconds that Eq. 9 has for the communication of a step; None of networks it does not know."""
    try:
        return seconds(paper_terms(job, schemes), outermost(job.machine))
    except InputError:
        return None


def _row(grid: _Grid, priced: tuple[PlanCost, float | None] | None, first: PlanCost) -> tuple[Cell, ...]:
    head = (grid.pr, grid.pc, f"{grid.pr} x {grid.pc}", grid.variant)
    if priced is None:
        return (*head, *[None] * (len(COLUMNS) - len(head) - 1), grid.trouble)
    cost, equation_s = priced
    return (
        *head, cost.compute_s, cost.sums_s, cost.comm_s - cost.sums_s, cost.comm_s, cost.overlapped_s, cost.step_s,
        first.step_s / cost.step_s, first.comm_s / cost.comm_s if cost.comm_s else None, equation_s,
        None if cost.source == "tables" else cost.received_bytes, cost.memory_bytes, cost.source, grid.remark or None,
    )  # fmt: skip


def _notes(source: str, able: list[_Grid], priced_by: str) -> tuple[str, ...]:
    found = [f"speed-ups are over {able[0].pr} x {able[0].pc}" + ("" if able[0].pr > 1 else ", pure batch")]
    if source == "paper":
        words = "communication by Eq. 9 of Gholami et al. 2018 as printed, words of 4 bytes; computing by the machine"
        return (*found, words)
    words = {
        "traffic": "exact traffic, of some ranks where there are many",
        "tables": "the tables of a search, an estimate: exact traffic of so many rows would take long; where k is above"
        " the channels of a layer they are far too dear",
        "equations": "closed forms, Eq. 9 of Gholami et al. 2018: there are too many processes to list",
    }[priced_by]
    return (*found, f"priced by {words}")


def _number(cell: Cell) -> float:
    return float(cell) if isinstance(cell, int | float) else 0.0
