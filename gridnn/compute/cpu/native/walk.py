"""Where a convolution reads for each of its targets, as kernels are told it (kernels/cpu/walk.h).

A convolution and its gradient by the input are sums of one form; this file says which, dim by dim:

    forward         target y, source x      1 walk          jump = stride   offset = t dilation - pad
    backward data   target dx, source dy    stride^dims     jump = 1        offset = (phase + pad - t dilation) / stride
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from gridnn.compute.cpu import window as windows


class Window(NamedTuple):
    """A window over three space dims, missing ones of extent 1; the far pads follow from the extents."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_lo: tuple[int, ...]


@lru_cache(maxsize=4096)
def window(of: windows.Window) -> Window:
    """Return a window of one to three space dims with three."""
    missing = 3 - len(of.kernel)
    ones = (1,) * missing
    return Window(
        (*ones, *of.kernel), (*ones, *of.stride), (*ones, *of.dilation), (*(0,) * missing, *of.pad_lo)
    )


class Dim(ctypes.Structure):
    """One dim of a walk (struct dim)."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("count", "first", "step", "jump", "taps")],
        ("tap", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
    ]


class Walk(ctypes.Structure):
    """Three dims and the extents that number a tap (struct walk)."""

    _fields_ = [
        ("d", Dim),
        ("h", Dim),
        ("w", Dim),
        ("kernel_h", ctypes.c_int64),
        ("kernel_w", ctypes.c_int64),
    ]


Walks = ctypes.Array[Walk]


class Course(ctypes.Structure):
    """Walks, and how they are gone (struct course)."""

    _fields_ = [
        ("walks", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("many", "groups", "turned", "adds")],
    ]


def course(walks: Walks, groups: int = 1, *, turned: bool, adds: bool = False) -> Any:
    """Return walks with how they are gone, as a kernel takes them.

    Parameters
    ----------
    turned
        From the gradient by the output to that by the input.
    adds
        To what is there, instead of replacing it.
    """
    made = Course(ctypes.addressof(walks), len(walks), groups, turned, adds)
    made.kept = walks  # as above
    return ctypes.byref(made)


@lru_cache(maxsize=4096)
def forward_walks(y: tuple[int, ...], win: Window) -> Walks:
    """Return the one walk over all outputs of a shape (N, K, *O)."""
    dims = [
        _dim(out, 0, 1, stride, range(r), [t * dilation - pad for t in range(r)])
        for out, r, stride, dilation, pad in zip(_space(y), *win, strict=True)
    ]
    return _walks([dims], win)


@lru_cache(maxsize=4096)
def backward_walks(x: tuple[int, ...], win: Window) -> Walks:
    """Return a walk for each phase of the inputs of a shape (N, C, *S), modulo the strides."""
    dims = [list(_phases(*each)) for each in zip(_space(x), *win, strict=True)]
    return _walks(product(*dims), win)


@lru_cache(maxsize=4096)
def scatter_walks(y: tuple[int, ...], win: Window) -> Walks:
    """Backward data the other way: one walk a tap over all outputs, each adding a row of S C where it was read."""
    dims = [
        [_dim(out, t * dilation - pad, stride, 1, [t], [0]) for t in range(r)]
        for out, r, stride, dilation, pad in zip(_space(y), *win, strict=True)
    ]
    return _walks(product(*dims), win)


@lru_cache(maxsize=4096)
def axes(x: tuple[int, ...], dy: tuple[int, ...], win: Window) -> ctypes.Array[ctypes.c_int64]:
    """Return what a kernel of gradients by weights is told: six integers for each of d, h, w (struct axis)."""
    sizes = zip(_space(dy), _space(x), *win, strict=True)
    return (ctypes.c_int64 * 18)(*(i for axis in sizes for i in axis))


def _space(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the three space extents of a shape (N, C, *S)."""
    return (*(1,) * (5 - len(shape)), *shape[2:])


def _phases(extent: int, kernel: int, stride: int, dilation: int, pad: int) -> Iterator[Dim]:
    """Yield for each phase of the positions, modulo the stride, the taps that reach it."""
    for phase in range(min(stride, extent)):
        taps = [t for t in range(kernel) if (phase + pad - t * dilation) % stride == 0]
        offsets = [(phase + pad - t * dilation) // stride for t in taps]
        yield _dim((extent - phase + stride - 1) // stride, phase, stride, 1, taps, offsets)


def _dim(count: int, first: int, step: int, jump: int, taps: Sequence[int], offsets: Sequence[int]) -> Dim:
    many = len(taps)
    numbers, shifts = (ctypes.c_int64 * max(many, 1))(*taps), (ctypes.c_int64 * max(many, 1))(*offsets)
    made = Dim(count, first, step, jump, many, ctypes.addressof(numbers), ctypes.addressof(shifts))
    made.kept = (numbers, shifts)  # a structure holds addresses, not what is there
    return made


def _walks(of: Iterable[Sequence[Dim]], win: Window) -> Walks:
    each = [tuple(dims) for dims in of]
    made = (Walk * len(each))(*(Walk(*dims, *win.kernel[1:]) for dims in each))
    made.kept = each  # type: ignore[attr-defined]  # the copies in the array do not keep what their dims point to
    return made
