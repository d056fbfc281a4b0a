"""Convolution in 1, 2 or 3 dims by gathered columns and one matrix product a strip (NumPy).

N batch, C channels in, K channels out, G groups, R window elements, O output positions.

    x  N C *S  --gather-->  columns  G, C/G R, n O      (a strip of n samples)
    w  K C/G *R  ------->   G, K/G, C/G R

    forward            y       =  w  @ columns          then n O moves back to N K *O
    backward_weights   dw     +=  dy @ columns^T
    backward_data      columns =  w^T @ dy              then scattered: the adjoint of gather

A group is one matrix of a batched product, so depthwise convolution needs no loop.
Pads are per side and may be negative (rows cropped), which is what a rank's window of
a distributed array needs; any extent may be zero, which is what an empty block is.
Transposed convolution is `backward_data` read forwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from gridnn.compute.cpu.reference.window import Array, Ints, Piece, Tap, out_extents, pieces

POINTWISE_POSITIONS = 32
"""Least positions a sample for which a 1x1 window multiplies each sample in place, without gathering."""

GATHER_RATIO = 2
"""Most K / C for which the mirrored convolution, which copies K columns, beats adding C of them."""


def forward(
    x: Array, w: Array, *, stride: Ints, dilation: Ints, pad_lo: Ints, pad_hi: Ints, groups: int = 1
) -> Array:
    """Convolution (cross-correlation) of a block, without bias.

    Parameters
    ----------
    x : (N, C, *S)
    w : (K, C / groups, *R)
    stride, dilation, pad_lo, pad_hi : one integer a spatial dim; negative pads crop.
    groups : number of channel groups.

    Returns
    -------
    (N, K, *O) of the dtype of x, O = floor((S + lo + hi - dilation (R - 1) - 1) / stride) + 1, at least 0.
    """
    kernel = w.shape[2:]
    outs = out_extents(x.shape[2:], kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    shape = (x.shape[0], w.shape[0], *outs)
    if _nothing(x.shape, w.shape, shape):
        return np.zeros(shape, x.dtype)
    flat = _flat_weights(w, groups)
    if _in_place(x.shape[2:], kernel, outs, stride, pad_lo, pad_hi):
        return np.asarray(np.matmul(flat, _by_group(x, groups))).reshape(shape)
    y = np.empty(shape, x.dtype)
    for piece, columns in _gathered(x, outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo):
        product = np.matmul(flat, columns.reshape(groups, flat.shape[2], -1))
        product = product.reshape(w.shape[0], piece.count, *piece.outs)
        y[piece.samples, :, piece.rows] = product.swapaxes(0, 1)
    return y


def backward_data(
    dy: Array,
    w: Array,
    x_shape: Ints,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> Array:
    """Gradient of `forward` by x, and the forward of transposed convolution.

    Parameters
    ----------
    dy : (N, K, *O)
    w : (K, C / groups, *R)
    x_shape : the full (N, C, *S); elements that no window touched get zero.

    Returns
    -------
    (N, C, *S) of the dtype of dy.
    """
    x_shape, kernel, outs = tuple(x_shape), w.shape[2:], dy.shape[2:]
    if _nothing(x_shape, w.shape, dy.shape):
        return np.zeros(x_shape, dy.dtype)
    _check(dy, w, x_shape, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    flat = _flat_weights(w, groups).swapaxes(1, 2)  # G, C/G R, K/G
    if _in_place(x_shape[2:], kernel, outs, stride, pad_lo, pad_hi):
        return np.asarray(np.matmul(flat, _by_group(dy, groups))).reshape(x_shape)
    if all(s == 1 for s in stride) and w.shape[0] <= GATHER_RATIO * x_shape[1]:
        return _mirrored(dy, w, x_shape, dilation=dilation, pad_lo=pad_lo, groups=groups)
    dx = np.zeros(x_shape, dy.dtype)
    row_bytes = _row_bytes(x_shape[1], kernel, outs, dy)
    for piece in pieces(
        dy.shape[0], x_shape[2:], outs, kernel, row_bytes, stride=stride, dilation=dilation, pad_lo=pad_lo
    ):
        columns = np.matmul(flat, _positions(dy, piece, groups))
        columns = columns.reshape(x_shape[1], prod(kernel), piece.count, *piece.outs)
        target = dx[piece.samples].swapaxes(0, 1)
        for tap in piece.taps:
            target[:, :, *tap.inputs] += columns[:, tap.number, :, *tap.outputs]
    return dx


def backward_weights(
    x: Array,
    dy: Array,
    w_shape: Ints,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> Array:
    """Gradient of `forward` by w.

    Parameters
    ----------
    x : (N, C, *S)
    dy : (N, K, *O)
    w_shape : the full (K, C / groups, *R).

    Returns
    -------
    (K, C / groups, *R) of the dtype of x, summed over samples and positions.
    """
    w_shape, outs = tuple(w_shape), dy.shape[2:]
    dw = np.zeros(w_shape, x.dtype)
    if _nothing(x.shape, w_shape, dy.shape):
        return dw
    _check(dy, dw, x.shape, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    total = _flat_weights(dw, groups)  # a view: sums land in dw
    for piece, columns in _gathered(x, outs, w_shape[2:], stride=stride, dilation=dilation, pad_lo=pad_lo):
        flat = columns.reshape(groups, total.shape[2], -1)
        total += np.matmul(_positions(dy, piece, groups), flat.swapaxes(1, 2))
    return dw


def add_bias(y: Array, bias: Array) -> Array:
    """Add a bias (K,) to y (N, K, ...) in place, and return y."""
    y += bias.reshape(-1, *[1] * (y.ndim - 2))
    return y


def bias_gradient(dy: Array) -> Array:
    """Gradient by the bias: (K,), the sum of dy (N, K, ...) over all other dims, made in float64."""
    others = (0, *range(2, dy.ndim))
    return np.asarray(dy.sum(axis=others, dtype=np.float64)).astype(dy.dtype)


def _gathered(
    x: Array, outs: Ints, kernel: Ints, *, stride: Ints, dilation: Ints, pad_lo: Ints
) -> Iterator[tuple[Piece, Array]]:
    """The pieces of the output and, for each, its columns (C, R, n, *O)."""
    channels = x.shape[1]
    row_bytes = _row_bytes(channels, kernel, outs, x)
    columns: Array = np.empty(0, x.dtype)
    filled: list[Tap] | None = None
    for piece in pieces(
        x.shape[0], x.shape[2:], outs, kernel, row_bytes, stride=stride, dilation=dilation, pad_lo=pad_lo
    ):
        shape = (channels, prod(kernel), piece.count, *piece.outs)
        # Padding is the zeros no tap writes: they outlive a piece whose taps are those of the last one.
        if columns.shape != shape or filled is not piece.taps:
            columns, filled = np.zeros(shape, x.dtype), piece.taps
        source = x[piece.samples].swapaxes(0, 1)
        for tap in piece.taps:
            columns[:, tap.number][:, :, *tap.outputs] = source[:, :, *tap.inputs]
        yield piece, columns


def _mirrored(
    dy: Array, w: Array, x_shape: tuple[int, ...], *, dilation: Ints, pad_lo: Ints, groups: int
) -> Array:
    """`backward_data` for stride 1: the convolution of dy with the mirrored window, C and K exchanged.

    With t' = R - 1 - t, dx[i] sums dy[i + t' dilation - (dilation (R - 1) - pad_lo)]: a window with that
    pad in front, and behind it what makes the output as long as x.
    """
    kernel, outs = w.shape[2:], dy.shape[2:]
    lo = [d * (r - 1) - p for d, r, p in zip(dilation, kernel, pad_lo, strict=True)]
    hi = [n - out + p for n, out, p in zip(x_shape[2:], outs, pad_lo, strict=True)]
    ones = (1,) * len(kernel)
    flat = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)[..., ::-1].swapaxes(1, 2)
    mirrored = flat.reshape(x_shape[1], w.shape[0] // groups, *kernel)
    return forward(dy, mirrored, stride=ones, dilation=dilation, pad_lo=lo, pad_hi=hi, groups=groups)


def _positions(dy: Array, piece: Piece, groups: int) -> Array:
    """A piece of dy (N, K, *O) as (G, K/G, n O)."""
    part = dy[piece.samples, :, piece.rows].swapaxes(0, 1)
    return part.reshape(groups, dy.shape[1] // groups, -1)


def _flat_weights(w: Array, groups: int) -> Array:
    """Weights (K, C/G, *R) as (G, K/G, C/G R), a view."""
    return w.reshape(groups, w.shape[0] // groups, -1)


def _by_group(x: Array, groups: int) -> Array:
    """An array (N, C, *S) as (N, G, C/G, S), a view."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)


def _row_bytes(channels: int, kernel: Ints, outs: Ints, like: Array) -> int:
    """Bytes of the columns of one sample's output row of the first spatial dim."""
    return channels * prod(kernel) * prod(outs[1:]) * like.itemsize


def _nothing(*shapes: Ints) -> bool:
    """Whether an array is empty, so that the result is empty or zero."""
    return any(prod(shape) == 0 for shape in shapes)


def _in_place(extents: Ints, kernel: Ints, outs: Ints, stride: Ints, pad_lo: Ints, pad_hi: Ints) -> bool:
    """Whether the columns are x itself (1x1, stride 1, no pads), with enough positions a sample."""
    plain = prod(kernel) == 1 and all(s == 1 for s in stride) and not any(pad_lo) and not any(pad_hi)
    assert not plain or tuple(extents) == tuple(outs), f"a 1x1 window of {extents} cannot give {outs}"
    return plain and prod(outs) >= POINTWISE_POSITIONS


def _check(
    dy: Array, w: Array, x_shape: Ints, *, stride: Ints, dilation: Ints, pad_lo: Ints, pad_hi: Ints
) -> None:
    """A gradient must have the shape that forward gives."""
    outs = out_extents(
        x_shape[2:], w.shape[2:], stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi
    )
    needed = (x_shape[0], w.shape[0], *outs)
    assert dy.shape == needed, (
        f"dy {dy.shape} is not the output {needed} of x {tuple(x_shape)} and w {w.shape}"
    )
