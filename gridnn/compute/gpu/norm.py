"""Batch norm of a block, cut where statistics are summed over ranks: kernels/norm.cu, kernels/norm_statistics.cu.

    forward     moments -> [sum over ranks] -> statistics -> apply
    backward    backward_sums -> [sum over ranks] -> backward_apply

    kernel                    threads
    moments, backward_sums    blocks of 32 channels by 8 rows, one a chunk of rows; then `fold` adds up the chunks
    statistics                one a channel
    apply, backward_apply     one an element

A rectifier after it is part of the same pass over memory.  Vectors of channels are on the device as well, sums and
statistics in float64.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gridnn.compute.gpu.dense import blank, plain, settled, target
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.sums import LANES, ROWS, rows_of_a_chunk
from gridnn.compute.storage import wide_of

Statistics = tuple[Array, Array] | Array  # mean and 1 / standard deviation, (C,) each or (2, C)


def moments(engine: Engine, x: Array, shift: Array) -> Array:
    """Return the sums of x - shift and of its square over samples and space: float64 (2, C)."""
    x = engine.fitted(x)
    return _summed(engine, "moments", x, [x, plain(engine, shift, np.float64)])


def statistics(
    engine: Engine, sums: Array, count: int, mean: Array, variance: Array, momentum: float, eps: float
) -> Statistics:
    """Return those of the batch from the moments over all ranks; the running mean and variance move in place."""
    channels, running = sums.shape[1], (mean, variance)
    moved = [plain(engine, vector, np.float64) for vector in running]
    now = blank(engine, (2, channels), np.float64)
    unbias, sums = count / max(1, count - 1), plain(engine, sums, np.float64)
    arguments = [sums, max(count, 1), unbias, *moved, momentum, eps, now, channels]
    engine.walk("norm_statistics", "batch", channels, arguments, np.float64)
    for vector, there in zip(running, moved, strict=True):
        if there is not vector:  # a copy that the kernel could change
            vector[...] = there
    return now


def apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, beta: Array, *, relu: bool = False,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return (x - mean) inv_std gamma + beta, rectified if asked."""
    x, y = engine.fitted(x), target(engine, x.shape, x.dtype, out)
    affine = [plain(engine, vector, wide_of(x.dtype)) for vector in (gamma, beta)]
    vectors = [*_statistics(engine, statistics), *affine]
    engine.walk("norm", "apply", x.size, [x, *vectors, y, x.size, x.shape[1], relu], x.dtype)
    return settled(engine, y, out)


def backward_sums(
    engine: Engine, x: Array, statistics: Statistics, dy: Array, y: Array | None = None
) -> Array:
    """Return the sums of dy and dy xhat, the gradients of beta and gamma: float64 (2, C); y masks dy where given."""
    blocks = _fitted(engine, x, dy, y)
    return _summed(engine, "backward_sums", x, [*blocks, *_statistics(engine, statistics)])


def backward_apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array, sums: Array, count: int,
    y: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient by x, from the sums over all ranks and the elements a channel over all ranks."""
    dx = engine.empty(x.shape, x.dtype)
    vectors = [
        *_statistics(engine, statistics), plain(engine, gamma, wide_of(x.dtype)), plain(engine, sums, np.float64)
    ]  # fmt: skip
    arguments = [*_fitted(engine, x, dy, y), *vectors, max(count, 1), dx, x.size, x.shape[1]]
    engine.walk("norm", "backward_apply", x.size, arguments, x.dtype)
    return dx


def _summed(engine: Engine, kernel: str, x: Array, arguments: list[Array | None]) -> Array:
    """Return the two sums of each channel that a kernel makes of chunks of rows: float64 (2, C)."""
    channels, rows = x.shape[1], x.shape[0] * prod(x.shape[2:])
    sums = blank(engine, (2, channels), np.float64)
    if not x.size:
        sums[...] = 0
        return sums
    chunk = rows_of_a_chunk(rows)
    chunks = -(-rows // chunk)
    partial = blank(engine, (chunks, 2, channels), np.float64)
    grid = (-(-channels // LANES), chunks)
    arguments = [*arguments, rows, channels, chunk, partial]
    engine.device.launch("norm", kernel, grid, (LANES, ROWS), arguments, x.dtype)
    engine.walk("norm", "fold", sums.size, [partial, chunks, sums.size, sums], x.dtype)
    return sums


def _statistics(engine: Engine, statistics: Statistics) -> list[Array]:
    """Return mean and 1 / standard deviation as kernels take them."""
    return [plain(engine, statistics[which], np.float64) for which in (0, 1)]


def _fitted(engine: Engine, x: Array, dy: Array, y: Array | None) -> list[Array | None]:
    """Return the blocks as kernels take them, of the dtype of x."""
    return [engine.fitted(x), engine.fitted(dy, x), None if y is None else engine.fitted(y, x)]
