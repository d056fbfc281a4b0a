"""Factors: digits of a rank's number that stand together because they cut a dim together (see `pattern`).

source "n16", target "k4 n4"       digits, outermost first: (stride 4, 4 values) (stride 1, 4 values)
dim N: both digits here, the       one factor of 16 coordinates, each with the block it owns and the one it wants
       outer one there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from gridnn.geometry.grid import AXES, Scheme
from gridnn.geometry.layout import Dim, Layout

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Digit:
    """A digit of a rank's number: ranks from one value to the next, and how many values."""

    stride: int
    size: int

    def of(self, rank: int) -> int:
        """Return the digit of a rank, counted from the first of its grid."""
        return rank // self.stride % self.size


@dataclass(frozen=True, eq=False)
class Boxes:
    """One dim of a layout over the coordinates of a factor; empty where the layout has no such rank."""

    start: Ints
    stop: Ints

    @cached_property
    def held(self) -> Flags:
        """Where anything is."""
        return self.stop > self.start

    @cached_property
    def apart(self) -> bool:
        """True when no two coordinates share an element."""
        order = np.argsort(self.start[self.held], kind="stable")
        start, stop = self.start[self.held][order], self.stop[self.held][order]
        return bool((start[1:] >= stop[:-1]).all())


@dataclass(frozen=True, eq=False)
class Factor:
    """Some digits, and the boxes that they alone decide on: a pair for each dim, owned and wanted."""

    digits: tuple[Digit, ...]
    own: tuple[Boxes, ...]
    want: tuple[Boxes, ...]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return prod(d.size for d in self.digits)

    @cached_property
    def stays(self) -> bool:
        """True when it is plain, without looking at pairs, that every coordinate meets at most itself."""
        return any(
            own.apart and bool(((want.start >= own.start) & (want.stop <= own.stop) | ~want.held).all())
            for own, want in zip(self.own, self.want, strict=True)
        )

    @cached_property
    def itself(self) -> Flags:
        """Which coordinates meet themselves."""
        found = np.ones(self.size, dtype=bool)
        for own, want in zip(self.own, self.want, strict=True):
            found &= np.maximum(own.start, want.start) < np.minimum(own.stop, want.stop)
        return found

    @cached_property
    def meets(self) -> Flags:
        """Whether the first coordinate wants something that the second owns: (size, size)."""
        found = np.ones((self.size, self.size), dtype=bool)
        for own, want in zip(self.own, self.want, strict=True):
            found &= (want.start[:, None] < own.stop) & (own.start < want.stop[:, None])
            found &= want.held[:, None] & own.held
        return found

    def turned(self) -> Factor:
        """Return the factor of the transpose."""
        return Factor(self.digits, self.want, self.own)

    def coordinates(self, digit: Digit) -> Ints:
        """Return the value of a digit at every coordinate."""
        inner = prod(d.size for d in self.digits[self.digits.index(digit) + 1 :])
        return np.asarray(np.arange(self.size) // inner % digit.size)

    def offsets(self) -> Ints:
        """Return how far the rank of every coordinate is from that of the first."""
        found = np.zeros(self.size, dtype=np.int64)
        for digit in self.digits:
            found += self.coordinates(digit) * digit.stride
        return found

    def at(self, rank: int) -> int:
        """Return the coordinate of a rank."""
        index = 0
        for digit in self.digits:
            index = index * digit.size + digit.of(rank)
        return index


def digits_of(one: Scheme, two: Scheme) -> tuple[Digit, ...] | None:
    """Return the digits, outermost first, of which every axis of both grids has whole ones."""
    if one.first != two.first:
        return None
    ends = {1}
    for scheme in (one, two):
        sizes = scheme.grid.sizes
        ends |= {prod(sizes[i:]) for i in range(len(sizes))}
    steps = sorted(ends)
    if any(high % low for low, high in pairwise(steps)):
        return None
    return tuple(Digit(low, high // low) for low, high in reversed(list(pairwise(steps))))


def _cutting(scheme: Scheme, dim: Dim, digits: Sequence[Digit]) -> list[Digit]:
    """Return the digits that count the blocks of a dim, outermost first."""
    sizes, found = scheme.grid.sizes, list[Digit]()
    for axis in dim.axes:
        at = AXES.index(axis)
        low, high = prod(sizes[at + 1 :]), prod(sizes[at:])
        found += [d for d in digits if low <= d.stride < high]
    return found


def factors_of(source: Layout, target: Layout, digits: tuple[Digit, ...]) -> tuple[Factor, ...]:
    """Return the factors of the digits of two layouts, and digits that cut neither each as its own."""
    sides = [
        (layout, [_cutting(layout.scheme, d, digits) for d in layout.dims]) for layout in (source, target)
    ]
    parts: list[tuple[set[Digit], list[int]]] = []
    for number, (mine, theirs) in enumerate(zip(sides[0][1], sides[1][1], strict=True)):
        here, dims = {*mine, *theirs}, [number]
        for known in [p for p in parts if p[0] & here]:
            here, dims = here | known[0], [*known[1], *dims]
            parts.remove(known)
        parts.append((here, dims))
    cut = {digit for part, _ in parts for digit in part}
    parts += [({digit}, []) for digit in digits if digit not in cut]
    found = []
    for part, dims in parts:
        inside = tuple(d for d in digits if d in part)
        own, want = (
            tuple(_boxes(layout, layout.dims[n], cutting[n], inside) for n in dims)
            for layout, cutting in sides
        )
        if not dims:  # neither layout is cut: who is there has, and wants, all
            own, want = ((_presence(layout.scheme, inside),) for layout in (source, target))
        found.append(Factor(inside, own, want))
    return tuple(found)


def _boxes(layout: Layout, dim: Dim, cutting: Sequence[Digit], inside: tuple[Digit, ...]) -> Boxes:
    frame = Factor(inside, (), ())
    index = np.zeros(frame.size, dtype=np.int64)
    for digit in cutting:
        index = index * digit.size + frame.coordinates(digit)
    ends = np.frombuffer(dim.flat, dtype=np.int64).reshape(-1, 2)[index]
    there = _presence(layout.scheme, inside).held
    return Boxes(ends[:, 0] * there, ends[:, 1] * there)


def _presence(scheme: Scheme, inside: tuple[Digit, ...]) -> Boxes:
    """Return one element for each coordinate that the grid has: of digits above its size the first value."""
    frame = Factor(inside, (), ())
    there = np.ones(frame.size, dtype=np.int64)
    for digit in inside:
        if digit.stride >= scheme.grid.size:
            there *= frame.coordinates(digit) == 0
    return Boxes(np.zeros(frame.size, dtype=np.int64), there)


def joined(factors: Sequence[Factor]) -> tuple[Factor, Flags]:
    """Return some factors as one, and who meets whom in it."""
    digits = tuple(d for f in factors for d in f.digits)
    whole, inner = prod(f.size for f in factors), prod(f.size for f in factors)
    meets, own, want = np.ones((whole, whole), dtype=bool), list[Boxes](), list[Boxes]()
    for factor in factors:
        inner //= factor.size
        at = np.arange(whole) // inner % factor.size
        meets &= factor.meets[np.ix_(at, at)] if len(factors) > 1 else factor.meets
        own += [Boxes(b.start[at], b.stop[at]) for b in factor.own]
        want += [Boxes(b.start[at], b.stop[at]) for b in factor.want]
    return Factor(digits, tuple(own), tuple(want)), meets
