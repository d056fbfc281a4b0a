"""Many grids at once: how thousands of candidate grids cut one array, as small arrays.

A search asks for the cost of every grid of a layer, and of every pair of grids of two layers.  One dim of an array
is cut in few different *ways*, however many grids there are, because most axes leave it alone:

    grids          n4 k1 h1   n2 k2 h1   n2 k1 h2   n1 k4 h1  ...       G of them
    dim K          way 0      way 1      way 0      way 2               U ways, U much less than G

Which axes cut a dim, and into which intervals, is asked of `place`, the one table of gridnn: with one axis in use
after the other, for the dims are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.interval import Interval
from gridnn.geometry.layout import Dim, Layout, cut
from gridnn.network.placement import Placement

Ints = NDArray[np.int64]
PROBE = Scheme(GridShape((2, 2, 2, 2, 2, 2)))
"""A grid that uses every axis: its layouts say which axes cut which dim."""
ODD = Scheme(GridShape((3, 3, 3, 3, 3, 3)))
"""Another: windows may cut like plain blocks where there are two, but then not where there are three."""


@dataclass(frozen=True, eq=False)
class Ways:
    """The distinct ways in which some axes cut a dim.

    Attributes
    ----------
    degrees, strides : (U, axes)
        Size of each axis, and ranks from one coordinate to the next; 0 for an axis of size 1.
    of : (G,)
        The way of each grid.
    """

    axes: tuple[str, ...]
    degrees: Ints
    strides: Ints
    of: Ints

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal keys: equal ways, for other grids perhaps."""
        return (self.axes, self.degrees.tobytes(), self.strides.tobytes())

    @cached_property
    def parts(self) -> Ints:
        """Blocks of each way."""
        return np.asarray(self.degrees.prod(axis=1))

    @cached_property
    def by_parts(self) -> tuple[Ints, Ints, Ints]:
        """Return the distinct numbers of blocks, a way that has each, and for each way which it has."""
        parts, way, of = np.unique(self.parts, return_index=True, return_inverse=True)
        return parts, way, of.reshape(-1)

    @cached_property
    def bits(self) -> Ints:
        """Bits of a rank's number that count its block, most significant first, -1 behind the last (powers of two)."""
        rows: list[list[int]] = []
        for degrees, strides in zip(self.degrees.tolist(), self.strides.tolist(), strict=True):
            rows.append([])
            for degree, stride in zip(degrees, strides, strict=True):
                low = max(stride, 1).bit_length() - 1
                rows[-1] += range(low + degree.bit_length() - 2, low - 1, -1)
        longest = max(1, *map(len, rows))
        return np.array([row + [-1] * (longest - len(row)) for row in rows], dtype=np.int64)

    def block_of(self, way: int, ranks: Ints) -> Ints:
        """Return which block of a way each rank has."""
        index = np.zeros_like(ranks)
        for degree, stride in zip(self.degrees[way], self.strides[way], strict=True):
            index = index * degree + ranks // max(stride, 1) % degree
        return index


@dataclass(frozen=True, eq=False)
class Grids:
    """Candidate grids of a layer, all from rank 0 on: sizes of the axes n, k, c, d, h, w, one row a grid."""

    degrees: Ints

    @cached_property
    def sizes(self) -> Ints:
        """Processes of each grid."""
        return np.asarray(self.degrees.prod(axis=1))

    @cached_property
    def strides(self) -> Ints:
        """Ranks from one coordinate to the next along each axis: `n` is slowest, `w` next to itself 1."""
        after = np.cumprod(self.degrees[:, ::-1], axis=1)[:, ::-1]
        return after // self.degrees

    @cached_property
    def aligned(self) -> bool:
        """True when all sizes are powers of two, so that blocks of two grids nest or are apart."""
        return bool(np.all(self.degrees & (self.degrees - 1) == 0))

    @cached_property
    def cuts(self) -> dict[tuple[Dim, Dim], Cut]:
        """Dims whose cuts are known, by how two probes cut them."""
        return {}

    @cached_property
    def _ways(self) -> dict[tuple[str, ...], Ways]:
        return {}

    def ways(self, axes: tuple[str, ...]) -> Ways:
        """Return the distinct ways in which some axes, outermost first, cut a dim."""
        if axes not in self._ways:
            columns = [AXES.index(a) for a in axes]
            degrees, strides = self.degrees[:, columns], self.strides[:, columns]
            strides = np.where(degrees > 1, strides, 0)  # an axis that does not cut has no say
            rows, of = np.unique(np.hstack([degrees, strides]), axis=0, return_inverse=True)
            self._ways[axes] = Ways(axes, rows[:, : len(axes)], rows[:, len(axes) :], of.reshape(-1))
        return self._ways[axes]

    def __len__(self) -> int:
        return len(self.degrees)

    def scheme(self, index: int) -> Scheme:
        """Return one of the grids."""
        return Scheme(GridShape(tuple(int(d) for d in self.degrees[index])))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Cut:
    """One dim of an array under all grids.

    Attributes
    ----------
    probe
        The dim with all axes in use.
    ways
        The U ways in which the G grids cut the dim.
    size : (U,)
        Elements of the largest block of each way.
    kind
        "plain" (balanced blocks that tile the dim), "window" (blocks that may overlap) or "part" (pieces of the
        blocks of a longer dim, for a concatenation).
    """

    probe: Dim
    ways: Ways
    size: Ints
    kind: str
    dims: Callable[[tuple[int, ...]], Dim]

    @property
    def extent(self) -> int:
        """Elements of the dim."""
        return self.probe.extent

    @property
    def way(self) -> Ints:
        """The way of each grid."""
        return self.ways.of

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal keys: cut alike, by other grids perhaps."""
        return (self.probe, self.ways.key, self.size.tobytes())

    def intervals(self, way: int) -> tuple[Ints, Ints]:
        """Return starts and stops of the blocks of a way."""
        found = self.dims(tuple(int(d) for d in self.ways.degrees[way])).intervals
        return np.array([i.start for i in found]), np.array([i.stop for i in found])


def cuts(
    grids: Grids, placed: Callable[[Scheme], Placement], layout: Callable[[Placement], Layout]
) -> list[Cut]:
    """Return how each dim of one of a layer's layouts is cut under all grids.

    Parameters
    ----------
    placed
        The layer on a scheme.
    layout
        Which of its layouts.
    """
    even, odd = layout(placed(PROBE)).dims, layout(placed(ODD)).dims

    def at(number: int) -> Callable[[Scheme], Dim]:
        return lambda scheme: layout(placed(scheme)).dims[number]

    found = []
    for i, pair in enumerate(zip(even, odd, strict=True)):
        if (
            pair not in grids.cuts
        ):  # blocks are linear in their number: who cuts alike in two ways does so in all
            grids.cuts[pair] = _cut(grids, pair[0], _kind(*pair), at(i))
        found.append(grids.cuts[pair])
    return found


def whole_axes(layout: Layout) -> tuple[str, ...]:
    """Return the axes that cut no dim of a layout on the probe."""
    cutting = {a for d in layout.dims for a in d.axes}
    return tuple(a for a in AXES if a not in cutting)


def copies(grids: Grids, axes: tuple[str, ...]) -> Ints:
    """Return the product of the sizes of some axes, for every grid."""
    return np.asarray(grids.degrees[:, [AXES.index(a) for a in axes]].prod(axis=1))


def _cut(grids: Grids, probe: Dim, kind: str, placed: Callable[[Scheme], Dim]) -> Cut:
    ways = grids.ways(probe.axes)

    def dims(sizes: tuple[int, ...]) -> Dim:
        if kind == "part" and grids.aligned:  # an axis inside another cuts as one of their product does
            sizes = (prod(sizes), *(1 for _ in sizes[1:]))
        return placed(Scheme(GridShape.of(**dict(zip(probe.axes, sizes, strict=True)))))

    if kind == "plain":
        size = np.full(len(ways.degrees), probe.extent)
        for column in ways.degrees.T:
            size = -(-size // column)
    else:
        largest: dict[int, int] = {}
        found = [dims(tuple(row)) for row in ways.degrees.tolist()]
        for dim in found:
            if id(dim) not in largest:
                largest[id(dim)] = max(i.size for i in dim.intervals)
        size = np.array([largest[id(dim)] for dim in found], dtype=np.int64)
    return Cut(probe, ways, size, kind, dims)


def _kind(probe: Dim, odd: Dim) -> str:
    if all(d == cut(d.extent, s.grid, d.axes) for d, s in ((probe, PROBE), (odd, ODD))):
        return "plain"
    covered = Interval(min(i.start for i in probe.intervals), max(i.stop for i in probe.intervals))
    starts = [i.start for i in probe.intervals if i.size]
    tiles = sum(i.size for i in probe.intervals) >= covered.size and starts == sorted(starts)
    return "window" if tiles and prod(i.size > 0 for i in probe.intervals) else "part"
