"""Pooling of a block over windows and over all of space: kernels/pool.cu, and kernels/sums.cu for sums.

x (N, C, *S), y (N, C, *O).  A thread makes an output, or backward an input: it looks for the windows that read it, so
that no two threads add to one element.  The window index `saved` that max pooling keeps is one byte in the kernels;
windows of more elements go tap by tap over whole arrays instead.  So do global maxima: no kernel, plain operations.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import shaped
from gridnn.compute.cpu.reference.window import Tap, taps
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.dense import blank, settled, target, widened
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.sums import channel_sums
from gridnn.compute.storage import wide_of

MOST_ELEMENTS = 256
"""Of a window whose index fits a byte."""

STRUCT = np.dtype(
    [(name, np.int32, 3) for name in ("kernel", "stride", "dilation", "pad", "in", "out")]
    + [("channels", np.int32)]
)
"""`Window` of kernels/pool.cu; missing dims come first."""


def max_forward(engine: Engine, x: Array, window: Window, out: Array | None = None) -> tuple[Array, Array]:
    """Return the maximum of each window and which of the window's elements it was."""
    shape = (*x.shape[:2], *window.outs(x.shape[2:]))
    y = target(engine, shape, x.dtype, out)
    if prod(window.kernel) > MOST_ELEMENTS:
        best = y if x.dtype == wide_of(x.dtype) else engine.empty(shape, wide_of(x.dtype))
        saved = _max_by_taps(engine, widened(engine, x), best, window)
        return settled(engine, settled(engine, best, y), out), saved
    saved = engine.empty(shape, np.uint8)
    arguments = [engine.fitted(x), y, saved, y.size, described(window, x.shape)]
    engine.walk("pool", "max_forward", y.size, arguments, x.dtype)
    return settled(engine, y, out), saved


def max_backward(engine: Engine, dy: Array, saved: Array, window: Window, x_shape: tuple[int, ...]) -> Array:
    """Return the gradient by x: each dy added to the element that won its window."""
    dx = engine.empty(x_shape, dy.dtype)
    if prod(window.kernel) > MOST_ELEMENTS:
        if dy.dtype != wide_of(dy.dtype):
            return settled(engine, max_backward(engine, widened(engine, dy), saved, window, x_shape), dx)
        dx[...] = 0
        for tap in _taps(window, x_shape):
            here, part = dx[:, :, *tap.inputs], (slice(None), slice(None), *tap.outputs)
            here += np.where(saved[part] == tap.number, dy[part], 0)
        return dx
    arguments = [engine.fitted(dy), saved, dx, dx.size, described(window, x_shape)]
    engine.walk("pool", "max_backward", dx.size, arguments, dy.dtype)
    return dx


def average_forward(
    engine: Engine, x: Array, window: Window, *, count_pad: bool, out: Array | None = None
) -> Array:
    """Return the mean of each window, over the real elements or over all of it."""
    y = target(engine, (*x.shape[:2], *window.outs(x.shape[2:])), x.dtype, out)
    arguments = [engine.fitted(x), y, y.size, described(window, x.shape), count_pad]
    engine.walk("pool", "average_forward", y.size, arguments, x.dtype)
    return settled(engine, y, out)


def average_backward(
    engine: Engine, dy: Array, window: Window, x_shape: tuple[int, ...], *, count_pad: bool
) -> Array:
    """Return the gradient by x."""
    dx = engine.empty(x_shape, dy.dtype)
    arguments = [engine.fitted(dy), dx, dx.size, described(window, x_shape), count_pad]
    engine.walk("pool", "average_backward", dx.size, arguments, dy.dtype)
    return dx


def sum_space(engine: Engine, x: Array) -> Array:
    """Return the sum over all spatial dims: (N, C), of the dtype it is computed in."""
    return channel_sums(engine, engine.fitted(x), x.shape[0])


def spread_space(engine: Engine, dy: Array, x_shape: tuple[int, ...]) -> Array:
    """Return dy (N, C) copied to every element of space."""
    dx = engine.empty(x_shape, dy.dtype)
    dx[...] = dy.reshape(*dy.shape, *[1] * (len(x_shape) - 2))
    return dx


def max_space(engine: Engine, x: Array) -> tuple[Array, Array]:
    """Return the maximum over all spatial dims (N, C), and the flat index of the first one in the block's space.

    An empty space gives -inf and index -1.
    """
    if not x.size:
        y, local_index = blank(engine, x.shape[:2], x.dtype), blank(engine, x.shape[:2], np.int64)
        y[...], local_index[...] = -inf, -1
        return y, local_index
    flat = widened(engine, x).reshape(*x.shape[:2], -1)
    local_index = np.argmax(flat, axis=2)
    y = np.take_along_axis(flat, local_index[..., None], axis=2)[..., 0]
    return y if x.dtype == y.dtype else settled(engine, y, engine.empty(y.shape, x.dtype)), local_index


def max_space_backward(engine: Engine, dy: Array, local_index: Array, x_shape: tuple[int, ...]) -> Array:
    """Return the gradient by x: dy (N, C) at the local index; -1 is a maximum that lies elsewhere."""
    positions = prod(x_shape[2:])
    dx = blank(engine, (x_shape[0], positions, x_shape[1]), dy.dtype)
    position = blank(engine, (positions,), np.int64)
    position[...] = 1
    won = local_index[:, None] == (np.cumsum(position) - 1)[:, None]  # counted there: nothing is sent
    dx[...] = np.where(won, widened(engine, dy)[:, None], 0)
    return shaped(dx.reshape(-1), x_shape)


def described(window: Window, x_shape: tuple[int, ...]) -> NDArray[np.void]:
    """Return a window over a block as kernels/pool.cu is told."""
    return _described(window, *x_shape[1:])


@lru_cache(maxsize=4096)
def _described(window: Window, channels: int, *space: int) -> NDArray[np.void]:
    found = np.zeros(1, STRUCT)
    for name, values, fill in (
        ("kernel", window.kernel, 1), ("stride", window.stride, 1), ("dilation", window.dilation, 1),
        ("pad", window.pad_lo, 0), ("in", space, 1), ("out", window.outs(space), 1),
    ):  # fmt: skip
        found[name] = (*[fill] * (3 - len(values)), *values)
    found["channels"] = channels
    return found


def _max_by_taps(engine: Engine, x: Array, y: Array, window: Window) -> Array:
    """Set y to the maximum of each window, and return which element it was."""
    saved = engine.empty(y.shape, np.min_scalar_type(prod(window.kernel) - 1))
    y[...], saved[...] = -inf, 0
    # Backwards with >=, so that the first of equals wins and a real -inf wins over padding.
    for tap in reversed(_taps(window, x.shape)):
        part = (slice(None), slice(None), *tap.outputs)
        values, best, won = x[:, :, *tap.inputs], y[part], saved[part]
        won[...] = np.where(values >= best, tap.number, won)
        np.maximum(values, best, out=best)
    return saved


def _taps(window: Window, x_shape: tuple[int, ...]) -> list[Tap]:
    space, (kernel, stride, dilation, pad_lo, _) = x_shape[2:], window
    return taps(space, window.outs(space), kernel, stride=stride, dilation=dilation, pad_lo=pad_lo)
