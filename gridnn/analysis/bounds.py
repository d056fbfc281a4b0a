"""Lower bounds: what each weighted layer moves beside the least that must be, and how far that is from it.

| column    | what                                                                                                  |
|-----------|-------------------------------------------------------------------------------------------------------|
| least     | `step`: what some rank moves in any plan of gridnn on as many ranks (`gridnn.cost.bounds.step`)        |
| separate  | `product`: the same where each of the three products is made on its own, nothing kept (3/2 of it)     |
| moved     | what the busiest rank of this plan receives for the layer                                             |
| ratio     | moved / least: 1 is a plan that nothing can beat, for this layer alone                                |
| best grid | the n, k, c of the same ranks that moves least for this layer alone, and what that is                 |

A grid that is best for a layer alone may cost its neighbours more than it saves; that is what the planner weighs.
"""

from __future__ import annotations

from collections.abc import Mapping

from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.bounds.conv import WEIGHTED, extents, product
from gridnn.cost.bounds.moved import ALL_RANKS, best_grid, busiest, working
from gridnn.cost.bounds.step import step_bound
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer, PlacedNetwork, place_network
from gridnn.plan.job import Job

BOUNDED = (*WEIGHTED, s.LSTM)
"""Layers with a row: those that multiply by weights."""
COLUMNS = (
    Column("layer"),
    Column("kind", hidden=True),
    Column("grid"),
    Column("ranks", "count", about="ranks of the grid that have something to multiply", hidden=True),
    Column("outputs", "count", about="rows of W: output channels (times taps, if the convolution is transposed)"),
    Column("inputs", "count", about="columns of W: input channels times taps of the kernel, of one group"),
    Column("columns", "count", about="columns of X: samples of a step times positions"),
    Column("multiplications", "count", about="of one product, without those by padding", hidden=True),
    Column("regime", head="case", about="1D, 2D or 3D: how many arrays the best part of a rank is short of"),
    Column("product_bytes", "bytes", "separate", "least of three products, each made on its own"),
    Column("step_bytes", "bytes", "least", "least of a step that keeps operands where they are"),
    Column("any_bytes", "bytes", about="least of a step, whichever rank makes which multiplications", hidden=True),
    Column("memory_bytes", "bytes", "least by memory", "least of a step, as a rank's memory is no larger", True),
    Column("moved_bytes", "bytes", "moved", "received by the busiest rank for this layer in a step"),
    Column("moved_x_bytes", "bytes", about="of it, input forward and its gradient backward", hidden=True),
    Column("moved_y_bytes", "bytes", about="of it, output forward and its gradient backward", hidden=True),
    Column("moved_w_bytes", "bytes", about="of it, gradients of weights", hidden=True),
    Column("ratio", "ratio", about="moved / least; empty where the least is 0"),
    Column("best_grid", "", "best grid", "n, k and c that move least for this layer alone"),
    Column("best_bytes", "bytes", "moves", "what the best grid moves"),
)  # fmt: skip
_TOTALS = ("multiplications", "product_bytes", "step_bytes", "any_bytes", "memory_bytes", "moved_bytes",
           "moved_x_bytes", "moved_y_bytes", "moved_w_bytes", "best_bytes")  # fmt: skip
NOTES = (
    "least: from the memory-independent bound of one product, tight in its three cases (Al Daas, Ballard, Grigori, "
    "Kumar and Rouse 2022, arXiv 2205.13407), for convolutions by how often an input is read (in the form of Demmel "
    "and Dinh 2018, arXiv 1802.06905, and Chen et al. 2022, arXiv 2204.08279); that of a step of three products is "
    "our conclusion",
    "assumed: equal work on the ranks that have any, one copy of every array between layers, every multiplication made "
    "(no Winograd, FFT or Strassen)",
    "every layer stands alone: an input that several layers share counts for each, biases count as moved, and pools, "
    "norms and changes of grid between other layers have no bound",
)
_FIRST = "a layer on the network's input has a least of 0: its input is read, not moved, and cut by k it moves nothing"
_LSTM = "an LSTM is two products that wait for each other every step; no bound is given"
_LOOKED = f"moved is that of the ranks at the ends of each layer's axes (above {ALL_RANKS} processes)"


def bounds(job: Job, schemes: Mapping[str, Scheme], memory_bytes: int | None = None) -> Table:
    """Return what each weighted layer moves beside its lower bounds.

    Parameters
    ----------
    memory_bytes
        Memory of a rank, for the bound that follows from it; that of the machine, if left out.

    Raises
    ------
    InputError
        If a scheme does not fit the job, or the memory holds nothing.
    """
    memory_bytes = job.machine.memory_bytes if memory_bytes is None else memory_bytes
    if memory_bytes < job.itemsize:
        raise InputError(f"memory of {memory_bytes} bytes holds no element of {job.itemsize}; give more")
    placed = place_network(job.network, schemes, job.per_pass, job.procs)
    layers = [layer for layer in placed.layers if isinstance(layer.node.spec, BOUNDED)]
    rows = tuple(_row(job, placed, layer, memory_bytes / job.itemsize) for layer in layers)
    at = {column.key: i for i, column in enumerate(COLUMNS)}
    by_memory = any(row[at["memory_bytes"]] for row in rows)
    columns = tuple(
        Column(c.key, c.unit, c.head, c.about, c.hidden and not (by_memory and c.key == "memory_bytes"))
        for c in COLUMNS
    )
    first = any(placed.edges[layer.edges[0]].exchange is None for layer in layers)
    lstm = any(isinstance(layer.node.spec, s.LSTM) for layer in layers)
    notes = (*NOTES, *[_FIRST] * first, *[_LSTM] * lstm, *[_LOOKED] * (job.procs > ALL_RANKS))
    title = f"{job.network.name}, batch {job.batch}, {job.procs} processes: bytes moved beside the least"
    return Table(title, columns, rows, _totals(rows), notes)


def _row(job: Job, placed: PlacedNetwork, layer: PlacedLayer, memory: float) -> tuple[Cell, ...]:
    spec, size = layer.node.spec, job.itemsize
    found: dict[str, Cell] = {"layer": layer.node.name, "kind": s.kind(spec), "grid": str(layer.scheme)}
    if isinstance(spec, WEIGHTED):
        need, raw, first = (
            layer.placement.needs[0],
            layer.placement.raw,
            placed.edges[layer.edges[0]].exchange is None,
        )
        # Weights are moved once a step, whatever its passes: one product of the whole batch.
        x, y = (job.batch, *need.shape[1:]), (job.batch, *raw.shape[1:])
        ranks, whole = working(layer), product(spec, x, y)
        least = step_bound(whole, ranks, first=first, shares=bool(layer.node.shared), memory=memory)
        moved = busiest(placed, layer, size, job.passes)
        best = best_grid(layer, layer.scheme.grid.size, size, job.passes, first=first)
        found |= extents(spec, x, y)._asdict()
        found |= {
            "ranks": ranks, "multiplications": whole.multiplies, "regime": least.regime,
            "product_bytes": least.product * size, "step_bytes": least.step * size,
            "any_bytes": least.any * size,
            "memory_bytes": None if least.memory is None else least.memory * size,
            "moved_bytes": moved.total, "moved_x_bytes": moved.x, "moved_y_bytes": moved.y,
            "moved_w_bytes": moved.w, "ratio": moved.total / size / least.step if least.step else None,
            "best_grid": str(best[0]) if best else None, "best_bytes": best[1] if best else None,
        }  # fmt: skip
    return tuple(found.get(column.key) for column in COLUMNS)


def _totals(rows: tuple[tuple[Cell, ...], ...]) -> tuple[Cell, ...]:
    """Return sums over layers, and the ratio of those layers that have a bound and those alone."""
    at = {column.key: i for i, column in enumerate(COLUMNS)}
    sums: dict[str, Cell] = {key: sum(_numbers(rows, at[key])) for key in _TOTALS}
    bounded = tuple(row for row in rows if row[at["step_bytes"]])
    moved, least = (sum(_numbers(bounded, at[key])) for key in ("moved_bytes", "step_bytes"))
    sums |= {"layer": "all", "ratio": moved / least if least else None}
    return tuple(sums.get(column.key) for column in COLUMNS)


def _numbers(rows: tuple[tuple[Cell, ...], ...], at: int) -> list[int | float]:
    return [row[at] for row in rows if isinstance(row[at], int | float)]  # type: ignore[misc]
