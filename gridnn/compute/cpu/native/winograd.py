"""Winograd convolution by own kernels (kernels/cpu/winograd.c): windows of 3 x 3 and 5 x 5, stride 1.

Four or nearly three times fewer products than a direct convolution, for transforms that grow with the channels:

    window    output tile    products an output    direct
    3 x 3     4 x 4          36 / 16 = 2.25        9
    5 x 5     2 x 2          36 / 4  = 9           25

A tile that hangs over the edge of the output costs as much as a whole one.  The price is rounding: in float32
errors reach 4e-6 of the largest result where those of a direct sum reach 6e-7 (tests/compute/test_winograd.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import Workspace
from gridnn.compute.cpu.native.library import Block, Library, block

Array = NDArray[Any]

WINDOWS = ((3, 3), (5, 5))
"""Windows the kernels know."""

LEAST_CHANNELS = 8
"""Fewest channels, in and out, for which vectors over channels are filled."""

WINDOW_PRODUCTS = 500
"""What it costs to transform a window, in products for the same channels (AVX2: 460)."""

WEIGHTS_PRODUCTS = 900
"""What it costs to hold, and transform back, the gradient at 36 points."""


def supports(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> bool:
    """Whether these kernels can do a convolution of x (N, C, *S) with w (K, C / groups, *R)."""
    plain = all(s == 1 for s in stride) and all(d == 1 for d in dilation) and groups == 1
    return plain and len(x_shape) == 4 and tuple(w_shape[2:]) in WINDOWS


def pays(w_shape: Sequence[int], y_shape: Sequence[int], *, weights: bool = False) -> bool:
    """Whether these kernels are faster than direct ones for an output y (or, for data, dx): measured, not exact.

    Counted in products for one pair of channels: 36 a tile, and about as many as WINDOW_PRODUCTS (WEIGHTS_PRODUCTS for
    the gradient by the weights) to transform the window, which few tiles do not repay.
    """
    r, (n, _, *space) = w_shape[2], y_shape
    side = 7 - r
    tiles = n * prod(-(-s // side) for s in space)
    fixed = WEIGHTS_PRODUCTS if weights else WINDOW_PRODUCTS
    return min(w_shape[:2]) >= LEAST_CHANNELS and 36 * tiles + fixed < r * r * n * prod(space)


def forward(
    lib: Library, work: Workspace, x: Array, w: Array, y: Array, *, pad_lo: Sequence[int],
    bias: Array | None = None, relu: bool = False,
) -> None:  # fmt: skip
    """Write the convolution of x (N, C, H, W) with w (K, C, R, R), plus bias, to y (N, K, *O); then relu.

    All are channels-last in memory, with any outer strides.  The pads behind x are what the extents of y ask for;
    negative pads crop.
    """
    xs, ws, ys = block(x), block(w), block(y)
    elements = _elements(lib, x.dtype, xs, ws, ys)
    _run(lib, work, x.dtype, xs, ws, ys, elements, pad_lo, bias, relu, mirrored=False)


def backward_data(
    lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, *, pad_lo: Sequence[int]
) -> None:
    """Write the gradient of `forward` by x to dx; elements that no window touched get zero."""
    dys, ws, dxs = block(dy), block(w), block(dx)
    elements = _elements(lib, dy.dtype, dxs, ws, dys)
    lo = [r - 1 - p for r, p in zip(w.shape[2:], pad_lo, strict=True)]
    _run(lib, work, dy.dtype, dys, ws, dxs, elements, lo, None, False, mirrored=True)


def backward_weights(
    lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, *, pad_lo: Sequence[int], add: bool = False
) -> None:
    """Write the gradient of `forward` by w to dw (K, C, R, R), or add it."""
    xs, dys, dws = block(x), block(dy), block(dw)
    scratch = work.take("winograd", _elements(lib, x.dtype, xs, dws, dys), x.dtype)
    lib.kernel("winograd_weights", x.dtype)(
        ctypes.byref(xs), ctypes.byref(dys), ctypes.byref(dws), *map(ctypes.c_int64, pad_lo),
        ctypes.c_int64(add), _address(scratch),
    )  # fmt: skip


def _run(
    lib: Library, work: Workspace, dtype: np.dtype[Any], x: Block, w: Block, y: Block, elements: int,
    pad_lo: Sequence[int], bias: Array | None, relu: bool, *, mirrored: bool,
) -> None:  # fmt: skip
    scratch = work.take("winograd", elements, dtype)
    lib.kernel("winograd_forward", dtype)(
        ctypes.byref(x), ctypes.byref(w), None if bias is None else _address(bias), ctypes.byref(y),
        *map(ctypes.c_int64, pad_lo), ctypes.c_int64(relu), ctypes.c_int64(mirrored), _address(scratch),
    )  # fmt: skip


def _elements(lib: Library, dtype: np.dtype[Any], x: Block, w: Block, y: Block) -> int:
    elements = ctypes.c_int64()
    kernel = lib.kernel("winograd_scratch", dtype)
    kernel(ctypes.byref(x), ctypes.byref(w), ctypes.byref(y), ctypes.byref(elements))
    return elements.value


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.__array_interface__["data"][0])
