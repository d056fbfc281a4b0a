"""Parameter updates: how the weights move once the gradient is known.

One step of every rule, for one element (d is the direction after scaling and
weight decay; a = lr; b1, b2 = betas; t = the number of this update, from 1):

    rule    d                        state                               weight
    sgd     s g + decay w            v = momentum v + d                  w -= a (carried v + spike d)
    adam    s g + decay w            m += (1 - b1)(d - m)                w -= a mhat / (sqrt(vhat) + eps)
                                     v  = b2 v + (1 - b2) d^2            mhat = m / (1 - b1^t), vhat alike
    adamw   s g                      as adam                             w *= 1 - a decay, then as adam
    lars    s g + decay w            v = momentum v + a rate d           w -= v

What sgd moves by, for a gradient that comes D updates after its batch (momentum m):

    form                     carried   spike                   movement by one gradient: at once, then at every update
    heavy ball               1         0                       1, m, m^2, ...
    Nesterov                 m         1                       1 + m, m^2, m^3, ...
    spike compensation       m^D       (1 - m^D) / (1 - m)     what it had moved by now, then what the heavy ball does

The last one is of Kosson, Chiley, Venigalla, Hestness and Koster (Pipelined backpropagation at scale, MLSys 2021): a
late gradient moves at once by what it had moved, had it come in time.  It is the heavy ball for D = 0, Nesterov for
D = 1, and plain SGD without momentum.

The order of operations is PyTorch's, so that a run can be compared with one there.  Everything
but the LARS rate is elementwise: a piece cut in two gives bitwise what the whole piece gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

# An update is bound by memory: six passes over arrays that fit no cache cost six reads of main
# memory.  Slices of this many elements keep the operands and both scratch rows near a core.
_SLICE = 32_768


def sgd(
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
    """Stochastic gradient descent with momentum; dampening is zero.

    Parameters
    ----------
    w, g : 1-D arrays of one dtype
        The weights, changed in place, and their gradient, left alone.
    velocity : 1-D array like ``w``, or None without momentum
        Running sum of directions, zero before the first step, changed in place.
    carried, spike : float
        What the weights move by: parts of the velocity and of the direction; `sgd_form` has the usual ones.
    weight_decay : float
        Coefficient of the L2 term added to the gradient.
    grad_scale : float
        Factor on the gradient before anything else (clipping, averaging).
    """
    for at, d, t in _slices(w, g):
        _direction(d, t, w[at], g[at], weight_decay, grad_scale)
        if velocity is None:
            np.multiply(d, lr, out=t)
        else:
            v = velocity[at]
            v *= momentum
            v += d
            if (carried, spike) == (1.0, 0.0):
                np.multiply(v, lr, out=t)
            else:
                np.multiply(v, carried, out=t)
                d *= spike
                t += d
                t *= lr
        w[at] -= t


def sgd_form(momentum: float, nesterov: bool, delay: int) -> dict[str, float]:
    """Return `carried` and `spike` of `sgd` for a gradient that comes `delay` updates after its batch."""
    updates = delay + nesterov  # Nesterov's form is one update ahead
    return {"carried": momentum**updates, "spike": sum(momentum**i for i in range(updates))}


def adam(
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
    """Adam (Kingma and Ba 2015, algorithm 1); weight decay is an L2 term in the gradient.

    Parameters
    ----------
    w, g : 1-D arrays of one dtype
        The weights, changed in place, and their gradient, left alone.
    m, v : 1-D arrays like ``w``
        First and second moments, zero before the first step, changed in place.
    step : int
        Number of this update, counted from 1: the bias corrections need it.
    """
    for at, d, t in _slices(w, g):
        _direction(d, t, w[at], g[at], weight_decay, grad_scale)
        _adam_slice(w[at], d, t, m[at], v[at], step, lr, beta1, beta2, eps)


def adamw(
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
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    Parameters as in `adam`; the weights shrink by ``1 - lr * weight_decay`` before they move.
    """
    keep = 1.0 - lr * weight_decay
    for at, d, t in _slices(w, g):
        _direction(d, t, w[at], g[at], 0.0, grad_scale)
        if weight_decay:
            w[at] *= keep
        _adam_slice(w[at], d, t, m[at], v[at], step, lr, beta1, beta2, eps)


def lars(
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
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, algorithm 1).

    Parameters
    ----------
    w, g, velocity : 1-D arrays of one dtype
        As in `sgd`; here the velocity holds steps, with the learning rate already in them.
    rate : float
        The layer's local learning rate, from `lars_rate`; 1 leaves a parameter unadapted.
    """
    for at, d, t in _slices(w, g):
        _direction(d, t, w[at], g[at], weight_decay, grad_scale)
        v = velocity[at]
        v *= momentum
        d *= lr * rate
        v += d
        w[at] -= v


def lars_rate(w_norm: float, g_norm: float, *, trust: float, weight_decay: float, eps: float) -> float:
    """Return a layer's local learning rate, ``trust |w| / (|g| + decay |w| + eps)``.

    The norms are of the whole parameter on all ranks, the gradient's after scaling.  A parameter
    or gradient that is all zero says nothing about a good rate; 1 lets it move as under SGD.
    """
    if w_norm == 0.0 or g_norm == 0.0:
        return 1.0
    return trust * w_norm / (g_norm + weight_decay * w_norm + eps)


def _slices(w: Array, g: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Every slice of ``w`` with two rows of scratch of its length."""
    assert w.ndim == 1, "updates are of flat arrays"
    assert w.shape == g.shape, "weights and gradient differ in size"
    assert w.dtype == g.dtype, "weights and gradient differ in dtype"
    scratch = np.empty((2, min(w.size, _SLICE)), w.dtype)
    for start in range(0, w.size, _SLICE):
        size = min(_SLICE, w.size - start)
        yield slice(start, start + size), scratch[0, :size], scratch[1, :size]


def _direction(d: Array, t: Array, w: Array, g: Array, weight_decay: float, grad_scale: float) -> None:
    """Set ``d`` to ``grad_scale g + weight_decay w``; ``t`` is scratch."""
    np.multiply(g, grad_scale, out=d)
    if weight_decay:
        np.multiply(w, weight_decay, out=t)
        d += t


def _adam_slice(
    w: Array,
    d: Array,
    t: Array,
    m: Array,
    v: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Moments, bias corrections and step of one slice; ``d`` and ``t`` are used up."""
    np.subtract(d, m, out=t)
    t *= 1.0 - beta1
    m += t
    d *= d
    d *= 1.0 - beta2
    v *= beta2
    v += d
    np.sqrt(v, out=t)
    t /= math.sqrt(1.0 - beta2**step)
    t += eps
    np.divide(m, t, out=d)
    d *= lr / (1.0 - beta1**step)
    w -= d
