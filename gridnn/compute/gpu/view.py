"""What the kernels of convolution are told of arrays: addresses, strides and extents, as structures.

    own block, halos as received  --Parts--> one coordinate space --view--> View: up to 27 regions, zero outside
    (x; dy of backward_data)
    y, dx, else dy, with gaps or not                            --output--> Output

        before | own | behind          a side of each spatial dim: -1, 0, 1
        +------+-----+-------+
     -1 |      |     |       |         the regions of two dims; (-1, 1) is the upper right corner
      0 |      | own |       |
      1 |      |     |       |
        +------+-----+-------+

A structure holds addresses and no array: who makes one keeps its arrays until the kernel is launched.  Frees after that
are in the order of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.device import Array, Device
from gridnn.compute.gpu.engine import Engine

Ints = tuple[int, ...]
Structure = NDArray[Any]
"""One structure: an array of size one."""
REGION = np.dtype([("base", np.uint64), ("stride", np.int64, 4)], align=True)
VIEW = np.dtype(
    [("region", REGION, 27), *((name, np.int32, 3) for name in ("own_lo", "own_hi", "extent"))], align=True
)
OUTPUT = np.dtype([("base", np.uint64), ("stride", np.int64, 4), ("extent", np.int32, 3)], align=True)
SHAPE = np.dtype(
    [(name, np.int32) for name in ("batch", "channels", "outputs", "groups")]
    + [(name, np.int32, 3) for name in ("kernel", "stride", "dilation", "pad")] + [("rectify", np.int32)],
    align=True,
)  # fmt: skip
TILE = 64
"""Rows and columns of a block's product, in kernels/conv.cu."""
BLOCK = (16, 16)
"""Threads of a block."""


class Parts(NamedTuple):
    """An array (N, C, *S) whose own block and halos lie in arrays of their own.

    Parameters
    ----------
    own
        (N, C, *own extents); an extent may be zero.
    halos
        By side, -1 before, 0 beside or 1 behind the own block in each spatial dim; the halos of one side are equally
        wide.  What is not there reads as zero.
    """

    own: Array
    halos: Mapping[Ints, Array] = MappingProxyType({})

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the own block."""
        found: np.dtype[Any] = self.own.dtype
        return found

    @property
    def widths(self) -> tuple[Ints, Ints]:
        """Of the halos before and behind, for each spatial dim.

        Raises
        ------
        ValueError
            If a side is none, or an array does not fit its neighbours.
        """
        dims = len(self.own.shape) - 2
        found = {-1: [0] * dims, 1: [0] * dims}
        for side, halo in self.halos.items():
            if len(side) != dims or not any(side) or any(s not in (-1, 0, 1) for s in side):
                raise ValueError(f"{side} is no side of a block of {dims} dims: give -1, 0 or 1 for each dim")
            for dim, s in enumerate(side):
                if s:
                    found[s][dim] = halo.shape[2 + dim]
        for side, halo in self.halos.items():
            space = (found[s][dim] if s else self.own.shape[2 + dim] for dim, s in enumerate(side))
            needed = (*self.own.shape[:2], *space)
            if tuple(halo.shape) != needed:
                raise ValueError(f"the halo {side} is {tuple(halo.shape)}, its neighbours need {needed}")
        return tuple(found[-1]), tuple(found[1])

    @property
    def shape(self) -> Ints:
        """Of the whole."""
        spaces = zip(*self.widths, self.own.shape[2:], strict=True)
        return (*self.own.shape[:2], *(lo + hi + own for lo, hi, own in spaces))

    def regions(self) -> Iterator[tuple[Ints, Array]]:
        """Yield each side's array, the own block first."""
        yield (0,) * (len(self.own.shape) - 2), self.own
        yield from self.halos.items()


def readable(engine: Engine, x: Array | Parts, like: Array | Parts) -> Array | Parts:
    """Return x, or a copy where channels are not innermost or the dtype is not that of `like`; gaps may stay."""
    if isinstance(x, Parts):
        return Parts(
            readable(engine, x.own, like), {s: readable(engine, h, like) for s, h in x.halos.items()}
        )
    return x if x.dtype == like.dtype and runs(x) else engine.fitted(x, like)


def runs(x: Array) -> bool:
    """Whether the channels of each position are neighbours in memory, as kernels of convolution need."""
    return bool(x.shape[1] < 2 or x.strides[1] == x.itemsize)


def view(device: Device, x: Array | Parts) -> Structure:
    """Return the View of a readable array, or of one in parts."""
    parts = x if isinstance(x, Parts) else Parts(x)
    (lo, hi), own, dims = parts.widths, tuple(parts.own.shape[2:]), len(parts.own.shape) - 2
    begins = {-1: (0,) * dims, 0: lo, 1: tuple(a + b for a, b in zip(lo, own, strict=True))}
    found = np.zeros(1, VIEW)
    found["own_lo"], found["own_hi"] = three(lo, 0), three(begins[1], 1)
    found["extent"] = three(tuple(a + b for a, b in zip(begins[1], hi, strict=True)), 1)
    regions = found["region"][0]
    for side, array in parts.regions():
        if array.size:  # an empty array may have no address
            steps = _strides(array)
            before = sum(
                begins[s][dim] * step
                for dim, (s, step) in enumerate(zip(side, steps[4 - dims :], strict=True))
            )
            number = sum((s + 1) * power for s, power in zip(three(side, 0), (9, 3, 1), strict=True))
            base = (device.address(array) - before * array.itemsize) % (1 << 64)  # of coordinate 0, wherever
            regions[number] = (base, steps)
    return found


def output(device: Device, y: Array) -> Structure:
    """Return the Output of an array whose channels are innermost."""
    return np.array([(device.address(y), _strides(y), three(y.shape[2:], 1))], OUTPUT)


def shape(
    batch: int, channels: int, outputs: int, groups: int, window: Window, relu: bool = False
) -> Structure:
    """Return the Shape of a convolution of a block; a window in fewer than three dims is one element in the others."""
    kernel, stride, dilation = (three(v, 1) for v in window[:3])
    told = (batch, channels, outputs, groups, kernel, stride, dilation, three(window.pad_lo, 0), relu)
    return np.array([told], SHAPE)


def grid(rows: int, columns: int, depth: int, tile: tuple[int, int] = (TILE, TILE)) -> Ints:
    """Return the blocks of a product of rows x columns, `depth` times; `tile` is what one block makes of it."""
    return -(-rows // tile[0]), -(-columns // tile[1]), depth


def points(y: Array | Parts) -> int:
    """Return the positions of all samples of an array (N, C, *S)."""
    return int(y.shape[0]) * prod(y.shape[2:])


def three(values: Sequence[int], fill: int) -> Ints:
    """Return values of one to three dims as those of D, H and W."""
    return (*(fill,) * (3 - len(values)), *values)


def _strides(array: Array) -> Ints:
    """Return elements from one sample, depth, row and column to the next; of dims that are not there, 0."""
    n, _, *space = (stride // array.itemsize for stride in array.strides)
    return (n, *three(space, 0))
