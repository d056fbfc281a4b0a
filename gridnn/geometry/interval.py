"""Half-open intervals of global indices, and the one block distribution of gridnn.

extent 10 over 4 parts:  [0,3) [3,6) [6,8) [8,10)      the first (10 mod 4) blocks are one longer
extent  2 over 3 parts:  [0,1) [1,2) [2,2)             blocks may be empty
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple


class Interval(NamedTuple):
    """Indices ``start <= i < stop``; empty when ``stop <= start``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of indices, never negative."""
        start, stop = self
        return stop - start if stop > start else 0  # asked for more than anything else

    def __and__(self, other: Interval) -> Interval:
        start, stop = self
        begin, end = other
        start, stop = (start if start > begin else begin), (stop if stop < end else end)
        return Interval(start, stop if stop > start else start)

    def shift(self, by: int) -> Interval:
        """Return the interval moved by `by` indices."""
        return Interval(self.start + by, self.stop + by)

    def scale(self, grain: int) -> Interval:
        """Return the interval of elements when each index stands for `grain` elements."""
        return Interval(self.start * grain, self.stop * grain)

    def block(self, parts: int, index: int) -> Interval:
        """Return block `index` of the balanced distribution of this interval over `parts`."""
        base, longer = divmod(self.size, parts)
        start = self.start + index * base + min(index, longer)
        return Interval(start, start + base + (index < longer))


Box = tuple[Interval, ...]
"""One interval per array dim, in global indices."""


def volume(box: Box) -> int:
    """Return the number of elements in a box."""
    return prod(i.size for i in box)


def overlap(a: Box, b: Box) -> Box:
    """Return the intersection of two boxes of equal rank."""
    return tuple(i & j for i, j in zip(a, b, strict=True))


def extents_of(box: Box) -> tuple[int, ...]:
    """Return the array shape that holds a box."""
    return tuple(i.size for i in box)


def local_slices(box: Box, origin: Box) -> tuple[slice, ...]:
    """Return the slices that select `box` from the array that holds `origin`."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(box, origin, strict=True))


def whole_box(shape: Iterable[int]) -> Box:
    """Return the box of a whole array."""
    return tuple(Interval(0, extent) for extent in shape)
