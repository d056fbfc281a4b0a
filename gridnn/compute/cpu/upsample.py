"""Upsampling of a block, nearest and linear, and the adjoints: by the reference.

x (N, C, *S) are the rows of the input from `in_start` on, y (N, C, *O) those of the output from `out_start` on.  All
words are global integers, one a spatial dim, so that every grid reads the same elements with the same weights
(`gridnn.compute.cpu.reference.upsample`).
"""

from __future__ import annotations

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.reference import upsample as reference

Ints = tuple[int, ...]


def nearest_forward(
    engine: Engine, x: Array, *, factor: Ints, out_start: Ints, in_start: Ints, out_extent: Ints,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the block of the output whose row o is row o // factor of the input."""
    y = engine.empty((*x.shape[:2], *out_extent), x.dtype) if out is None else out
    y[...] = reference.nearest_forward(
        x, factor=factor, out_start=out_start, in_start=in_start, out_extent=out_extent
    )
    return y


def nearest_backward(
    engine: Engine, dy: Array, *, factor: Ints, out_start: Ints, in_start: Ints, in_extent: Ints
) -> Array:
    """Return the gradient by x: (N, C, *in_extent), rows that no output read being zero."""
    dx = engine.empty((*dy.shape[:2], *in_extent), dy.dtype)
    dx[...] = reference.nearest_backward(
        dy, factor=factor, out_start=out_start, in_start=in_start, in_extent=in_extent
    )
    return dx


def linear_forward(
    engine: Engine, x: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints,
    out_extent: Ints, out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the block of the output interpolated between half-pixel centres, clamped at the global borders."""
    y = engine.empty((*x.shape[:2], *out_extent), x.dtype) if out is None else out
    y[...] = reference.linear_forward(
        x, in_size=in_size, out_size=out_size, out_start=out_start, in_start=in_start, out_extent=out_extent
    )
    return y


def linear_backward(
    engine: Engine, dy: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints,
    in_extent: Ints,
) -> Array:  # fmt: skip
    """Return the gradient by x: (N, C, *in_extent), rows that no output read being zero."""
    dx = engine.empty((*dy.shape[:2], *in_extent), dy.dtype)
    dx[...] = reference.linear_backward(
        dy, in_size=in_size, out_size=out_size, out_start=out_start, in_start=in_start, in_extent=in_extent
    )
    return dx
