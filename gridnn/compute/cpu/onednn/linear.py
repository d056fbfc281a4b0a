"""The linear layer by oneDNN's inner product, for float32 arrays: x (N, C), w (K, C), y (N, K).

All arrays stay as they are, row after row. A layout of oneDNN's own choice would read the weights
twice as often, once to pack them and once to use them; a linear layer of a training step uses every
weight only N times, so that cost more than it brought on every shape measured. Operands that are copied
before use anyway (bfloat16, see stage) are another matter: then the layout of the weights is oneDNN's.

As in `conv`, every function writes into the array given for its result and returns True, or touches
nothing and returns False where another engine is to be asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn import header as api
from gridnn.compute.cpu.onednn.library import Library
from gridnn.compute.cpu.onednn.stage import Run, compile_staged

Array = NDArray[np.floating]

_FORWARD, _BACKWARD_DATA, _BACKWARD_WEIGHTS = (
    "inner_product_forward",
    "inner_product_backward_data",
    "inner_product_backward_weights",
)
_ARGUMENTS = {
    _FORWARD: (api.SRC, api.WEIGHTS, api.DST),
    _BACKWARD_DATA: (api.DIFF_SRC, api.WEIGHTS, api.DIFF_DST),
    _BACKWARD_WEIGHTS: (api.SRC, api.DIFF_WEIGHTS, api.DIFF_DST),
}
_ABSENT = object()


def forward(lib: Library, x: Array, w: Array, bias: Array | None, y: Array, *, relu: bool = False) -> bool:
    """Write x w^T, with bias (K,) and relu if wanted, into y; returns whether oneDNN did it."""
    run = _run(lib, _FORWARD, x, w, y, bias, relu)
    if run is None:
        return False
    addresses = (x.ctypes.data, w.ctypes.data, y.ctypes.data)
    if bias is None:
        run(*addresses)
    else:
        run(*addresses, bias.ctypes.data)
    return True


def backward_data(lib: Library, dy: Array, w: Array, dx: Array) -> bool:
    """Write the gradient by x, dy w, into dx (N, C); returns whether oneDNN did it."""
    run = _run(lib, _BACKWARD_DATA, dx, w, dy, None, False)
    if run is None:
        return False
    run(dx.ctypes.data, w.ctypes.data, dy.ctypes.data)
    return True


def backward_weights(lib: Library, x: Array, dy: Array, dw: Array) -> bool:
    """Write the gradient by w, dy^T x summed over samples, into dw (K, C); returns whether oneDNN did it."""
    run = _run(lib, _BACKWARD_WEIGHTS, x, dw, dy, None, False)
    if run is None:
        return False
    run(x.ctypes.data, dw.ctypes.data, dy.ctypes.data)
    return True


def _run(
    lib: Library, operation: str, x: Array, w: Array, y: Array, bias: Array | None, relu: bool
) -> Run | None:
    """The compiled product of x, w and y or of their gradients, compiled when their shapes are first met."""
    key = (
        operation, x.dtype, x.shape, x.strides, w.dtype, w.shape, w.strides, y.dtype, y.shape, y.strides,
        bias is None or (bias.dtype, bias.shape, bias.strides), relu,
    )  # fmt: skip
    run: Any = lib.plans.get(key, _ABSENT)
    if run is _ABSENT:
        run = lib.plans[key] = _compiled(lib, operation, x, w, y, bias, relu)
    compiled: Run | None = run
    return compiled


def _compiled(
    lib: Library, operation: str, x: Array, w: Array, y: Array, bias: Array | None, relu: bool
) -> Run | None:
    """What `_run` keeps for these shapes and strides; None where oneDNN is not to be used."""
    arrays = (x, w, y) if bias is None else (x, w, y, bias)
    if any(a.dtype != np.float32 or a.size == 0 or not a.flags.c_contiguous for a in arrays):
        return None
    rows = [(a.shape, (a.shape[1], 1)) for a in (x, w, y)]
    given = [lib.layout(*array) for array in rows]
    biased = None if bias is None else lib.layout(bias.shape, (1,))
    if biased is not None:
        given.append(biased)
    numbers = _ARGUMENTS[operation]
    wanted = [lib.layout(*array, lib.element(number)) for array, number in zip(rows, numbers, strict=True)]
    if lib.operands.staged and operation != _BACKWARD_WEIGHTS:
        wanted[1] = lib.layout(w.shape, None, lib.element(api.WEIGHTS))
    x_layout, w_layout, y_layout = wanted
    layouts = {
        _FORWARD: (api.FORWARD_TRAINING, x_layout, w_layout, biased, y_layout),
        _BACKWARD_DATA: (x_layout, w_layout, y_layout, None),
        _BACKWARD_WEIGHTS: (x_layout, w_layout, None, y_layout, None),
    }[operation]
    made = lib.description(operation, lib.engine, *layouts, relu=relu)
    return None if made is None else compile_staged(lib, made, (*numbers, api.BIAS)[: len(given)], given)
