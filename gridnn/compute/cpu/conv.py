"""Convolution of a block: forward and both gradients, by the provider that suits the shape.

x (N, C, *S), w (K, C / groups, *R), y (N, K, *O); channels innermost in memory, weights K, R, C.  Transposed
convolution is `backward_data` read forwards.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gridnn.compute.cpu.choice import Candidate
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array, innermost
from gridnn.compute.cpu.native import conv as native
from gridnn.compute.cpu.native import winograd
from gridnn.compute.cpu.onednn import conv as onednn
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
    x, w, win = _ready(engine, x, window, groups), engine.dense(w, x), native.window(window)
    found: dict[str, Candidate] = {
        "direct": partial(native.forward, lib, engine.work, x, w, y, win, groups=groups, bias=bias, relu=relu)
    }
    if tiles := winograd.supports(x.shape, w.shape, window.stride, window.dilation, groups):
        found["winograd"] = partial(
            winograd.forward, lib, engine.work, x, w, y, pad_lo=window.pad_lo, bias=bias, relu=relu
        )
    if (other := engine.onednn) is not None and x.dtype.char == "f":
        found["onednn"] = partial(
            onednn.forward, other, x, w, bias, y, **window.keywords, groups=groups, relu=relu
        )
    key = ("forward", x.dtype.char, x.shape, w.shape, window, groups)
    engine.choice.run(key, found, _rule(tiles, w.shape, y.shape))
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
    dy, w, win = engine.fitted(dy), engine.dense(w, dy), native.window(window)
    found: dict[str, Candidate] = {
        "direct": partial(native.backward_data, lib, engine.work, dy, w, dx, win, groups=groups)
    }
    if tiles := winograd.supports(dx.shape, w.shape, window.stride, window.dilation, groups):
        found["winograd"] = partial(winograd.backward_data, lib, engine.work, dy, w, dx, pad_lo=window.pad_lo)
    if (other := engine.onednn) is not None and dy.dtype.char == "f":
        found["onednn"] = partial(onednn.backward_data, other, dy, w, dx, **window.keywords, groups=groups)
    key = ("backward data", dy.dtype.char, dx.shape, w.shape, window, groups)
    engine.choice.run(key, found, _rule(tiles, w.shape, dx.shape))
    return dx


def backward_weights(
    engine: Engine, x: Array, dy: Array, window: Window, dw: Array, *, groups: int = 1, add: bool = True
) -> None:
    """Add the gradient of `forward` by w to dw (K, C / groups, *R), or replace dw by it."""
    lib = engine.library(x.dtype)
    if dw.size == 0:
        return
    if dw.dtype != x.dtype or not innermost(dw).flags.c_contiguous:
        share = engine.empty(dw.shape, x.dtype)
        backward_weights(engine, x, dy, window, share, groups=groups, add=False)
        dw[...] = dw + share if add else share
        return
    if lib is None or dy.size == 0 or x.size == 0:
        share = reference.backward_weights(x, dy, dw.shape, **window.keywords, groups=groups)
        dw[...] = dw + share if add else share
        return
    x, dy, win = _ready(engine, x, window, groups), engine.fitted(dy, x), native.window(window)
    # A measurement runs several times: it may not add.
    key = ("backward weights", x.dtype.char, x.shape, w_shape := dw.shape, window, groups)
    target = dw if not add else engine.empty(w_shape, dw.dtype)
    found: dict[str, Candidate] = {
        "direct": partial(native.backward_weights, lib, engine.work, x, dy, target, win, groups=groups)
    }
    if tiles := winograd.supports(x.shape, w_shape, window.stride, window.dilation, groups):
        found["winograd"] = partial(
            winograd.backward_weights, lib, engine.work, x, dy, target, pad_lo=window.pad_lo
        )
    if (other := engine.onednn) is not None and x.dtype.char == "f":
        found["onednn"] = partial(
            onednn.backward_weights, other, x, dy, target, **window.keywords, groups=groups
        )
    engine.choice.run(key, found, _rule(tiles, w_shape, dy.shape, weights=True))
    if add:
        dw += target


def _ready(engine: Engine, x: Array, window: Window, groups: int) -> Array:
    """Return x as the kernels read it; where it is framed anyway, the frame is filled from any memory order."""
    return x if native.merges(x.shape[1], native.window(window), groups) else engine.fitted(x)


def _rule(tiles: bool, w: tuple[int, ...], y: tuple[int, ...], *, weights: bool = False) -> str:
    """Return the provider of a fixed choice."""
    return "winograd" if tiles and winograd.pays(w, y, weights=weights) else "direct"
