"""Pooling of a block over windows and over all of space.

x (N, C, *S), y (N, C, *O).  Global maxima are the reference's; the window index `saved` is what max pooling keeps.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array, empty
from gridnn.compute.cpu.native import pool as native
from gridnn.compute.cpu.native.library import Library
from gridnn.compute.cpu.reference import pool as reference
from gridnn.compute.cpu.window import Window


def max_forward(engine: Engine, x: Array, window: Window, out: Array | None = None) -> tuple[Array, Array]:
    """Return the maximum of each window and which of the window's elements it was."""
    lib, shape = _library(engine, x, window), (*x.shape[:2], *window.outs(x.shape[2:]))
    y = engine.empty(shape, x.dtype) if out is None else out
    if lib is None:
        y[...], saved = reference.max_forward(x, kernel=window.kernel, **window.keywords)
        return y, saved
    saved = engine.empty(shape, np.uint8)
    native.max_forward(lib, engine.fitted(x), y, saved, kernel=window.kernel, **window.keywords)
    return y, saved


def max_backward(engine: Engine, dy: Array, saved: Array, window: Window, x_shape: tuple[int, ...]) -> Array:
    """Return the gradient by x: each dy added to the element that won its window."""
    dx, lib = engine.empty(x_shape, dy.dtype), _library(engine, dy, window)
    if lib is None or not dx.size:
        dx[...] = reference.max_backward(dy, saved, x_shape, kernel=window.kernel, **window.keywords)
    else:
        native.max_backward(lib, engine.fitted(dy), saved, dx, kernel=window.kernel, **window.keywords)
    return dx


def average_forward(
    engine: Engine, x: Array, window: Window, *, count_pad: bool, out: Array | None = None
) -> Array:
    """Return the mean of each window, over the real elements or over all of it."""
    lib = _library(engine, x, window)
    y = engine.empty((*x.shape[:2], *window.outs(x.shape[2:])), x.dtype) if out is None else out
    if lib is None or not y.size:
        y[...] = reference.average_forward(x, kernel=window.kernel, **window.keywords, count_pad=count_pad)
    else:
        native.average_forward(
            lib, engine.fitted(x), y, kernel=window.kernel, **window.keywords, count_pad=count_pad
        )
    return y


def average_backward(
    engine: Engine, dy: Array, window: Window, x_shape: tuple[int, ...], *, count_pad: bool
) -> Array:
    """Return the gradient by x."""
    dx, lib = engine.empty(x_shape, dy.dtype), _library(engine, dy, window)
    if lib is None or not dx.size:
        dx[...] = reference.average_backward(
            dy, x_shape, kernel=window.kernel, **window.keywords, count_pad=count_pad
        )
    else:
        native.average_backward(
            lib, engine.fitted(dy), dx, kernel=window.kernel, **window.keywords, count_pad=count_pad
        )
    return dx


def sum_space(engine: Engine, x: Array) -> Array:
    """Return the sum over all spatial dims: (N, C)."""
    lib = engine.library(x.dtype)
    if lib is None or not x.size:
        return reference.sum_space(x)
    y = empty(x.shape[:2], x.dtype)
    native.sum_space(lib, engine.fitted(x), y)
    return y


def spread_space(engine: Engine, dy: Array, x_shape: tuple[int, ...]) -> Array:
    """Return dy (N, C) copied to every element of space."""
    dx, lib = engine.empty(x_shape, dy.dtype), engine.library(dy.dtype)
    if lib is None or not dx.size:
        dx[...] = reference.spread_space(dy, x_shape)
    else:
        native.spread_space(lib, engine.fitted(dy), dx)
    return dx


def max_space(engine: Engine, x: Array) -> tuple[Array, Array]:
    """Return the maximum over all spatial dims (N, C), and the flat index of the first one in the block's space.

    An empty space gives -inf and index -1.
    """
    return reference.max_space(x)


def max_space_backward(engine: Engine, dy: Array, local_index: Array, x_shape: tuple[int, ...]) -> Array:
    """Return the gradient by x: dy (N, C) at the local index; -1 is a maximum that lies elsewhere."""
    dx = engine.empty(x_shape, dy.dtype)
    dx[...] = reference.max_space_backward(dy, local_index, x_shape)
    return dx


def _library(engine: Engine, x: Array, window: Window) -> Library | None:
    return engine.library(x.dtype) if prod(window.kernel) <= 256 else None
