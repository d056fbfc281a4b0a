"""Convolutions by windows of one element as products of cuBLAS: the positions they read are copied together first.

    x, stride 2                 rows (positions, C)                 y (positions, K)
    a . b . c                   a                        x w^T
    . . . . .    --gather-->    b c d e f                ----->     forward
    d . e . f    <--spread--    ...                      <-----     backward_data: zeros go to the points
                                                          dy w

Dense rows are no copy: then this is the product itself.  What is copied costs one launch, and to spread it one more for
the zeros.  Positions are walked with channels innermost, as they lie: a device copies neighbours together, and CuPy
walks an array in the order of its dims, whatever its strides (`_reduced_view_core` of its `_kernel.pyx`).

The copy is of this call: memory of as many bytes is taken on top, and given back behind it.
"""

from __future__ import annotations

from math import prod

from gridnn.compute.cpu.memory import innermost, is_dense
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.linear import product
from gridnn.compute.gpu.pointwise import add_bias
from gridnn.compute.gpu.view import Parts, points

Where = tuple[slice, ...]
"""Positions of an array (N, *S, C)."""

WORTH = 64
"""Channels, and outputs, from which on rows are copied together.

A product reads and writes 4 (C + K) bytes a position of float32 and makes 2 C K operations: with 64 of each 16 for
each byte.  An H200 can make 14 in the time of a byte (67e12 a second, 4.8e12 bytes: its data sheet), so that with
fewer a product waits for memory, whoever makes it, and a copy has it wait longer.  On tensor cores that point lies
higher and own kernels stay further below it.  An estimate for all types, then; not yet measured.
"""


def find(engine: Engine, x: Array | Parts, y: Array | Parts, window: Window, groups: int) -> Where | None:
    """Return where a convolution reads x to make y, or None where it is no product of copied rows, or not worth it.

    Pads crop (they are negative, or none): where there are zeros around x own kernels make them.  With "tf32" own
    kernels use tensor cores, and products of cuBLAS only where CuPy is told to (`conv`).
    """
    if (
        engine.precision == "tf32"
        or isinstance(x, Parts)
        or isinstance(y, Parts)
        or groups > 1
        or prod(window.kernel) > 1
        or 0 in y.shape
    ):
        return None
    if min(x.shape[1], y.shape[1]) < WORTH:
        return None
    firsts = [-lo for lo in window.pad_lo]
    lasts = [lo + (n - 1) * step for lo, n, step in zip(firsts, y.shape[2:], window.stride, strict=True)]
    if min(firsts) < 0 or any(last >= n for last, n in zip(lasts, x.shape[2:], strict=True)):
        return None
    space = (slice(lo, hi + 1, step) for lo, hi, step in zip(firsts, lasts, window.stride, strict=True))
    return (slice(None), *space, slice(None))


def forward(
    engine: Engine, x: Array, w: Array, where: Where, bias: Array | None, relu: bool, y: Array
) -> None:  # fmt: skip
    """Write the convolution into y, plus bias (K,) if given, rectified if asked; w is dense and of the dtype of x."""
    found = y if is_dense(y) else engine.empty(y.shape, y.dtype)
    product(engine, _gathered(engine, x, where), rows(w).T, rows(found))
    add_bias(engine, found, bias, relu=relu)
    if found is not y:
        engine.copy(found, y)


def backward_data(engine: Engine, dy: Array, w: Array, where: Where, dx: Array) -> None:
    """Write the gradient by x into dx: zeros where nothing was read."""
    whole = innermost(dx)
    read = whole[where]
    if read.size < whole.size:
        whole[...] = 0
    dense = read.flags.c_contiguous
    found = _matrix(read) if dense else engine.empty((points(dy), dx.shape[1]), dx.dtype)
    product(engine, rows(engine.fitted(dy)), rows(w), found)
    if not dense:
        engine.reorders += 1
        read[...] = found.reshape(read.shape)


def backward_weights(engine: Engine, x: Array, dy: Array, where: Where, share: Array) -> None:
    """Write the gradient by the weights into a dense array."""
    product(engine, rows(engine.fitted(dy)).T, _gathered(engine, x, where), rows(share))


def rows(x: Array) -> Array:
    """Return a dense array (N, C, *S) as a matrix of positions and channels, a view."""
    return _matrix(innermost(x))


def _gathered(engine: Engine, x: Array, where: Where) -> Array:
    """Return positions of x as rows: a view if they lie so, else a copy."""
    read = innermost(x)[where]
    if read.flags.c_contiguous:
        return _matrix(read)
    found = engine.empty((prod(read.shape[:-1]), read.shape[-1]), x.dtype)
    engine.reorders += 1
    found.reshape(read.shape)[...] = read
    return found


def _matrix(read: Array) -> Array:
    """Return a dense array (N, *S, C) as a matrix, a view."""
    return read.reshape(prod(read.shape[:-1]), read.shape[-1])
