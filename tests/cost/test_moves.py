"""Matrices of edges against the list of boxes: every pair of grids, every rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gridnn.cost import moves
from gridnn.cost.grids import Grids
from gridnn.cost.machine import BEST, Level, Machine, load_machine
from gridnn.cost.tables import CostTables
from gridnn.cost.traffic import received
from gridnn.geometry.window import Window
from gridnn.network import spec as s
from gridnn.network.placement import place

BYTES = Machine("bytes", "test", "2026-11-21", 1e9, 0.0, 0.0, 1 << 30, (Level("all", 0, 0.0, 1.0),), BEST)
CONV = s.Conv(16, (Window(3, 1, 1, 1), Window(3, 1, 1, 1)))
STRIDED = s.Conv(16, (Window(3, 2, 1, 1), Window(3, 2, 1, 1)))
X, Y, HALF = (16, 16, 16), (16, 16, 16), (16, 8, 8)


def grids(procs: int, axes: str, steps: list[int]) -> Grids:
    rows = [
        row
        for row in itertools.product(*(steps if a in axes else [1] for a in "nkcdhw"))
        if np.prod(row) <= procs
    ]
    return Grids(np.array(rows, dtype=np.int64))


@pytest.mark.parametrize(
    ("procs", "steps", "batch"),
    [(4, [1, 2, 4], 8), (8, [1, 2, 4, 8], 16), (6, [1, 2, 3, 6], 12), (3, [1, 3], 6)],
)
@pytest.mark.parametrize(
    ("spec", "x", "out", "axes"),
    [
        (CONV, X, Y, "nkch"),
        (STRIDED, X, HALF, "nkhw"),
        (s.Activation("relu"), X, X, "nkhw"),
        (s.Flatten(), X, (4096,), "nk"),
    ],
)
def test_an_edge_costs_what_its_busiest_rank_moves(procs, steps, batch, spec, x, out, axes):
    before = s.BatchNorm()
    tables = CostTables(BYTES, batch, procs, 4)
    sources, targets = grids(procs, "nkhw", steps), grids(procs, axes, steps)
    producer = tables.layer(before, [x], x, sources)
    consumer = tables.layer(spec, [x], out, targets)
    seconds = tables.edge(producer, consumer, 0)
    assert seconds.shape == (len(sources), len(targets))
    rng = np.random.default_rng(0)
    for i, j in zip(rng.integers(len(sources), size=150), rng.integers(len(targets), size=150), strict=True):
        have = place(before, ((batch, *x),), (batch, *x), sources.scheme(i)).out
        need = place(spec, ((batch, *x),), (batch, *out), targets.scheme(j)).needs[0]
        ranks = range(procs)
        most = max(max(received(have, need, r)[1], received(need, have, r)[1]) for r in ranks)
        # Blocks at a border want no halo on one side: the largest block stands for all.
        halo = 1.35 if isinstance(spec, s.Conv) else 1 + 1e-12
        assert 8 * most / halo <= seconds[i, j] <= 8 * most * halo, (sources.scheme(i), targets.scheme(j))


def one(*sizes: int) -> Grids:
    return Grids(np.array([sizes], dtype=np.int64))


def test_what_an_edge_costs_does_not_depend_on_what_was_asked_before():
    """Eight blocks of ten channels lie elsewhere by k8 than by k2 c4: what is kept of one is not the other's."""
    ways = [(8, 1), (2, 4), (4, 2)]

    def asked(order) -> dict[tuple[int, int], float]:
        tables, found = CostTables(load_machine("cori-knl"), 8, 8), {}
        for k, c in order:
            producer = tables.layer(s.Activation("relu"), [(10,)], (10,), one(1, k, c, 1, 1, 1))
            consumer = tables.layer(s.Concat(), [(10,), (8,)], (18,), one(1, 8, 1, 1, 1, 1))
            found[k, c] = float(tables.edge(producer, consumer, 0)[0, 0])
        return found

    assert asked(ways) == asked(ways[::-1])
    assert len(set(asked(ways).values())) > 1


@pytest.mark.parametrize(("procs", "steps"), [(8, [1, 2, 4, 8]), (6, [1, 2, 3, 6])])
@pytest.mark.parametrize("machine", ["cori-knl", "h100"])
def test_edges_priced_together_cost_what_each_costs_alone(monkeypatch, procs, steps, machine):
    machine = load_machine(machine)
    tables = CostTables(machine, 16, procs)
    here, there = grids(procs, "nkhw", steps), grids(procs, "nkch", steps)
    flat = grids(procs, "nkc", steps)
    odd, even = (
        one(3, 1, 1, 1, 2, 1),
        one(4, 1, 1, 1, 2, 1),
    )  # sizes of one edge nest, of the next they do not
    before = [tables.layer(s.BatchNorm(), [X], X, g) for g in (here, odd, even)]
    after = [
        tables.layer(CONV, [X], Y, there),
        tables.layer(STRIDED, [X], HALF, there),
        tables.layer(s.Concat(), [X, X], (32, 16, 16), here),
    ]
    fully = tables.layer(s.Flatten(), [X], (4096,), flat), tables.layer(s.Linear(10), [(4096,)], (10,), flat)
    ends = [(p, c, number) for p in before for c in after for number in range(len(c.needs))]
    ends.append((*fully, 0))
    asked = [(p, c, n, np.arange(len(p.grids))[:, None], np.arange(len(c.grids))) for p, c, n in ends]
    rows = np.arange(min(len(here), len(there)))
    asked += [(before[0], after[0], 0, rows, rows), (before[0], after[1], 0, rows, rows[::-1])]
    found = tables.edges(asked)
    monkeypatch.setattr(moves, "TILE_PAIRS", 96)  # an edge in many tiles, few small ones in a batch
    tiled = tables.edges(asked)
    for (p, c, number, i, j), seconds, in_tiles in zip(asked, found, tiled, strict=True):
        fresh = CostTables(machine, 16, procs)
        alone = fresh.edge(p, c, number, i, j)
        assert alone.shape == np.broadcast_shapes(i.shape, j.shape)
        assert np.array_equal(alone, seconds)
        assert np.array_equal(alone, in_tiles)


@pytest.mark.parametrize("steps", [[1, 2, 4], [1, 2, 3, 6]])
def test_some_grids_of_others_are_those_grids(steps):
    every = grids(12, "nkch", steps)
    rows = np.random.default_rng(1).permutation(len(every))[: len(every) // 2]
    some, plain = every.some(rows), Grids(every.degrees[rows])
    layers = [CostTables(load_machine("cori-knl"), 16, 12).layer(CONV, [X], Y, g) for g in (some, plain)]
    for name in ("compute_s", "settle_s", "gradients_s", "memory_bytes"):
        assert np.array_equal(getattr(layers[0], name), getattr(layers[1], name))
    for mine, theirs in zip(layers[0].out, layers[1].out, strict=True):
        assert mine.ways.key == theirs.ways.key
        assert np.array_equal(mine.way, theirs.way)
        assert np.array_equal(mine.size, theirs.size)
    assert np.array_equal(layers[0].needs[0][1], layers[1].needs[0][1])
