"""What each layer computes, moves and keeps under one plan: a row a layer.

| columns                          | of                                                                      |
|----------------------------------|-------------------------------------------------------------------------|
| d_out, weights, crossover_batch  | the layer itself: d_i, |W_i| and Eq. 5 of Gholami et al. 2018           |
| flops                            | a step of all ranks: forward, and both gradients                        |
| halo_bytes ... received_bytes    | a step of the one rank that receives most: columns add up to its total  |
| compute_s, comm_s                | a step of the slowest rank of every part, nothing overlapping           |
| parameters, kept, memory bytes   | the one rank with the largest blocks                                    |

Memory has two sides.  A row has what its layer holds from forward to backward: values, gradients, optimizer state, and
what its backward pass reads.  Rows share arrays (an output is the next input) and hold them at different times, so that
the worst moment of a step is less or more than their sum; it is in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from gridnn.analysis.cost import COLLECTIVES, LayerCost, PlanCost
from gridnn.analysis.costs import cost_of
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.compute import WEIGHTED
from gridnn.cost.paper.table import crossover_batch, paper_layers
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.count import flop_counts
from gridnn.network.graph import INPUT, Network, Node
from gridnn.network.placement import place
from gridnn.plan.explain.tell import bytes_text, time_text
from gridnn.plan.job import Job

COLUMNS = (
    Column("layer"),
    Column("kind"),
    Column("grid"),
    Column("pr", about="processes that cut the model or the domain: k c d h w", hidden=True),
    Column("pc", about="processes that cut the batch: n", hidden=True),
    Column("pr_x_pc", head="Pr x Pc"),
    Column("d_out", "count", "d_i", "elements of the output of one sample"),
    Column("weights", "count", "|W_i|", "elements of the weights, biases not counted"),
    Column("flops", "flops", about="of a step, all ranks together; a multiply-add is two"),
    Column("crossover_batch", "ratio", "Eq. 5 B", "batch above which pure batch moves less than pure model"),
    Column("halo_bytes", "bytes", "halo"),
    Column("allgather_bytes", "bytes", "gather"),
    Column("reduce_scatter_bytes", "bytes", "scatter"),
    Column("allreduce_bytes", "bytes", "all-reduce"),
    Column("repartition_bytes", "bytes", "repartition"),
    Column("received_bytes", "bytes", "received", "of a step, by the rank that receives most"),
    Column("compute_s", "s", "compute"),
    Column("comm_s", "s", "communicate"),
    Column("share", "ratio", about="of the seconds of a step"),
    Column(
        "parameters_bytes",
        "bytes",
        "parameters",
        "values, gradients and optimizer state of a rank",
        hidden=True,
    ),
    Column("kept_bytes", "bytes", "kept", "what a rank keeps for the backward pass", hidden=True),
    Column("memory_bytes", "bytes", "memory", "parameters and kept"),
)


def layers(job: Job, schemes: Mapping[str, Scheme]) -> Table:
    """Return what every layer costs under a plan, with totals; see the module for what each column is of.

    Crossovers are those of Gholami et al. 2018, Eq. 5: of convolutions and linear layers.

    Raises
    ------
    InputError
        If a scheme does not fit the job.
    """
    network, cost = job.network, cost_of(job, schemes)
    crossovers, why_not = _crossovers(network)
    flops = step_flops(job)
    rows: list[tuple[Cell, ...]] = []
    for node, x in zip(network.nodes, cost.layers, strict=True):
        scheme = schemes[node.name]
        grid, loss = scheme.grid, isinstance(node.spec, s.LOSSES)
        rows.append(
            (
                node.name, s.kind(node.spec), str(scheme), grid.rows, grid.columns, f"{grid.rows} x {grid.columns}",
                None if loss else prod(network.shapes[node.name]), weight_count(network, node), flops[node.name],
                crossovers.get(node.name), *_bytes(x), x.received_bytes, x.compute_s, x.comm_s,
                (x.compute_s + x.comm_s) / (cost.step_s or 1), x.parameters_bytes, x.kept_bytes, x.memory_bytes,
            )
        )  # fmt: skip
    title = (
        f"{network.name}, batch {job.batch}" + (f" in {job.passes} passes" if job.passes > 1 else "")
        + f", {job.procs:,} processes of {job.machine.name}: {time_text(cost.step_s)} a step"
    )  # fmt: skip
    totals = _totals(rows)
    idle = [f"{name}_bytes" for name in COLLECTIVES]  # columns of nothing are not shown to people
    columns = tuple(
        replace(c, hidden=c.hidden or (c.key in idle and not total))
        for c, total in zip(COLUMNS, totals, strict=True)
    )
    return Table(title, columns, tuple(rows), totals, (*_notes(job, cost), *why_not))


def weight_count(network: Network, node: Node) -> int:
    """Return |W_i| of a layer, biases and norms not counted; 0 of one that uses another's."""
    if node.shared:
        return 0
    inputs = tuple((1, *network.shapes[i]) for i in node.inputs)
    placed = place(node.spec, inputs, (1, *network.shapes[node.name]), Scheme(GridShape()))
    return sum(prod(p.shape) for p in placed.parameters if p.name in ("weight", "recurrent"))


def step_flops(job: Job) -> dict[str, int]:
    """Return the operations of a step by layer: a product forward and one for each gradient.

    A layer that reads only the input of the network makes no gradient by it; attention has no weights, but two
    operands.
    """
    forward, found = flop_counts(job.network), dict[str, int]()
    for node in job.network.nodes:
        first = set(node.inputs) == {INPUT}
        products = 3 if isinstance(node.spec, (*WEIGHTED, s.Attention)) else 1
        found[node.name] = forward[node.name] * job.batch * (products - first if products > 1 else 1)
    return found


def _crossovers(network: Network) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return Eq. 5 by layer; without rows for the equations, nothing and a sentence why."""
    try:
        return {row.name: crossover_batch(row) for row in paper_layers(network)}, ()
    except InputError as error:
        return {}, (f"no crossover batch of Eq. 5: {error}",)


def _bytes(cost: LayerCost) -> list[Cell]:
    if cost.moved is None:
        return [None] * len(COLLECTIVES)
    return [cost.moved.get(collective, 0) for collective in COLLECTIVES]


def _totals(rows: list[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    """Return the sums of columns that can be added, in all rows."""
    found: list[Cell] = ["all", *[None] * (len(COLUMNS) - 1)]
    for at, column in enumerate(COLUMNS):
        cells = [row[at] for row in rows]
        if column.key in ("d_out", "weights", "flops", "share") or column.unit in ("bytes", "s"):
            numbers = [cell for cell in cells if isinstance(cell, int | float)]
            complete = len(numbers) == len(cells) or column.key == "d_out"
            found[at] = sum(numbers) if complete else None
    return tuple(found)


def _notes(job: Job, cost: PlanCost) -> list[str]:
    if cost.source == "traffic":
        every = len(cost.ranks) == job.procs
        ranks = (
            "every rank" if every else f"rank{'s' * (len(cost.ranks) > 1)} {', '.join(map(str, cost.ranks))}"
        )
        found = [f"bytes are exact, those of a run's ledger: {ranks} looked at, the busiest shown"]
        found.append(
            f"memory: at the worst moment of a step a rank needs {bytes_text(cost.memory_bytes)}, gradients on their "
            "way included; a row is what its layer holds from forward to backward, and rows share arrays"
        )
    elif cost.source == "tables":
        found = [
            "estimates, by the tables of a search: first ranks as 0, the largest block for all, every consumer of an "
            "output pays; bytes by collective are not known there",
            "memory is the sum of what layers hold from forward to backward, not the worst moment of a step",
        ]
    else:
        found = [
            "closed forms, Eq. 9 of Gholami et al. 2018 with the outermost links: only convolutions and linear layers "
            "move, words have 4 bytes, changes of grids and statistics are free; compute is that of the largest block",
            "memory is the sum of what layers hold from forward to backward, not the worst moment of a step",
        ]
    if cost.overlapped_s is not None:
        found.append(f"with what a run can hide hidden a step takes {time_text(cost.overlapped_s)}")
    return found
