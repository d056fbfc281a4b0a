"""The cheapest choice under a memory limit: a price for memory, bounds from it, and frontiers for what is left.

    minimum of cost + price * memory, less price * limit     a lower bound, whatever the price

    cost ^  B              A is cheaper, but above the limit; B fits.  The price at which both cost the same
         |   .             finds the corner X below the line AB, if there is one; X takes the place of A or B.
         |  X   .          At the last price nothing is below the line: the bound is as high as prices get
         |          A      it, and the cheapest solution that fits is often close above.
         +----|--------> memory
            limit

What the bound cannot decide is left to plan/exact/frontier.py: short frontiers first, for a better solution and so a
smaller margin, then whole ones.  If those outgrow ROWS, the best solution stands with the gap that is proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gridnn.errors import InputError
from gridnn.plan.exact.costgraph import CostGraph, cost_of, memory_of, restrict
from gridnn.plan.exact.fold import schedule
from gridnn.plan.exact.frontier import Rules, TooManyError, cheapest_frontier
from gridnn.plan.exact.narrow import Narrowed, begin, narrow, slack, take

# Labels looked at in one step: some 300 MB at the most.
ROWS = 1 << 21
# Choices of a node and labels of a table, pass by pass; the last bounds neither.
PASSES = ((8, 1000), (24, 1400), (ROWS, 1400), (ROWS, 32000), (ROWS, ROWS))
# Corners of the lower hull that are looked for; a dozen is usual.
PRICES = 60

Choice = tuple[int, ...]
Minimum = Callable[[Narrowed], Narrowed | None]


@dataclass(frozen=True)
class Within:
    """A choice that fits, its cost, the bound proved, the price that proves it, and the choices left at the end."""

    choice: Choice
    cost: float
    lower: float
    price: float
    kept: int


@dataclass(frozen=True)
class _Hull:
    """A price of memory and the bound it proves, and the cheapest choice known that fits, with its cost."""

    price: float
    lower: float
    best: Choice
    cost: float


def cheapest_within(graph: CostGraph, limit: float, upper: float, minimum: Minimum) -> Within:
    """Return the cheapest choice whose memory is at most `limit` bytes.

    Parameters
    ----------
    graph
        With memory, and with a solution of finite cost.
    upper
        A cost known to be reachable within the limit, or np.inf.
    minimum
        The search without a limit, `eliminate.minimum`.

    Raises
    ------
    InputError
        If no choice fits.
    """
    lean = _leanest(graph, minimum)
    if (least := memory_of(graph, lean)) > limit:
        raise InputError(
            f"no choice of grids fits: a rank has {limit:.0f} bytes, the leanest plan needs {least:.0f}; "
            f"raise the limit, use more processes, or a smaller batch"
        )
    state = begin(graph)
    assert state is not None and state.graph.memory is not None
    # A choice that leaves too little for the least of all others goes at once.
    floor = math.fsum(float(m.min()) for m in state.graph.memory)
    fits = take(state, [np.flatnonzero(floor - m.min() + m <= limit) for m in state.graph.memory])
    assert fits is not None
    small, numbers = fits.graph, fits.kept
    place = [{int(number): at for at, number in enumerate(part)} for part in numbers]
    found = _search(small, limit, upper, tuple(at[c] for at, c in zip(place, lean, strict=True)), minimum)
    return replace(found, choice=tuple(int(part[c]) for part, c in zip(numbers, found.choice, strict=True)))


def _leanest(graph: CostGraph, minimum: Minimum) -> Choice:
    """Return a choice of finite cost and least memory."""
    assert graph.memory is not None
    costs = tuple(np.where(np.isfinite(c), m, np.inf) for c, m in zip(graph.costs, graph.memory, strict=True))
    once = {id(m): m for m in graph.edges.values()}
    holes = {at: np.where(np.isfinite(m), 0.0, np.inf) for at, m in once.items() if not np.isfinite(m.max())}
    # Pairs that forbid nothing tie no nodes together here.
    edges = {edge: holes[id(m)] for edge, m in graph.edges.items() if id(m) in holes}
    state = begin(CostGraph(costs, edges))
    found = None if state is None else minimum(state)
    if found is None or found.best is None:
        raise impossible()
    return found.best


def impossible() -> InputError:
    """Return the error for a graph without any solution of finite cost."""
    return InputError(
        "every plan is forbidden: some layers leave each other no pair of grids; allow more grids or unpin a layer"
    )


def _search(graph: CostGraph, limit: float, upper: float, lean: Choice, minimum: Minimum) -> Within:
    """Return the cheapest choice that fits, from a first one that does."""
    assert graph.memory is not None
    state = begin(graph)
    hull = _Hull(0.0, -np.inf, lean, cost_of(graph, lean))
    size = math.inf
    # Bounds drop choices, and fewer choices make better bounds; twice is usual.
    while state is not None and sum(state.graph.sizes) < 0.8 * size:
        size = sum(state.graph.sizes)
        hull, state = _hull(graph, state, limit, upper, hull, minimum)
    price, lower, best, cost = hull.price, hull.lower, hull.best, hull.cost
    for choices, length in PASSES:
        reach = min(cost, upper) + price * limit
        if state is None or cost - lower <= slack(reach):
            lower = cost
            break
        state = narrow(_repriced(state, graph, price, reach), improve=False)
        if state is None:
            lower = cost
            break
        few = [np.sort(excess.argsort(kind="stable")[:choices]) for excess in state.excess]
        kept = [part[some] for part, some in zip(state.kept, few, strict=True)]
        small = restrict(graph, kept)
        try:
            rules = Rules(limit, price, reach + slack(reach), length, ROWS)
            choice, exact = cheapest_frontier(small, schedule(small), rules)
        except TooManyError:
            break
        if choice is not None and (better := cost_of(small, choice)) < cost:
            best = tuple(int(part[c]) for part, c in zip(kept, choice, strict=True))
            cost = better
        if exact and small.sizes == state.graph.sizes:
            lower = cost
            break
    return Within(best, cost, lower, price, 0 if state is None else sum(state.graph.sizes))


def _hull(
    graph: CostGraph, state: Narrowed, limit: float, upper: float, known: _Hull, minimum: Minimum
) -> tuple[_Hull, Narrowed | None]:
    """Return the best price of memory for the choices of `state`, and the state without those it rules out.

    The state is None if nothing is left that beats `known`.
    """
    price, lower, best, cost = known.price, known.lower, known.best, known.cost
    below, above, slope = best, best, 0.0
    for _ in range(PRICES):
        # First for good: what no solution better than the one that fits can hold.  Then the corner itself.
        reach = min(cost, upper) + slope * limit
        left = narrow(_repriced(state, graph, slope, reach), improve=False)
        if left is None:
            return _Hull(price, cost, best, cost), None
        state = left
        solved = minimum(replace(left, upper=np.inf))
        assert solved is not None and solved.best is not None
        corner, bound = solved.best, solved.upper - slope * limit
        if bound > lower:
            price, lower = slope, bound
        fits = memory_of(graph, corner) <= limit
        if fits and cost_of(graph, corner) < cost:
            best, cost = corner, cost_of(graph, corner)
        if fits and slope == 0.0:
            break
        line = cost_of(graph, below) + slope * memory_of(graph, below)
        if slope > 0.0 and solved.upper >= line - 8 * slack(line):
            break
        below, above = (corner, above) if fits else (below, corner)
        rise = cost_of(graph, below) - cost_of(graph, above)
        slope = max(rise, 0.0) / (memory_of(graph, above) - memory_of(graph, below))
        if slope == 0.0:
            break
    return _Hull(price, min(lower, cost), best, cost), state


def _repriced(state: Narrowed, graph: CostGraph, price: float, upper: float) -> Narrowed:
    """Return the state with memory at another price; its messages stay, since any are valid."""
    assert graph.memory is not None
    costs = tuple((c + price * m)[k] for c, m, k in zip(graph.costs, graph.memory, state.kept, strict=True))
    priced = CostGraph(costs, state.graph.edges, state.graph.memory)
    return replace(state, graph=priced, lower=-np.inf, upper=upper, best=None)
