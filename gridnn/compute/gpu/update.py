"""Parameter updates in one pass over memory: kernels/update.cu.

The rules and their arguments are those of `gridnn.compute.cpu.reference.update`; arrays are 1-D, without gaps, of one
dtype, on the device.  A thread takes an element, so a piece cut in two gives bitwise what the whole piece gives.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.cpu.reference import update as reference
from gridnn.compute.cpu.update import Rules
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine, supported
from gridnn.errors import InputError

lars_rate = reference.lars_rate


def rules(engine: Engine, dtype: DTypeLike) -> Rules:
    """Return the rules for arrays of a dtype.

    Raises
    ------
    InputError
        Unless it is float32 or float64.
    """
    if not supported(dtype):
        raise InputError(f"updates on a GPU are of float32 or float64, not {np.dtype(dtype)}; set one")
    return Rules(*(partial(rule, engine) for rule in (_sgd, _adam, _adamw, _lars)))


def _sgd(
    engine: Engine, w: Array, g: Array, velocity: Array | None, *, lr: float, momentum: float = 0.0,
    carried: float = 1.0, spike: float = 0.0, weight_decay: float = 0.0, grad_scale: float = 1.0,
) -> None:  # fmt: skip
    """Move by stochastic gradient descent with momentum; w and velocity are changed in place."""
    state = [] if velocity is None else [velocity]
    arguments = [w, g, velocity, w.size, lr, momentum, carried, spike, weight_decay, grad_scale]
    _walk(engine, "sgd", [w, g, *state], arguments)


def _adam(
    engine: Engine, w: Array, g: Array, m: Array, v: Array, *, step: int, lr: float, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, grad_scale: float = 1.0,
) -> None:  # fmt: skip
    """Move by Adam, with weight decay as an L2 term in the gradient; `step` counts updates from 1."""
    _either_adam(engine, w, g, m, v, step, lr, beta1, beta2, eps, weight_decay, 1.0, grad_scale)


def _adamw(
    engine: Engine, w: Array, g: Array, m: Array, v: Array, *, step: int, lr: float, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, grad_scale: float = 1.0,
) -> None:  # fmt: skip
    """Move by Adam with decoupled weight decay: the weights shrink by ``1 - lr * weight_decay`` first."""
    _either_adam(engine, w, g, m, v, step, lr, beta1, beta2, eps, 0.0, 1.0 - lr * weight_decay, grad_scale)


def _lars(
    engine: Engine, w: Array, g: Array, velocity: Array, *, lr: float, rate: float, momentum: float = 0.0,
    weight_decay: float = 0.0, grad_scale: float = 1.0,
) -> None:  # fmt: skip
    """Move by layer-wise adaptive rate scaling; `rate` is the layer's own, from `lars_rate`."""
    arguments = [w, g, velocity, w.size, lr * rate, momentum, weight_decay, grad_scale]
    _walk(engine, "lars", [w, g, velocity], arguments)


def _either_adam(
    engine: Engine, w: Array, g: Array, m: Array, v: Array, step: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, keep: float, grad_scale: float,
) -> None:  # fmt: skip
    """Either Adam: `weight_decay` in the gradient, `keep` a factor on the weights."""
    rate, root = lr / (1.0 - beta1**step), math.sqrt(1.0 - beta2**step)
    arguments = [w, g, m, v, w.size, rate, root, beta1, beta2, eps, weight_decay, keep, grad_scale]
    _walk(engine, "adam", [w, g, m, v], arguments)


def _walk(engine: Engine, kernel: str, arrays: list[Array], arguments: list[Any]) -> None:
    """Start a kernel on flat arrays; it trusts its addresses, so arrays that differ would be read past their end."""
    w = arrays[0]
    for array in arrays:
        assert array.ndim == 1 and array.flags.c_contiguous, "updates are of flat contiguous arrays"
        assert array.shape == w.shape, "weights and gradient differ in size"
        assert array.dtype == w.dtype, "weights and gradient differ in dtype"
    engine.walk("update", kernel, w.size, arguments, w.dtype)
