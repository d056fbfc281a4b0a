"""Convolution of narrow groups by own kernels (kernels/cpu/depthwise.c): depthwise, and 2, 4 or 8 channels a group.

The kernels want as many channels out as in, and at least a vector of them.  Depthwise blocks that are not so are
brought there, some samples at a time: a channel is written once for each of its outputs, zeros behind the last.

    C = 2, K = 6, vector of 8    x  a b    ->    a a a b b b 0 0

As in `conv`, each function is told the shapes and returns the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import Workspace, innermost, shaped
from gridnn.compute.cpu.native.library import Library, array
from gridnn.compute.cpu.native.walk import Walks, Window, axes, backward_walks, course, forward_walks

Array = NDArray[Any]
Pass = Callable[..., None]

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


def forward(lib: Library, work: Workspace, x: Array, w: Array, y: Array, win: Window) -> Pass:
    """Return the convolution of arrays like x (N, C, *S) with w (K, M, *R), C / M groups, to y (N, K, *O).

    The pass takes x, w, y, a bias (K,) or None, and whether to rectify.  All are channels-last in memory; x and y with
    any outer strides, w without gaps.
    """
    outs, wide = y.shape[1], _wide(lib, x.shape[1], w)
    run = _walking(lib, work, forward_walks(y.shape, win), w, wide, turned=False)
    chunks = _chunks(x, wide, y)

    def compute(x: Array, w: Array, y: Array, bias: Array | None = None, relu: bool = False) -> None:
        w, bias = _lengthened(w, wide), None if bias is None else _lengthened(bias, wide)
        for some in chunks:
            xs, ys = _widened(work, "source", x[some], outs, wide), _room(work, y[some], wide)
            run(xs, w, ys, bias, relu)
            if wide != outs:
                y[some] = ys[:, :outs]

    return compute


def backward_data(lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, win: Window) -> Pass:
    """Return the gradient of `forward` by x, of dy, w, dx; elements of dx that no window touched get zero."""
    outs, wide = dy.shape[1], _wide(lib, dx.shape[1], w)
    run = _walking(lib, work, backward_walks(dx.shape, win), w, wide, turned=True)
    chunks = _chunks(dx, wide, dy)

    def compute(dy: Array, w: Array, dx: Array) -> None:
        w = _lengthened(w, wide)
        for some in chunks:
            dys, dxs = _widened(work, "source", dy[some], outs, wide), _room(work, dx[some], wide)
            run(dys, w, dxs, None, False)
            if wide != dx.shape[1]:
                shares = innermost(dxs)[..., :outs].reshape(*innermost(dx[some]).shape, -1)
                innermost(dx)[some] = shares.sum(-1)

    return compute


def backward_weights(lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, win: Window) -> Pass:
    """Return the gradient of `forward` by w: of x, dy, dw (memory K, R, M), and whether to add it to dw."""
    kernel, outs, wide = lib.kernel("depthwise_weights", x.dtype), dy.shape[1], _wide(lib, x.shape[1], dw)
    chunks = _chunks(x, wide, dy)

    def compute(x: Array, dy: Array, dw: Array, add: bool = False) -> None:
        target = dw if wide == outs else np.zeros((wide, *dw.shape[1:]), dw.dtype)
        for some in chunks:
            xs = _widened(work, "source", x[some], outs, wide)
            dys = _widened(work, "target", dy[some], outs, wide)
            more = some.start > 0 or (add and target is dw)
            kernel(array(xs), array(dys), array(target), axes(xs.shape, dys.shape, win), more)
        if target is not dw:
            dw[...] = dw + target[:outs] if add else target[:outs]

    return compute


def _walking(lib: Library, work: Workspace, walks: Walks, w: Array, wide: int, *, turned: bool) -> Pass:
    """Return the pass of source, weights, target, bias or None, relu; with `wide` channels, weights else like w."""
    kernel, lanes, dtype = lib.kernel("depthwise", w.dtype), _lanes(lib, w.dtype), w.dtype
    size, how = -(-wide // lanes) * lanes * prod(w.shape[1:]), course(walks, turned=turned)

    def run(x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> None:
        packed = work.take("packed", size, dtype)
        kernel(array(x), array(w), array(y), how, array(bias), relu, array(packed))

    return run


def _lanes(lib: Library, dtype: DTypeLike) -> int:
    return int(lib.plain("vector_bytes")()) // np.dtype(dtype).itemsize


def _wide(lib: Library, channels: int, w: Array) -> int:
    """Return the channels, in and out, with which the kernels are called."""
    return channels if w.shape[1] > 1 else max(w.shape[0], _lanes(lib, w.dtype))


def _chunks(x: Array, wide: int, y: Array) -> list[slice]:
    """Return the samples to compute at a time: all, or few where a wider copy of them is made."""
    n, most = x.shape[0], x.shape[0]
    if not x.shape[1] == wide == y.shape[1]:
        most = max(NEAR_BYTES // (prod(x.shape[2:]) * wide * x.itemsize), 1)
    return [slice(begin, min(begin + most, n)) for begin in range(0, n, most)]


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
