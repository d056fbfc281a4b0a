"""The linear layer of a block: x (N, C), w (K, C), y (N, K), by matrix products of BLAS (through NumPy) or oneDNN."""

from __future__ import annotations

from collections.abc import Mapping

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
    key, given = ("linear", x.dtype.char, x.shape, w.shape), (engine, x, w, y, bias, relu)
    engine.choice.run(key, _FORWARD, lambda: _able(engine, x, w, y), given)
    return y


def backward_data(engine: Engine, dy: Array, w: Array) -> Array:
    """Return the gradient by x, dy w: (N, C)."""
    dx = engine.empty((dy.shape[0], w.shape[1]), dy.dtype)
    key = ("linear data", dy.dtype.char, dy.shape, w.shape)
    engine.choice.run(key, _DATA, lambda: _able(engine, dy, w, dx), (engine, dy, w, dx))
    return dx


def backward_weights(engine: Engine, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None:
    """Add the gradient by w, dy^T x, to dw (K, C), or replace dw by it."""
    target = engine.empty(dw.shape, dw.dtype) if add else dw
    key = ("linear weights", x.dtype.char, x.shape, dw.shape)
    engine.choice.run(key, _WEIGHTS, lambda: _able(engine, x, dy, dw), (engine, x, dy, target))
    if add:
        dw += target


def _able(engine: Engine, *arrays: Array) -> tuple[str, ...]:
    """Return who can compute with arrays of these shapes; "numpy" is BLAS."""
    fit = engine.onednn is not None and all(a.size and a.dtype.char == "f" for a in arrays)
    return ("numpy", "onednn") if fit else ("numpy",)


def _numpy_forward(e: Engine, x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> None:
    np.matmul(x, w.T, out=y)
    add_bias(e, y, bias, relu=relu)


def _numpy_data(e: Engine, dy: Array, w: Array, dx: Array) -> None:
    np.matmul(dy, w, out=dx)


def _numpy_weights(e: Engine, x: Array, dy: Array, dw: Array) -> None:
    np.matmul(dy.T, x, out=dw)


def _onednn_forward(e: Engine, x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> bool:
    return _rows(x, w) and onednn.forward(_lib(e), x, w, bias, y, relu=relu)


def _onednn_data(e: Engine, dy: Array, w: Array, dx: Array) -> bool:
    return _rows(dy, w) and onednn.backward_data(_lib(e), dy, w, dx)


def _onednn_weights(e: Engine, x: Array, dy: Array, dw: Array) -> bool:
    return _rows(x, dy, dw) and onednn.backward_weights(_lib(e), x, dy, dw)


def _rows(*arrays: Array) -> bool:
    return all(a.flags.c_contiguous and a.dtype.char == "f" for a in arrays)


def _lib(e: Engine) -> OneDnn:
    assert e.onednn is not None
    return e.onednn


_FORWARD: Mapping[str, Provider] = {"numpy": _numpy_forward, "onednn": _onednn_forward}
_DATA: Mapping[str, Provider] = {"numpy": _numpy_data, "onednn": _onednn_data}
_WEIGHTS: Mapping[str, Provider] = {"numpy": _numpy_weights, "onednn": _onednn_weights}
