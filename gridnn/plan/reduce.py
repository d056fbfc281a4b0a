"""The layer-wise optimum where candidates are too many for matrices of all their pairs.

At P = 1024 a convolution has some 3000 candidate grids, at 65536 some 20000; nearly all are hopeless, which has to be
proved without pricing their pairs.  Two things are cheap for all candidates: their vectors, and for every edge a
*floor*, the least that a consumer's grid can pay whatever the producer's.  So

    active          few candidates of every layer, those with the best bounds; pairs of them are priced
    solve           the exact optimum over the active ones: a cost that can be had
    bound           messages (bounds.py) over all candidates: exact between active ones, by floors for the others
    promote         candidates whose bound is below that cost become active; again, until there are none

and then the solution in hand is the optimum over all candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.cost.moves import Floats
from gridnn.plan.exact.bounds import Messages, send, silence
from gridnn.plan.exact.costgraph import CostGraph, Indices, Vector
from gridnn.plan.exact.eliminate import Optimum, cheapest
from gridnn.plan.exact.narrow import slack
from gridnn.plan.problem import Problem

FIRST = 64
"""Candidates of a layer that are active at first."""
SWEEPS = 3
"""Passes of messages there and back in a round."""
ROUNDS = 60
PROMISING = 0.07
"""Candidates become active whose bound is within this part of the margin; before the others, bounds get better."""


@dataclass(frozen=True)
class Reduced:
    """The optimum of a problem.

    Attributes
    ----------
    choice
        A candidate of every layer.
    cost, lower
        Seconds a step of the choice, and a bound that no choice beats: the same where the choice is proved optimal.
    active, candidates
        Candidates of all layers together whose pairs were priced, and all.
    """

    choice: tuple[int, ...]
    cost: float
    lower: float
    core: int
    active: int
    candidates: int

    @property
    def gap_s(self) -> float:
        """How far the choice may be from the optimum."""
        return max(0.0, self.cost - self.lower)


def reduced(
    problem: Problem,
    start: Sequence[Sequence[int]],
    *,
    memory_limit: float | None = None,
    most_pairs: int = 1 << 27,
) -> Reduced:
    """Return the optimum of a problem.

    Parameters
    ----------
    start
        Choices to begin with (a candidate of every layer each), such as the baselines: their grids are active at once.
    memory_limit
        Bytes of a rank.  The bounds know nothing of it: within a limit that bites, the choice is the best over the
        active candidates, and `lower` is the bound without the limit.
    most_pairs
        Pairs of candidates that may be priced; the choice is the best known then, with the bound reached.
    """
    lazy = _Lazy(problem, start)
    messages = silence(lazy.floors, [v.size for v in lazy.costs])
    lower = -np.inf
    for _ in range(ROUNDS):
        found = cheapest(lazy.graph(), memory_limit=memory_limit)
        reach = found.cost + slack(found.cost)
        lower, excess = lazy.bound(messages, lower)
        if not lazy.promote(excess, reach - lower, most_pairs):
            break
    proved = lazy.proved(excess, reach - lower)
    return Reduced(
        lazy.choice(found), found.cost, found.cost if proved else min(lower, found.cost), found.core,
        sum(len(lazy.of(i)) for i in range(len(lazy.costs))), sum(v.size for v in lazy.costs),
    )  # fmt: skip


class _Lazy:
    """Candidates, floors, and which candidates are active: the same ones for layers that are alike."""

    def __init__(self, problem: Problem, start: Sequence[Sequence[int]]) -> None:
        self.problem = problem
        self.costs = problem.costs
        self.floors = problem.floors
        self.keys = {pair: problem.link_key(pair) for pair in self.floors}
        self.active: dict[int, Indices] = {}
        for i, layer in enumerate(problem.layers):
            guess = self.costs[i] + sum(self.floors[e] for e in self.floors if e[1] == i)
            best = np.argsort(guess, kind="stable")[:FIRST]
            given = np.array([choice[i] for choice in start], dtype=np.intp)
            self._add(id(layer), np.concatenate([best, given]))
        self.matrices: dict[object, tuple[Indices, Indices, Floats]] = {}

    def of(self, i: int) -> Indices:
        """Return the active candidates of a layer, ascending."""
        return self.active[id(self.problem.layers[i])]

    def graph(self) -> CostGraph:
        """Return the costs of the active candidates."""
        edges = {pair: self.matrix(pair) for pair in self.floors}
        memory = tuple(vector[self.of(i)] for i, vector in enumerate(self.problem.memory_bytes))
        return CostGraph(tuple(cost[self.of(i)] for i, cost in enumerate(self.costs)), edges, memory)

    def matrix(self, pair: tuple[int, int]) -> Floats:
        """Return the seconds of an edge between active candidates; edges that are alike share it."""
        i, j = pair
        key = self.keys[pair]
        rows, columns = self.of(i), self.of(j)
        old_rows, old_columns, old = self.matrices.get(key, (rows[:0], columns[:0], np.empty((0, 0))))
        if old.shape != (len(rows), len(columns)):
            fresh_rows, fresh_columns = np.setdiff1d(rows, old_rows), np.setdiff1d(columns, old_columns)
            seconds = np.empty((len(rows), len(columns)))
            seconds[np.ix_(np.isin(rows, old_rows), np.isin(columns, old_columns))] = old
            for some, others in ((fresh_rows, columns), (old_rows, fresh_columns)):
                if some.size and others.size:
                    priced = self.problem.link(pair, some, others)
                    seconds[np.ix_(np.isin(rows, some), np.isin(columns, others))] = priced
            self.matrices[key] = rows, columns, seconds
        return self.matrices[key][2]

    def bound(self, messages: Messages, lower: float) -> tuple[float, list[Vector]]:
        """Return a lower bound and, for every candidate, how far above it any choice with it is at least."""
        excess: list[Vector] = []
        for _ in range(SWEEPS):
            first, _ = send(self.costs, messages, self._backward, forward=False)
            lower = max(lower, first)
            second, excess = send(self.costs, messages, self._forward, forward=True)
            rise = max(
                second - lower, 0.0
            )  # the excess stands on the bound before; move it onto the better one
            lower, excess = lower + rise, [np.maximum(e - rise, 0.0) for e in excess]
        return lower, excess

    def _forward(self, pair: tuple[int, int], share: Vector) -> Vector:
        rows, columns = self.of(pair[0]), self.of(pair[1])
        said: Vector = self.floors[pair] + share.min()
        exact = (self.matrix(pair) + share[rows, None]).min(axis=0)
        others = np.delete(share, rows).min(initial=np.inf) + self.floors[pair][columns]
        said[columns] = np.minimum(exact, others)
        return said

    def _backward(self, pair: tuple[int, int], share: Vector) -> Vector:
        rows, columns = self.of(pair[0]), self.of(pair[1])
        floored = share + self.floors[pair]
        said = np.full(len(self.costs[pair[0]]), floored.min())
        exact = (self.matrix(pair) + share[columns]).min(axis=1)
        said[rows] = np.minimum(exact, np.delete(floored, columns).min(initial=np.inf))
        return said

    def promote(self, excess: Sequence[Vector], margin: float, most_pairs: int) -> bool:
        """Make promising candidates active; False if none is within the margin, or pairs have run out."""
        wanted: dict[int, Vector] = {}
        for i, vector in enumerate(excess):
            key = id(self.problem.layers[i])
            wanted[key] = np.minimum(wanted[key], vector) if key in wanted else vector
        grown = False
        for key, vector in wanted.items():
            idle = np.setdiff1d(np.flatnonzero(vector <= margin), self.active[key])
            if idle.size:
                grown = True
                best = idle[np.argsort(vector[idle], kind="stable")]
                promising = int((vector[best] <= PROMISING * margin).sum())
                self._add(key, best[: promising or max(4, len(best) // 8)])
        pairs = {(id(self.problem.layers[i]), id(self.problem.layers[j])): (i, j) for i, j in self.floors}
        return grown and sum(len(self.of(i)) * len(self.of(j)) for i, j in pairs.values()) <= most_pairs

    def proved(self, excess: Sequence[Vector], margin: float) -> bool:
        """Return whether every candidate that a better choice could hold is active."""
        return all(
            np.isin(np.flatnonzero(vector <= margin), self.of(i)).all() for i, vector in enumerate(excess)
        )

    def choice(self, found: Optimum) -> tuple[int, ...]:
        """Return the candidates of an optimum over the active ones."""
        return tuple(int(self.of(i)[c]) for i, c in enumerate(found.choice))

    def _add(self, key: int, candidates: Indices) -> None:
        self.active[key] = np.union1d(self.active.get(key, np.empty(0, dtype=np.intp)), candidates)
