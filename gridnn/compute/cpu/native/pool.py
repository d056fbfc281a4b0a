"""Pooling by the compiled kernels, and sums over the whole space of a block.

Blocks x, dx (N, C, *S) and y, dy (N, C, *O) `fits`, S of one to three dims; outputs are given, and every element
of them is written.  Windows, ties, NaN and padding are those of the NumPy reference; negative pads crop.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np

from gridnn.compute.cpu.native.library import Array, Library, array

Ints = Sequence[int]

_Twelve = ctypes.c_int64 * 12


def max_forward(
    lib: Library,
    x: Array,
    y: Array,
    saved: Array,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
) -> None:
    """Set y to the maximum of each window, and saved to which window element it was.

    Parameters
    ----------
    y : (N, C, *O), -inf for a window of padding only; a NaN in a window makes its maximum NaN.
    saved : (N, C, *O) uint8, channels at unit stride: flat index in the window.
    kernel, stride, dilation, pad_lo, pad_hi : one integer a spatial dim; pad_hi is implied by O.

    Raises
    ------
    ValueError
        Where the window has more than 256 elements, or saved is not uint8 with channels at unit stride.
    """
    if y.size:
        _check_saved(saved, y, kernel)
        lib.kernel("pool_max_forward", y.dtype)(
            array(x), array(y), array(saved), _window(kernel, stride, dilation, pad_lo)
        )


def max_backward(
    lib: Library,
    dy: Array,
    saved: Array,
    dx: Array,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
) -> None:
    """Set dx to the gradient of `max_forward`: each dy added to the element that won its window.

    Raises
    ------
    ValueError
        As `max_forward`.
    """
    if dx.size:
        _check_saved(saved, dy, kernel)
        lib.kernel("pool_max_backward", dx.dtype)(
            array(dy), array(saved), array(dx), _window(kernel, stride, dilation, pad_lo)
        )


def average_forward(
    lib: Library,
    x: Array,
    y: Array,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    count_pad: bool,
) -> None:
    """Set y to the mean of each window; `count_pad` tells whether padding counts as zeros that were averaged."""
    if y.size:
        lib.kernel("pool_average_forward", y.dtype)(
            array(x), array(y), _window(kernel, stride, dilation, pad_lo), count_pad
        )


def average_backward(
    lib: Library,
    dy: Array,
    dx: Array,
    *,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    count_pad: bool,
) -> None:
    """Set dx to the gradient of `average_forward` by x."""
    if dx.size:
        lib.kernel("pool_average_backward", dx.dtype)(
            array(dy), array(dx), _window(kernel, stride, dilation, pad_lo), count_pad
        )


def sum_space(lib: Library, x: Array, y: Array) -> None:
    """Set y (N, C) to the sum of x over all spatial dims; runs of 64 positions are added up in float64."""
    if x.size:
        lib.kernel("pool_sum_space", x.dtype)(array(x), array(y))
    else:
        y[...] = 0


def spread_space(lib: Library, dy: Array, dx: Array) -> None:
    """Set dx to dy (N, C) at every position: the adjoint of `sum_space`."""
    if dx.size:
        lib.kernel("pool_spread_space", dx.dtype)(array(dy), array(dx))


def _window(kernel: Ints, stride: Ints, dilation: Ints, pad_lo: Ints) -> ctypes.Array[ctypes.c_int64]:
    """Return the window as a kernel sees it: four integers of d, h and w each; missing dims are the first."""
    return _twelve(tuple(kernel), tuple(stride), tuple(dilation), tuple(pad_lo))


@lru_cache(maxsize=4096)
def _twelve(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], pad_lo: tuple[int, ...]
) -> ctypes.Array[ctypes.c_int64]:
    missing = 3 - len(kernel)
    ones, zeros = (1,) * missing, (0,) * missing
    return _Twelve(*ones, *kernel, *ones, *stride, *ones, *dilation, *zeros, *pad_lo)


def _check_saved(saved: Array, y: Array, kernel: Ints) -> None:
    if prod(kernel) > 256:
        raise ValueError(f"a window of {prod(kernel)} elements: the compiled pooling saves indices up to 255")
    unit = saved.size == 0 or saved.shape[1] == 1 or saved.strides[1] == 1
    if saved.dtype != np.uint8 or saved.shape != y.shape or not unit:
        raise ValueError("saved must be uint8, of the shape of the output, with channels at unit stride")
