"""Exchanges: sends mirror receives, targets are the sums they should be, transposes are adjoints.

A small executor moves NumPy blocks in one process; no MPI.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import local_slices, volume
from gridnn.geometry.layout import Layout, cut, whole, windows
from gridnn.geometry.window import Window
from tests.geometry.draw import layouts, shapes

Blocks = dict[int, np.ndarray[Any, Any]]


def random_blocks(layout: Layout, seed: int) -> Blocks:
    rng = np.random.default_rng(seed)
    return {r: rng.integers(-9, 10, layout.block_shape(r)) for r in layout.scheme.ranks}


def move(exchange: Exchange, x: Blocks) -> Blocks:
    """Carry out an exchange: send pieces by the senders' lists, add them by the receivers' lists."""
    mail = {
        (rank, peer): x[rank][local_slices(box, exchange.source.box(rank))]
        for rank in exchange.ranks
        for peer, box in exchange.sends(rank)
    }
    y = {r: np.zeros(exchange.target.block_shape(r), int) for r in exchange.target.scheme.ranks}
    for rank in exchange.ranks:
        for peer, box in exchange.receives(rank):
            y[rank][local_slices(box, exchange.target.box(rank))] += mail.pop((peer, rank))
    assert not mail
    return y


def summed(layout: Layout, blocks: Blocks) -> np.ndarray[Any, Any]:
    """Add all blocks in the global array."""
    total = np.zeros(layout.shape, int)
    for rank, block in blocks.items():
        total[tuple(slice(*i) for i in layout.box(rank))] += block
    return total


def dot(a: Blocks, b: Blocks) -> int:
    assert a.keys() == b.keys()
    return sum(int((a[r] * b[r]).sum()) for r in a)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    """Draw two layouts of one array, on grids that need not have a rank in common."""
    shape = draw(shapes())
    return Exchange(draw(layouts(shape)), draw(layouts(shape)))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(exchange=exchanges(), seed=st.integers(0, 99))
def test_a_target_is_the_sum_of_the_sources(exchange, seed):
    x = random_blocks(exchange.source, seed)
    total = summed(exchange.source, x)
    for rank, block in move(exchange, x).items():
        expected = total[tuple(slice(*i) for i in exchange.target.box(rank))]
        np.testing.assert_array_equal(block, expected)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(exchange=exchanges())
def test_sends_and_receives_mirror_each_other(exchange):
    sent = {(r, peer, box) for r in exchange.ranks for peer, box in exchange.sends(r)}
    received = {(peer, r, box) for r in exchange.ranks for peer, box in exchange.receives(r)}
    assert sent == received
    assert all(volume(box) for _, _, box in sent)
    for r in exchange.ranks:
        for pieces in (exchange.sends(r), exchange.receives(r)):
            peers = [peer for peer, _ in pieces]
            assert peers == sorted(set(peers))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(exchange=exchanges(), seed=st.integers(0, 99))
def test_the_transpose_is_the_adjoint(exchange, seed):
    back = exchange.transpose()
    assert back.transpose() == exchange
    for r in exchange.ranks:
        assert back.sends(r) == exchange.receives(r)
        assert back.receives(r) == exchange.sends(r)
    x, y = random_blocks(exchange.source, seed), random_blocks(exchange.target, seed + 100)
    assert dot(move(exchange, x), y) == dot(x, move(back, y))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(exchange=exchanges())
def test_groups_are_the_ranks_that_messages_connect(exchange):
    edges = [(r, peer) for r in exchange.ranks for peer, _ in exchange.sends(r) if peer != r]
    linked = {r: {r} for edge in edges for r in edge}
    for a, b in edges * len(linked):  # enough rounds for any chain
        linked[a] |= linked[b]
        linked[b] |= linked[a]
    assert set(exchange.groups) == {tuple(sorted(g)) for g in linked.values()}
    for r in exchange.ranks:
        assert exchange.group(r) == tuple(sorted(linked.get(r, ())))
    assert (exchange.kind == "none") == (not edges)
    check_kind(exchange)


def check_kind(exchange: Exchange) -> None:
    """Compare what a named collective does with what the pieces say."""
    if exchange.kind == "allgather":
        for group in exchange.groups:
            assert len({exchange.target.box(r) for r in group}) == 1
            assert sum(volume(exchange.source.box(r)) for r in group) == volume(exchange.target.box(group[0]))
    if exchange.kind == "reduce_scatter":
        for group in exchange.groups:
            assert len({exchange.source.box(r) for r in group}) == 1
            assert sum(volume(exchange.target.box(r)) for r in group) == volume(exchange.source.box(group[0]))


SCHEME = Scheme(GridShape.parse("n2 k3"), 1)
GRID = SCHEME.grid
N, K = cut(5, GRID, ("n",)), cut(7, GRID, ("k",))
AT_REST = Layout(SCHEME, (N, K))
SWAPPED = Layout(SCHEME, (cut(5, GRID, ("k",)), cut(7, GRID, ("n",))))
SPACE = Scheme(GridShape.parse("n2 h3"))
ROWS = cut(8, SPACE.grid, ("h",))
IMAGE = (cut(2, SPACE.grid, ("n",)), whole(3))
IMAGE_AT_REST = Layout(SPACE, (*IMAGE, ROWS))
WITH_HALO = Layout(SPACE, (*IMAGE, windows(ROWS, Window(3, 1, 1, 1), 8)))
OTHER = Scheme(GridShape.parse("n3 k2"), 2)
ELSEWHERE = Layout(OTHER, (cut(5, OTHER.grid, ("n",)), cut(7, OTHER.grid, ("k",))))


@pytest.mark.parametrize(
    ("source", "target", "kind", "transposed", "axes"),
    [
        (IMAGE_AT_REST, WITH_HALO, "halo", "halo", ("h",)),
        (AT_REST, Layout(SCHEME, (N, whole(7))), "allgather", "reduce_scatter", ("k",)),
        (AT_REST, ELSEWHERE, "repartition", "repartition", ("n", "k")),
        (AT_REST, SWAPPED, "repartition", "repartition", ("n", "k")),
        (AT_REST, AT_REST, "none", "none", ()),
    ],
)
def test_kinds_of_the_table(source, target, kind, transposed, axes):
    exchange = Exchange(source, target)
    assert (exchange.kind, exchange.transpose().kind) == (kind, transposed)
    assert exchange.axes == exchange.transpose().axes == axes


def test_owed_over_c_becomes_a_reduce_scatter():
    scheme = Scheme(GridShape.parse("k2 c3"))
    owed = Layout(scheme, (whole(4), cut(7, scheme.grid, ("k",))))
    exchange = Exchange(owed, Layout(scheme, (whole(4), cut(7, scheme.grid, ("k", "c")))))
    assert exchange.kind == "reduce_scatter"
    assert exchange.groups == ((0, 1, 2), (3, 4, 5))
    assert exchange.axes == ("c",)


def test_a_local_overlap_is_a_piece_to_oneself():
    exchange = Exchange(IMAGE_AT_REST, WITH_HALO)
    own = dict(exchange.receives(1))[1]
    assert own == IMAGE_AT_REST.box(1)
    assert [peer for peer, _ in exchange.sends(1)] == [0, 1, 2]
