"""The cheapest choice equals the cheapest of all choices, however it is found, with and without a limit."""

from __future__ import annotations

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.exact import eliminate, limit, narrow
from gridnn.plan.exact.costgraph import CostGraph, cost_of, flips, memory_of
from gridnn.plan.exact.eliminate import cheapest
from gridnn.plan.exact.fold import core_size, fold, schedule
from gridnn.plan.exact.frontier import Rules, cheapest_frontier
from tests.plan.graphs import KINDS, filled, inception, plans, random_graph, residual

GRAPHS = 60  # of each kind
EQUAL = 2e-12  # what narrowing may lose


def close(found: float, best: float) -> bool:
    return found == best or abs(found - best) <= EQUAL * abs(best)


@pytest.mark.parametrize("way", ["fold", "branch"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "branch":  # every graph is narrowed, and split to the last choice
        monkeypatch.setattr(eliminate, "WIDEST_ENTRIES", 0)
        monkeypatch.setattr(narrow, "CHEAP_ENTRIES", 0)
    rng = np.random.default_rng(KINDS.index(kind))
    cores, impossible = 0, 0
    for _ in range(GRAPHS):
        graph = random_graph(rng, kind)
        best = min(cost for _, cost, _ in plans(graph))
        if np.isinf(best):
            impossible += 1
            with pytest.raises(InputError, match="every plan is forbidden"):
                cheapest(graph)
            continue
        found = cheapest(graph)
        assert close(found.cost, best) and found.gap_s == 0.0
        assert cost_of(graph, found.choice) == found.cost and memory_of(graph, found.choice) == found.memory
        cores += found.core > 2
    assert cores > 10 and (impossible > 0) == (kind == "holes")


@pytest.mark.parametrize("kind", KINDS)
def test_limit_equals_brute_force(kind: str) -> None:
    rng = np.random.default_rng(10 + KINDS.index(kind))
    bound = 0
    for _ in range(GRAPHS):
        graph = random_graph(rng, kind)
        every = [(cost, memory) for _, cost, memory in plans(graph) if np.isfinite(cost)]
        if not every:
            continue
        least = min(memory for _, memory in every)
        top = float(rng.choice([memory for _, memory in every]))
        best = min(cost for cost, memory in every if memory <= top)
        found = cheapest(graph, memory_limit=top)
        assert close(found.cost, best) and found.memory <= top and found.gap_s == 0.0
        again = cheapest(graph, memory_limit=top, upper=best)
        assert close(again.cost, best) and again.memory <= top
        if best > 0.0:
            with pytest.raises(ValueError, match="no choice costs"):
                cheapest(graph, memory_limit=top, upper=0.9 * best)
        bound += best > min(cost for cost, _ in every)
        with pytest.raises(InputError, match=f"the leanest plan needs {least:.0f}"):
            cheapest(graph, memory_limit=least - 1)
    assert bound > 8


NETWORKS = {"residual": residual(10, 3), "inception": inception(8), "chain": residual(0, 0)}


@pytest.mark.parametrize("name", ["residual", "inception"])
@pytest.mark.parametrize("seed", range(4))
def test_narrowing_loses_nothing(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = filled(NETWORKS[name], 14, np.random.default_rng(seed))
    monkeypatch.setattr(narrow, "CHEAP_ENTRIES", 0)
    choice, cost = fold(graph, schedule(graph))
    found = cheapest(graph)
    assert close(found.cost, cost) and close(cost_of(graph, choice), cost)
    assert found.core == 1 and found.choices == 14 * len(graph.costs)
    assert found.kept < found.choices / 2  # or it would not be worth its name
    assert close(cheapest(graph, upper=found.cost).cost, cost)
    with pytest.raises(ValueError, match="no choice costs"):
        cheapest(graph, upper=0.99 * found.cost)


def table_of_memory(graph: CostGraph, unit: float) -> dict[int, float]:
    """The least cost of each total memory, in units, of a chain: plain dynamic programming."""
    assert graph.memory is not None
    units = [np.rint(m / unit).astype(int) for m in graph.memory]
    ends = [{int(u): float(c)} for u, c in zip(units[0], graph.costs[0], strict=True)]
    for j in range(1, len(graph.costs)):
        fresh: list[dict[int, float]] = [{} for _ in graph.costs[j]]
        for a, front in enumerate(ends):
            for b, into in enumerate(fresh):
                more = float(graph.costs[j][b] + graph.edges[j - 1, j][a, b])
                for total, cost in front.items():
                    key = total + int(units[j][b])
                    into[key] = min(into.get(key, np.inf), cost + more)
        ends = fresh
    best: dict[int, float] = {}
    for front in ends:
        for total, cost in front.items():
            best[total] = min(best.get(total, np.inf), cost)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_limit_on_a_longer_chain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = filled((24, [(i, i + 1) for i in range(23)]), 5, rng)
    graph = CostGraph(
        graph.costs, graph.edges, tuple(np.float64(1e6) * rng.integers(0, 20, 5) for _ in range(24))
    )
    best = table_of_memory(graph, 1e6)
    for total in np.linspace(min(best), cheapest(graph).memory / 1e6, 6).astype(int):
        found = cheapest(graph, memory_limit=total * 1e6)
        assert found.memory <= total * 1e6 and found.gap_s == 0.0
        assert close(found.cost, min(cost for memory, cost in best.items() if memory <= total))


BUDGETS = {
    "no rows": ("ROWS", 1),
    "few choices": ("PASSES", ((2, 1 << 20),)),
    "few labels": ("PASSES", ((99, 16),)),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_too_many_states_are_owned_up_to(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_, missed = 0, 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        graph = filled(NETWORKS["inception"], 8, rng, distinct=40)
        assert graph.memory is not None
        free, least = cheapest(graph), sum(m.min() for m in graph.memory)
        top = float(round(0.6 * least + 0.4 * free.memory))
        exact = cheapest(graph, memory_limit=top)
        assert exact.gap_s == 0.0 and free.cost < exact.cost and exact.price_s_per_byte > 0.0
        with monkeypatch.context() as patch:
            patch.setattr(limit, *BUDGETS[budget])
            rough = cheapest(graph, memory_limit=top)
        assert rough.memory <= top and rough.cost >= exact.cost * (1 - EQUAL)
        assert rough.cost - rough.gap_s <= exact.cost * (1 + EQUAL)
        open_ += rough.gap_s > 0.0
        missed += not close(rough.cost, exact.cost)
    assert open_ > 0 and missed > 0


def test_core() -> None:
    none = {"one": (1, []), "two components": (5, [(0, 1), (2, 4)]), **NETWORKS}
    for nodes, edges in none.values():
        assert core_size(CostGraph((np.zeros(1),) * nodes, dict.fromkeys(edges, np.zeros((1, 1))))) == 1
    whole = {(i, j): np.zeros((2, 2)) for i in range(5) for j in range(i + 1, 5)}
    hanging = whole | {(4, 5): np.zeros((2, 2)), (5, 6): np.zeros((2, 2))}
    assert core_size(CostGraph((np.zeros(2),) * 7, hanging)) == 5


def test_forbidden_by_three() -> None:
    # Two colours for three mutual neighbours: every pair can be had, all three together cannot.
    differ = np.where(np.eye(2) > 0, np.inf, 1.0)
    graph = CostGraph((np.zeros(2),) * 3, {(0, 1): differ, (0, 2): differ, (1, 2): differ}, (np.ones(2),) * 3)
    for top in (None, 100.0):
        with pytest.raises(InputError, match="every plan is forbidden"):
            cheapest(graph, memory_limit=top)
    assert cheapest(CostGraph(graph.costs, {(0, 1): differ, (1, 2): differ})).cost == 2.0


def test_frontier_of_one_plan_has_a_limit() -> None:
    graph = CostGraph((np.ones(1), np.ones(1)), {(0, 1): np.ones((1, 1))}, (np.full(1, 4.0), np.full(1, 5.0)))
    for top, choice in ((9.0, (0, 0)), (8.0, None)):
        rules = Rules(top, 0.0, np.inf, 99, 99)
        assert cheapest_frontier(graph, schedule(graph), rules) == (choice, True)


def test_flips() -> None:
    rng = np.random.default_rng(5)
    graph = random_graph(rng, "uniform")
    choice = [int(rng.integers(size)) for size in graph.sizes]
    for i, changes in enumerate(flips(graph, choice)):
        for c, change in enumerate(changes):
            other = [*choice[:i], c, *choice[i + 1 :]]
            assert change == pytest.approx(cost_of(graph, other) - cost_of(graph, choice), abs=1e-12)


def test_bad_graphs() -> None:
    two = (np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"a matrix \(2, 3\) is needed"):
        CostGraph(two, {(0, 1): np.zeros((3, 2))})
    with pytest.raises(ValueError, match="needs 0 <= i < j < 2"):
        CostGraph(two, {(1, 0): np.zeros((3, 2))})
    with pytest.raises(ValueError, match="C >= 1"):
        CostGraph((np.zeros(0),), {})
    with pytest.raises(ValueError, match="one vector a node"):
        CostGraph(two, {}, (np.zeros(2), np.zeros(2)))
    with pytest.raises(ValueError, match="needs a graph with memory"):
        cheapest(CostGraph(two, {}), memory_limit=1.0)
