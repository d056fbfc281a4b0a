"""Layer norm of a block, cut where statistics are summed over ranks: kernels/layer_norm.cu, kernels/norm_statistics.cu.

    forward     moments -> [sum over ranks] -> statistics -> apply
    backward    backward_sums -> [sum over ranks] -> backward_apply; then parameter_gradients, summed with all others

    kernel                   threads
    moments, backward_sums   one to eight warps a chunk of a sample; then `fold` adds up the chunks
    parameter_gradients      blocks of 32 elements by 8 samples, one a chunk of samples; then `fold`
    statistics               one a sample
    apply, backward_apply    one an element

x (N, C, *S), channels innermost.  Kernels read gamma and beta in the order of a sample's elements: those of features
lie so, those of images are copied first, a sample's size each.  See the reference for the formulas.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gridnn.compute.cpu.memory import logical
from gridnn.compute.gpu.dense import blank, plain, settled, target
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.sums import LANES, MOST_CHUNKS, ROWS, rows_of_a_chunk
from gridnn.compute.storage import wide_of

Statistics = tuple[Array, Array] | Array  # mean and 1 / standard deviation, (N,) each or (2, N)

WARP, MOST_WARPS = 32, 8
"""Threads of a warp, and warps that add up a chunk of a sample."""
LEAST_ELEMENTS = 1024
"""Of a chunk of a sample that is cut: four for each thread of a whole block."""


def moments(engine: Engine, x: Array) -> Array:
    """Return the sums of x and of its square over channels and space: float64 (2, N)."""
    return _summed(engine, "moments", x, [engine.fitted(x)])


def statistics(engine: Engine, sums: Array, count: int, eps: float) -> Statistics:
    """Return those of each sample, float64, from the moments and the elements a sample, both over all ranks."""
    samples = sums.shape[1]
    now = blank(engine, (2, samples), np.float64)
    arguments = [plain(engine, sums, np.float64), max(count, 1), eps, now, samples]
    engine.walk("norm_statistics", "layer", samples, arguments, np.float64)
    return now


def apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, beta: Array, *, out: Array | None = None
) -> Array:
    """Return (x - mean) inv_std gamma + beta."""
    x, y = engine.fitted(x), target(engine, x.shape, x.dtype, out)
    affine = [_elements(engine, parameter, x) for parameter in (gamma, beta)]
    arguments = [x, *_statistics(engine, statistics), *affine, y, x.size, prod(x.shape[1:])]
    engine.walk("layer_norm", "apply", x.size, arguments, x.dtype)
    return settled(engine, y, out)


def backward_sums(engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array) -> Array:
    """Return the sums of g = dy gamma and of g xhat over channels and space: float64 (2, N)."""
    blocks = [engine.fitted(x), engine.fitted(dy, x)]
    vectors = [*_statistics(engine, statistics), _elements(engine, gamma, x)]
    return _summed(engine, "backward_sums", x, [*blocks, *vectors])


def backward_apply(
    engine: Engine, x: Array, statistics: Statistics, gamma: Array, dy: Array, sums: Array, count: int
) -> Array:
    """Return the gradient by x, from the sums over all ranks and the elements a sample over all ranks."""
    dx = engine.empty(x.shape, x.dtype)
    vectors = [
        *_statistics(engine, statistics), _elements(engine, gamma, x), plain(engine, sums, np.float64)
    ]  # fmt: skip
    size = prod(x.shape[1:])
    arguments = [engine.fitted(x), engine.fitted(dy, x), *vectors, max(count, 1), dx, x.size, size]
    engine.walk("layer_norm", "backward_apply", x.size, arguments, x.dtype)
    return dx


def parameter_gradients(engine: Engine, x: Array, statistics: Statistics, dy: Array) -> tuple[Array, Array]:
    """Return the gradients (dgamma, dbeta), (C, *S) each, summed over the block's samples."""
    samples, size = x.shape[0], prod(x.shape[1:])
    sums = blank(engine, (2, size), np.float64)
    if x.size:
        chunk = rows_of_a_chunk(samples)
        chunks = -(-samples // chunk)
        partial = blank(engine, (chunks, 2, size), np.float64)
        blocks = [engine.fitted(x), engine.fitted(dy, x)]
        arguments = [*blocks, *_statistics(engine, statistics), samples, size, chunk, partial]
        grid = (-(-size // LANES), chunks)
        engine.device.launch("layer_norm", "parameter_gradients", grid, (LANES, ROWS), arguments, x.dtype)
        engine.walk("layer_norm", "fold", sums.size, [partial, chunks, sums.size, sums], x.dtype)
    else:
        sums[...] = 0
    # Rows of elements in the order of a sample, seen as two samples.
    of_beta, of_gamma = logical(sums.astype(wide_of(dy.dtype)).reshape(2, *x.shape[2:], x.shape[1]))
    return of_gamma, of_beta


def elements_of_a_chunk(size: int, samples: int) -> int:
    """Return into chunks of how many elements each of that many samples is cut."""
    chunks = max(1, MOST_CHUNKS // max(1, samples))
    return max(LEAST_ELEMENTS, -(-size // chunks))


def _summed(engine: Engine, kernel: str, x: Array, arguments: list[Array]) -> Array:
    """Return the two sums of each sample that a kernel makes of chunks of it: float64 (2, N)."""
    samples, size = x.shape[0], prod(x.shape[1:])
    sums = blank(engine, (2, samples), np.float64)
    if not x.size:
        sums[...] = 0
        return sums
    chunk = elements_of_a_chunk(size, samples)
    chunks, warps = -(-size // chunk), min(MOST_WARPS, -(-min(size, chunk) // WARP))
    partial = blank(engine, (chunks, 2, samples), np.float64)
    arguments = [*arguments, size, chunk, chunks, partial]
    engine.device.launch("layer_norm", kernel, (samples * chunks,), (WARP * warps,), arguments, x.dtype)
    engine.walk("layer_norm", "fold", sums.size, [partial, chunks, sums.size, sums], x.dtype)
    return sums


def _elements(engine: Engine, parameter: Array, x: Array) -> Array:
    """Return a parameter (C, *S) in the order of the elements of a sample of x: space, then channels."""
    return plain(engine, parameter.transpose(*range(1, parameter.ndim), 0), wide_of(x.dtype))


def _statistics(engine: Engine, statistics: Statistics) -> list[Array]:
    """Return mean and 1 / standard deviation as kernels take them."""
    return [plain(engine, statistics[which], np.float64) for which in (0, 1)]
