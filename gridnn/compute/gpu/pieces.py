"""Boxes of an array on a device to and from one buffer: one launch however many they are (kernels/halo.cu).

    array (N, C, *S), any strides             buffer, flat
    +-----+-------+-----+
    |  0  |       |  1  |    pack  ->         | piece 0 | piece 1 | piece 2   |
    |     |       +-----+    <-  unpack       ^ starts[0]         ^ starts[2]
    +-----+-+-----+          <-  accumulate
            |  2  |
            +-----+                           a piece is (N, *S, C), C fastest: a message as it is

`accumulate` adds the pieces in their order where boxes meet: the bits of a loop of `array[box] += piece`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate as running
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import shaped
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import BLOCKS, THREADS, Engine, stored
from gridnn.geometry.interval import Box, extents_of

STRIDES = np.dtype([("of", np.int64, 5)])
PIECE = np.dtype([("start", np.int64), ("lo", np.int32, 5), ("extent", np.int32, 5)], align=True)
"""`Strides` and `Piece` of kernels/halo.cu, dims N C D H W; dims that are not there have one element."""
DIMS = (2, 5)
"""Fewest and most dims of an array."""


class Pieces(NamedTuple):
    """Where boxes lie in an array and in a buffer; made once, good for any array of the same extents.

    Parameters
    ----------
    table
        On the device, what the kernels read.
    shapes
        Of the pieces, (N, C, *S).
    starts
        Of the pieces in the buffer, in elements, and its end.
    """

    table: Array
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements of the buffer."""
        return self.starts[-1]

    def some(self, first: int, stop: int) -> Pieces:
        """Return the pieces from `first` to before `stop`, where they are in the same buffer."""
        table = self.table[first * PIECE.itemsize : stop * PIECE.itemsize]
        return Pieces(table, self.shapes[first:stop], (*self.starts[first:stop], self.elements))

    def within(self, buffer: Array) -> list[Array]:
        """Return each piece as an array (N, C, *S) that lies in the buffer, on the host or a device."""
        return [
            shaped(buffer[start : start + prod(shape)], shape)
            for start, shape in zip(self.starts, self.shapes, strict=False)
        ]


def packable(array: Array) -> bool:
    """Return whether kernels can pack an array of this type and as many dims."""
    return stored(array.dtype) and DIMS[0] <= array.ndim <= DIMS[1]


def pieces_of(engine: Engine, boxes: Sequence[Box], origin: Box) -> Pieces:
    """Return where `boxes` lie in an array that holds the box `origin`, and one after the other in a buffer.

    Raises
    ------
    ValueError
        If the array has fewer than two or more than five dims, or a box is not within it.
    """
    if not DIMS[0] <= len(origin) <= DIMS[1]:
        raise ValueError(
            f"an array of {len(origin)} dims: pieces are of (N, C, *S), at most three of them spatial"
        )
    shapes = tuple(extents_of(box) for box in boxes)
    starts = tuple(running(map(prod, shapes), initial=0))
    table: NDArray[Any] = np.zeros(len(boxes), PIECE)
    for row, box, shape, start in zip(table, boxes, shapes, starts, strict=False):
        lows = [i.start - o.start for i, o in zip(box, origin, strict=True)]
        if any(
            lo < 0 or lo + size > o.size
            for lo, size, o in zip(lows, shape, origin, strict=True)
            if prod(shape)
        ):
            raise ValueError(f"the box {box} is not within {origin}: give the overlap of both")
        row["start"], row["lo"], row["extent"] = start, _five(lows, 0), _five(shape, 1)
    return Pieces(engine.device.from_host(table.view(np.uint8)), shapes, starts)


def pack(engine: Engine, array: Array, pieces: Pieces, buffer: Array) -> None:
    """Copy the pieces of an array into a buffer of its dtype."""
    _launch(engine, "pack", array, pieces, [array, _strides(array), pieces.table, buffer])


def unpack(engine: Engine, array: Array, pieces: Pieces, buffer: Array) -> None:
    """Copy the pieces in a buffer into an array; they do not meet."""
    _launch(engine, "unpack", array, pieces, [array, _strides(array), pieces.table, buffer])


def accumulate(engine: Engine, array: Array, pieces: Pieces, buffer: Array) -> None:
    """Add the pieces in a buffer to an array, in their order where they meet, and round each sum once.

    The buffer is of the dtype of the array, or bfloat16 where that is float32.
    """
    if buffer.dtype != array.dtype:
        wide = engine.device.empty(buffer.size, array.dtype)
        wide[...] = buffer
        buffer = wide
    told = [array, _strides(array), pieces.table, len(pieces.shapes), buffer]
    _launch(engine, "accumulate", array, pieces, told)


def _launch(engine: Engine, kernel: str, array: Array, pieces: Pieces, told: Sequence[Any]) -> None:
    largest = max(map(prod, pieces.shapes), default=0)
    if largest:
        blocks = min(-(-largest // THREADS), BLOCKS), len(pieces.shapes)
        engine.device.launch("halo", kernel, blocks, (THREADS,), told, array.dtype)


def _strides(array: Array) -> NDArray[Any]:
    return np.array([(_five([stride // array.itemsize for stride in array.strides], 0),)], STRIDES)


def _five(values: Sequence[int], fill: int) -> tuple[int, ...]:
    """Return values of the dims (N, C, *S) as those of N, C, D, H and W."""
    return (*values[:2], *(fill,) * (5 - len(values)), *values[2:])
