"""Layer norm of a block, cut where statistics are summed over ranks: by the reference.

    forward     moments -> [sum over ranks] -> statistics -> apply
    backward    backward_sums -> [sum over ranks] -> backward_apply; then parameter_gradients, summed with all others

x (N, C, *S), a statistic a sample; gamma and beta (C, *S).  Sums are float64 whatever the data
(`gridnn.compute.cpu.reference.norm`; Ba et al. 2016).
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.reference import norm as reference

Statistics = tuple[Array, Array] | Array  # mean and 1 / standard deviation, (N,) each or (2, N)


def moments(engine: Engine, x: Array) -> Array:
    """Return the sums of x and of its square over channels and space: float64 (2, N)."""
    return reference.sample_moments(x)


def statistics(engine: Engine, sums: Array, count: int, eps: float) -> Statistics:
    """Return those of each sample, float64, from the moments and the elements a sample, both over all ranks."""
    first, second = sums / max(count, 1)
    return first, 1 / np.sqrt(np.maximum(second - first * first, 0) + eps)


def apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, beta: Array, *, out: Array | None = None
) -> Array:
    """Return (x - mean) inv_std gamma + beta."""
    y = engine.empty(x.shape, x.dtype) if out is None else out
    y[...] = reference.sample_apply(x, statistics[0], statistics[1], gamma, beta)
    return y


def backward_sums(engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array) -> Array:
    """Return the sums of g = dy gamma and of g xhat over channels and space: float64 (2, N)."""
    return reference.sample_backward_sums(x, statistics[0], statistics[1], gamma, dy)


def backward_apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array, sums: Array, count: int
) -> Array:
    """Return the gradient by x, from the sums over all ranks and the elements a sample over all ranks."""
    return reference.sample_backward_apply(x, statistics[0], statistics[1], gamma, dy, sums, count)


def parameter_gradients(engine: Engine, x: Array, statistics: Statistics, dy: Array) -> tuple[Array, Array]:
    """Return the gradients (dgamma, dbeta), (C, *S) each, summed over the block's samples."""
    return reference.sample_parameter_gradients(x, statistics[0], statistics[1], dy)
