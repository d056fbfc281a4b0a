"""The linear layer of a block: x (N, C), w (K, C), y (N, K), by matrix products of cuBLAS.

Of bfloat16 x and w the gradient by w is float32: what is added up over ranks and updated is never rounded.
"""

from __future__ import annotations

from gridnn.compute.cpu.memory import is_dense
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pointwise import add_bias
from gridnn.compute.storage import wide_of


def forward(engine: Engine, x: Array, w: Array, *, bias: Array | None = None, relu: bool = False) -> Array:
    """Return x w^T, plus bias (K,) if given, rectified if asked: (N, K)."""
    y = engine.empty((x.shape[0], w.shape[0]), x.dtype)
    product(engine, engine.fitted(x), engine.fitted(w, x).T, y)
    return add_bias(engine, y, bias, relu=relu)


def backward_data(engine: Engine, dy: Array, w: Array) -> Array:
    """Return the gradient by x, dy w: (N, C)."""
    dx = engine.empty((dy.shape[0], w.shape[1]), dy.dtype)
    product(engine, engine.fitted(dy), engine.fitted(w, dy), dx)
    return dx


def backward_weights(engine: Engine, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None:
    """Add the gradient by w, dy^T x, to dw (K, C), or replace dw by it."""
    share = share_of(engine, x, dw, add)
    product(engine, engine.fitted(dy, x).T, engine.fitted(x), share)
    settle(engine, share, dw, add)


def product(engine: Engine, a: Array, b: Array, out: Array) -> None:
    """Compute a b into a dense `out`; a and b are dense, or the transpose of what is.

    `out` is of their dtype, or float32 where that is bfloat16.
    """
    if a.shape[1]:
        if out.size:
            engine.device.matmul(a, b, out)
    else:
        out[...] = 0


def share_of(engine: Engine, x: Array, dw: Array, add: bool) -> Array:
    """Return where a gradient by the weights is computed, wide: dw itself if it is replaced, dense and that wide."""
    wide = wide_of(x.dtype)
    own = not add and dw.dtype == wide and is_dense(dw)
    return dw if own else engine.empty(dw.shape, wide)


def settle(engine: Engine, share: Array, dw: Array, add: bool) -> None:
    """Add what was computed to dw, or make dw that."""
    if add:
        dw += share
    elif share is not dw:
        engine.copy(share, dw)
