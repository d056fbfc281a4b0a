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

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array, is_dense
from gridnn.compute.cpu.native import conv as native
from gridnn.compute.cpu.native import depthwise, winograd
from gridnn.compute.cpu.native.library import Library
from gridnn.compute.cpu.native.walk import window as three
from gridnn.compute.cpu.onednn import conv as onednn
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window

Provider = Callable[..., bool | None]


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
        key = ("forward", x.dtype.char, x.shape, w.shape, window, groups)
        engine.choice.run(
            key, _FORWARD, lambda: _able(engine, x, y, w, window, groups, y.shape),
            (engine, _ready(engine, x, window, groups), engine.dense(w, x), y, window, groups, bias, relu),
        )  # fmt: skip
    return y


def backward_data(
    engine: Engine, dy: Array, w: Array, window: Window, x_shape: tuple[int, ...], *, groups: int = 1,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient of `forward` by x: (N, C, *S); elements that no window touched get zero."""
    dx = engine.empty(x_shape, dy.dtype) if out is None else out
    if dx.size:
        key = ("backward data", dy.dtype.char, dx.shape, w.shape, window, groups)
        engine.choice.run(
            key, _DATA, lambda: _able(engine, dx, dy, w, window, groups, dx.shape),
            (engine, engine.fitted(dy), engine.dense(w, dy), dx, window, groups),
        )  # fmt: skip
    return dx


def backward_weights(
    engine: Engine, x: Array, dy: Array, window: Window, dw: Array, *, groups: int = 1, add: bool = True
) -> None:
    """Add the gradient of `forward` by w to dw (K, C / groups, *R), or replace dw by it."""
    if not dw.size:
        return
    if add or dw.dtype != x.dtype or not is_dense(dw):  # providers replace: a measurement runs several times
        share = engine.empty(dw.shape, x.dtype)
        backward_weights(engine, x, dy, window, share, groups=groups, add=False)
        dw[...] = dw + share if add else share
        return
    key = ("backward weights", x.dtype.char, x.shape, dw.shape, window, groups)
    engine.choice.run(
        key, _WEIGHTS, lambda: _able(engine, x, dy, dw, window, groups, dy.shape, weights=True),
        (engine, _ready(engine, x, window, groups), engine.fitted(dy, x), dw, window, groups),
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


def _ready(engine: Engine, x: Array, window: Window, groups: int) -> Array:
    """Return x as the kernels read it; where it is framed anyway, the frame is filled from any memory order."""
    return x if native.merges(x.shape[1], three(window), groups) else engine.fitted(x)


def _kernels(e: Engine, x: Array) -> Library:
    lib = e.library(x.dtype)
    assert lib is not None, "kernels that are missing are not able"
    return lib


def _native_forward(
    e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int, bias: Array | None, relu: bool
) -> None:
    lib = _kernels(e, x)
    native.forward(lib, e.work, x, w, y, three(window), groups=groups, bias=bias, relu=relu)


def _native_data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, dy)
    native.backward_data(lib, e.work, dy, w, dx, three(window), groups=groups)


def _native_weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, x)
    native.backward_weights(lib, e.work, x, dy, dw, three(window), groups=groups, add=False)


def _narrow_forward(
    e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int, bias: Array | None, relu: bool
) -> None:
    lib = _kernels(e, x)
    depthwise.forward(lib, e.work, x, w, y, three(window), bias=bias, relu=relu)


def _narrow_data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, dy)
    depthwise.backward_data(lib, e.work, dy, w, dx, three(window))


def _narrow_weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, x)
    depthwise.backward_weights(lib, e.work, x, dy, dw, three(window))


def _tiles_forward(
    e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int, bias: Array | None, relu: bool
) -> None:
    lib = _kernels(e, x)
    winograd.forward(lib, e.work, e.fitted(x), w, y, pad_lo=window.pad_lo, bias=bias, relu=relu)


def _tiles_data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, dy)
    winograd.backward_data(lib, e.work, dy, w, dx, pad_lo=window.pad_lo)


def _tiles_weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> None:
    lib = _kernels(e, x)
    winograd.backward_weights(lib, e.work, e.fitted(x), dy, dw, pad_lo=window.pad_lo)


def _onednn_forward(
    e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int, bias: Array | None, relu: bool
) -> bool:
    lib = e.onednn
    return lib is not None and onednn.forward(
        lib, e.fitted(x), w, bias, y, **window.keywords, groups=groups, relu=relu
    )


def _onednn_data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> bool:
    lib = e.onednn
    return lib is not None and onednn.backward_data(lib, dy, w, dx, **window.keywords, groups=groups)


def _onednn_weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> bool:
    lib = e.onednn
    return lib is not None and onednn.backward_weights(
        lib, e.fitted(x), dy, dw, **window.keywords, groups=groups
    )


def _numpy_forward(
    e: Engine, x: Array, w: Array, y: Array, window: Window, groups: int, bias: Array | None, relu: bool
) -> None:
    y[...] = reference.forward(x, w, **window.keywords, groups=groups)
    if bias is not None:
        reference.add_bias(y, bias)
    if relu:
        np.maximum(y, 0, out=y)


def _numpy_data(e: Engine, dy: Array, w: Array, dx: Array, window: Window, groups: int) -> None:
    dx[...] = reference.backward_data(dy, w, dx.shape, **window.keywords, groups=groups)


def _numpy_weights(e: Engine, x: Array, dy: Array, dw: Array, window: Window, groups: int) -> None:
    dw[...] = reference.backward_weights(x, dy, dw.shape, **window.keywords, groups=groups)


_FORWARD: Mapping[str, Provider] = {
    "direct": _native_forward, "depthwise": _narrow_forward, "winograd": _tiles_forward, "onednn": _onednn_forward,
    "numpy": _numpy_forward,
}  # fmt: skip
_DATA: Mapping[str, Provider] = {
    "direct": _native_data, "depthwise": _narrow_data, "winograd": _tiles_data, "onednn": _onednn_data,
    "numpy": _numpy_data,
}  # fmt: skip
_WEIGHTS: Mapping[str, Provider] = {
    "direct": _native_weights, "depthwise": _narrow_weights, "winograd": _tiles_weights, "onednn": _onednn_weights,
    "numpy": _numpy_weights,
}  # fmt: skip
