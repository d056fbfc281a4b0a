"""Winograd."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import Workspace
from gridnn.compute.cpu.native.library import Library, block

Array = NDArray[Any]


def _scratch(lib, work, x, w, y):
    n = ctypes.c_int64()
    lib.kernel("winograd_scratch", x.dtype)(ctypes.byref(block(x)), ctypes.byref(block(w)), ctypes.byref(block(y)), ctypes.byref(n))
    return work.take("winograd", n.value, x.dtype)


def forward(lib, work, x, w, y, *, pad_lo, bias=None, relu=False):
    scratch = _scratch(lib, work, x, w, y)
    _call(lib, x, w, bias, y, pad_lo, relu, False, scratch)


def _call(lib, x, w, bias, y, pad_lo, relu, mirrored, scratch):
    i = ctypes.c_int64
    lib.kernel("winograd_forward", x.dtype)(
        ctypes.byref(block(x)), ctypes.byref(block(w)), ctypes.c_void_p(bias.ctypes.data if bias is not None else None),
        ctypes.byref(block(y)), i(pad_lo[0]), i(pad_lo[1]), i(relu), i(mirrored), ctypes.c_void_p(scratch.ctypes.data))


def backward_data(lib, work, dy, w, dx, *, pad_lo):
    scratch = _scratch(lib, work, dx, w, dy)
    r = w.shape[2] - 1
    _call(lib, dy, w, None, dx, (r - pad_lo[0], r - pad_lo[1]), False, True, scratch)


def backward_weights(lib, work, x, dy, dw, *, pad_lo, add=False):
    scratch = _scratch(lib, work, x, dw, dy)
    i = ctypes.c_int64
    lib.kernel("winograd_weights", x.dtype)(
        ctypes.byref(block(x)), ctypes.byref(block(dy)), ctypes.byref(block(dw)), i(pad_lo[0]), i(pad_lo[1]), i(add),
        ctypes.c_void_p(scratch.ctypes.data))
