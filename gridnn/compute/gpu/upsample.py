"""Upsampling of a block, nearest and linear, and the adjoints: kernels/upsample.cu.

x (N, C, *S) are the rows of the input from `in_start` on, y (N, C, *O) those of the output from `out_start` on.  All
words are global integers, one a spatial dim.  A thread makes an output, or backward an input: it looks for the outputs
that read it, so that no two threads add to one element.  See the reference for the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.gpu.dense import settled, target
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine

Ints = tuple[int, ...]

NAMES = ("in", "out", "in_start", "out_start", "in_size", "out_size", "factor")
STRUCT = np.dtype([(name, np.int32, 3) for name in NAMES] + [("channels", np.int32)])
"""`Rows` of kernels/upsample.cu; missing dims come first."""


def nearest_forward(
    engine: Engine, x: Array, *, factor: Ints, out_start: Ints, in_start: Ints, out_extent: Ints,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the block of the output whose row o is row o // factor of the input."""
    told = [x.shape[2:], out_extent, in_start, out_start, (), (), factor]
    return _forward(engine, "nearest_forward", x, told, out)


def nearest_backward(
    engine: Engine, dy: Array, *, factor: Ints, out_start: Ints, in_start: Ints, in_extent: Ints
) -> Array:
    """Return the gradient by x: (N, C, *in_extent), rows that no output read being zero."""
    told = [in_extent, dy.shape[2:], in_start, out_start, (), (), factor]
    return _backward(engine, "nearest_backward", dy, told)


def linear_forward(
    engine: Engine, x: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints,
    out_extent: Ints, out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the block of the output interpolated between half-pixel centres, clamped at the global borders."""
    told = [x.shape[2:], out_extent, in_start, out_start, in_size, out_size, ()]
    return _forward(engine, "linear_forward", x, told, out)


def linear_backward(
    engine: Engine, dy: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints,
    in_extent: Ints,
) -> Array:  # fmt: skip
    """Return the gradient by x: (N, C, *in_extent), rows that no output read being zero."""
    told = [in_extent, dy.shape[2:], in_start, out_start, in_size, out_size, ()]
    return _backward(engine, "linear_backward", dy, told)


def _forward(engine: Engine, kernel: str, x: Array, told: list[Sequence[int]], out: Array | None) -> Array:
    y = target(engine, (*x.shape[:2], *told[1]), x.dtype, out)
    arguments = [engine.fitted(x), y, y.size, _described(x.shape[1], *map(tuple, told))]
    engine.walk("upsample", kernel, y.size, arguments, x.dtype)
    return settled(engine, y, out)


def _backward(engine: Engine, kernel: str, dy: Array, told: list[Sequence[int]]) -> Array:
    dx = engine.empty((*dy.shape[:2], *told[0]), dy.dtype)
    arguments = [engine.fitted(dy), dx, dx.size, _described(dy.shape[1], *map(tuple, told))]
    engine.walk("upsample", kernel, dx.size, arguments, dy.dtype)
    return dx


@lru_cache(maxsize=4096)
def _described(channels: int, *told: Ints) -> NDArray[np.void]:
    """Return where two blocks lie as kernels/upsample.cu is told, in the order of `NAMES`."""
    found = np.zeros(1, STRUCT)
    for name, values in zip(NAMES, told, strict=True):
        fill = 0 if name.endswith("start") else 1
        found[name] = (*[fill] * (3 - len(values)), *values)
    found["channels"] = channels
    return found
