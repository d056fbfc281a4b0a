"""Collectives against the textbook on one level, against steps counted by hand on two, and members against ranks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from gridnn.cost.collectives import (
    allgather_s,
    allreduce_s,
    effective_beta,
    exchange_s,
    members,
    members_of,
    piece_bytes,
    reduce_scatter_s,
)
from gridnn.cost.machine import ALGORITHMS, COLLECTIVES, Level, Machine
from gridnn.geometry.grid import AXES, GridShape, Scheme
from tests.support.factor import factorisations

A, B = 1e-6, 1e-9
WORK = {"allreduce": allreduce_s, "allgather": allgather_s, "reduce_scatter": reduce_scatter_s}


def machine(how: str, *levels: Level) -> Machine:
    return Machine("m", "s", "d", 1e12, 1e-10, 0.0, 1, levels, dict.fromkeys(COLLECTIVES, how))


def flat(how: str) -> Machine:
    return machine(how, Level("network", 0, A, B))


def nodes(how: str, links: int = 1, ranks: int = 4) -> Machine:
    return machine(how, Level("node", ranks, A, B), Level("network", 0, 10 * A, 10 * B, links))


@pytest.mark.parametrize("p", [2, 3, 4, 7, 8, 64])
def test_one_level_is_the_textbook(p: int) -> None:
    """Thakur et al. 2005, sections 3 and 4: rings, halving and doubling, Bruck, Rabenseifner, with folds."""
    n, steps, power = 1e6, int(np.ceil(np.log2(p))), 2 ** int(np.log2(p))
    share, whole = (p - 1) / p * n * B, power == p
    ring = (p - 1) * (A + n / p * B)
    assert allreduce_s(flat("ring"), (p,), n, p) == pytest.approx(2 * (p - 1) * (A + B * n / p), rel=1e-12)
    assert allgather_s(flat("ring"), (p,), n, p) == pytest.approx(ring, rel=1e-12)
    assert reduce_scatter_s(flat("ring"), (p,), n, p) == pytest.approx(ring, rel=1e-12)
    assert allgather_s(flat("recursive"), (p,), n, p) == pytest.approx(steps * A + share, rel=1e-12)
    lg, part = np.log2(power), (power - 1) / power * n * B
    fold = 0 if whole else 2 * (A + n * B)
    long_s, short_s = 2 * lg * A + 2 * part, lg * (A + n * B)
    assert allreduce_s(flat("recursive"), (p,), n, p) == pytest.approx(min(long_s, short_s) + fold, rel=1e-12)
    short_s = (lg + (0 if whole else 2)) * (A + 8 * B)
    assert allreduce_s(flat("recursive"), (p,), 8, p) == pytest.approx(short_s, rel=1e-12)
    fold = 0 if whole else 2 * A + (1 + 1 / p) * n * B
    assert reduce_scatter_s(flat("recursive"), (p,), n, p) == pytest.approx(lg * A + part + fold, rel=1e-12)


def test_on_two_levels_the_bytes_are_those_of_the_steps() -> None:
    """16 ranks on 4 nodes of 4 with one card: what every step of every algorithm sends, added up by hand."""
    n, group = 16e6, (4, 16)
    inside, between = (lambda size: A + size * B), (lambda size: 10 * (A + size * B))
    crowd = lambda size: 10 * A + size * 40 * B  # noqa: E731  four ranks share the card
    # A ring leaves each node once: the card is its own.
    assert allgather_s(nodes("ring"), group, n, 16) == pytest.approx(15 * between(n / 16))
    doubling = inside(1e6) + inside(2e6) + crowd(4e6) + crowd(8e6)
    assert allgather_s(nodes("recursive"), group, n, 16) == pytest.approx(doubling)
    assert reduce_scatter_s(nodes("recursive"), group, n, 16) == pytest.approx(doubling)
    halves = 2 * (inside(8e6) + inside(4e6) + crowd(2e6) + crowd(1e6))
    assert allreduce_s(nodes("recursive"), group, n, 16) == pytest.approx(halves)
    by_level = inside(8e6) + inside(4e6) + crowd(2e6) + crowd(1e6)
    assert allgather_s(nodes("hierarchical"), group, n, 16) == pytest.approx(by_level)
    assert allreduce_s(nodes("hierarchical"), group, n, 16) == pytest.approx(2 * by_level)


def test_a_group_with_one_rank_a_node_sees_only_the_network() -> None:
    for how in ALGORITHMS:
        for work in WORK.values():
            alone = work(machine(how, Level("network", 0, 10 * A, 40 * B)), (4,), 1e6, 16)
            assert work(nodes(how), (1, 4), 1e6, 16) == pytest.approx(alone)
            inside = work(flat(how), (4,), 1e6, 16)
            assert work(nodes(how), (4, 4), 1e6, 16) == pytest.approx(inside)


def test_crowding_stops_at_the_links() -> None:
    for links, times in ((0, 1), (1, 4), (2, 2), (3, 4 / 3), (4, 1)):
        assert effective_beta(nodes("best", links), 1, 64) == pytest.approx(10 * B * times)
    assert effective_beta(nodes("best"), 0, 64) == B
    assert effective_beta(nodes("best"), 1, 2) == pytest.approx(20 * B)  # a job of two ranks
    assert effective_beta(nodes("best"), 1, 64, 4) == pytest.approx(10 * B)  # a ring through all four


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_best_is_the_least_of_all(collective: str) -> None:
    counts = np.array([(a, a * b) for a in (1, 2, 3, 4) for b in (1, 2, 3, 5, 8)]).T
    nbytes = np.array([1.0, 1e3, 1e5, 1e8])[:, None]
    found = {how: WORK[collective](nodes(how), tuple(counts), nbytes, 64) for how in ALGORITHMS}
    least = np.minimum.reduce([found[how] for how in ("ring", "recursive", "hierarchical")])
    assert found["best"].shape == (4, 20) and np.array_equal(found["best"], least)
    # Level by level wins often, but it is not all that is looked at.
    assert all((found[how] > least).any() for how in ("ring", "recursive"))
    assert (found["hierarchical"] > least).any() == (collective != "allgather")
    scalar = [WORK[collective](nodes("best"), tuple(c), 1e5, 64) for c in counts.T.tolist()]
    assert np.array_equal(found["best"][2], scalar)


def test_nobody_to_talk_to_or_nothing_to_say_takes_no_time() -> None:
    for how in ALGORITHMS:
        for work in WORK.values():
            assert work(nodes(how), (1, 1), 1e6, 16) == 0 and work(nodes(how), (4, 16), 0, 16) == 0


def test_more_bytes_and_more_ranks_never_take_less() -> None:
    sizes, powers = np.geomspace(1, 1e9, 50), 2 ** np.arange(11)
    for how in ALGORITHMS:
        for work in WORK.values():
            assert (np.diff(work(nodes(how), (4, 64), sizes, 64)) > 0).all()
            grown = work(nodes(how), (np.minimum(powers, 4), powers), 1e6, 1024)
            assert (np.diff(grown) > 0).all()


def test_exchange_adds_up_levels() -> None:
    found = exchange_s(nodes("best"), (2, 3), (1e3, np.array([1e4, 0])), 16)
    assert found == pytest.approx(
        np.array([2 * A + 1e3 * B + 30 * A + 1e4 * 40 * B, 2 * A + 1e3 * B + 30 * A])
    )


def counted(m: Machine, grid: GridShape, axes: Sequence[str]) -> tuple[int, ...]:
    """The group that spreads furthest on each level, from all groups of the grid."""
    scheme = Scheme(grid)
    groups = {scheme.group(rank, axes) for rank in scheme.ranks}
    return tuple(min(c) for c in zip(*(members(m, g) for g in groups), strict=True))


@pytest.mark.parametrize("node", [4, 6])
def test_members_of_grids_are_those_of_their_ranks(node: int) -> None:
    m = nodes("best", ranks=node)
    grids = [
        GridShape.of(**f)
        for procs in (1, 2, 6, 8, 12, 24, 36)
        for f in factorisations(procs, ("n", "k", "h"))
    ]
    degrees = np.array([g.sizes for g in grids])
    for axes in (("n",), ("k",), ("n", "h"), ("k", "h"), ("n", "k", "h"), ()):
        found = np.stack(members_of(m, degrees, axes), axis=1)
        assert [tuple(row) for row in found.tolist()] == [counted(m, g, axes) for g in grids]


def test_members_of_large_aligned_grids_need_no_counting() -> None:
    degrees = np.array([[4096, 4, 1, 1, 2, 2], [16, 4096, 1, 1, 1, 1]])
    m = machine("best", Level("board", 2, A, B), Level("node", 8, A, B), Level("network", 0, A, B))
    assert [c.tolist() for c in members_of(m, degrees, ("k", "w"))] == [[2, 2], [4, 8], [8, 4096]]
    assert [c.tolist() for c in members_of(m, degrees, AXES)] == [[2, 2], [8, 8], [65536, 65536]]


def test_members_of_ranks() -> None:
    m = nodes("best")
    assert members(m, (0, 1, 2, 4, 5)) == (3, 5) and members(m, range(0, 16, 4)) == (1, 4)


@pytest.mark.parametrize(("beta", "nbytes"), [(2e-8, 1_500_000), (4e-10, 75_000_000), (0.0, sys.maxsize)])
def test_pieces_are_as_long_as_the_links_are_slow(beta: float, nbytes: int) -> None:
    assert piece_bytes(beta) == pytest.approx(nbytes)
