"""Direct convolution by own kernels (kernels/cpu/conv.c, conv_weights.c).

Few input channels are merged with the taps of a row, which lie side by side in memory:

    x  N H W 3, window 7 x 7    ->   x' N H W' 21 (a view with overlapping rows, behind a frame of zeros), window 7 x 1

Each function is told the shapes and returns the pass: what follows from shapes alone is found once, not in every call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu import window as windows
from gridnn.compute.cpu.memory import Workspace, innermost
from gridnn.compute.cpu.native.library import Library, array
from gridnn.compute.cpu.native.walk import (
    Walks,
    Window,
    axes,
    backward_walks,
    course,
    forward_walks,
    scatter_walks,
)

Array = NDArray[Any]
Pass = Callable[..., None]

MERGED = 8
"""Most input channels for which a window row is read as one run of S C channels instead of S taps of C."""

STRIP = 256
"""Positions whose gradients conv_weights packs at a time (its STRIP, or more)."""

PANELS = 64
"""Most columns by which packed weights are wider than the weights."""

PARTIAL = 1 << 16
"""Most elements of a weight gradient of which every thread has its own copy."""


def forward(
    lib: Library, work: Workspace, x: Array, w: Array, y: Array, win: Window, groups: int = 1
) -> Pass:
    """Return the convolution of arrays like x (N, C, *S) with w (K, C / groups, *R), to y (N, K, *O).

    The pass takes x, w, y, a bias (K,) or None, and whether to rectify.  All are channels-last in memory; x and y with
    any outer strides, w without gaps.
    """
    if not merges(x.shape[1], win, groups):
        return _walking(lib, work, forward_walks(y.shape, win), w, groups, turned=False)
    merged = _merging(x, w, y, win)
    run = _walking(lib, work, forward_walks(y.shape, merged.window), merged.flat(w), 1, turned=False)

    def compute(x: Array, w: Array, y: Array, bias: Array | None = None, relu: bool = False) -> None:
        run(merged.rows(merged.filled(work, x)), merged.flat(w), y, bias, relu)

    return compute


def backward_data(
    lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, win: Window, groups: int = 1
) -> Pass:
    """Return the gradient of `forward` by x, of dy, w, dx; elements of dx that no window touched get zero."""
    if not merges(dx.shape[1], win, groups):
        return _walking(lib, work, backward_walks(dx.shape, win), w, groups, turned=True)
    merged = _merging(dx, w, dy, win)
    walks = scatter_walks(dy.shape, merged.window)
    run = _walking(lib, work, walks, merged.flat(w), 1, turned=True, adds=True)

    def compute(dy: Array, w: Array, dx: Array) -> None:
        frame = merged.empty(work, dx)
        frame[...] = 0
        run(dy, merged.flat(w), merged.rows(frame))
        if not merged.whole:
            dx[...] = 0
        innermost(dx)[merged.outer] = frame[merged.inner]

    return compute


def backward_weights(
    lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, win: Window, groups: int = 1
) -> Pass:
    """Return the gradient of `forward` by w: of x, dy, dw (K, C / groups, *R), and whether to add it to dw."""
    kernel, dtype = lib.kernel("conv_weights", x.dtype), x.dtype
    strip, size = STRIP * (dw.shape[0] // groups), dw.size // groups

    def run(x: Array, dy: Array, dw: Array, geometry: ctypes.Array[ctypes.c_int64], add: bool) -> None:
        threads, partial = lib.threads, None
        if threads > 1 and size <= PARTIAL:
            partial = work.take("partial", (threads - 1) * size, dtype)
        strips = work.take("strips", max(threads, 4) * strip, dtype)
        kernel(array(x), array(dy), array(dw), geometry, groups, add, array(strips), array(partial))

    if not merges(x.shape[1], win, groups):
        plain = axes(x.shape, dy.shape, win)
        return lambda x, dy, dw, add=False: run(x, dy, dw, plain, add)
    merged = _merging(x, dw, dy, win)
    geometry = axes(merged.seen, dy.shape, merged.window)

    def compute(x: Array, dy: Array, dw: Array, add: bool = False) -> None:
        run(merged.rows(merged.filled(work, x)), dy, merged.flat(dw), geometry, add)

    return compute


def _walking(
    lib: Library, work: Workspace, walks: Walks, w: Array, groups: int, *, turned: bool, adds: bool = False
) -> Pass:
    """Return the pass of source, weights like w, target, bias or None, relu."""
    kernel, dtype, how = lib.kernel("conv", w.dtype), w.dtype, course(walks, groups, turned=turned, adds=adds)
    lines = w.size // max(w.shape[1] if turned else w.shape[0] // groups, 1)  # of packed weights
    size = w.size + lines * PANELS

    def run(x: Array, w: Array, y: Array, bias: Array | None = None, relu: bool = False) -> None:
        packed = work.take("packed", size, dtype)
        kernel(array(x), array(w), array(y), how, array(bias), relu, array(packed))

    return run


def merges(channels: int, win: Window | windows.Window, groups: int) -> bool:
    """Whether a window row of so few channels is read as one run: x may then have any memory order."""
    return channels <= MERGED and groups == 1 and win.kernel[-1] > 1 and win.dilation[-1] == 1


class _Merged(NamedTuple):
    """How a block x is read as overlapping rows of S C channels, and weights K, (T, R,) S, C as K, (T, R,) 1, S C."""

    reads: tuple[int, ...]  # extents N, *S, C of exactly what the outputs read: a frame
    inner: tuple[slice, ...]  # where in a frame x lies
    outer: tuple[slice, ...]  # which part of x (N, *S, C)
    bare: bool  # whether a frame has elements that x does not fill
    whole: bool  # whether all of x is read
    seen: tuple[int, ...]  # shape and strides of a frame as rows
    steps: tuple[int, ...]
    weights: tuple[int, ...]  # and of the weights
    strides: tuple[int, ...]
    window: Window

    def empty(self, work: Workspace, x: Array) -> Array:
        """Return a frame of any content."""
        return work.take("frame", prod(self.reads), x.dtype).reshape(self.reads)

    def filled(self, work: Workspace, x: Array) -> Array:
        """Return a frame with x, in any memory order, amid zeros."""
        frame = self.empty(work, x)
        if self.bare:
            frame[...] = 0
        frame[self.inner] = innermost(x)[self.outer]
        return frame

    def rows(self, frame: Array) -> Array:
        """Return the view of a frame that a window of one column reads."""
        return np.ndarray(self.seen, frame.dtype, frame, 0, self.steps)

    def flat(self, w: Array) -> Array:
        """Return the view of weights, which have no gaps, to match."""
        return np.ndarray(self.weights, w.dtype, innermost(w), 0, self.strides)


def _merging(x: Array, w: Array, y: Array, win: Window) -> _Merged:
    n, c, *space = x.shape
    kernels, strides, dilations, pads = (part[3 - len(space) :] for part in win)
    reads = [
        (o - 1) * a + d * (r - 1) + 1
        for o, a, d, r in zip(y.shape[2:], strides, dilations, kernels, strict=True)
    ]
    spans = [
        (max(pad, 0), max(min(read, extent + pad), pad, 0))
        for read, extent, pad in zip(reads, space, pads, strict=True)
    ]
    inner = tuple(slice(begin, end) for begin, end in spans)
    outer = tuple(slice(begin - pad, end - pad) for (begin, end), pad in zip(spans, pads, strict=True))
    s, size, every = kernels[-1], x.itemsize, slice(None)
    frame, taps = _steps((n, *reads, c), size), _steps((w.shape[0], *kernels, c), size)
    return _Merged(
        (n, *reads, c), (every, *inner), (every, *outer),
        any(end - begin < read for (begin, end), read in zip(spans, reads, strict=True)),
        all(o == slice(0, e) for o, e in zip(outer, space, strict=True)),
        (n, s * c, *reads[:-1], reads[-1] - s + 1), (frame[0], size, *frame[1:-1]),
        (w.shape[0], s * c, *kernels[:-1], 1), (taps[0], size, *taps[1:-1]),
        Window((*win.kernel[:2], 1), win.stride, win.dilation, (0, 0, 0)),
    )  # fmt: skip


def _steps(extents: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return the strides of a contiguous array, the last dim's last."""
    return tuple(size * prod(extents[i + 1 :]) for i in range(len(extents)))
