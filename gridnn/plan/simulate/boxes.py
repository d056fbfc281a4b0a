"""The boxes of a layout on all ranks at once, and what two of them have in common: `Exchange` as arrays.

A search asks for thousands of movements, each once; lists of pieces, as a run wants them, would take most of its time.

    n2 to k2 of 4 x 4       to 0   to 1
                 from 0      4      4       elements that one rank has of what another wants
                 from 1      4      4
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gridnn.geometry.grid import AXES
from gridnn.geometry.layout import Layout
from gridnn.plan.simulate.segment import Longs


class Boxes(NamedTuple):
    """The boxes of a layout, rank by rank of its scheme: starts and stops (R, D); equal `same` (R,), equal boxes."""

    first: int
    start: Longs
    stop: Longs
    same: Longs
    at_rest: bool

    @property
    def ranks(self) -> Longs:
        """World ranks."""
        return self.first + np.arange(len(self.start))

    @property
    def extents(self) -> Longs:
        """Block shapes (R, D)."""
        found: Longs = np.maximum(self.stop - self.start, 0)
        return found

    @property
    def volumes(self) -> Longs:
        """Elements (R,)."""
        found: Longs = self.extents.prod(axis=1)
        return found


def boxes_of(layout: Layout) -> Boxes:
    """Return the boxes of a layout."""
    grid, dims = layout.scheme.grid, layout.dims
    coords = dict(zip(AXES, np.unravel_index(np.arange(grid.size), grid.sizes), strict=True))
    start, stop = np.zeros((2, grid.size, len(dims)), np.int64)
    same = np.zeros(grid.size, np.int64)
    for at, dim in enumerate(dims):
        index = np.zeros(grid.size, np.int64)
        for axis in dim.axes:
            index = index * grid[axis] + coords[axis]
        first: dict[tuple[int, int], int] = {}
        alike = np.array([first.setdefault(i, number) for number, i in enumerate(dim.intervals)])
        start[:, at], stop[:, at] = np.array(dim.intervals)[index].T
        same = same * len(dim.intervals) + alike[index]
    return Boxes(layout.scheme.first, start, stop, same, layout.at_rest)


def overlaps(source: Boxes, target: Boxes) -> Longs:
    """Return the elements that every rank of the source has of what every rank of the target wants, (S, T)."""
    found = np.ones((len(source.start), len(target.start)), np.int64)
    for at in range(source.start.shape[1]):
        low = np.maximum(source.start[:, at, None], target.start[:, at])
        high = np.minimum(source.stop[:, at, None], target.stop[:, at])
        found *= np.maximum(high - low, 0)
    return found


def kind_of(source: Boxes, target: Boxes, shared: Longs) -> str:
    """Return allgather or reduce_scatter where every set of ranks that talk does one, as `Exchange.kind`; or other."""
    if _gathers(source, target, shared):
        return "allgather"
    return "reduce_scatter" if _gathers(target, source, shared.T) else "other"


def _gathers(source: Boxes, target: Boxes, shared: Longs) -> bool:
    """True when ranks that talk want the same box, and whatever one of them has is a part of it."""
    if not source.at_rest:
        return False
    senders, takers = np.nonzero((shared > 0) & (source.ranks[:, None] != target.ranks))
    as_target = senders + source.first - target.first
    if not ((as_target >= 0) & (as_target < len(target.same))).all():
        return False
    if not (target.same[as_target] == target.same[takers]).all():
        return False
    # Of all that talk, those that only take included: they may own something that nobody here wants.
    ranks = np.union1d(source.ranks[senders], target.ranks[takers])
    mine = ranks[(ranks >= source.first) & (ranks < source.first + len(source.start))]
    inside = shared[mine - source.first, mine - target.first]
    return bool((source.volumes[mine - source.first] == inside).all())
