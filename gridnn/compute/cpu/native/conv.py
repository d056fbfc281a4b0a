"""Direct convolution by own kernels (kernels/cpu/conv.c, conv_weights.c).

Few input channels are merged with the taps of a row, which lie side by side in memory:

    x  N H W 3, window 7 x 7    ->   x' N H W' 21 (a view with overlapping rows, behind a frame of zeros), window 7 x 1
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import Workspace
from gridnn.compute.cpu.native.library import Library, block
from gridnn.compute.cpu.native.walk import (
    Walks,
    Window,
    address,
    axes,
    backward_walks,
    forward_walks,
    scatter_walks,
    space,
)

Array = NDArray[Any]

MERGED = 8
"""Most input channels for which a window row is read as one run of S C channels instead of S taps of C."""

STRIP = 256
"""Positions whose gradients conv_weights packs at a time (its STRIP, or more)."""

PARTIAL = 1 << 16
"""Most elements of a weight gradient of which every thread has its own copy."""


def forward(
    lib: Library, work: Workspace, x: Array, w: Array, y: Array, win: Window, *, groups: int = 1,
    bias: Array | None = None, relu: bool = False,
) -> None:  # fmt: skip
    """Write the convolution of x (N, C, *S) with w (K, C / groups, *R), plus bias, to y (N, K, *O); then relu.

    All are channels-last in memory; x and y with any outer strides.
    """
    if merges(x.shape[1], win, groups):
        x, w, win = _merged(work, x, w, y.shape[2:], win)
    walks = forward_walks(space(y.shape), win)
    _run(lib, work, walks, x, w, y, win, groups, False, bias, relu)


def backward_data(
    lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, win: Window, *, groups: int = 1
) -> None:
    """Write the gradient of `forward` by x to dx; elements that no window touched get zero."""
    if not merges(dx.shape[1], win, groups):
        _run(lib, work, backward_walks(space(dx.shape), win), dy, w, dx, win, groups, True)
        return
    frame, inner, outer = _frame(work, dx, dy.shape[2:], win)
    frame[...] = 0
    seen, flat, merged = _rows(frame, w, win)
    _run(lib, work, scatter_walks(space(dy.shape), merged), dy, flat, seen, merged, 1, True, add=True)
    whole = all(o == slice(0, n) for o, n in zip(outer, dx.shape[2:], strict=True))
    if not whole:
        dx[...] = 0
    np.moveaxis(dx, 1, -1)[(slice(None), *outer)] = frame[(slice(None), *inner)]


def backward_weights(
    lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, win: Window, *, groups: int = 1, add: bool = False
) -> None:  # fmt: skip
    """Write the gradient of `forward` by w to dw (memory K, R, C), or add it."""
    if merges(x.shape[1], win, groups):
        x, dw, win = _merged(work, x, dw, dy.shape[2:], win)
    kernel, k, c = lib.kernel("conv_weights", x.dtype), dw.shape[0] // groups, dw.shape[1]
    taps, row = prod(win.kernel), prod(dw.shape[1:])
    geometry, size = axes(x, dy, win), k * taps * c
    partial = (
        work.take("partial", (lib.threads - 1) * size, x.dtype)
        if size <= PARTIAL and lib.threads > 1
        else None
    )
    scratch = work.take("strips", max(lib.threads, 4) * STRIP * k, x.dtype)
    if groups > max(lib.threads, 1):
        lib.kernel("conv_weights_groups", x.dtype)(
            ctypes.byref(block(x)), ctypes.byref(block(dy)), geometry, address(dw), ctypes.c_int64(row),
            ctypes.c_int64(groups), ctypes.c_int(add), address(scratch),
        )  # fmt: skip
        return
    at = dw.__array_interface__["data"][0]
    for g in range(groups):
        xs, dys = block(x[:, g * c : (g + 1) * c]), block(dy[:, g * k : (g + 1) * k])
        kernel(ctypes.byref(xs), ctypes.byref(dys), geometry, ctypes.c_void_p(at + g * k * row * x.itemsize),
               ctypes.c_int64(row), ctypes.c_int(add), address(scratch), address(partial))  # fmt: skip


def _run(
    lib: Library, work: Workspace, walks: Walks, x: Array, w: Array, y: Array, win: Window, groups: int,
    turned: bool, bias: Array | None = None, relu: bool = False, add: bool = False,
) -> None:  # fmt: skip
    pack, walk = lib.kernel("conv_pack", x.dtype), lib.kernel("conv_walk", x.dtype)
    outs, ins, taps = w.shape[0] // groups, w.shape[1], prod(win.kernel)
    columns, depth = (ins, outs) if turned else (outs, ins)
    packed = work.take("packed", groups * taps * depth * (columns + 64), x.dtype)
    xs, ys = block(x), block(y)
    for each in walks:
        pack(address(w), ctypes.byref(each), ctypes.c_int64(outs), ctypes.c_int64(ins), ctypes.c_int64(taps),
             ctypes.c_int64(groups), ctypes.c_int(turned), address(packed))  # fmt: skip
        walk(ctypes.byref(xs), ctypes.byref(each), address(packed), ctypes.byref(ys), ctypes.c_int64(groups),
             address(bias), ctypes.c_int(relu), ctypes.c_int(add), ctypes.c_int(add))  # fmt: skip


def merges(channels: int, win: Window, groups: int) -> bool:
    """Whether a window row of so few channels is read as one run: x may then have any memory order."""
    return groups == 1 and channels <= MERGED and win.kernel[2] > 1 and win.dilation[2] == 1


def _merged(
    work: Workspace, x: Array, w: Array, outs: Sequence[int], win: Window
) -> tuple[Array, Array, Window]:
    """Return x behind a frame of zeros, seen as rows of S C channels, and w and the window to match."""
    frame, inner, outer = _frame(work, x, outs, win)
    if any(i.stop - i.start < read for i, read in zip(inner, frame.shape[1:-1], strict=True)):
        frame[...] = 0
    frame[(slice(None), *inner)] = np.moveaxis(x, 1, -1)[(slice(None), *outer)]
    return _rows(frame, w, win)


def _frame(
    work: Workspace, x: Array, outs: Sequence[int], win: Window
) -> tuple[Array, tuple[slice, ...], tuple[slice, ...]]:
    """Return scratch (N, *reads, C) for exactly what the outputs read, and where in it x lies, and which part of x."""
    n, c, *space = x.shape
    kernels, strides, dilations, pads = (part[3 - len(space) :] for part in win)
    reads = [
        (o - 1) * a + d * (r - 1) + 1 for o, a, d, r in zip(outs, strides, dilations, kernels, strict=True)
    ]
    frame = work.take("frame", n * prod(reads) * c, x.dtype).reshape(n, *reads, c)
    spans = [
        (max(pad, 0), max(min(read, extent + pad), pad, 0))
        for read, extent, pad in zip(reads, space, pads, strict=True)
    ]
    inner = tuple(slice(begin, end) for begin, end in spans)
    outer = tuple(slice(begin - pad, end - pad) for (begin, end), pad in zip(spans, pads, strict=True))
    return frame, inner, outer


def _rows(frame: Array, w: Array, win: Window) -> tuple[Array, Array, Window]:
    """Return views: the frame as overlapping rows of S C channels, weights K, (T, R,) S, C as K, (T, R,) 1, S C."""
    n, *reads, c = frame.shape
    s = win.kernel[2]
    steps = (frame.strides[0], frame.itemsize, *frame.strides[1:-1])
    seen = np.lib.stride_tricks.as_strided(frame, (n, s * c, *reads[:-1], reads[-1] - s + 1), steps)
    turned = np.moveaxis(w, 1, -1)
    flat = np.moveaxis(turned.reshape(*turned.shape[:-2], 1, s * c), -1, 1)
    assert np.shares_memory(flat, w), "weights are K, R, C in memory"
    return seen, flat, Window((*win.kernel[:2], 1), win.stride, win.dilation, (0, 0, 0))
