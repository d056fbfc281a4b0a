"""Upsampling of one block of a distributed output, nearest and linear, and the adjoints (NumPy).

The rows are found with global integers, so every grid reads the same elements with the same weights:

    nearest   row o  =  row o // factor
    linear    row o  lies at (o + 1/2) in / out - 1/2 of the input (half-pixel centres), so with
              q = max((2 o + 1) in - out, 0), it mixes row q // (2 out) and the next one with the
              weight (q mod 2 out) / (2 out); the next one of the last global row is itself

    in  4, out 8     o      0     1     2     3     4     5     6     7
                     rows   0 1   0 1   0 1   1 2   1 2   2 3   2 3   3 3
                     weight 0     1/4   3/4   1/4   3/4   1/4   3/4   1/4

Both are separable: one dim after the other.  A block holds rows from in_start on; it must contain
every row its output block reads.  x is (N, C, *S), y is (N, C, *O).
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.reference.window import Array, Ints


def nearest_forward(x: Array, *, factor: Ints, out_start: Ints, in_start: Ints, out_extent: Ints) -> Array:
    """Block of the output repeated from the input: y[o] = x[(out_start + o) // factor - in_start].

    Parameters
    ----------
    x : (N, C, *S) input rows from in_start on
    factor, out_start, in_start, out_extent : one integer a spatial dim

    Returns
    -------
    (N, C, *out_extent)
    """
    for dim, (f, o, i, extent) in enumerate(zip(factor, out_start, in_start, out_extent, strict=True), 2):
        x = np.take(x, nearest_rows(f, o, extent) - i, axis=dim)
    return np.ascontiguousarray(x)


def nearest_backward(dy: Array, *, factor: Ints, out_start: Ints, in_start: Ints, in_extent: Ints) -> Array:
    """Adjoint of `nearest_forward`: (N, C, *in_extent), rows that no output read being zero."""
    for dim, (f, o, i, extent) in enumerate(zip(factor, out_start, in_start, in_extent, strict=True), 2):
        dy = _sum_rows(dy, nearest_rows(f, o, dy.shape[dim]) - i, extent, dim)
    return np.ascontiguousarray(dy)


def linear_forward(
    x: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints, out_extent: Ints
) -> Array:
    """Block of the output interpolated linearly in every dim, clamped at the global borders only.

    Parameters
    ----------
    x : (N, C, *S) input rows from in_start on
    in_size, out_size : global extents of input and output, one a spatial dim
    out_start, in_start, out_extent : one integer a spatial dim

    Returns
    -------
    (N, C, *out_extent)
    """
    parts = zip(in_size, out_size, out_start, in_start, out_extent, strict=True)
    for dim, (size, out, o, i, extent) in enumerate(parts, 2):
        row, following, weight = linear_rows(size, out, o, extent)
        first, second = np.take(x, row - i, axis=dim), np.take(x, following - i, axis=dim)
        x = first + (second - first) * _along(weight, dim, x)
    return np.ascontiguousarray(x)


def linear_backward(
    dy: Array, *, in_size: Ints, out_size: Ints, out_start: Ints, in_start: Ints, in_extent: Ints
) -> Array:
    """Adjoint of `linear_forward`: (N, C, *in_extent), rows that no output read being zero."""
    parts = zip(in_size, out_size, out_start, in_start, in_extent, strict=True)
    for dim, (size, out, o, i, extent) in enumerate(parts, 2):
        row, following, weight = linear_rows(size, out, o, dy.shape[dim])
        second = dy * _along(weight, dim, dy)
        dy = _sum_rows(dy - second, row - i, extent, dim) + _sum_rows(second, following - i, extent, dim)
    return np.ascontiguousarray(dy)


def nearest_rows(factor: int, out_start: int, out_extent: int) -> Array:
    """Global input row of each output row of a block."""
    return np.arange(out_start, out_start + out_extent) // factor


def linear_rows(in_size: int, out_size: int, out_start: int, out_extent: int) -> tuple[Array, Array, Array]:
    """Global input row of each output row of a block, the next row, and the weight of the next (float64)."""
    o = np.arange(out_start, out_start + out_extent)
    whole, rest = np.divmod(np.maximum((2 * o + 1) * in_size - out_size, 0), 2 * out_size)
    return whole, np.minimum(whole + 1, in_size - 1), rest / (2 * out_size)


def _sum_rows(dy: Array, rows: Array, extent: int, dim: int) -> Array:
    """Add row j of dy to row rows[j] of a zero array of the given extent; rows never decrease."""
    shape = [*dy.shape]
    shape[dim] = extent
    dx = np.zeros(shape, dy.dtype)
    if dy.size:
        found, starts = np.unique(rows, return_index=True)
        dx[(slice(None),) * dim + (found,)] = np.add.reduceat(dy, starts, axis=dim)
    return dx


def _along(weight: Array, dim: int, x: Array) -> Array:
    """A vector along one dim of x, shaped to broadcast and of the dtype of x."""
    return weight.astype(x.dtype).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
