"""Matrices of edges against the list of boxes: every pair of grids, every rank."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gridnn.cost.grids import Grids
from gridnn.cost.machine import BEST, Level, Machine
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
