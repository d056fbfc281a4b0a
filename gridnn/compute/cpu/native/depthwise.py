"""Convolution of narrow groups by own kernels (kernels/cpu/depthwise.c): depthwise, and 2, 4 or 8 channels a group.

The kernels want as many channels out as in, and at least a vector of them.  Depthwise blocks that are not so are
brought there, some samples at a time: a channel is written once for each of its outputs, zeros behind the last.

    C = 2, K = 6, vector of 8    x  a b    ->    a a a b b b 0 0
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import Workspace, innermost, shaped
from gridnn.compute.cpu.native.library import Library, block
from gridnn.compute.cpu.native.walk import Walks, Window, address, axes, backward_walks, forward_walks, space

Array = NDArray[Any]

WIDTHS = (2, 4, 8)
"""Channels of a group that the kernels know, besides one."""

NEAR_BYTES = 1 << 19
"""Of widened samples, what is written before it is read: it stays in a cache."""


def suits(
    lib: Library, channels: int, w: Sequence[int], groups: int, dtype: DTypeLike, *, weights: bool = False
) -> bool:
    """Whether these kernels should do a convolution of so many input channels with w (K, C / groups, *R).

    They can do groups as wide as a vector too, and are the faster ones in the gradient by the weights.
    """
    if groups == 1 or w[1] == 1:
        return groups > 1
    lanes = _lanes(lib, dtype)
    return w[1] in WIDTHS and w[1] < lanes + weights and lanes <= channels == w[0]


def forward(
    lib: Library, work: Workspace, x: Array, w: Array, y: Array, win: Window, *, bias: Array | None = None,
    relu: bool = False,
) -> None:  # fmt: skip
    """Write the convolution of x (N, C, *S) with w (K, M, *R), C / M groups, plus bias, to y (N, K, *O); then relu.

    All are channels-last in memory; x and y with any outer strides, w without gaps.
    """
    walks, outs, wide = forward_walks(space(y.shape), win), y.shape[1], _wide(lib, x.shape[1], w)
    packed = _packed(lib, work, _lengthened(w, wide), turned=False)
    if bias is not None:
        bias = _lengthened(bias, wide)
    for some in _chunks(x, wide, y):
        xs, ys = _widened(work, "source", x[some], outs, wide), _room(work, y[some], wide)
        _walk(lib, walks, xs, packed, ys, w, bias, relu)
        if wide != outs:
            y[some] = ys[:, :outs]


def backward_data(lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, win: Window) -> None:
    """Write the gradient of `forward` by x to dx; elements that no window touched get zero."""
    walks, outs, wide = backward_walks(space(dx.shape), win), dy.shape[1], _wide(lib, dx.shape[1], w)
    packed = _packed(lib, work, _lengthened(w, wide), turned=True)
    for some in _chunks(dx, wide, dy):
        dys, dxs = _widened(work, "source", dy[some], outs, wide), _room(work, dx[some], wide)
        _walk(lib, walks, dys, packed, dxs, w)
        if wide != dx.shape[1]:
            shares = innermost(dxs)[..., :outs].reshape(*innermost(dx[some]).shape, -1)
            innermost(dx)[some] = shares.sum(-1)


def backward_weights(
    lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, win: Window, *, add: bool = False
) -> None:
    """Write the gradient of `forward` by w to dw (memory K, R, M), or add it."""
    kernel, outs, wide = lib.kernel("depthwise_weights", x.dtype), dy.shape[1], _wide(lib, x.shape[1], dw)
    target = dw if wide == outs else np.zeros((wide, *dw.shape[1:]), dw.dtype)
    for some in _chunks(x, wide, dy):
        xs = _widened(work, "source", x[some], outs, wide)
        dys = _widened(work, "target", dy[some], outs, wide)
        more = some.start > 0 or (add and target is dw)
        kernel(ctypes.byref(block(xs)), ctypes.byref(block(dys)), axes(xs, dys, win), address(target),
               ctypes.c_int(more), ctypes.c_int64(dw.shape[1]))  # fmt: skip
    if target is not dw:
        dw[...] = dw + target[:outs] if add else target[:outs]


def _walk(
    lib: Library, walks: Walks, x: Array, packed: Array, y: Array, w: Array, bias: Array | None = None,
    relu: bool = False,
) -> None:  # fmt: skip
    lib.kernel("depthwise_walk", x.dtype)(
        ctypes.byref(block(x)), walks, ctypes.c_int64(len(walks)), address(packed),
        ctypes.c_int64(prod(w.shape[2:])), ctypes.byref(block(y)), address(bias), ctypes.c_int(relu),
        ctypes.c_int64(w.shape[1]),
    )  # fmt: skip


def _packed(lib: Library, work: Workspace, w: Array, turned: bool) -> Array:
    """Return weights as depthwise_walk reads them, vector by vector of channels."""
    lanes = _lanes(lib, w.dtype)
    packed = work.take("packed", -(-w.shape[0] // lanes) * lanes * prod(w.shape[1:]), w.dtype)
    lib.kernel("depthwise_pack", w.dtype)(
        address(w), ctypes.c_int64(w.shape[0]), ctypes.c_int64(prod(w.shape[2:])), ctypes.c_int64(w.shape[1]),
        ctypes.c_int(turned), address(packed),
    )  # fmt: skip
    return packed


def _lanes(lib: Library, dtype: DTypeLike) -> int:
    return int(lib.plain("vector_bytes")()) // np.dtype(dtype).itemsize


def _wide(lib: Library, channels: int, w: Array) -> int:
    """Return the channels, in and out, with which the kernels are called."""
    return channels if w.shape[1] > 1 else max(w.shape[0], _lanes(lib, w.dtype))


def _chunks(x: Array, wide: int, y: Array) -> Iterator[slice]:
    """Yield samples to compute at a time: all, or few where a wider copy of them is made."""
    n, most = x.shape[0], x.shape[0]
    if not x.shape[1] == wide == y.shape[1]:
        most = max(NEAR_BYTES // (prod(x.shape[2:]) * wide * x.itemsize), 1)
    yield from (slice(begin, min(begin + most, n)) for begin in range(0, n, most))


def _room(work: Workspace, y: Array, wide: int) -> Array:
    """Return y, or scratch in its place that has more channels."""
    n, channels, *space = y.shape
    if channels == wide:
        return y
    return shaped(work.take("target", n * wide * prod(space), y.dtype), (n, wide, *space))


def _widened(work: Workspace, name: str, x: Array, outs: int, wide: int) -> Array:
    """Return x, or a copy whose channels are there once for each of `outs`, then zeros."""
    n, channels, *space = x.shape
    if channels == wide:
        return x
    copy = shaped(work.take(name, n * wide * prod(space), x.dtype), (n, wide, *space))
    inner = innermost(copy)
    inner[..., outs:] = 0
    inner[..., :outs].reshape(n, *space, channels, -1)[...] = innermost(x)[..., None]
    return copy


def _lengthened(w: Array, wide: int) -> Array:
    """Return w (K, ...), or a copy with zeros behind, `wide` in all; of one channel a group, in any memory order."""
    if w.shape[0] == wide:
        return w
    longer = np.zeros((wide, *w.shape[1:]), w.dtype)
    longer[: w.shape[0]] = w
    return longer
