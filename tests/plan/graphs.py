"""Graphs of costs for tests: random ones small enough to enumerate, and the shapes of networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.exact.costgraph import CostGraph, cost_of, memory_of

KINDS = ("uniform", "ties", "scaled", "zero pairs", "holes")
Edges = list[tuple[int, int]]


def random_graph(rng: np.random.Generator, kind: str) -> CostGraph:
    """Return a DAG of at most eight nodes and 1500 plans, with memory: anything from no edge to all."""
    sizes = rng.integers(1, 5, int(rng.integers(1, 9)))
    while np.prod(sizes) > 1500:
        sizes[sizes.argmax()] -= 1

    def draw(*shape: int) -> NDArray[np.float64]:
        if kind == "ties":
            return rng.integers(0, 3, shape).astype(float)
        if kind == "zero pairs" and len(shape) == 2:
            return np.zeros(shape)
        values = rng.random(shape) * (10.0 ** rng.integers(-6, 6) if kind == "scaled" else 1.0)
        return np.where(rng.random(shape) < 0.1, np.inf, values) if kind == "holes" else values

    dense = np.sqrt(rng.random())
    pairs = itertools.combinations(range(len(sizes)), 2)
    edges = {(i, j): draw(sizes[i], sizes[j]) for i, j in pairs if rng.random() < dense}
    memory = tuple(rng.integers(0, 10, size).astype(float) for size in sizes)
    return CostGraph(tuple(draw(size) for size in sizes), edges, memory)


def plans(graph: CostGraph) -> Iterator[tuple[tuple[int, ...], float, float]]:
    """Every choice, with its cost and memory."""
    for choice in itertools.product(*map(range, graph.sizes)):
        yield choice, cost_of(graph, choice), memory_of(graph, choice)


def residual(blocks: int, inner: int) -> tuple[int, Edges]:
    """Nodes and edges of a chain of blocks with a skip over each."""
    edges: Edges = []
    n = 1
    for _ in range(blocks):
        first = n - 1
        for _ in range(inner + 1):
            edges.append((n - 1, n))
            n += 1
        edges.append((first, n - 1))
    return n, edges


def inception(blocks: int, branches: tuple[int, ...] = (1, 2, 3)) -> tuple[int, Edges]:
    """Nodes and edges of a chain of blocks of parallel branches."""
    edges: Edges = []
    n = 1
    for _ in range(blocks):
        first, ends = n - 1, []
        for length in branches:
            before = first
            for _ in range(length):
                edges.append((before, n))
                before, n = n, n + 1
            ends.append(before)
        edges += [(end, n) for end in ends]
        n += 1
    return n, edges


def filled(shape: tuple[int, Edges], choices: int, rng: np.random.Generator, distinct: int = 5) -> CostGraph:
    """Return a graph of this shape whose nodes are of a few kinds, as layers are; edges share matrices.

    A kind is a trade: what makes a choice cheap makes it heavy.  Neighbours that choose alike pay less.
    """
    nodes, edges = shape
    place = np.arange(choices)
    costs = [rng.random() * 5 / (1 + place) + rng.random(choices) for _ in range(distinct)]
    memory = [np.round(1e6 * (1 + place) * rng.random() + 1e5 * rng.random(choices)) for _ in range(distinct)]
    apart = np.abs(place[:, None] - place)
    pairs = [rng.random() * apart + 0.1 * rng.random((choices, choices)) for _ in range(distinct)]
    kind = rng.integers(0, distinct, nodes)
    return CostGraph(
        tuple(costs[k] for k in kind), {e: pairs[kind[e[0]]] for e in edges}, tuple(memory[k] for k in kind)
    )
