"""The linear layer of a block: x (N, C), w (K, C), y (N, K), by matrix products of BLAS (through NumPy) or oneDNN."""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.choice import Provider
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.onednn import linear as onednn
from gridnn.compute.cpu.onednn.library import Library as OneDnn
from gridnn.compute.cpu.pointwise import add_bias


def forward(engine: Engine, x: Array, w: Array, *, bias: Array | None = None, relu: bool = False) -> Array:
    """Return x w^T, plus bias (K,) if given, rectified if asked: (N, K)."""
    y = engine.empty((x.shape[0], w.shape[0]), x.dtype)
    key = ("linear", x.dtype, x.shape, w.shape)
    engine.choice.run(key, _forward, (engine, x, w, y), (x, w, y, bias, relu))
    return y


def backward_data(engine: Engine, dy: Array, w: Array) -> Array:
    """Return the gradient by x, dy w: (N, C)."""
    dx = engine.empty((dy.shape[0], w.shape[1]), dy.dtype)
    key = ("linear data", dy.dtype, dy.shape, w.shape)
    engine.choice.run(key, _data, (engine, dy, w, dx), (dy, w, dx))
    return dx


def backward_weights(engine: Engine, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None:
    """Add the gradient by w, dy^T x, to dw (K, C), or replace dw by it."""
    target = engine.empty(dw.shape, dw.dtype) if add else dw
    key = ("linear weights", x.dtype, x.shape, dw.shape)
    engine.choice.run(key, _weights, (engine, x, dy, target), (x, dy, target))
    if add:
        dw += target


def _forward(e: Engine, x: Array, w: Array, y: Array) -> dict[str, Provider]:
    """Return who computes y for arrays like these; "numpy" is BLAS."""

    def by_blas(x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> None:
        np.matmul(x, w.T, out=y)
        add_bias(e, y, bias, relu=relu)

    lib = _onednn(e, x, w, y)
    if lib is None:
        return {"numpy": by_blas}
    return {
        "numpy": by_blas,
        "onednn": lambda x, w, y, bias, relu: _rows(x, w) and onednn.forward(lib, x, w, bias, y, relu=relu),
    }


def _data(e: Engine, dy: Array, w: Array, dx: Array) -> dict[str, Provider]:
    def by_blas(dy: Array, w: Array, dx: Array) -> None:
        np.matmul(dy, w, out=dx)

    lib = _onednn(e, dy, w, dx)
    if lib is None:
        return {"numpy": by_blas}
    return {
        "numpy": by_blas,
        "onednn": lambda dy, w, dx: _rows(dy, w) and onednn.backward_data(lib, dy, w, dx),
    }


def _weights(e: Engine, x: Array, dy: Array, dw: Array) -> dict[str, Provider]:
    def by_blas(x: Array, dy: Array, dw: Array) -> None:
        np.matmul(dy.T, x, out=dw)

    lib = _onednn(e, x, dy, dw)
    if lib is None:
        return {"numpy": by_blas}
    return {
        "numpy": by_blas,
        "onednn": lambda x, dy, dw: _rows(x, dy, dw) and onednn.backward_weights(lib, x, dy, dw),
    }


def _onednn(e: Engine, *arrays: Array) -> OneDnn | None:
    """Return oneDNN if it can compute with arrays of these shapes."""
    return e.onednn if all(a.size and a.dtype.char == "f" for a in arrays) else None


def _rows(*arrays: Array) -> bool:
    return all(a.flags.c_contiguous and a.dtype.char == "f" for a in arrays)
