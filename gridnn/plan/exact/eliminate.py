"""The exact minimum over a graph of costs: narrow it, then fold it; branch where it is too dense to fold.

cheapest  =  begin            forbidden choices go
             narrow           choices that bounds rule out go         (plan/exact/narrow.py)
             fold             node and edge elimination, exact        (plan/exact/fold.py)
             or branch        on the choices of one node, each a smaller graph
             with a limit     prices for memory, then frontiers       (plan/exact/limit.py)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gridnn.plan.exact.costgraph import CostGraph, cost_of, memory_of, neighbours
from gridnn.plan.exact.fold import core_size
from gridnn.plan.exact.limit import cheapest_within, impossible
from gridnn.plan.exact.narrow import Narrowed, begin, narrow, settle, take

__all__ = ["CostGraph", "Optimum", "cheapest", "cost_of"]

# Beyond either, a graph is split: 128 MiB for one table, some ten seconds of sums.
WIDEST_ENTRIES = 1 << 24
FOLD_ENTRIES = 1 << 32


@dataclass(frozen=True)
class Optimum:
    """The cheapest choice of every node, and what it took to find it.

    Parameters
    ----------
    choice, cost
        A choice for each node, and what they cost together.
    core
        Nodes the graph folds to by node and edge elimination; 1 where all folds.
    gap_s
        How far the cost may be above the optimum: 0.0 where the choice is proved optimal.
    memory
        Bytes of the choice; 0 where the graph has no memory.
    choices, kept
        Choices of all nodes together, given and left when they were folded.
    price_s_per_byte
        About what a byte more would save, where a memory limit binds.
    """

    choice: tuple[int, ...]
    cost: float
    core: int
    gap_s: float = 0.0
    memory: float = 0.0
    choices: int = 0
    kept: int = 0
    price_s_per_byte: float = 0.0


def cheapest(graph: CostGraph, *, memory_limit: float | None = None, upper: float | None = None) -> Optimum:
    """Return the choice of least total cost.

    Parameters
    ----------
    memory_limit
        Bytes the choices together may take; the graph needs memory.
    upper
        A cost that is known to be reachable (within the limit): it saves search, and changes nothing else.

    Raises
    ------
    InputError
        If every choice is forbidden, or none fits the memory limit.
    ValueError
        If nothing costs `upper` or less, or a limit is given for a graph without memory.
    """
    total, core = sum(graph.sizes), core_size(graph)
    reach = np.inf if upper is None else upper
    if memory_limit is not None:
        if graph.memory is None:
            raise ValueError("a memory limit needs a graph with memory")
        fits = cheapest_within(graph, memory_limit, reach, minimum)
        # The price of memory may have rounded the bound: far more than SLACK would be needed to lose a solution.
        if fits.lower > reach + 1e-9 * abs(reach):
            raise _too_low(reach)
        memory, gap = memory_of(graph, fits.choice), float(fits.cost - fits.lower)
        return Optimum(fits.choice, fits.cost, core, gap, memory, total, fits.kept, float(fits.price))
    start = begin(graph, reach)
    found = None if start is None else minimum(start)
    if found is None or found.best is None:
        raise impossible() if upper is None else _too_low(upper)
    memory, kept = memory_of(graph, found.best), sum(found.graph.sizes)
    return Optimum(found.best, cost_of(graph, found.best), core, 0.0, memory, total, kept)


def _too_low(upper: float) -> ValueError:
    return ValueError(f"no choice costs {upper} or less: an upper bound must be a cost that exists")


def minimum(state: Narrowed) -> Narrowed | None:
    """Return the state with its cheapest solution in hand; None if nothing costs `state.upper` or less."""
    left = narrow(state)
    if left is None or left.closed:
        return left
    if left.plan.widest <= WIDEST_ENTRIES and left.plan.entries <= FOLD_ENTRIES:
        return settle(left)
    sizes, near = left.graph.sizes, neighbours(left.graph)
    # The node that ties most others together; fixing it thins the graph most.
    node = max((i for i, size in enumerate(sizes) if size > 1), key=lambda i: (len(near[i]), -sizes[i], -i))
    for choice in left.excess[node].argsort(kind="stable"):
        kept = [np.arange(size) for size in sizes]
        kept[node] = np.array([choice])
        part = take(left, kept)
        found = None if part is None else minimum(part)
        if found is None or found.best is None or found.best == left.best:
            continue
        if left.best is None or found.upper < left.upper:
            left = replace(left, upper=found.upper, best=found.best)
    return left
