"""The linear layer of a block: x (N, C), w (K, C), y (N, K), by matrix products."""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.pointwise import add_bias


def forward(engine: Engine, x: Array, w: Array, *, bias: Array | None = None, relu: bool = False) -> Array:
    """Return x w^T, plus bias (K,) if given, rectified if asked: (N, K)."""
    y = engine.empty((x.shape[0], w.shape[0]), x.dtype)
    np.matmul(x, w.T, out=y)
    return add_bias(engine, y, bias, relu=relu)


def backward_data(engine: Engine, dy: Array, w: Array) -> Array:
    """Return the gradient by x, dy w: (N, C)."""
    dx = engine.empty((dy.shape[0], w.shape[1]), dy.dtype)
    return np.matmul(dy, w, out=dx)


def backward_weights(engine: Engine, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None:
    """Add the gradient by w, dy^T x, to dw (K, C), or replace dw by it."""
    if not add:
        np.matmul(dy.T, x, out=dw)
    else:
        found = engine.empty(dw.shape, dw.dtype)
        dw += np.matmul(dy.T, x, out=found)
