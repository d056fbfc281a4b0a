"""Elementwise operations by the compiled kernels: rectifier, sums, bias, copies between layouts.

Blocks are (N, C, *S) that `fits`, all of one dtype; outputs are given and overwritten.
"""

from __future__ import annotations

import ctypes

import numpy as np

from gridnn.compute.cpu.native.library import Array, Library, block, pointer

_Five = ctypes.c_int64 * 5


def relu(lib: Library, x: Array, y: Array) -> None:
    """Set y to max(x, 0), where a NaN stays; y may be x."""
    if x.size:
        lib.kernel("relu", x.dtype)(ctypes.byref(block(x)), ctypes.byref(block(y)))


def relu_backward(lib: Library, y: Array, dy: Array, dx: Array) -> None:
    """Set dx to dy where y > 0 and to 0 elsewhere; dx may be dy."""
    if y.size:
        lib.kernel("relu_backward", y.dtype)(
            ctypes.byref(block(y)), ctypes.byref(block(dy)), ctypes.byref(block(dx))
        )


def add(lib: Library, a: Array, b: Array, y: Array, relu: bool = False) -> None:
    """Set y to a + b, or to max(a + b, 0); y may be a or b."""
    if y.size:
        lib.kernel("add", y.dtype)(
            ctypes.byref(block(a)), ctypes.byref(block(b)), ctypes.byref(block(y)), int(relu)
        )


def bias(lib: Library, y: Array, b: Array, relu: bool = False) -> None:
    """Add b (K,) to y (N, K, *S) in place, then take max(y, 0) if asked."""
    if y.size:
        values = np.ascontiguousarray(b, y.dtype)
        lib.kernel("bias", y.dtype)(ctypes.byref(block(y)), pointer(values), int(relu))


def bias_gradient(
    lib: Library, dy: Array, db: Array, y: Array | None = None, dx: Array | None = None
) -> None:
    """Add the sums of dy over all dims but channels to db.

    Parameters
    ----------
    dy : (N, K, *S)
    db : (K,) contiguous, of the dtype of dy; the sums are made in float64.
    y : (N, K, *S) output of a rectifier after the bias, or None; dy counts only where y > 0.
    dx : (N, K, *S) the masked dy; given exactly where y is, may be dy.
    """
    if not dy.size:
        return
    assert (y is None) == (dx is None), "the masked gradient goes with the output that masks it"
    sums = np.zeros(db.shape)
    lib.kernel("bias_gradient", dy.dtype)(
        ctypes.byref(block(dy)),
        None if y is None else ctypes.byref(block(y)),
        None if dx is None else ctypes.byref(block(dx)),
        pointer(sums),
    )
    db += sums.astype(db.dtype)


def copy(lib: Library, x: Array, y: Array) -> None:
    """Set y to x: two arrays of one shape, of up to five dims, that do not overlap.

    Their strides are free, so this turns N, C, *S memory into channels-last memory and back.
    """
    assert x.shape == y.shape, f"a copy from {x.shape} to {y.shape}"
    if not x.size:
        return
    size, more = x.itemsize, (1,) * (5 - x.ndim)
    lib.kernel("copy", x.dtype)(
        pointer(x), pointer(y), _Five(*x.shape, *more),
        _Five(*(s // size for s in x.strides)), _Five(*(s // size for s in y.strides)),
    )  # fmt: skip
