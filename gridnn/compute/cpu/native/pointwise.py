"""Elementwise operations by the compiled kernels: rectifier, sums, bias, copies between layouts.

Blocks are (N, C, *S) that `fits`, all of one dtype; outputs are given and overwritten.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.native.library import Array, Library, array


def relu(lib: Library, x: Array, y: Array) -> None:
    """Set y to max(x, 0), where a NaN stays; y may be x."""
    if x.size:
        lib.kernel("relu", x.dtype)(array(x), array(y))


def relu_backward(lib: Library, y: Array, dy: Array, dx: Array) -> None:
    """Set dx to dy where y > 0 and to 0 elsewhere; dx may be dy."""
    if y.size:
        lib.kernel("relu_backward", y.dtype)(array(y), array(dy), array(dx))


def add(lib: Library, a: Array, b: Array, y: Array, relu: bool = False) -> None:
    """Set y to a + b, or to max(a + b, 0); y may be a or b."""
    if y.size:
        lib.kernel("add", y.dtype)(array(a), array(b), array(y), relu)


def bias(lib: Library, y: Array, b: Array, relu: bool = False) -> None:
    """Add b (K,) to y (N, K, *S) in place, then take max(y, 0) if asked."""
    if y.size:
        values = np.ascontiguousarray(b, y.dtype)
        lib.kernel("bias", y.dtype)(array(y), array(values), relu)


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
    assert db.dtype == dy.dtype and db.flags.c_contiguous, "db is contiguous, of the dtype of dy"
    lib.kernel("bias_gradient", dy.dtype)(array(dy), array(y), array(dx), array(db))


def copy(lib: Library, x: Array, y: Array) -> None:
    """Set y to x: two arrays of one shape, of up to five dims, that do not overlap.

    Their strides are free, so this turns N, C, *S memory into channels-last memory and back.
    """
    assert x.shape == y.shape, f"a copy from {x.shape} to {y.shape}"
    if x.size:
        lib.kernel("copy", x.dtype)(array(x), array(y))
