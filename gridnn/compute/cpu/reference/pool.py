"""Max and average pooling over windows, and sums and maxima over the whole space of a block (NumPy).

Each works tap by tap on strided views (see `window`), so overlapping windows, dilation, one-sided and
negative pads and empty blocks are one case.  x is (N, C, *S), y is (N, C, *O).

    max       first element in window scan order wins a tie; padding never wins (it is -inf)
    average   divides by R (`count_pad`) or by the real elements of the window; 0 if it has none
    space     over all of S: partial results that the ranks cutting S combine
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from gridnn.compute.cpu.reference.window import STRIP_BYTES, Array, Ints, Tap, out_extents, taps


def max_forward(
    x: Array, *, kernel: Ints, stride: Ints, dilation: Ints, pad_lo: Ints, pad_hi: Ints
) -> tuple[Array, Array]:
    """Maximum of each window, and which window element it was.

    Parameters
    ----------
    x : (N, C, *S)
    kernel, stride, dilation, pad_lo, pad_hi : one integer a spatial dim; negative pads crop.

    Returns
    -------
    y : (N, C, *O), -inf for a window of padding only; a NaN in a window makes its maximum NaN.
    saved : (N, C, *O) flat index in the window, in the smallest unsigned dtype that holds it.
    """
    outs = out_extents(x.shape[2:], kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    shape = (*x.shape[:2], *outs)
    y = np.full(shape, -np.inf, x.dtype)
    saved = np.zeros(shape, np.min_scalar_type(prod(kernel) - 1))
    found = taps(x.shape[2:], outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo)
    # Backwards with >=, so that the first of equals wins and a real -inf wins over padding.
    for part, tap in _near_cache(x, list(reversed(found))):
        values, best = x[part, :, *tap.inputs], y[part, :, *tap.outputs]
        np.copyto(saved[part, :, *tap.outputs], saved.dtype.type(tap.number), where=values >= best)
        np.maximum(values, best, out=best)
    return y, saved


def max_backward(
    dy: Array,
    saved: Array,
    x_shape: Ints,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
) -> Array:
    """Gradient of `max_forward` by x: (N, C, *S), each dy added to the element that won its window."""
    _check(dy, x_shape, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    dx = np.zeros(tuple(x_shape), dy.dtype)
    found = taps(x_shape[2:], dy.shape[2:], kernel, stride=stride, dilation=dilation, pad_lo=pad_lo)
    for part, tap in _near_cache(dx, found):
        won = saved[part, :, *tap.outputs] == tap.number
        dx[part, :, *tap.inputs] += dy[part, :, *tap.outputs] * won
    return dx


def average_forward(
    x: Array,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    count_pad: bool,
) -> Array:
    """Mean of each window.

    Parameters
    ----------
    x : (N, C, *S)
    kernel, stride, dilation, pad_lo, pad_hi : one integer a spatial dim; negative pads crop.
    count_pad : whether padding counts as zeros that were averaged; else only real elements count.

    Returns
    -------
    (N, C, *O)
    """
    outs = out_extents(x.shape[2:], kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    y = np.zeros((*x.shape[:2], *outs), x.dtype)
    found = taps(x.shape[2:], outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo)
    for part, tap in _near_cache(x, found):
        y[part, :, *tap.outputs] += x[part, :, *tap.inputs]
    y *= _shares(x, outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, count_pad=count_pad)
    return y


def average_backward(
    dy: Array,
    x_shape: Ints,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    count_pad: bool,
) -> Array:
    """Gradient of `average_forward` by x: (N, C, *S)."""
    _check(dy, x_shape, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    dx = np.zeros(tuple(x_shape), dy.dtype)
    outs = dy.shape[2:]
    share = dy * _shares(
        dx, outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, count_pad=count_pad
    )
    found = taps(x_shape[2:], outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo)
    for part, tap in _near_cache(dx, found):
        dx[part, :, *tap.inputs] += share[part, :, *tap.outputs]
    return dx


def sum_space(x: Array) -> Array:
    """Sum over all spatial dims: (N, C), made in float64, of the dtype of x."""
    return np.asarray(x.sum(axis=tuple(range(2, x.ndim)), dtype=np.float64)).astype(x.dtype)


def spread_space(dy: Array, x_shape: Ints) -> Array:
    """Adjoint of `sum_space`: dy (N, C) at every position of (N, C, *S)."""
    dx = np.empty(tuple(x_shape), dy.dtype)
    dx[...] = dy.reshape(*dy.shape, *[1] * (len(x_shape) - 2))
    return dx


def max_space(x: Array) -> tuple[Array, Array]:
    """Maximum over all spatial dims (N, C), and the local flat spatial index (int64) of the first one.

    An empty space gives -inf and index -1.
    """
    flat = x.reshape(*x.shape[:2], prod(x.shape[2:]))
    if flat.shape[2] == 0:
        return np.full(flat.shape[:2], -np.inf, x.dtype), np.full(flat.shape[:2], -1, np.int64)
    local_index = flat.argmax(axis=2)
    return np.take_along_axis(flat, local_index[..., None], axis=2)[..., 0], local_index


def max_space_backward(dy: Array, local_index: Array, x_shape: Ints) -> Array:
    """Gradient of `max_space` by x: dy (N, C) at the local index; -1 is a maximum that lies elsewhere."""
    dx = np.zeros(tuple(x_shape), dy.dtype)
    flat = dx.reshape(*dy.shape, prod(x_shape[2:]))
    n, c = np.nonzero(local_index >= 0)
    flat[n, c, local_index[n, c]] = dy[n, c]
    return dx


def _near_cache(x: Array, found: list[Tap]) -> Iterator[tuple[slice, Tap]]:
    """All taps of some samples, then of the next: x is read once a tap, from the cache if it fits."""
    step = max(STRIP_BYTES * x.shape[0] // max(x.nbytes, 1), 1)
    for begin in range(0, x.shape[0], step):
        for tap in found:
            yield slice(begin, begin + step), tap


def _shares(
    like: Array,
    outs: Ints,
    kernel: Ints,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    count_pad: bool,
) -> Array:
    """What one element weighs in each output (*O): one over the number of elements counted."""
    if count_pad:
        return np.asarray(1 / prod(kernel), like.dtype)
    counts = np.zeros(tuple(outs), np.int64)
    for tap in taps(like.shape[2:], outs, kernel, stride=stride, dilation=dilation, pad_lo=pad_lo):
        counts[tap.outputs] += 1
    return (1 / np.maximum(counts, 1)).astype(like.dtype)


def _check(
    dy: Array, x_shape: Ints, kernel: Ints, *, stride: Ints, dilation: Ints, pad_lo: Ints, pad_hi: Ints
) -> None:
    """A gradient must have the shape that forward gives."""
    outs = out_extents(x_shape[2:], kernel, stride=stride, dilation=dilation, pad_lo=pad_lo, pad_hi=pad_hi)
    needed = (*x_shape[:2], *outs)
    assert dy.shape == needed, f"dy {dy.shape} is not the output {needed} of x {tuple(x_shape)}"
