"""Softmax and cross-entropy in pieces, so that the classes (dim 1) may be cut over ranks (NumPy).

    logits x (N, K, *S)   classes k_start .. k_start + K of all        labels (N, *S), global class ids

    1  block_max      top = max_k x                                    [max over ranks]
    2  block_sums     Z = sum e^(x - top), picked, plain sum           [sum over ranks]
    3  losses, gradient                                                each rank for its block

The loss of a position with smoothing s is the cross-entropy with the target (1 - s) one-hot + s / classes:

    loss    = log Z - (1 - s) (x_label - top) - s mean_k (x_k - top)
    d loss  = e^(x - top) / Z - (1 - s) [k = label] - s / classes

A label that is in no block (such as -1) picks nothing; give such a position the weight 0.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.reference.window import Array

NOT_HERE = int(np.iinfo(np.int64).max)
"""`best_class` of a position whose best class lies in another block: the least over ranks ignores it."""


def block_max(x: Array) -> Array:
    """Largest logit of the block: (N, *S), -inf if it has no class."""
    return np.asarray(x.max(axis=1, initial=-np.inf))


def block_sums(x: Array, top: Array, labels: Array, k_start: int) -> Array:
    """What the loss needs of a block of classes.

    Parameters
    ----------
    x : (N, K, *S)
    top : (N, *S) largest logit over all classes
    labels : (N, *S) integers, global class ids
    k_start : first global class of the block

    Returns
    -------
    float64 (3, N, *S): sum of e^(x - top); x_label - top, or 0 if the label is elsewhere; sum of x - top.
    """
    below = x - np.expand_dims(top, 1)
    sums = np.zeros((3, *labels.shape))
    sums[0] = np.exp(below).sum(axis=1, dtype=np.float64)
    here, local_label = _labelled(x, labels, k_start)
    sums[1][here] = below[local_label]
    sums[2] = below.sum(axis=1, dtype=np.float64)
    return sums


def losses(sums: Array, classes: int, smoothing: float) -> Array:
    """Loss of each position, float64 (N, *S), from `block_sums` over all ranks."""
    return np.asarray(np.log(sums[0]) - (1 - smoothing) * sums[1] - smoothing / classes * sums[2])


def gradient(
    x: Array,
    top: Array,
    sum_exp: Array,
    labels: Array,
    k_start: int,
    classes: int,
    smoothing: float,
    weight: Array,
) -> Array:
    """Gradient of sum(weight loss) by the logits of a block.

    Parameters
    ----------
    x : (N, K, *S)
    top, sum_exp : (N, *S) largest logit and sum of e^(x - top) over all classes
    labels : (N, *S) integers, global class ids
    k_start, classes : first global class of the block, and the number of all
    smoothing : weight of the uniform target, 0 to 1
    weight : (N, *S) of each position: one over their number for a mean, 0 to leave one out

    Returns
    -------
    (N, K, *S) of the dtype of x.
    """
    dx = np.exp(x - np.expand_dims(top, 1))
    dx *= np.expand_dims((1 / sum_exp).astype(x.dtype), 1)
    dx -= smoothing / classes
    _, local_label = _labelled(x, labels, k_start)
    dx[local_label] -= 1 - smoothing
    dx *= np.expand_dims(weight.astype(x.dtype), 1)
    return np.asarray(dx)


def best_class(x: Array, top: Array, k_start: int) -> Array:
    """First global class whose logit is `top`: int64 (N, *S), `NOT_HERE` if it is not in this block."""
    if x.shape[1] == 0:
        return np.full(top.shape, NOT_HERE, np.int64)
    equal = x == np.expand_dims(top, 1)
    return np.where(equal.any(axis=1), equal.argmax(axis=1) + k_start, NOT_HERE)


def _labelled(x: Array, labels: Array, k_start: int) -> tuple[Array, tuple[Array, ...]]:
    """Positions whose label is in this block (a mask), and the index in x of each one's logit."""
    local_k = labels - k_start
    here = (local_k >= 0) & (local_k < x.shape[1])
    n, *space = np.nonzero(here)
    return here, (n, local_k[here], *space)
