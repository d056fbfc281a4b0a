"""Narrowing: drop the choices that no optimum can hold, before the exact search pays for them.

    bound of a choice  >  cost of a solution in hand   ->   the choice goes, for ever

    sweep back, sweep forward      a lower bound for every choice            (plan/exact/bounds.py)
    fold the best few a node       a solution in hand: an upper bound        (plan/exact/fold.py)
    drop, and again                fewer choices, cheaper sweeps, until folding all that is left is cheap

A choice stays when it exceeds the solution in hand by less than SLACK of it, so that rounding loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gridnn.plan.exact.bounds import Messages, keep, silence, sweep
from gridnn.plan.exact.costgraph import CostGraph, Indices, Vector, consistent, cost_of, restrict
from gridnn.plan.exact.fold import Schedule, fold, schedule

SLACK = 1e-12
# Choices a node in the search for a solution in hand, tried from the left until folding them is cheap.
BEAMS = (8, 4, 2, 1)
BEAM_ENTRIES = 1 << 20
# Folding this much takes no longer than another round; so does what a round itself looks at.
CHEAP_ENTRIES = 1 << 21
ROUNDS = 24


@dataclass(frozen=True)
class Narrowed:
    """What is left of a graph, and what is known of it.

    Parameters
    ----------
    graph, kept
        The graph of the choices left, and their numbers in the graph that was given.
    lower
        No solution of the graph given costs less, unless it costs more than `upper`.
    upper, best
        Cost of the solution in hand and its choices (numbers of the graph given); np.inf and None at first.
    excess
        For each choice left, how far above `lower` the solutions through it are at least.
    plan
        How to fold what is left.
    """

    graph: CostGraph
    kept: tuple[Indices, ...]
    messages: Messages
    lower: float
    upper: float
    best: tuple[int, ...] | None
    excess: tuple[Vector, ...]
    plan: Schedule

    @property
    def closed(self) -> bool:
        """Whether the solution in hand is proved the cheapest, to within SLACK."""
        return self.best is not None and self.upper <= self.lower + slack(self.upper)


def slack(cost: float) -> float:
    """Return the seconds below which two costs of this size are the same."""
    return SLACK * abs(cost) if math.isfinite(cost) else 0.0


def begin(graph: CostGraph, upper: float = np.inf) -> Narrowed | None:
    """Return the graph without forbidden choices; None if a node has no other."""
    everything = tuple(np.arange(size) for size in graph.sizes)
    start = Narrowed(
        graph,
        everything,
        silence(graph.edges, graph.sizes),
        -np.inf,
        upper,
        None,
        tuple(np.zeros(s) for s in graph.sizes),
        schedule(graph),
    )
    return _consistent(start)


def narrow(state: Narrowed, *, improve: bool = True) -> Narrowed | None:
    """Drop choices while that is cheaper than folding them; None if no solution costs `state.upper` or less.

    Parameters
    ----------
    improve
        Look for cheaper solutions to hold.  Without it only `state.upper` decides what is dropped.
    """
    for _ in range(ROUNDS):
        round_entries = sum(matrix.size for matrix in state.graph.edges.values())
        if improve and (state.closed or state.plan.entries <= max(CHEAP_ENTRIES, round_entries)):
            break
        last, size = state, sum(state.graph.sizes)
        first, _ = sweep(state.graph, state.messages, forward=False)
        lower = max(state.lower, first)
        second, excess = sweep(state.graph, state.messages, forward=True)
        if improve:
            state = _hold(state, excess)
        # The excess of the second sweep stands on the bound of the first: move it onto the better one.
        rise = max(second - lower, 0.0)
        state = replace(state, lower=lower + rise, excess=tuple(np.maximum(e - rise, 0.0) for e in excess))
        if math.isfinite(state.upper):
            margin = state.upper + slack(state.upper) - state.lower
            left = take(state, [np.flatnonzero(vector <= margin) for vector in state.excess])
            if left is None:
                return None
            state = left
        gained = state.lower - last.lower > 0.02 * (state.upper - last.lower)
        if sum(state.graph.sizes) > 0.95 * size and not gained:
            break
    return state


def take(state: Narrowed, kept: Sequence[Indices]) -> Narrowed | None:
    """Return the state with only the choices `kept` (numbers of its own graph); None if a node keeps none."""
    if not all(part.size for part in kept):
        return None
    if all(part.size == size for part, size in zip(kept, state.graph.sizes, strict=True)):
        return state
    graph = restrict(state.graph, kept)
    return _consistent(
        replace(
            state,
            graph=graph,
            kept=tuple(old[part] for old, part in zip(state.kept, kept, strict=True)),
            messages=keep(state.messages, kept),
            excess=tuple(vector[part] for vector, part in zip(state.excess, kept, strict=True)),
            plan=schedule(graph),
        )
    )


def _consistent(state: Narrowed) -> Narrowed | None:
    kept = consistent(state.graph)
    return None if kept is None else take(state, kept)


def settle(state: Narrowed) -> Narrowed:
    """Return the state with the cheapest solution in hand, by folding all that is left."""
    return hold(state, *fold(state.graph, state.plan))


def hold(state: Narrowed, choice: Sequence[int], cost: float) -> Narrowed:
    """Return the state with this solution in hand if it beats the one there (numbers of its own graph)."""
    if not math.isfinite(cost):
        return state
    cost = cost_of(state.graph, choice)
    # The first solution may miss a bound given from outside by rounding.
    reach = state.upper + slack(state.upper) if state.best is None else np.nextafter(state.upper, -np.inf)
    if cost > reach:
        return state
    return replace(
        state, upper=cost, best=tuple(int(part[c]) for part, c in zip(state.kept, choice, strict=True))
    )


def _hold(state: Narrowed, excess: Sequence[Vector]) -> Narrowed:
    """Fold the few choices of each node whose bounds are best, and hold what comes out."""
    for beam in BEAMS:
        few = [
            np.sort(vector.argpartition(beam)[:beam]) if vector.size > beam else np.arange(vector.size)
            for vector in excess
        ]
        small = restrict(state.graph, few)
        plan = schedule(small)
        if plan.entries <= BEAM_ENTRIES or beam == BEAMS[-1]:
            choice, cost = fold(small, plan)
            return hold(state, [int(part[c]) for part, c in zip(few, choice, strict=True)], cost)
    return state
