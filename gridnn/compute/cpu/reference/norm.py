"""Batch and layer normalisation, each cut where statistics are summed over ranks (NumPy).

    batch norm   statistics per channel over N and S      vectors (C,)
    layer norm   statistics per sample over C and S       vectors (N,), gamma and beta (C, *S)

    forward    moments -> [sum over ranks] -> mean, inv_std -> apply
    backward   backward_sums -> [sum over ranks] -> backward_apply

With xhat = (x - mean) inv_std, g = dy gamma and M elements a statistic (Ioffe and Szegedy 2015):

    dx = inv_std (g - sum(g) / M - xhat sum(g xhat) / M)

Sums are made and returned in float64, because they are what different grids add in different
orders.  For batch norm gamma is a constant of each sum, so the sums hold dy alone and are the
gradients of beta and gamma at once.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.reference.window import Array


def moments(x: Array, shift: Array) -> Array:
    """Sums of x - shift and of its square over samples and space: float64 (2, C).

    Parameters
    ----------
    x : (N, C, *S)
    shift : (C,) a guess of the mean, the same on every rank; it keeps the variance from cancelling.
    """
    centred = x - _spread(shift, 1, x)
    return np.stack([_total(centred, 1), _total(centred * centred, 1)])


def statistics(
    sums: Array, count: int, mean: Array, variance: Array, momentum: float, eps: float
) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of the batch from the `moments` over all ranks, float64 (C,).

    The running mean, which was the shift of the moments, and the running variance move in place.
    """
    first, second = sums / count
    now, spread = mean + first, np.maximum(second - first * first, 0)
    mean += momentum * (now - mean)
    variance += momentum * (spread * (count / max(1, count - 1)) - variance)
    return now, 1 / np.sqrt(spread + eps)


def apply(x: Array, mean: Array, inv_std: Array, gamma: Array, beta: Array) -> Array:
    """The output (x - mean) inv_std gamma + beta, all but x (N, C, *S) being (C,)."""
    y = x - _spread(mean, 1, x)
    y *= _spread(inv_std * gamma, 1, x)
    y += _spread(beta, 1, x)
    return y


def backward_sums(x: Array, mean: Array, inv_std: Array, dy: Array) -> Array:
    """Sums of dy and of dy xhat over samples and space, the gradients of beta and gamma: float64 (2, C)."""
    centred = x - _spread(mean, 1, x)
    centred *= dy
    return np.stack([_total(dy, 1), _total(centred, 1) * inv_std])


def backward_apply(
    x: Array, mean: Array, inv_std: Array, gamma: Array, dy: Array, sums: Array, count: int
) -> Array:
    """Gradient by x.

    Parameters
    ----------
    x, dy : (N, C, *S)
    mean, inv_std, gamma : (C,)
    sums : (2, C) `backward_sums` over all ranks; zeros where the statistics were constants.
    count : elements a channel over all ranks.
    """
    return _undo(x, dy.copy(), 1, mean, inv_std, sums, count, gamma)


def sample_moments(x: Array) -> Array:
    """Sums of x and of its square over channels and space: float64 (2, N)."""
    # The square is made in float64 too: unlike `moments` there is no shift against cancelling.
    return np.stack([_total(x, 0), _total(np.square(x, dtype=np.float64), 0)])


def sample_apply(x: Array, mean: Array, inv_std: Array, gamma: Array, beta: Array) -> Array:
    """The output (x - mean) inv_std gamma + beta; mean and inv_std (N,), gamma and beta (C, *S)."""
    y = _normalised(x, mean, inv_std)
    y *= gamma
    y += beta
    return y


def sample_backward_sums(x: Array, mean: Array, inv_std: Array, gamma: Array, dy: Array) -> Array:
    """Sums of g = dy gamma and of g xhat over channels and space: float64 (2, N)."""
    g = dy * gamma
    return np.stack([_total(g, 0), _total(g * _normalised(x, mean, inv_std), 0)])


def sample_backward_apply(
    x: Array, mean: Array, inv_std: Array, gamma: Array, dy: Array, sums: Array, count: int
) -> Array:
    """Gradient by x of layer norm.

    Parameters
    ----------
    x, dy : (N, C, *S)
    mean, inv_std : (N,)
    gamma : (C, *S)
    sums : (2, N) `sample_backward_sums` over all ranks.
    count : elements a sample over all ranks.
    """
    return _undo(x, dy * gamma, 0, mean, inv_std, sums, count, np.ones_like(inv_std))


def sample_parameter_gradients(x: Array, mean: Array, inv_std: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients (dgamma, dbeta) of layer norm: (C, *S) each, summed over samples in float64."""
    dgamma = (dy * _normalised(x, mean, inv_std)).sum(axis=0, dtype=np.float64)
    return dgamma.astype(dy.dtype), dy.sum(axis=0, dtype=np.float64).astype(dy.dtype)


def _undo(
    x: Array, g: Array, dim: int, mean: Array, inv_std: Array, sums: Array, count: int, scale: Array
) -> Array:
    """The product scale inv_std (g - sums[0] / count - xhat sums[1] / count); g is overwritten."""
    share = sums / max(count, 1)
    pull = x - _spread(mean, dim, x)
    pull *= _spread(inv_std * share[1], dim, x)
    g -= pull
    g -= _spread(share[0], dim, x)
    g *= _spread(inv_std * scale, dim, x)
    return g


def _normalised(x: Array, mean: Array, inv_std: Array) -> Array:
    """The normalised xhat with statistics per sample."""
    y = x - _spread(mean, 0, x)
    y *= _spread(inv_std, 0, x)
    return y


def _total(x: Array, dim: int) -> Array:
    """Sum over every dim but one, in float64."""
    return np.asarray(x.sum(axis=tuple(d for d in range(x.ndim) if d != dim), dtype=np.float64))


def _spread(vector: Array, dim: int, x: Array) -> Array:
    """A vector along one dim of x, shaped to broadcast and of the dtype of x."""
    return vector.astype(x.dtype).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
