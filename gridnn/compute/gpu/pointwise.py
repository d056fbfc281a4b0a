"""Operations on each element: nonlinearities, sums, bias, dropout; any shape (N, C, *S), any dtype that is stored.

    kernels/pointwise.cu    relu, smooth (the other nonlinearities), add, add_bias,    a thread an element
                            activate_biased (any nonlinearity behind a bias; no layer uses it yet)
    kernels/dropout.cu      dropout: the mask is made where it is used, from global indices
    kernels/sums.cu         bias_gradient

Blocks with gaps are copied first, but for `add_bias`, whose block is changed where it lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import is_dense
from gridnn.compute.cpu.reference import activation
from gridnn.compute.gpu.dense import plain, settled, target
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.sums import channel_sums
from gridnn.compute.random import Box, Draw
from gridnn.compute.storage import wide_of
from gridnn.errors import InputError

KEEPS = activation.FORWARD_KEEPS
"""What backward of each nonlinearity reads: its input "x" or its output "y"."""

SMOOTH: Mapping[str, int] = MappingProxyType({"tanh": 0, "sigmoid": 1, "silu": 2, "gelu": 3})
"""The numbers of nonlinearities in kernels/pointwise.cu; the rectifier has kernels of its own."""
BIASED: Mapping[str, int] = MappingProxyType({**SMOOTH, "relu": 4})
"""Those of its `activate_biased`."""

BLOCK = np.dtype([("stride", np.int64, 5), ("lo", np.int32, 5), ("extent", np.int32, 5)], align=True)
"""`Block` of kernels/dropout.cu, dims N C D H W: where a block lies in the global array."""


def activate(engine: Engine, name: str, x: Array, *, out: Array | None = None) -> Array:
    """Return the nonlinearity `name` of x."""
    x, y = engine.fitted(x), target(engine, x.shape, x.dtype, out)
    kernel, number = ("relu", ()) if name == "relu" else ("smooth", (SMOOTH[name],))
    engine.walk("pointwise", kernel, x.size, [x, y, x.size, *number], x.dtype)
    return settled(engine, y, out)


def activate_backward(engine: Engine, name: str, kept: Array, dy: Array) -> Array:
    """Return the gradient by the input; `kept` is the input or the output, as KEEPS says."""
    dx, kept, dy = engine.empty(dy.shape, dy.dtype), engine.fitted(kept, dy), engine.fitted(dy)
    kernel, number = ("relu_backward", ()) if name == "relu" else ("smooth_backward", (SMOOTH[name],))
    engine.walk("pointwise", kernel, dy.size, [kept, dy, dx, dy.size, *number], dy.dtype)
    return dx


def activate_biased(
    engine: Engine, name: str, x: Array, bias: Array | None, *, train: bool = True, out: Array | None = None
) -> tuple[Array, Array | None]:  # fmt: skip
    """Return the nonlinearity `name` of x (N, K, *S) plus bias (K,), and what its backward reads: one launch.

    The bits are those of `add_bias` and `activate`.

    Parameters
    ----------
    x
        Given up: y or the sum may be written there.
    bias
        None where it is added elsewhere: then it is `activate`.
    train
        Whether there will be a backward; without, what it reads is None.
    out
        Where y goes; not x where backward reads the sum.

    Raises
    ------
    ValueError
        If `out` is x, and backward reads the sum there.
    """
    keeps_sum = train and KEEPS[name] == "x"
    if keeps_sum and out is x:
        raise ValueError(f"backward of {name} reads its input: give another `out` than x, or train=False")
    if bias is None:
        y = activate(engine, name, x, out=out)
        return y, (x if keeps_sum else y) if train else None
    x = engine.fitted(x)
    y = target(engine, x.shape, x.dtype, out) if keeps_sum or out is not None else x
    told = [
        x,
        plain(engine, bias, wide_of(x.dtype)),
        x if keeps_sum else None,
        y,
        x.size,
        x.shape[1],
        BIASED[name],
    ]
    engine.walk("pointwise", "activate_biased", x.size, told, x.dtype)
    y = settled(engine, y, out)
    return y, (x if keeps_sum else y) if train else None


def add(engine: Engine, arrays: Sequence[Array], *, relu: bool = False, out: Array | None = None) -> Array:
    """Return the sum of one or more arrays in their order, rectified if asked; `out` may be the first of them."""
    first, *others = arrays
    if not others:
        if relu:
            return activate(engine, "relu", first, out=out)
        return settled(engine, first, engine.empty(first.shape, first.dtype) if out is None else out)
    y, total = target(engine, first.shape, first.dtype, out), engine.fitted(first)
    for i, other in enumerate(others):
        rectify = relu and i == len(others) - 1
        engine.walk(
            "pointwise", "add", y.size, [total, engine.fitted(other, first), y, y.size, rectify], y.dtype
        )
        total = y
    return settled(engine, y, out)


def add_bias(engine: Engine, y: Array, bias: Array | None, *, relu: bool = False) -> Array:
    """Add bias (K,) to y (N, K, *S) in place, rectify if asked, and return y."""
    if bias is None and not relu:
        return y
    if is_dense(y):
        if bias is None:
            return activate(engine, "relu", y, out=y)
        bias, channels = plain(engine, bias, wide_of(y.dtype)), y.shape[1]
        engine.walk("pointwise", "add_bias", y.size, [y, bias, y.size, channels, relu], y.dtype)
        return y
    if y.dtype != wide_of(y.dtype):
        engine.copy(add_bias(engine, engine.fitted(y), bias, relu=relu), y)
        return y
    # With gaps: where it lies, a pass an operation, which is less than to copy it and back.
    if bias is not None:
        y += bias.reshape(-1, *[1] * (y.ndim - 2))
    return np.maximum(y, 0, out=y) if relu else y


def bias_gradient(engine: Engine, dy: Array, db: Array, y: Array | None = None) -> Array:
    """Add the sum of dy over all but channels to db (K,); return dy, masked by y > 0 first if y is given."""
    dy = engine.fitted(dy)
    masked = None if y is None else engine.empty(dy.shape, dy.dtype)
    db += channel_sums(engine, dy, 1, None if y is None else engine.fitted(y, dy), masked)[0]
    return dy if masked is None else masked


def dropout_forward(engine: Engine, x: Array, draw: Draw) -> tuple[Array, Array | None]:
    """Return x times the mask of dropout, and what backward reads: nothing, the mask is made again.

    Raises
    ------
    InputError
        For a rate that is not in [0, 1).
    """
    if not 0.0 <= draw.rate < 1.0:
        raise InputError(
            f"dropout probability {draw.rate} is not in [0, 1); 0 keeps everything, 0.5 is usual"
        )
    x, y = engine.fitted(x), engine.empty(x.shape, x.dtype)
    if x.size:
        of = partial(_key_of, draw.seed, draw.stream)
        key = engine.device.varying.told("pass", of.args, draw.step, of)
        block = placed(draw.shape, draw.box)
        engine.walk("dropout", "dropout", x.size, [x, y, x.size, block, key, draw.rate], x.dtype)
    return y, None


def dropout_backward(engine: Engine, dy: Array, kept: Array | None, draw: Draw) -> Array:
    """Return dy times the mask of `dropout_forward`."""
    return dropout_forward(engine, dy, draw)[0]


def placed(shape: Sequence[int], box: Box) -> NDArray[np.void]:
    """Return where a block lies in its global array, as kernels/dropout.cu is told; missing dims have one element."""
    missing = 5 - len(shape)
    extents = (*shape[:2], *[1] * missing, *shape[2:])
    dims = (*box[:2], *[(0, 1)] * missing, *box[2:])
    block = np.zeros(1, BLOCK)
    block["stride"] = [prod(extents[dim + 1 :]) for dim in range(5)]
    block["lo"], block["extent"] = [lo for lo, _ in dims], [hi - lo for lo, hi in dims]
    return block


def stream_key(draw: Draw) -> NDArray[np.uint64]:
    """Return the key of its stream in `gridnn.compute.random`, the low 64 bits first."""
    return _key_of(draw.seed, draw.stream, draw.step)


def _key_of(seed: int, stream: str, step: int) -> NDArray[np.uint64]:
    text = f"{seed}|{step}|{stream}".encode()
    key = hashlib.blake2b(text, digest_size=16, person=b"gridnn").digest()
    return np.frombuffer(key, "<u8").astype(np.uint64)
