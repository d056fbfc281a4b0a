"""Layouts: which box of an array each rank of a grid has or needs.

A layout is data: per array dim, the grid axes that cut it and the interval for every combination of their
coordinates.  The dims are independent, so a rank's box is the product of one interval per dim.

    Y (N=4, K=6) on grid "n2 k2 c2":        dim N: axes (n),    intervals [0,2) [2,4)
        at rest, every axis cuts            dim K: axes (k, c), intervals [0,2) [2,3) [3,5) [5,6)
        something: one owner an element                         k=0: c=0, c=1   k=1: c=0, c=1

An axis that cuts no dim is *whole* (every rank along it has the same box, a copy) or *owed* (every rank
along it has a term of a sum not yet made).  Which of the two it is belongs to the value, not to the layout:
`Exchange` (exchange.py) adds up what overlaps, and at rest nothing overlaps.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain, pairwise, product
from math import prod

from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.interval import Box, Interval, extents_of
from gridnn.geometry.window import SpaceMap

KEPT_BLOCKS = 1024
"""Blocks of a dim up to which they are kept for the next who asks; of more only the last few cuts are."""


_EMPTY = Interval(0, 0)


@dataclass(frozen=True)
class Dim:
    """How one array dim is cut: the axes, and an interval per combination of their coordinates."""

    extent: int
    axes: tuple[str, ...]
    intervals: tuple[Interval, ...]

    def meeting(self, want: Interval) -> Sequence[int]:
        """Return the numbers of the intervals that share something with `want`, ascending."""
        if want.size == 0:
            return ()
        if self._ends is None:
            return [at for at, i in enumerate(self.intervals) if (i & want).size]
        numbers, starts, stops = self._ends
        return numbers[bisect_right(stops, want.start) : bisect_left(starts, want.stop)]

    def shared(self, want: Interval) -> tuple[int, int]:
        """Return how many intervals share something with `want`, and how many indices, added over intervals."""
        if want.size == 0:
            return 0, 0
        if self._ends is None:
            sizes = [size for i in self.intervals if (size := (i & want).size)]
            return len(sizes), sum(sizes)
        _, starts, stops = self._ends
        low, high = bisect_right(stops, want.start), bisect_left(starts, want.stop)
        # Some begin before `want`, some end behind it; those between are added up already.
        before, behind = bisect_left(starts, want.start, low, high), bisect_right(stops, want.stop, low, high)
        start_sums, stop_sums = self._sums
        ends = stop_sums[behind] - stop_sums[low] + (high - behind) * want.stop
        begins = start_sums[high] - start_sums[before] + (before - low) * want.start
        return high - low, ends - begins

    @cached_property
    def flat(self) -> array[int]:
        """Start and stop of every interval, one behind the other, for those who want them as numbers at once."""
        return array("q", chain.from_iterable(self.intervals))

    @cached_property
    def _ends(self) -> tuple[list[int], list[int], list[int]] | None:
        """Numbers, starts and stops of the intervals that hold anything; None where either is out of order.

        Blocks and windows of blocks are in order, so that who meets what is looked up and not searched for.
        """
        held = [(at, *i) for at, i in enumerate(self.intervals) if i.size]
        if any(b < a for one, two in pairwise(held) for a, b in zip(one, two, strict=True)):
            return None
        return [at for at, _, _ in held], [start for _, start, _ in held], [stop for _, _, stop in held]

    @cached_property
    def _sums(self) -> tuple[list[int], list[int]]:
        """Starts and stops of the intervals that hold anything, added up."""
        assert self._ends is not None
        return [0, *accumulate(self._ends[1])], [0, *accumulate(self._ends[2])]


def cut(extent: int, grid: GridShape, axes: Sequence[str], grain: int = 1) -> Dim:
    """Cut a dim by `axes`, the later inside the earlier, in balanced blocks of multiples of `grain`."""
    axes = tuple(a for a in axes if grid[a] > 1)
    sizes = tuple(grid[a] for a in axes)
    return (_cut if prod(sizes) <= KEPT_BLOCKS else _cut_long)(extent, axes, sizes, grain)


@lru_cache(maxsize=4096)
def _cut(extent: int, axes: tuple[str, ...], sizes: tuple[int, ...], grain: int) -> Dim:
    """Return a dim cut into so many blocks, each of them cut again; networks ask for the same ones often."""
    intervals = [Interval(0, extent // grain)]
    for size in sizes:
        intervals = [block for i in intervals for block in _split(i, size)]
    return Dim(extent, axes, tuple(intervals if grain == 1 else (i.scale(grain) for i in intervals)))


def _split(whole: Interval, parts: int) -> list[Interval]:
    """Return all blocks of the balanced distribution, `Interval.block` of every index.

    All empty ones are written alike, so that layouts that are the same are equal.
    """
    base, longer = divmod(whole.size, parts)
    middle = whole.start + longer * (base + 1)
    ends = [
        *range(whole.start, middle, base + 1),
        *(range(middle, whole.stop, base) if base else ()),
        whole.stop,
    ]
    return [*map(Interval, ends, ends[1:]), *[_EMPTY] * (parts - len(ends) + 1)]


_cut_long = lru_cache(maxsize=4)(_cut.__wrapped__)


def whole(extent: int) -> Dim:
    """Leave a dim whole on every rank."""
    return Dim(extent, (), (Interval(0, extent),))


def windows(out: Dim, space: SpaceMap, extent: int) -> Dim:
    """Return what the blocks of an output dim read of an input dim of `extent`."""
    return Dim(extent, out.axes, tuple(space.needs(i, extent).interval for i in out.intervals))


def part(out: Dim, offset: int, extent: int) -> Dim:
    """Return the piece of every block that lies in ``[offset, offset + extent)``, counted from `offset`."""
    inside = Interval(offset, offset + extent)
    pieces = tuple((i & inside).shift(-offset) for i in out.intervals)
    return Dim(extent, out.axes, tuple(p if p.size else Interval(0, 0) for p in pieces))


@dataclass(frozen=True)
class Layout:
    """Boxes of one array on the ranks of one scheme; equal data means equal layout."""

    scheme: Scheme
    dims: tuple[Dim, ...]

    def __post_init__(self) -> None:
        axes = [a for d in self.dims for a in d.axes]
        assert len(axes) == len(set(axes)), f"an axis cuts two dims: {axes}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Global shape of the array."""
        return tuple(d.extent for d in self.dims)

    @cached_property
    def uncut(self) -> tuple[str, ...]:
        """Axes of the grid that cut no dim: whole or owed, as the value says."""
        cutting = {a for d in self.dims for a in d.axes}
        return tuple(a for a in self.scheme.grid.used if a not in cutting)

    @property
    def copies(self) -> int:
        """How many ranks have the same box."""
        return prod(self.scheme.grid[a] for a in self.uncut)

    @cached_property
    def at_rest(self) -> bool:
        """True when every element has exactly one owner."""
        return not self.uncut and all(_tiles(d) for d in self.dims)

    def box(self, rank: int) -> Box:
        """Return the box of a world rank; an empty box for ranks outside the scheme."""
        local = rank - self.scheme.first
        if not 0 <= local < self.scheme.grid.size:
            return tuple(Interval(0, 0) for _ in self.dims)
        found = []
        for intervals, digits in self._digits:
            index = 0
            for stride, size in digits:
                index = index * size + local // stride % size
            found.append(intervals[index])
        return tuple(found)

    def block_shape(self, rank: int) -> tuple[int, ...]:
        """Return the array shape of a rank's box."""
        return extents_of(self.box(rank))

    def meeting(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Yield every rank whose box meets `box`, with the (never empty) intersection, ranks ascending."""
        found: list[tuple[int, Box]] = []
        per_dim = [
            [(self._offset(d, index), d.intervals[index] & want) for index in d.meeting(want)]
            for d, want in zip(self.dims, box, strict=True)
        ]
        for blocks in product(*per_dim):
            rank, inside = self.scheme.first + sum(at for at, _ in blocks), tuple(i for _, i in blocks)
            found += [(rank + copy, inside) for copy in self._copy_offsets]
        yield from sorted(found)

    @cached_property
    def _digits(self) -> tuple[tuple[tuple[Interval, ...], list[tuple[int, int]]], ...]:
        """The intervals of every dim, with the (stride, size) of the axes that cut it."""
        grid = self.scheme.grid
        return tuple((d.intervals, [(self._strides[a], grid[a]) for a in d.axes]) for d in self.dims)

    @cached_property
    def _strides(self) -> dict[str, int]:
        """Ranks from one coordinate of each axis to the next."""
        sizes = self.scheme.grid.sizes
        return {axis: prod(sizes[i + 1 :]) for i, axis in enumerate(AXES)}

    @cached_property
    def _copy_offsets(self) -> tuple[int, ...]:
        """How far the ranks with a box are from the first of them."""
        steps = [range(0, self.scheme.grid[a] * self._strides[a], self._strides[a]) for a in self.uncut]
        return tuple(sum(copy) for copy in product(*steps))

    def _offset(self, dim: Dim, index: int) -> int:
        """Return how far block `index` of a dim is from rank `first`, other coordinates 0."""
        offset = 0
        for axis in reversed(dim.axes):
            index, coord = divmod(index, self.scheme.grid[axis])
            offset += coord * self._strides[axis]
        return offset


def _tiles(dim: Dim) -> bool:
    """True when the intervals of a dim tile its extent in order."""
    at = 0
    for i in dim.intervals:
        if i.size and i.start != at:
            return False
        at += i.size
    return at == dim.extent
