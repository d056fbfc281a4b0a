"""The cheapest uniform grid: every way to write P as a product over the axes, priced by exact traffic."""

from __future__ import annotations

from collections.abc import Iterator

from gridnn.cost.machine import Machine
from gridnn.cost.price import PlanPrice, price_plan, spread_ranks
from gridnn.geometry.grid import AXES, GridShape
from gridnn.network.graph import Network
from gridnn.network.placed import place_network
from gridnn.network.placement import space_axes
from gridnn.plan.plan import Plan, uniform_plan

RANKS = 4
"""Ranks of a candidate that are priced."""


def factorisations(procs: int, axes: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Yield every assignment of sizes to `axes` with product `procs`, the first axis largest first."""
    if not axes:
        if procs == 1:
            yield {}
        return
    for size in range(procs, 0, -1):
        if procs % size == 0:
            for rest in factorisations(procs // size, axes[1:]):
                yield {axes[0]: size, **rest}


def candidates(network: Network, batch: int, procs: int) -> list[GridShape]:
    """Return the grids of all `procs` processes that no layer of the network makes pointless.

    An axis may not exceed the largest extent it cuts anywhere: more ranks than that are idle in every layer.
    """
    dims = max(len(shape) - 1 for shape in network.shapes.values())
    shapes = [s for s in network.shapes.values() if s]
    limit = {"n": batch, "k": max(s[0] for s in shapes), "c": max(s[0] for s in shapes)}
    for at, axis in enumerate(space_axes(dims)):
        limit[axis] = max(s[1 + at] for s in shapes if len(s) == dims + 1)
    axes = tuple(a for a in AXES if a in limit)
    return [GridShape.of(**f) for f in factorisations(procs, axes) if all(f[a] <= limit[a] for a in axes)]


def cheapest_uniform(
    network: Network, batch: int, passes: int, procs: int, itemsize: int, machine: Machine
) -> tuple[Plan, list[tuple[GridShape, PlanPrice]]]:
    """Return the plan of least predicted seconds a step, and all candidates with their prices, cheapest first.

    Parameters
    ----------
    batch, passes
        Samples in a step, and the passes they are split into.
    """
    priced: list[tuple[GridShape, PlanPrice]] = []
    per_pass = batch // passes
    # With one grid for all layers a few ranks stand for all: the ends of every axis and some between.
    ranks = spread_ranks(procs, RANKS)
    for grid in candidates(network, per_pass, procs) or [GridShape()]:
        plan = uniform_plan(network, grid, batch, procs, "auto")
        placed = place_network(network, plan.schemes, per_pass, procs)
        priced.append((grid, price_plan(placed, machine, itemsize, passes, ranks=ranks)))
    priced.sort(key=lambda entry: (entry[1].step_s, entry[1].received_bytes))
    best = priced[0][0]
    plan = uniform_plan(
        network,
        best,
        batch,
        procs,
        f"auto: cheapest of {len(priced)} uniform grids on machine {machine.name}",
    )
    return plan, priced
