"""Parameter updates in one pass over memory: kernels/update.cu.

The rules and their arguments are those of `gridnn.compute.cpu.reference.update`; arrays are 1-D, without gaps, of one
dtype, on the device.  A thread takes an element, so a piece cut in two gives bitwise what the whole piece gives.

    place on the device, one for all pieces     follows from             changes with every update (`Now`)
    of a rule with equal coefficients           its name: coefficients   its number, lr, the factor on gradients

`grad_scale`, and the `rate` of LARS, may be arrays of one float64 on the device, where `squares` leaves them: then the
host need not know them, and they are no part of `Now`.  A `rate` that is a number is given by value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.reference import update as reference
from gridnn.compute.cpu.update import Rules
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine, supported
from gridnn.errors import InputError

lars_rate = reference.lars_rate
GROUP = "update"
"""Of `Device.varying`: what changes with an update."""


class Now(NamedTuple):
    """What changes from one update to the next: its number from 1, the learning rate, the factor on gradients."""

    step: int
    lr: float
    grad_scale: float = 1.0


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


def announce(engine: Engine, now: Now) -> None:
    """Tell the rules their numbers before an update that a graph makes."""
    engine.device.varying.move(GROUP, now)


def _sgd(
    engine: Engine, w: Array, g: Array, velocity: Array | None, *, lr: float, momentum: float = 0.0,
    carried: float = 1.0, spike: float = 0.0, weight_decay: float = 0.0, grad_scale: float | Array = 1.0,
) -> None:  # fmt: skip
    """Move by stochastic gradient descent with momentum; w and velocity are changed in place."""
    state = [] if velocity is None else [velocity]
    of = partial(_of_sgd, momentum, carried, spike, weight_decay)
    _walk(engine, "sgd", [w, g, *state], [w, g, velocity], of, Now(0, lr), grad_scale)


def _adam(
    engine: Engine, w: Array, g: Array, m: Array, v: Array, *, step: int, lr: float, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, grad_scale: float | Array = 1.0,
) -> None:  # fmt: skip
    """Move by Adam, with weight decay as an L2 term in the gradient; `step` counts updates from 1."""
    of = partial(_of_adam, beta1, beta2, eps, weight_decay, 0.0)
    _walk(engine, "adam", [w, g, m, v], [w, g, m, v], of, Now(step, lr), grad_scale)


def _adamw(
    engine: Engine, w: Array, g: Array, m: Array, v: Array, *, step: int, lr: float, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, grad_scale: float | Array = 1.0,
) -> None:  # fmt: skip
    """Move by Adam with decoupled weight decay: the weights shrink by ``1 - lr * weight_decay`` first."""
    of = partial(_of_adam, beta1, beta2, eps, 0.0, weight_decay)
    _walk(engine, "adam", [w, g, m, v], [w, g, m, v], of, Now(step, lr), grad_scale)


def _lars(
    engine: Engine, w: Array, g: Array, velocity: Array, *, lr: float, rate: float | Array, momentum: float = 0.0,
    weight_decay: float = 0.0, grad_scale: float | Array = 1.0,
) -> None:  # fmt: skip
    """Move by layer-wise adaptive rate scaling; `rate` is the layer's own, from `lars_rate`."""
    arrays, of = [w, g, velocity], partial(_of_lars, momentum, weight_decay)
    _walk(engine, "lars", arrays, [*arrays], of, Now(0, lr), grad_scale, _told(engine, rate))


def _of_sgd(momentum: float, carried: float, spike: float, decay: float, now: Now) -> NDArray[np.float64]:
    """Return the numbers of kernel sgd."""
    return np.array([now.lr, momentum, carried, spike, decay, now.grad_scale])


def _of_adam(
    beta1: float, beta2: float, eps: float, decay: float, shrink: float, now: Now
) -> NDArray[np.float64]:
    """Return the numbers of kernel adam: `decay` in the gradient, `shrink` of the weights."""
    rate, root = now.lr / (1.0 - beta1**now.step), math.sqrt(1.0 - beta2**now.step)
    return np.array([rate, root, beta1, beta2, eps, decay, 1.0 - now.lr * shrink, now.grad_scale])


def _of_lars(momentum: float, decay: float, now: Now) -> NDArray[np.float64]:
    """Return the numbers of kernel lars."""
    return np.array([now.lr, momentum, decay, now.grad_scale])


def _walk(
    engine: Engine, kernel: str, arrays: list[Array], given: list[Array | None], of: partial[NDArray[np.float64]],
    now: Now, grad_scale: float | Array, more: Sequence[Any] = (),
) -> None:  # fmt: skip
    """Start a kernel on flat arrays with the places of its numbers."""
    _checked(arrays)
    w = arrays[0]
    if w.size:
        number, clip = _told(engine, grad_scale)
        told = engine.device.varying.told(GROUP, (kernel, *of.args), now._replace(grad_scale=number), of)
        engine.walk("update", kernel, w.size, [*given, w.size, told, clip, *more], w.dtype)


def _told(engine: Engine, factor: float | Array) -> tuple[float, Array | None]:
    """Return a factor as a number and as a place on the device: one of them says it."""
    if not engine.holds(factor):
        return float(factor), None
    place: Array = factor
    assert place.dtype == np.float64 and place.size == 1, "a factor on the device is one float64"
    return 1.0, place


def _checked(arrays: list[Array]) -> None:
    """Hold arrays to each other: a kernel trusts its addresses, and would read past the end of those that differ."""
    w = arrays[0]
    for array in arrays:
        assert array.ndim == 1 and array.flags.c_contiguous, "updates are of flat contiguous arrays"
        assert array.shape == w.shape, "weights and gradient differ in size"
        assert array.dtype == w.dtype, "weights and gradient differ in dtype"
