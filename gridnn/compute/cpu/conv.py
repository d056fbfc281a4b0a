"""Convolution of a block: forward and both gradients, by the provider that suits the shape.

x (N, C, *S), w (K, C / groups, *R), y (N, K, *O); channels innermost in memory, weights K, R, C.  Transposed convolution
is `backward_data` read forwards.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.native import conv as native
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window


def forward(
    engine: Engine, x: Array, w: Array, window: Window, *, groups: int = 1, bias: Array | None = None,
    relu: bool = False, out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the convolution of x with w, plus bias (K,) if given, rectified if asked.

    Parameters
    ----------
    out
        Where the result goes, of shape (N, K, *O) and with channels innermost; a new array if None.
    """
    y = engine.empty((x.shape[0], w.shape[0], *window.outs(x.shape[2:])), x.dtype) if out is None else out
    lib = engine.library(x.dtype)
    if y.size == 0:
        return y
    if lib is None or x.size == 0 or w.size == 0:
        y[...] = reference.forward(x, w, **window.keywords, groups=groups)
        if bias is not None:
            reference.add_bias(y, bias)
        if relu:
            np.maximum(y, 0, out=y)
        return y
    native.forward(lib, engine.work, _ready(engine, x, window, groups), engine.fitted(w), y, native.window(window),
                   groups=groups, bias=bias, relu=relu)  # fmt: skip
    return y


def backward_data(
    engine: Engine, dy: Array, w: Array, window: Window, x_shape: tuple[int, ...], *, groups: int = 1,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient of `forward` by x: (N, C, *S); elements that no window touched get zero."""
    dx = engine.empty(x_shape, dy.dtype) if out is None else out
    lib = engine.library(dy.dtype)
    if dx.size == 0:
        return dx
    if lib is None or dy.size == 0 or w.size == 0:
        dx[...] = reference.backward_data(dy, w, x_shape, **window.keywords, groups=groups)
        return dx
    native.backward_data(
        lib, engine.work, engine.fitted(dy), engine.fitted(w), dx, native.window(window), groups=groups
    )
    return dx


def backward_weights(
    engine: Engine, x: Array, dy: Array, window: Window, dw: Array, *, groups: int = 1, add: bool = True
) -> None:
    """Add the gradient of `forward` by w to dw (K, C / groups, *R), or replace dw by it."""
    lib = engine.library(x.dtype)
    if dw.size == 0:
        return
    if lib is None or dy.size == 0 or x.size == 0:
        found = reference.backward_weights(x, dy, dw.shape, **window.keywords, groups=groups)
        dw[...] = dw + found if add else found
        return
    native.backward_weights(lib, engine.work, _ready(engine, x, window, groups), engine.fitted(dy), dw,
                            native.window(window), groups=groups, add=add)  # fmt: skip


def _ready(engine: Engine, x: Array, window: Window, groups: int) -> Array:
    """Return x as the kernels read it; where it is framed anyway, the frame is filled from any memory order."""
    return x if native.merges(x.shape[1], native.window(window), groups) else engine.fitted(x)
