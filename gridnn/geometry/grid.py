"""Process grids: named axes, their sizes, and the ranks that stand on them.

A grid has six axes; an axis of size 1 is not written.  Ranks are counted with `n` slowest,
so the ranks of one Pr group (all axes but `n`) are neighbours:

    "n2 k2"            k=0   k=1
               n=0   [  0     1  ]      one Pr group: one part of the batch, all of the model
               n=1   [  2     3  ]      Pc = n = 2, Pr = k c d h w = 2
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod

from gridnn.errors import InputError

AXES = ("n", "k", "c", "d", "h", "w")
SPACE = ("d", "h", "w")


@dataclass(frozen=True, order=True)
class GridShape:
    """Sizes of the axes n, k, c, d, h, w of one layer's process grid."""

    sizes: tuple[int, int, int, int, int, int] = (1, 1, 1, 1, 1, 1)

    @staticmethod
    def of(**sizes: int) -> GridShape:
        """Return the grid with the given axis sizes, the others 1."""
        for axis, size in sizes.items():
            if axis not in AXES or size < 1:
                raise InputError(f"grid axis {axis}{size}: axes are {' '.join(AXES)}, sizes at least 1")
        n, k, c, d, h, w = (sizes.get(axis, 1) for axis in AXES)
        return GridShape((n, k, c, d, h, w))

    @staticmethod
    def parse(text: str) -> GridShape:
        """Read a grid such as ``"n4 k2 h2"``; ``"1"`` is a single process.

        Raises
        ------
        InputError
            If a word is not an axis letter followed by a positive integer, or an axis comes twice.
        """
        sizes: dict[str, int] = {}
        words = text.replace(",", " ").split()
        if not words:
            raise InputError('empty grid; write axes and sizes such as "n2 k2", or "1" for one process')
        for word in words:
            if word == "1":
                continue
            found = re.fullmatch(r"([a-z])(\d+)", word)
            if not found or found[1] not in AXES or int(found[2]) < 1:
                raise InputError(
                    f'grid "{text}": cannot read "{word}"; write an axis of {" ".join(AXES)} and a size, '
                    'such as "n4 k2 h2"'
                )
            if found[1] in sizes:
                raise InputError(f'grid "{text}": axis {found[1]} is given twice; write each axis once')
            sizes[found[1]] = int(found[2])
        return GridShape.of(**sizes)

    def __getitem__(self, axis: str) -> int:
        return self.sizes[AXES.index(axis)]

    def __str__(self) -> str:
        return " ".join(f"{a}{s}" for a, s in zip(AXES, self.sizes, strict=True) if s > 1) or "1"

    @cached_property
    def size(self) -> int:
        """Number of processes."""
        return prod(self.sizes)

    @property
    def rows(self) -> int:
        """Pr of the two-axis view (Gholami et al. 2018, section 2.3): all that cuts model or domain."""
        return self.size // self["n"]

    @property
    def columns(self) -> int:
        """Pc of the two-axis view: what cuts the batch."""
        return self["n"]

    @property
    def used(self) -> tuple[str, ...]:
        """Axes of size above 1, in order."""
        return tuple(a for a, s in zip(AXES, self.sizes, strict=True) if s > 1)

    def coords(self, local_rank: int) -> tuple[int, ...]:
        """Return the coordinates (n, k, c, d, h, w) of a rank counted from the grid's first."""
        coords = []
        for size in reversed(self.sizes):
            local_rank, coord = divmod(local_rank, size)
            coords.append(coord)
        return tuple(reversed(coords))

    def rank(self, coords: Iterable[int]) -> int:
        """Return the rank, counted from the grid's first, at the coordinates (n, k, c, d, h, w)."""
        local_rank = 0
        for coord, size in zip(coords, self.sizes, strict=True):
            local_rank = local_rank * size + coord
        return local_rank


@dataclass(frozen=True)
class Scheme:
    """One layer's grid and the contiguous ranks it uses: ``first .. first + grid.size - 1``."""

    grid: GridShape
    first: int = 0

    @property
    def ranks(self) -> range:
        """The ranks that work on the layer."""
        return range(self.first, self.first + self.grid.size)

    def coords(self, rank: int) -> tuple[int, ...]:
        """Return the grid coordinates of a world rank."""
        return self.grid.coords(rank - self.first)

    def __str__(self) -> str:
        return str(self.grid) + (f" @{self.first}" if self.first else "")

    def group(self, rank: int, axes: Iterable[str]) -> tuple[int, ...]:
        """Return the world ranks that differ from `rank` in the coordinates of `axes` only, ascending."""
        moving = tuple(sorted({*axes}))
        local, first = rank - self.first, rank
        for axis, size, stride in zip(AXES, self.grid.sizes, _strides(self.grid), strict=True):
            if axis in moving:
                first -= local // stride % size * stride
        return _group(self.grid, moving, first)


def _strides(grid: GridShape) -> list[int]:
    """Return the ranks from one coordinate of each axis to the next."""
    return [prod(grid.sizes[at + 1 :]) for at in range(len(AXES))]


@lru_cache(maxsize=256)
def _group(grid: GridShape, axes: tuple[str, ...], first: int) -> tuple[int, ...]:
    """Return the ranks of a group; kept, since every bucket of gradients asks for the same ones."""
    strides = zip(AXES, grid.sizes, _strides(grid), strict=True)
    steps = [range(0, size * stride, stride) for axis, size, stride in strides if axis in axes]
    return tuple(first + sum(offsets) for offsets in product(*steps))
