"""Batch norm of a block, cut where statistics are summed over ranks.

    batch norm    moments -> [sum over ranks] -> apply          backward_sums -> [sum over ranks] -> backward_apply

A sum with another array and a rectifier after it are part of the same pass over memory.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.native import norm as native
from gridnn.compute.cpu.native.library import fits
from gridnn.compute.cpu.reference import activation
from gridnn.compute.cpu.reference import norm as reference

Statistics = native.Statistics  # mean and 1 / standard deviation, (C,) each or (2, C)


def moments(engine: Engine, x: Array, shift: Array) -> Array:
    """Return the sums of x - shift and of its square over samples and space: float64 (2, C)."""
    lib = engine.library(x.dtype)
    return reference.moments(x, shift) if lib is None else native.moments(lib, engine.fitted(x), shift)


def statistics(
    engine: Engine, sums: Array, count: int, mean: Array, variance: Array, momentum: float, eps: float
) -> Statistics:
    """Return those of the batch from the moments over all ranks; the running mean and variance move in place."""
    lib = engine.native
    if lib is None:
        return reference.statistics(sums, count, mean, variance, momentum, eps)
    return native.statistics(lib, sums, count, mean, variance, momentum, eps)


def apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, beta: Array, *, relu: bool = False,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return (x - mean) inv_std gamma + beta, rectified if asked."""
    y = engine.empty(x.shape, x.dtype) if out is None else out
    lib = engine.library(x.dtype)
    if lib is None:
        y[...] = reference.apply(x, statistics[0], statistics[1], gamma, beta)
        return np.maximum(y, 0, out=y) if relu else y
    native.apply(lib, engine.fitted(x), statistics, gamma, beta, y, relu=relu)
    return y


def backward_sums(
    engine: Engine, x: Array, statistics: Statistics, dy: Array, y: Array | None = None
) -> Array:
    """Return the sums of dy and dy xhat, the gradients of beta and gamma: float64 (2, C); y masks dy where given."""
    lib = engine.library(x.dtype)
    if lib is None:
        return reference.backward_sums(x, statistics[0], statistics[1], _masked(dy, y))
    x, dy, y = _fitted(engine, x, dy, y)
    return native.backward_sums(lib, x, y, statistics, dy)


def backward_apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array, sums: Array, count: int,
    y: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient by x, from the sums over all ranks and the elements a channel over all ranks."""
    lib = engine.library(x.dtype)
    if lib is None:
        mean, inv_std = statistics[0], statistics[1]
        return reference.backward_apply(x, mean, inv_std, gamma, _masked(dy, y), sums, count)
    dx = engine.empty(x.shape, x.dtype)
    x, dy, y = _fitted(engine, x, dy, y)
    native.backward_apply(lib, x, y, statistics, gamma, dy, sums, count, dx)
    return dx


def _fitted(engine: Engine, x: Array, dy: Array, y: Array | None) -> tuple[Array, Array, Array | None]:
    """Return the arrays as kernels take them, of the dtype of x; one look at all of them is what most calls need."""
    if fits(x, dy) if y is None else fits(x, dy, y):
        return x, dy, y
    return engine.fitted(x), engine.fitted(dy, x), None if y is None else engine.fitted(y, x)


def _masked(dy: Array, y: Array | None) -> Array:
    return dy if y is None else activation.backward("relu", None, y, dy)
