"""The linear layer of a block: x (N, C), w (K, C), y (N, K), by matrix products of BLAS (through NumPy) or oneDNN."""

from __future__ import annotations

from functools import partial

import numpy as np

from gridnn.compute.cpu.choice import Candidate
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.onednn import linear as onednn
from gridnn.compute.cpu.onednn.library import Library as OneDnn
from gridnn.compute.cpu.pointwise import add_bias


def forward(engine: Engine, x: Array, w: Array, *, bias: Array | None = None, relu: bool = False) -> Array:
    """Return x w^T, plus bias (K,) if given, rectified if asked: (N, K)."""
    y = engine.empty((x.shape[0], w.shape[0]), x.dtype)

    def blas() -> None:
        np.matmul(x, w.T, out=y)
        add_bias(engine, y, bias, relu=relu)

    found: dict[str, Candidate] = {"blas": blas}
    if (other := _other(engine, x, w)) is not None:
        found["onednn"] = partial(onednn.forward, other, x, w, bias, y, relu=relu)
    engine.choice.run(("linear", x.dtype.char, x.shape, w.shape), found, "blas")
    return y


def backward_data(engine: Engine, dy: Array, w: Array) -> Array:
    """Return the gradient by x, dy w: (N, C)."""
    dx = engine.empty((dy.shape[0], w.shape[1]), dy.dtype)
    found: dict[str, Candidate] = {"blas": partial(_product, dy, w, dx)}
    if (other := _other(engine, dy, w)) is not None:
        found["onednn"] = partial(onednn.backward_data, other, dy, w, dx)
    engine.choice.run(("linear data", dy.dtype.char, dy.shape, w.shape), found, "blas")
    return dx


def backward_weights(engine: Engine, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None:
    """Add the gradient by w, dy^T x, to dw (K, C), or replace dw by it."""
    target = engine.empty(dw.shape, dw.dtype) if add else dw
    found: dict[str, Candidate] = {"blas": partial(_product, dy.T, x, target)}
    if (other := _other(engine, x, dy, dw)) is not None:
        found["onednn"] = partial(onednn.backward_weights, other, x, dy, target)
    engine.choice.run(("linear weights", x.dtype.char, x.shape, dw.shape), found, "blas")
    if add:
        dw += target


def _product(a: Array, b: Array, out: Array) -> None:
    np.matmul(a, b, out=out)


def _other(engine: Engine, *arrays: Array) -> OneDnn | None:
    """Return oneDNN where it can compute with these arrays."""
    fit = all(a.size and a.dtype.char == "f" and a.flags.c_contiguous for a in arrays)
    return engine.onednn if fit else None
