"""Winograd convolution by own kernels (kernels/cpu/winograd.c): windows of 3 x 3 and 5 x 5, stride 1.

Four or nearly three times fewer products than a direct convolution, for transforms that grow with the channels:

    window    output tile    products an output    direct
    3 x 3     4 x 4          36 / 16 = 2.25        9
    5 x 5     2 x 2          36 / 4  = 9           25

A tile that hangs over the edge of the output costs as much as a whole one.  The price is rounding: in float32
errors reach 4e-6 of the largest result where those of a direct sum reach 6e-7 (tests/compute/test_winograd.py).

As in `conv`, each function is told the shapes and returns the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import Workspace
from gridnn.compute.cpu.native.library import Library, array

Array = NDArray[Any]
Pass = Callable[..., None]

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


def forward(lib: Library, work: Workspace, x: Array, w: Array, y: Array, *, pad_lo: Sequence[int]) -> Pass:
    """Return the convolution of arrays like x (N, C, H, W) with w (K, C, R, R), to y (N, K, *O).

    The pass takes x, w, y, a bias (K,) or None, and whether to rectify.  All are channels-last in memory, with any
    outer strides.  The pads behind x are what the extents of y ask for; negative pads crop.
    """
    kernel, room, (high, wide) = lib.kernel("winograd_forward", x.dtype), _room(lib, work, x.dtype), pad_lo

    def compute(x: Array, w: Array, y: Array, bias: Array | None = None, relu: bool = False) -> None:
        scratch = room(x, w, y)
        kernel(array(x), array(w), array(bias), array(y), high, wide, relu, False, array(scratch))

    return compute


def backward_data(
    lib: Library, work: Workspace, dy: Array, w: Array, dx: Array, *, pad_lo: Sequence[int]
) -> Pass:
    """Return the gradient of `forward` by x, of dy, w, dx; elements of dx that no window touched get zero."""
    kernel, room = lib.kernel("winograd_forward", dy.dtype), _room(lib, work, dy.dtype)
    high, wide = (r - 1 - p for r, p in zip(w.shape[2:], pad_lo, strict=True))

    def compute(dy: Array, w: Array, dx: Array) -> None:
        scratch = room(dx, w, dy)
        kernel(array(dy), array(w), None, array(dx), high, wide, False, True, array(scratch))

    return compute


def backward_weights(
    lib: Library, work: Workspace, x: Array, dy: Array, dw: Array, *, pad_lo: Sequence[int]
) -> Pass:
    """Return the gradient of `forward` by w: of x, dy, dw (K, C, R, R), and whether to add it to dw."""
    kernel, room, (high, wide) = lib.kernel("winograd_weights", x.dtype), _room(lib, work, x.dtype), pad_lo

    def compute(x: Array, dy: Array, dw: Array, add: bool = False) -> None:
        scratch = room(x, dw, dy)
        kernel(array(x), array(dy), array(dw), high, wide, add, array(scratch))

    return compute


def _room(lib: Library, work: Workspace, dtype: np.dtype[Any]) -> Callable[[Array, Array, Array], Array]:
    """Return what gives the scratch for x, w and y; how much that is depends on the threads at the time of a call."""
    elements = lib.kernel("winograd_scratch", dtype)
    return lambda x, w, y: work.take("winograd", elements(array(x), array(w), array(y)), dtype)
