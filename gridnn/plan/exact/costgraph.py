"""A graph of costs: what each node may choose, and what pairs of choices cost together.

(a)──M──(b)      node i chooses one of C_i; its vector prices the choice
 │       │       edge (i, j), i < j, prices the pair by a matrix (C_i, C_j)
 M       M       total = chosen vector entries + chosen matrix entries
 │       │       np.inf forbids a choice or a pair
(c)──M──(d)      memory (optional): bytes of each choice; their sum may have a limit
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class CostGraph:
    """Nodes with a cost for each choice, and edges with a cost for each pair of choices.

    Parameters
    ----------
    costs
        One vector (C_i,) a node; finite, or np.inf where the choice is forbidden.
    edges
        A matrix (C_i, C_j) for each pair (i, j) with i < j.  Edges may share one array: it is never written.
    memory
        Bytes (C_i,) of each choice, or None; whole numbers, so that sums are exact.

    Raises
    ------
    ValueError
        If shapes do not fit, a node has no choice, or an edge is not (i, j) with i < j.
    """

    costs: tuple[Vector, ...]
    edges: Mapping[tuple[int, int], Matrix]
    memory: tuple[Vector, ...] | None = None

    def __post_init__(self) -> None:
        """Check shapes; values are trusted."""
        nodes = len(self.costs)
        for i, vector in enumerate(self.costs):
            if vector.ndim != 1 or not vector.size:
                raise ValueError(f"node {i}: a cost vector (C,) with C >= 1 is needed, not {vector.shape}")
        for (i, j), matrix in self.edges.items():
            if not 0 <= i < j < nodes:
                raise ValueError(f"edge {(i, j)}: needs 0 <= i < j < {nodes}")
            if matrix.shape != (self.costs[i].size, self.costs[j].size):
                want = (self.costs[i].size, self.costs[j].size)
                raise ValueError(f"edge {(i, j)}: a matrix {want} is needed, not {matrix.shape}")
        if self.memory is not None and [v.shape for v in self.memory] != [v.shape for v in self.costs]:
            raise ValueError("memory: one vector a node is needed, as long as its cost vector")

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each node has."""
        return tuple(vector.size for vector in self.costs)


def cost_of(graph: CostGraph, choice: Sequence[int]) -> float:
    """Return the total cost of one choice a node, rounded once (the sum itself is exact)."""
    nodes = (vector[c] for vector, c in zip(graph.costs, choice, strict=True))
    pairs = (matrix[choice[i], choice[j]] for (i, j), matrix in graph.edges.items())
    return math.fsum([*map(float, nodes), *map(float, pairs)])


def memory_of(graph: CostGraph, choice: Sequence[int]) -> float:
    """Return the bytes of one choice a node; 0 where the graph has no memory."""
    if graph.memory is None:
        return 0.0
    return math.fsum(float(vector[c]) for vector, c in zip(graph.memory, choice, strict=True))


def flips(graph: CostGraph, choice: Sequence[int]) -> tuple[Vector, ...]:
    """Return, for every choice of every node, what it adds to the total when no other node changes."""
    change = [vector.copy() for vector in graph.costs]
    for (i, j), matrix in graph.edges.items():
        change[i] += matrix[:, choice[j]]
        change[j] += matrix[choice[i]]
    return tuple(vector - vector[c] for vector, c in zip(change, choice, strict=True))


def restrict(graph: CostGraph, kept: Sequence[Indices]) -> CostGraph:
    """Return the graph with only the choices `kept` of each node; arrays that lose nothing are shared."""
    whole = [part.size == size for part, size in zip(kept, graph.sizes, strict=True)]

    def vectors(given: tuple[Vector, ...]) -> tuple[Vector, ...]:
        return tuple(v if w else v[k] for v, w, k in zip(given, whole, kept, strict=True))

    edges: dict[tuple[int, int], Matrix] = {}
    for (i, j), matrix in graph.edges.items():
        cut = matrix if whole[i] else matrix[kept[i]]
        edges[i, j] = cut if whole[j] else cut[:, kept[j]]
    return CostGraph(vectors(graph.costs), edges, None if graph.memory is None else vectors(graph.memory))


def neighbours(graph: CostGraph) -> list[set[int]]:
    """Return the nodes each node shares an edge with."""
    near: list[set[int]] = [set() for _ in graph.costs]
    for i, j in graph.edges:
        near[i].add(j)
        near[j].add(i)
    return near


def consistent(graph: CostGraph) -> list[Indices] | None:
    """Return the choices that no forbidden entry rules out at once, or None if a node has none left.

    A choice goes if its own cost is infinite, or if an edge leaves it no partner; repeated until nothing
    changes.  What is left may still have no solution of finite cost.
    """
    alive = [np.isfinite(vector) for vector in graph.costs]
    finite = {id(m): np.isfinite(m) for m in {id(m): m for m in graph.edges.values()}.values()}
    # Most matrices forbid nothing: they can only lose partners that are gone for other reasons, never all.
    partial = {edge: finite[id(m)] for edge, m in graph.edges.items() if not finite[id(m)].all()}
    changed = True
    while changed:
        changed = False
        for (i, j), allowed in partial.items():
            before = int(alive[i].sum()) + int(alive[j].sum())
            alive[i] = alive[i] & allowed[:, alive[j]].any(axis=1)
            alive[j] = alive[j] & allowed[alive[i]].any(axis=0)
            changed |= int(alive[i].sum()) + int(alive[j].sum()) < before
    kept = [np.flatnonzero(mask) for mask in alive]
    return kept if all(part.size for part in kept) else None
