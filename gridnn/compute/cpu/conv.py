"""Convolution of a block: forward and both gradients, by the provider that suits the shape.

x (N, C, *S), w (K, C / groups, *R), y (N, K, *O); channels innermost in memory, weights K, R, C.  Transposed
convolution is `backward_data` read forwards.

| provider  | takes                                                           |
|-----------|-----------------------------------------------------------------|
| numpy     | everything                                                      |
| direct    | everything in float32 and float64                               |
| depthwise | groups narrower than a vector, in float32 and float64           |
| winograd  | 3 x 3 and 5 x 5 windows, stride 1, in float32 and float64       |
| onednn    | float32 without margins                                         |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gridnn.compute.cpu.choice import Provider
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array, is_dense
from gridnn.compute.cpu.native import conv as native
from gridnn.compute.cpu.native import depthwise, winograd
from gridnn.compute.cpu.native.library import Library
from gridnn.compute.cpu.native.walk import window as three
from gridnn.compute.cpu.onednn import conv as onednn
from gridnn.compute.cpu.onednn.library import Library as OneDnn
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window

Makers = Mapping[str, Callable[[], Provider]]


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
    if y.size:
        key = ("forward", x.dtype, x.shape, w.shape, y.shape, window, groups)
        w = engine.dense(w, x)
        engine.choice.run(key, _forward, (engine, x, w, y, window, groups), (x, w, y, bias, relu))
    return y


def backward_data(
    engine: Engine, dy: Array, w: Array, window: Window, x_shape: tuple[int, ...], *, groups: int = 1,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient of `forward` by x: (N, C, *S); elements that no window touched get zero."""
    dx = engine.empty(x_shape, dy.dtype) if out is None else out
    if dx.size:
        key = ("backward data", dy.dtype, dx.shape, w.shape, dy.shape, window, groups)
        dy, w = engine.fitted(dy), engine.dense(w, dy)
        engine.choice.run(key, _data, (engine, dy, w, dx, window, groups), (dy, w, dx))
    return dx


def backward_weights(
    engine: Engine, x: Array, dy: Array, window: Window, dw: Array, *, groups: int = 1, add: bool = True
) -> None:
    """Add the gradient of `forward` by w to dw (K, C / groups, *R), or replace dw by it."""
    if not dw.size:
        return
    if dw.dtype != x.dtype or not is_dense(dw):
        share = engine.empty(dw.shape, x.dtype)
        backward_weights(engine, x, dy, window, share, groups=groups, add=False)
        dw[...] = dw + share if add else share
        return
    key = ("backward weights", x.dtype, x.shape, dw.shape, dy.shape, window, groups)
    dy = engine.fitted(dy, x)
    engine.choice.run(
        key, _weights, (engine, x, dy, dw, window, groups), (x, dy, dw, add),
        trial=lambda: (x, dy, engine.empty(dw.shape, dw.dtype) if add else dw, False),
    )  # fmt: skip


def _able(
    engine: Engine, x: Array, y: Array, w: Array, window: Window, groups: int, tiled: tuple[int, ...],
    *, weights: bool = False,
) -> tuple[str, ...]:  # fmt: skip
    """Return who can compute, the one that a fixed choice takes first."""
    names = ["numpy"]
    if x.size and y.size and w.size:
        if engine.onednn is not None and x.dtype.char == "f":
            names.insert(0, "onednn")
        lib = engine.library(x.dtype)
        if lib is not None:  # then NumPy need not be tried, nor both of our own
            narrow = depthwise.suits(lib, x.shape[1], w.shape, groups, x.dtype, weights=weights)
            names = ["depthwise" if narrow else "direct", *names[:-1]]
            if winograd.supports(x.shape, w.shape, window.stride, window.dilation, groups):
                pays = winograd.pays(w.shape, tiled, weights=weights)
                names.insert(0 if pays else 1, "winograd")
    return tuple(names)


def _forward(e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int) -> dict[str, Provider]:
    """Return who computes y for arrays like these: providers of x, w, y, bias or None, relu."""

    def onednn_forward(x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> bool:
        return onednn.forward(_onednn(e), x, w, bias, y, **window.keywords, groups=groups, relu=relu)

    def numpy_forward(x: Array, w: Array, y: Array, bias: Array | None, relu: bool) -> None:
        y[...] = reference.forward(x, w, **window.keywords, groups=groups)
        if bias is not None:
            reference.add_bias(y, bias)
        if relu:
            np.maximum(y, 0, out=y)

    makers: Makers = {
        "direct": lambda: native.forward(_native(e), e.work, x, w, y, three(window), groups),
        "depthwise": lambda: depthwise.forward(_native(e), e.work, x, w, y, three(window)),
        "winograd": lambda: winograd.forward(_native(e), e.work, x, w, y, pad_lo=window.pad_lo),
        "onednn": lambda: onednn_forward,
        "numpy": lambda: numpy_forward,
    }
    names = _able(e, x, y, w, window, groups, y.shape)
    return {name: _fitting(e, name, makers[name](), x, window, groups) for name in names}


def _data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> dict[str, Provider]:
    """Return who computes dx for arrays like these: providers of dy, w, dx."""

    def onednn_data(dy: Array, w: Array, dx: Array) -> bool:
        return onednn.backward_data(_onednn(e), dy, w, dx, **window.keywords, groups=groups)

    def numpy_data(dy: Array, w: Array, dx: Array) -> None:
        dx[...] = reference.backward_data(dy, w, dx.shape, **window.keywords, groups=groups)

    makers: Makers = {
        "direct": lambda: native.backward_data(_native(e), e.work, dy, w, dx, three(window), groups),
        "depthwise": lambda: depthwise.backward_data(_native(e), e.work, dy, w, dx, three(window)),
        "winograd": lambda: winograd.backward_data(_native(e), e.work, dy, w, dx, pad_lo=window.pad_lo),
        "onednn": lambda: onednn_data,
        "numpy": lambda: numpy_data,
    }
    return {name: makers[name]() for name in _able(e, dx, dy, w, window, groups, dx.shape)}


def _weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> dict[str, Provider]:
    """Return who computes dw for arrays like these: providers of x, dy, dw, and whether to add to dw."""

    def onednn_weights(x: Array, dy: Array, dw: Array, add: bool) -> bool:
        made = e.empty(dw.shape, dw.dtype) if add else dw
        able = onednn.backward_weights(_onednn(e), x, dy, made, **window.keywords, groups=groups)
        if able and add:
            np.add(dw, made, out=dw)
        return able

    def numpy_weights(x: Array, dy: Array, dw: Array, add: bool) -> None:
        made = reference.backward_weights(x, dy, dw.shape, **window.keywords, groups=groups)
        dw[...] = dw + made if add else made

    makers: Makers = {
        "direct": lambda: native.backward_weights(_native(e), e.work, x, dy, dw, three(window), groups),
        "depthwise": lambda: depthwise.backward_weights(_native(e), e.work, x, dy, dw, three(window)),
        "winograd": lambda: winograd.backward_weights(_native(e), e.work, x, dy, dw, pad_lo=window.pad_lo),
        "onednn": lambda: onednn_weights,
        "numpy": lambda: numpy_weights,
    }
    names = _able(e, x, dy, dw, window, groups, dy.shape, weights=True)
    return {name: _fitting(e, name, makers[name](), x, window, groups) for name in names}


def _fitting(e: Engine, name: str, provider: Provider, x: Array, window: Window, groups: int) -> Provider:
    """Return a provider whose first argument may lie in memory in any order, as what fills a frame from it may."""
    if name == "numpy" or (name == "direct" and native.merges(x.shape[1], window, groups)):
        return provider
    return lambda x, *others: provider(e.fitted(x), *others)


def _native(e: Engine) -> Library:
    assert e.native is not None, "kernels that are missing are not able"
    return e.native


def _onednn(e: Engine) -> OneDnn:
    assert e.onednn is not None, "a library that is missing is not able"
    return e.onednn
