"""Operations on each element: nonlinearities, sums, bias, dropout; any shape (N, C, *S)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.native import pointwise as native
from gridnn.compute.cpu.native.library import Library, fits
from gridnn.compute.cpu.reference import activation
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.random import Draw, dropout_mask

KEEPS = activation.FORWARD_KEEPS
"""What backward of each nonlinearity reads: its input "x" or its output "y"."""


def activate(engine: Engine, name: str, x: Array, *, out: Array | None = None) -> Array:
    """Return the nonlinearity `name` of x."""
    y = engine.empty(x.shape, x.dtype) if out is None else out
    if name == "relu" and (lib := _compiled(engine, x)):
        native.relu(lib, engine.fitted(x), y)
    else:
        y[...] = activation.forward(name, x)
    return y


def activate_backward(engine: Engine, name: str, kept: Array, dy: Array) -> Array:
    """Return the gradient by the input; `kept` is the input or the output, as KEEPS says."""
    dx = engine.empty(dy.shape, dy.dtype)
    if name == "relu" and (lib := _compiled(engine, dy)):
        native.relu_backward(lib, engine.fitted(kept, dy), engine.fitted(dy), dx)
    else:
        dx[...] = activation.backward(name, kept, kept, dy)
    return dx


def add(engine: Engine, arrays: Sequence[Array], *, relu: bool = False, out: Array | None = None) -> Array:
    """Return the sum of one or more arrays in their order, rectified if asked; `out` may be the first of them."""
    first, *others = arrays
    y = engine.empty(first.shape, first.dtype) if out is None else out
    lib = _compiled(engine, first)
    if lib is None or not others or not fits(y):
        if y is not first:
            y[...] = first
        for other in others:
            y += other
        return np.maximum(y, 0, out=y) if relu else y
    if not fits(*arrays):
        first, *others = (engine.fitted(a, first) for a in arrays)
    total = first
    for i, other in enumerate(others):
        native.add(lib, total, other, y, relu and i == len(others) - 1)
        total = y
    return y


def add_bias(engine: Engine, y: Array, bias: Array | None, *, relu: bool = False) -> Array:
    """Add bias (K,) to y (N, K, *S) in place, rectify if asked, and return y."""
    if bias is None and not relu:
        return y
    lib = _compiled(engine, y)
    if lib is None or not fits(y):
        if bias is not None:
            reference.add_bias(y, bias)
        return np.maximum(y, 0, out=y) if relu else y
    if bias is None:
        native.relu(lib, y, y)
    else:
        native.bias(lib, y, bias, relu)
    return y


def bias_gradient(engine: Engine, dy: Array, db: Array, y: Array | None = None) -> Array:
    """Add the sum of dy over all but channels to db (K,); return dy, masked by y > 0 first if y is given."""
    lib = _compiled(engine, dy)
    if lib is None:
        dy = dy if y is None else activation.backward("relu", None, y, dy)
        db += reference.bias_gradient(dy)
        return dy
    dy = engine.fitted(dy)
    dx = None if y is None else engine.empty(dy.shape, dy.dtype)
    native.bias_gradient(lib, dy, db, None if y is None else engine.fitted(y, dy), dx)
    return dy if dx is None else dx


def dropout_forward(engine: Engine, x: Array, draw: Draw) -> tuple[Array, Array | None]:
    """Return x times the mask of dropout, and what backward reads: the mask."""
    mask = dropout_mask(draw.seed, draw.stream, draw.shape, draw.box, draw.step, draw.rate, x.dtype)
    return np.multiply(x, mask, out=engine.empty(x.shape, x.dtype)), mask


def dropout_backward(engine: Engine, dy: Array, kept: Array | None, draw: Draw) -> Array:
    """Return dy times the mask of `dropout_forward`."""
    assert kept is not None, "forward kept the mask"
    return np.multiply(dy, kept, out=engine.empty(dy.shape, dy.dtype))


def _compiled(engine: Engine, x: Array) -> Library | None:
    return engine.library(x.dtype) if 2 <= x.ndim <= 5 else None
