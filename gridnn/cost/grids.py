"""Many grids at once: how thousands of candidate grids cut one array, as small arrays.

A search asks for the cost of every grid of a layer, and of every pair of grids of two layers.  One dim of an array
is cut in few different *ways*, however many grids there are, because most axes leave it alone:

    grids          n4 k1 h1   n2 k2 h1   n2 k1 h2   n1 k4 h1  ...       G of them
    dim K          way 0      way 1      way 0      way 2               U ways, U much less than G

Which axes cut a dim, and into which intervals, is said by its pattern (`patterns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import mul

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.collectives import members_of
from gridnn.cost.machine import Machine
from gridnn.cost.patterns import Pattern, Patterns, Sizes
from gridnn.geometry.grid import AXES, GridShape, Scheme

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DIGIT = 6
"""Bits of a code that say which power of two a size is, up to 2 ** 62, or that it is 0."""


@dataclass(frozen=True, eq=False)
class Ways:
    """The distinct ways in which some axes cut a dim.

    Attributes
    ----------
    degrees, strides : (U, axes)
        Size of each axis, and ranks from one coordinate to the next; 0 for an axis of size 1.
    of : (G,)
        The way of each grid.
    some : (U,), or None
        Which they are of the ways of the grids that these are within.
    """

    axes: tuple[str, ...]
    degrees: Ints
    strides: Ints
    of: Ints
    some: Ints | None = None

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal keys: equal ways, for other grids perhaps."""
        return (self.axes, self.degrees.tobytes(), self.strides.tobytes())

    @cached_property
    def parts(self) -> Ints:
        """Blocks of each way."""
        return np.asarray(self.degrees.prod(axis=1))

    @cached_property
    def by_parts(self) -> tuple[tuple[Sizes, ...], Ints]:
        """The sizes of the axes for each distinct number of blocks, and for each way which it has."""
        _, way, of = np.unique(self.parts, return_index=True, return_inverse=True)
        return tuple(map(tuple, self.degrees[way].tolist())), of.reshape(-1)

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
    """Candidate grids of a layer, all from rank 0 on: sizes of the axes n, k, c, d, h, w, one row a grid.

    What is asked of them is kept: layers ask much the same.

    Attributes
    ----------
    within
        Other grids that hold these, and which of them these are: what is known of those is known of these.
    """

    degrees: Ints
    within: tuple[Grids, Ints] | None = None

    @cached_property
    def sizes(self) -> Ints:
        """Processes of each grid."""
        return np.asarray(self.degrees.prod(axis=1))

    def some(self, rows: Ints) -> Grids:
        """Return some of the grids."""
        return Grids(self.degrees[rows], (self, rows))

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
    def _ways(self) -> dict[tuple[str, ...], Ways]:
        return {}

    @cached_property
    def _cuts(self) -> dict[Pattern, Cut]:
        return {}

    @cached_property
    def _volumes(self) -> dict[Patterns, Floats]:
        return {}

    @cached_property
    def _copies(self) -> dict[tuple[str, ...], Ints]:
        return {}

    @cached_property
    def _members(self) -> dict[tuple[object, ...], tuple[Ints, ...]]:
        return {}

    def ways(self, axes: tuple[str, ...]) -> Ways:
        """Return the distinct ways in which some axes, outermost first, cut a dim."""
        if axes not in self._ways and self.within is not None:
            every = self.within[0].ways(axes)
            of = every.of[self.within[1]]
            there = np.zeros(len(every.degrees), dtype=bool)
            there[of] = True
            some = np.flatnonzero(there)
            number = (np.cumsum(there) - 1)[of]
            self._ways[axes] = Ways(axes, every.degrees[some], every.strides[some], number, some)
        elif axes not in self._ways:
            columns = [AXES.index(a) for a in axes]
            degrees, strides = self.degrees[:, columns], self.strides[:, columns]
            strides = np.where(degrees > 1, strides, 0)  # an axis that does not cut has no say
            rows = np.hstack([degrees, strides])
            if self.aligned and 0 < DIGIT * rows.shape[1] < 63:  # one number a row, in the order of the rows
                digits, code = np.frexp(rows)[1].astype(np.int64), np.zeros(len(rows), np.int64)
                for column in digits.T:
                    code = (code << DIGIT) + column
                _, first, of = np.unique(code, return_index=True, return_inverse=True)
                rows = rows[first]
            else:
                rows, of = np.unique(rows, axis=0, return_inverse=True)
            self._ways[axes] = Ways(axes, rows[:, : len(axes)], rows[:, len(axes) :], of.reshape(-1))
        return self._ways[axes]

    def cut(self, pattern: Pattern) -> Cut:
        """Return how a dim is cut under all grids; the same object for the same pattern."""
        if pattern not in self._cuts:
            ways = self.ways(pattern.axes)
            if self.within is not None and self.within[0].aligned is self.aligned:
                largest = self.within[0].cut(pattern).size[ways.some]
            else:
                largest = pattern.largest(ways.degrees, self.aligned)
            self._cuts[pattern] = Cut(pattern, ways, largest, self.aligned)
        return self._cuts[pattern]

    def cuts(self, patterns: Patterns) -> list[Cut]:
        """Return how the dims of an array are cut under all grids."""
        return [self.cut(pattern) for pattern in patterns]

    def extents(self, patterns: Patterns) -> list[Floats]:
        """Return the largest block's extent in each dim of an array, (G,) each."""
        return [self.cut(pattern).extents for pattern in patterns]

    def volume(self, patterns: Patterns) -> Floats:
        """Return the elements of an array's largest block, (G,)."""
        if patterns not in self._volumes:
            self._volumes[patterns] = reduce(mul, self.extents(patterns), np.ones(len(self)))
        return self._volumes[patterns]

    def copies(self, axes: tuple[str, ...]) -> Ints:
        """Return the product of the sizes of some axes, for every grid."""
        if axes not in self._copies:
            columns = [AXES.index(a) for a in axes]
            self._copies[axes] = np.asarray(self.degrees[:, columns].prod(axis=1))
        return self._copies[axes]

    def members(self, machine: Machine, axes: tuple[str, ...]) -> tuple[Ints, ...]:
        """Return how the groups along some axes spread over a machine's levels; see `members_of`."""
        key = machine.units, axes
        if key not in self._members and self.within is not None:
            every = self.within[0].members(machine, axes)
            self._members[key] = tuple(level[self.within[1]] for level in every)
        elif key not in self._members:
            self._members[key] = members_of(machine, self.degrees, axes)
        return self._members[key]

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
    ways
        The U ways in which the G grids cut the dim.
    size : (U,)
        Elements of the largest block of each way.
    """

    pattern: Pattern
    ways: Ways
    size: Ints
    aligned: bool

    @property
    def extent(self) -> int:
        """Elements of the dim."""
        return self.pattern.extent

    @property
    def kind(self) -> str:
        """How its pattern cuts: "plain", "window" or "part"."""
        return self.pattern.kind

    @property
    def way(self) -> Ints:
        """The way of each grid."""
        return self.ways.of

    @cached_property
    def extents(self) -> Floats:
        """Elements of the largest block of each grid, (G,)."""
        return self.size[self.way].astype(float)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """Equal keys: cut alike, by other grids perhaps."""
        return (self.pattern, self.aligned, *self.ways.key)

    def intervals(self, way: int) -> tuple[Ints, Ints]:
        """Return starts and stops of the blocks of a way."""
        return self.pattern.blocks(tuple(self.ways.degrees[way].tolist()), self.aligned)
