"""How the blocks of two ways of cutting one dim meet: counts for a search, by sorting where pairs are many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.grids import Cut, Ints

Floats = NDArray[np.float64]
SMALL = 1 << 12
"""Pairs of blocks up to which looking at all of them is faster than sorting."""
Met = dict[object, tuple[int, int, Ints]]
"""Blocks a want meets, wants a block meets, elements wanted of each block: for two ways to cut a dim."""
Counts = tuple[Floats, Floats, list[list[Ints]]]
"""The same for every pair of numbers of blocks."""


def boxes(cut: Cut, ranks: Ints) -> tuple[Ints, Ints]:
    """Return starts and stops of the blocks of some ranks, (U, R)."""
    starts, stops = [], []
    for way in range(len(cut.size)):
        index = cut.ways.block_of(way, ranks)
        start, stop = cut.intervals(way)
        starts.append(start[index])
        stops.append(stop[index])
    return np.array(starts), np.array(stops)


def lengths(cut: Cut, ranks: Ints) -> Ints:
    """Return the extent of the block of each rank, (U, R)."""
    start, stop = boxes(cut, ranks)
    return np.asarray(np.maximum(stop - start, 0))


def counted(
    s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints | None, known: Met
) -> tuple[Floats, Floats, Floats]:
    """Return what is wanted of a block, blocks a want meets and wants a block meets, for pairs of ways of a dim.

    Parameters
    ----------
    i, j : (N,)
        The ways of both cuts.
    ranks
        Those whose blocks are looked at; None for the block of which most is wanted.

    Returns
    -------
    Elements (N, ranks), or (N,) without them; and twice a number (N,).
    """
    # The intervals depend on how many blocks there are, not on who has them.
    met, meeting, wanted_of = _by_parts(s, t, known)
    my_parts, their_parts = s.ways.by_parts[1], t.ways.by_parts[1]
    here = my_parts[i], their_parts[j]
    if ranks is None:
        most = np.array([[wanted.max() for wanted in row] for row in wanted_of], dtype=float)
        return most[here], met[here], meeting[here]
    cover = np.array(
        [[wanted[s.ways.block_of(way, ranks)] for wanted in wanted_of[a]] for way, a in enumerate(my_parts)],
        dtype=float,
    )
    return cover[i, here[1]], met[here], meeting[here]


def _by_parts(s: Cut, t: Cut, known: Met) -> Counts:
    """Return, for numbers of blocks of both cuts: blocks a want meets, wants a block meets, elements wanted of each."""
    rows, columns = s.ways.by_parts[0], t.ways.by_parts[0]
    met, meeting = np.ones((2, len(rows), len(columns)))
    wanted: list[list[Ints]] = [[] for _ in rows]
    for a, mine in enumerate(rows):
        for b, theirs in enumerate(columns):
            key = s.pattern, mine, s.aligned, t.pattern, theirs, t.aligned
            if key not in known:
                known[key] = _meeting(s.pattern.blocks(mine, s.aligned), t.pattern.blocks(theirs, t.aligned))
            met[a, b], meeting[a, b], shared = known[key]
            wanted[a].append(shared)
    return met, meeting, wanted


def _meeting(blocks: tuple[Ints, Ints], wants: tuple[Ints, Ints]) -> tuple[int, int, Ints]:
    """Return blocks a want meets at most, wants a block meets at most, elements wanted of each block."""
    if len(blocks[0]) * len(wants[0]) <= SMALL:
        return _by_pairs(blocks, wants)
    return (
        _most_met(blocks, wants), _most_met(wants, blocks), _below(wants, blocks[1]) - _below(wants, blocks[0])
    )  # fmt: skip


def _by_pairs(blocks: tuple[Ints, Ints], wants: tuple[Ints, Ints]) -> tuple[int, int, Ints]:
    """Return blocks a want meets at most, wants a block meets at most, elements wanted of each block."""
    (start, stop), (low, high) = blocks, wants
    shared = np.maximum(np.minimum(stop[:, None], high) - np.maximum(start[:, None], low), 0)
    meets = shared > 0
    return int(meets.sum(0).max()), int(meets.sum(1).max()), shared.sum(1)


def _most_met(blocks: tuple[Ints, Ints], others: tuple[Ints, Ints]) -> int:
    """Return how many blocks one of the others meets at most."""
    (start, stop), (low, high) = (tuple(e[pair[1] > pair[0]] for e in pair) for pair in (blocks, others))
    before = np.searchsorted(np.sort(stop), low, "right")
    return int((np.searchsorted(np.sort(start), high, "left") - before).max(initial=0))


def _below(intervals: tuple[Ints, Ints], at: Ints) -> Ints:
    """Return the elements of all intervals together that lie below each of some indices."""
    total = np.zeros(len(at), dtype=np.int64)
    for sign, ends in zip((1, -1), intervals, strict=True):
        ends = np.sort(ends)
        count, sums = np.searchsorted(ends, at, "left"), np.concatenate([[0], np.cumsum(ends)])
        total += sign * (count * at - sums[count])
    return total
