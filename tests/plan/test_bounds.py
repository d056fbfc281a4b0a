"""No solution beats its bound, on any graph and from any messages; on chains the bounds are the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gridnn.plan.exact.bounds import silence, sweep
from gridnn.plan.exact.costgraph import CostGraph, consistent, restrict
from gridnn.plan.exact.narrow import begin, narrow
from tests.plan.graphs import KINDS, plans, random_graph

NEAR = 1e-9


def through(graph: CostGraph) -> list[NDArray[np.float64]]:
    """The least cost of any solution through each choice."""
    least = [np.full(size, np.inf) for size in graph.sizes]
    for choice, cost, _ in plans(graph):
        for i, c in enumerate(choice):
            least[i][c] = min(least[i][c], cost)
    return least


def usable(seed: int, kind: str) -> list[CostGraph]:
    rng = np.random.default_rng(seed)
    graphs = [random_graph(rng, kind) for _ in range(40)]
    left = [(graph, consistent(graph)) for graph in graphs]
    return [restrict(graph, kept) for graph, kept in left if kept is not None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["silence", "noise"])
def test_bounds_hold(kind: str, start: str) -> None:
    rng = np.random.default_rng(7)
    checked = 0
    for graph in usable(20 + KINDS.index(kind), kind):
        least = through(graph)
        best = min(float(vector.min()) for vector in least)
        if np.isinf(best):
            continue
        messages = silence(graph.edges, graph.sizes)
        scale = best if start == "noise" else 0.0
        for told in (messages.early, messages.late):
            for edge, message in told.items():
                told[edge] = message + scale * rng.random(message.size)
        lower, _ = sweep(graph, messages, forward=False)
        for turn in range(6):
            assert lower <= best + NEAR * best
            again, excess = sweep(graph, messages, forward=turn % 2 == 0)
            for have, bound in zip(least, excess, strict=True):
                assert (lower + bound <= have + NEAR * best).all()
            assert again >= lower - NEAR * best  # the bound never falls
            lower = again
        checked += 1
    assert checked > 15


def test_chains_are_exact() -> None:
    rng = np.random.default_rng(11)
    for nodes in (1, 2, 7):
        costs = tuple(rng.random(3) for _ in range(nodes))
        graph = CostGraph(costs, {(i, i + 1): rng.random((3, 3)) for i in range(nodes - 1)})
        messages = silence(graph.edges, graph.sizes)
        lower, _ = sweep(graph, messages, forward=False)
        _, excess = sweep(graph, messages, forward=True)
        for have, bound in zip(through(graph), excess, strict=True):
            assert lower + bound == pytest.approx(have, rel=1e-12)


def test_skips_come_near() -> None:
    rng = np.random.default_rng(12)
    gaps, first = [], []
    for _ in range(20):
        edges = [*((i, i + 1) for i in range(6)), (0, 3), (3, 6)]
        graph = CostGraph(tuple(rng.random(3) for _ in range(7)), {e: rng.random((3, 3)) for e in edges})
        messages = silence(graph.edges, graph.sizes)
        lower = [sweep(graph, messages, forward=turn % 2 == 1)[0] for turn in range(20)]
        best = min(float(vector.min()) for vector in through(graph))
        first.append(1 - lower[0] / best)
        gaps.append(1 - lower[-1] / best)
    assert np.mean(gaps) < 0.01 < np.mean(first)  # what the passes are for


@pytest.mark.parametrize("kind", KINDS)
def test_narrowing_keeps_every_optimum(kind: str) -> None:
    dropped = 0
    for graph in usable(30 + KINDS.index(kind), kind):
        found = list(plans(graph))
        best = min(cost for _, cost, _ in found)
        start = begin(graph)
        if start is None or np.isinf(best):
            continue
        left = narrow(replace(start, upper=best), improve=False)
        assert left is not None
        for choice, cost, _ in found:
            assert cost > best or all(c in part for c, part in zip(choice, left.kept, strict=True))
        dropped += sum(graph.sizes) - sum(left.graph.sizes)
        if best > 0.0:
            assert narrow(replace(start, upper=-1.0), improve=False) is None
    assert dropped > 20
