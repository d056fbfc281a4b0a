"""How the blocks of two ways of cutting one dim meet: counts for a search, by sorting where pairs are many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.grids import Cut, Ints

Floats = NDArray[np.float64]
SMALL = 1 << 12
"""Pairs of blocks up to which looking at all of them is faster than sorting."""
Counts = tuple[Floats, Floats, list[list[Ints]]]
"""Blocks a want meets, wants a block meets, elements wanted of each block: for each pair of numbers of blocks."""


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
    s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints | None, known: dict[object, Counts]
) -> list[Floats]:
    """Return, for a dim: blocks a want meets; elements wanted of a block, (*pairs, R); wants a block meets."""
    if s.kind == t.kind == "plain" and ranks is None:
        mine, theirs = s.size[i] + 0.0, t.size[j] + 0.0
        wanted = np.broadcast_to(mine, np.broadcast(mine, theirs).shape)[..., None]
        return [np.ceil(theirs / mine), wanted, np.ceil(mine / theirs)]
    # The intervals depend on how many blocks there are, not on who has them.
    met, meeting, wanted_of = _by_parts(s, t, known)
    my_parts, their_parts = s.ways.by_parts[2], t.ways.by_parts[2]
    here = my_parts[i], their_parts[j]
    if ranks is None:
        most = np.array([[wanted.max() for wanted in row] for row in wanted_of], dtype=float)[..., None]
        return [met[here], most[here], meeting[here]]
    cover = np.array(
        [[wanted[s.ways.block_of(way, ranks)] for wanted in wanted_of[a]] for way, a in enumerate(my_parts)],
        dtype=float,
    )
    return [met[here], cover[i, here[1]], meeting[here]]


def _by_parts(s: Cut, t: Cut, known: dict[object, Counts]) -> Counts:
    """Return, for numbers of blocks of both cuts: blocks a want meets, wants a block meets, elements wanted of each."""
    (parts, ways, _), (others, columns, _) = s.ways.by_parts, t.ways.by_parts
    key = (s.probe, parts.tobytes(), t.probe, others.tobytes())
    if key not in known:
        met, meeting = np.ones((2, len(ways), len(columns)))
        wanted: list[list[Ints]] = [[] for _ in ways]
        needs = [t.intervals(column) for column in columns.tolist()]
        for a, way in enumerate(ways.tolist()):
            blocks = s.intervals(way)
            for b, want in enumerate(needs):
                if len(blocks[0]) * len(want[0]) <= SMALL:
                    met[a, b], meeting[a, b], shared = _by_pairs(blocks, want)
                else:
                    met[a, b], meeting[a, b] = _most_met(blocks, want), _most_met(want, blocks)
                    shared = _below(want, blocks[1]) - _below(want, blocks[0])
                wanted[a].append(shared)
        known[key] = met, meeting, wanted
    return known[key]


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
