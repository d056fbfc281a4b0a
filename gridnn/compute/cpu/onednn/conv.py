"""Convolution in 1, 2 or 3 dims by oneDNN, for dense channels-last float32 blocks.

Every function writes into the array given for its result and returns True, or touches nothing and
returns False where another engine is to be asked: a dtype other than float32, an empty array, an array
that is not dense channels-last, a window for which oneDNN has only reference loops. A block amid a
buffer with margins is not dense, but the buffer is: where the margins are as wide as the pads, convolve
the buffer and pad nothing.

Where the operands of the library are bfloat16, the factors are rounded to it on their way into a product
(see stage); bias, sums and results are float32 as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn.conv_plan import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    Plan,
    Window,
    compiled,
)
from gridnn.compute.cpu.onednn.library import Library

Array = NDArray[np.floating]
Ints = Sequence[int]

_ABSENT = object()


def forward(
    lib: Library,
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
    relu: bool = False,
) -> bool:
    """Write the convolution (cross-correlation) of x, with bias and relu if wanted, into y.

    Parameters
    ----------
    x : (N, C, *S), dense channels-last; with negative pads the cropped part of it must be dense
    w : (K, C / groups, *R), dense in memory order K, *R, C / groups
    bias : (K,) or None
    y : (N, K, *O), dense channels-last
    stride, dilation, pad_lo, pad_hi : one integer a spatial dim; negative pads crop.
    relu : replace negative results by zero.

    Returns
    -------
    Whether oneDNN did it; if not, y is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, FORWARD, x, w, y, bias, relu, window)
    if plan is None:
        return False
    addresses = (x.ctypes.data + plan.offset, w.ctypes.data, y.ctypes.data)
    if bias is None:
        plan.run(*addresses)
    else:
        plan.run(*addresses, bias.ctypes.data)
    return True


def backward_data(
    lib: Library,
    dy: Array,
    w: Array,
    dx: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> bool:
    """Write the gradient of `forward` by x into dx, which is what transposed convolution computes.

    Parameters
    ----------
    dy : (N, K, *O), dense channels-last
    dx : (N, C, *S), as x of `forward`; elements that no window touched get zero
    w, stride, dilation, pad_lo, pad_hi, groups : as in `forward`.

    Returns
    -------
    Whether oneDNN did it; if not, dx is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, BACKWARD_DATA, dx, w, dy, None, False, window)
    if plan is None:
        return False
    if plan.partial:
        dx[...] = 0
    plan.run(dx.ctypes.data + plan.offset, w.ctypes.data, dy.ctypes.data)
    return True


def backward_weights(
    lib: Library,
    x: Array,
    dy: Array,
    dw: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> bool:
    """Write the gradient of `forward` by w, summed over samples and positions, into dw.

    Parameters
    ----------
    x, dy : as x and y of `forward`
    dw : (K, C / groups, *R), as w of `forward`
    stride, dilation, pad_lo, pad_hi, groups : as in `forward`.

    Returns
    -------
    Whether oneDNN did it; if not, dw is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, BACKWARD_WEIGHTS, x, dw, dy, None, False, window)
    if plan is None:
        return False
    plan.run(x.ctypes.data + plan.offset, dw.ctypes.data, dy.ctypes.data)
    return True


def _plan(
    lib: Library,
    operation: str,
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    window: Window,
) -> Plan | None:
    """The plan of a convolution of x, w and y or of their gradients, compiled when their shapes are first met."""
    key = (
        operation, x.dtype, x.shape, x.strides, w.dtype, w.shape, w.strides, y.dtype, y.shape, y.strides,
        bias is None or (bias.dtype, bias.shape, bias.strides), relu, window,
    )  # fmt: skip
    plan: Plan | None = lib.plans.get(key, _ABSENT)
    if plan is _ABSENT:
        plan = lib.plans[key] = compiled(lib, operation, x, w, y, bias, relu, window)
    return plan
