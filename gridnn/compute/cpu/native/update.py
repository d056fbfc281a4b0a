"""Parameter updates by the compiled kernels: one pass over memory a rule.

Arrays are 1-D, contiguous, of one dtype, float32 or float64.  Rules and arguments are those of the NumPy reference
(`reference.update`, where they are explained); a piece cut in two gives bitwise what the whole piece gives, for
any number of threads.
"""

from __future__ import annotations

import math

from gridnn.compute.cpu.native.library import Array, Library, array


def sgd(
    lib: Library,
    w: Array,
    g: Array,
    velocity: Array | None,
    *,
    lr: float,
    momentum: float = 0.0,
    carried: float = 1.0,
    spike: float = 0.0,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
) -> None:
    """Stochastic gradient descent with momentum; w and velocity are changed in place."""
    if w.size:
        _check(w, g, *([] if velocity is None else [velocity]))
        lib.kernel("update_sgd", w.dtype)(
            array(w), array(g), array(velocity), lr, momentum, carried, spike, weight_decay, grad_scale
        )  # fmt: skip


def adam(
    lib: Library,
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
) -> None:
    """Adam, with weight decay as an L2 term in the gradient; `step` counts updates from 1."""
    _adam(lib, w, g, m, v, step, lr, beta1, beta2, eps, weight_decay, 1.0, grad_scale)


def adamw(
    lib: Library,
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
) -> None:
    """Adam with decoupled weight decay: the weights shrink by ``1 - lr * weight_decay`` before they move."""
    _adam(lib, w, g, m, v, step, lr, beta1, beta2, eps, 0.0, 1.0 - lr * weight_decay, grad_scale)


def lars(
    lib: Library,
    w: Array,
    g: Array,
    velocity: Array,
    *,
    lr: float,
    rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    grad_scale: float = 1.0,
) -> None:
    """Layer-wise adaptive rate scaling; `rate` is the layer's own, from the reference's `lars_rate`."""
    if w.size:
        _check(w, g, velocity)
        lib.kernel("update_lars", w.dtype)(
            array(w), array(g), array(velocity), lr * rate, momentum, weight_decay, grad_scale
        )  # fmt: skip


def _adam(
    lib: Library,
    w: Array,
    g: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    keep: float,
    grad_scale: float,
) -> None:
    """Either Adam: `weight_decay` in the gradient, `keep` a factor on the weights."""
    if w.size:
        _check(w, g, m, v)
        root, pace = 1 / math.sqrt(1.0 - beta2**step), lr / (1.0 - beta1**step)
        lib.kernel("update_adam", w.dtype)(
            array(w), array(g), array(m), array(v),
            beta1, beta2, eps, weight_decay, grad_scale, keep, root, pace,
        )  # fmt: skip


def _check(w: Array, *others: Array) -> None:
    """A kernel trusts its addresses: arrays that differ would be read or written past their end."""
    assert w.ndim == 1 and w.flags.c_contiguous, "updates are of flat contiguous arrays"
    for other in others:
        assert other.shape == w.shape, "weights and gradient differ in size"
        assert other.dtype == w.dtype, "weights and gradient differ in dtype"
        assert other.flags.c_contiguous, "updates are of flat contiguous arrays"
