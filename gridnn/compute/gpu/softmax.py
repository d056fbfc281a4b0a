"""Softmax and cross-entropy in pieces, so that the classes may be cut over ranks: kernels/softmax.cu.

    kernel                  threads
    block_max, block_sums   a warp a position, its lanes every 32nd class
    gradient                one a logit

logits x (N, K, *S), classes k_start .. k_start + K of all; labels (N, *S).  See the reference for the formulas.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gridnn.compute.cpu.reference.softmax import NOT_HERE
from gridnn.compute.gpu.dense import blank, plain
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.storage import wide_of

WARP = 32
"""Threads that take a position together."""


def block_max(engine: Engine, x: Array) -> Array:
    """Return the largest logit of the block: (N, *S), of the dtype it is computed in, -inf if there is no class."""
    x, positions = engine.fitted(x), _positions(x)
    top = blank(engine, (x.shape[0], *x.shape[2:]), wide_of(x.dtype))
    arguments = [x, positions, x.shape[1], top]
    engine.walk("softmax", "block_max", positions * WARP, arguments, x.dtype)
    return top


def block_sums(engine: Engine, x: Array, top: Array, labels: Array, k_start: int) -> Array:
    """Return float64 (3, N, *S): sum of e^(x - top), x_label - top or 0 if elsewhere, sum of x - top."""
    x, positions = engine.fitted(x), _positions(x)
    sums = blank(engine, (3, x.shape[0], *x.shape[2:]), np.float64)
    told = [plain(engine, top, wide_of(x.dtype)), plain(engine, labels, np.int64)]
    arguments = [x, *told, positions, x.shape[1], k_start, sums]
    engine.walk("softmax", "block_sums", positions * WARP, arguments, x.dtype)
    return sums


def losses(sums: Array, classes: int, smoothing: float) -> Array:
    """Return the loss of each position, float64 (N, *S), from `block_sums` over all ranks."""
    return np.log(sums[0]) - (1 - smoothing) * sums[1] - smoothing / classes * sums[2]


def best_class(x: Array, top: Array, k_start: int) -> Array:
    """Return the first global class whose logit is `top`: int64 (N, *S), NOT_HERE if it is not in this block."""
    if not x.size:
        return np.full_like(top, NOT_HERE, dtype=np.int64)
    equal = x.astype(top.dtype, copy=False) == top[:, None]
    return np.where(np.any(equal, axis=1), np.argmax(equal, axis=1) + k_start, NOT_HERE)


def gradient(
    engine: Engine, x: Array, top: Array, sum_exp: Array, labels: Array, k_start: int, classes: int,
    smoothing: float, weight: Array,
) -> Array:  # fmt: skip
    """Return the gradient of sum(weight loss) by the logits of a block: (N, K, *S)."""
    x, dx = engine.fitted(x), engine.empty(x.shape, x.dtype)
    of_positions = [
        plain(engine, array, dtype)
        for array, dtype in (
            (top, wide_of(x.dtype)), (sum_exp, np.float64), (labels, np.int64), (weight, np.float64)
        )
    ]  # fmt: skip
    arguments = [x, *of_positions, _positions(x), x.shape[1], k_start, smoothing / classes, 1 - smoothing, dx]
    engine.walk("softmax", "gradient", x.size, arguments, x.dtype)
    return dx


def _positions(x: Array) -> int:
    """Return how many samples and points of space the block has."""
    return prod((x.shape[0], *x.shape[2:]))
