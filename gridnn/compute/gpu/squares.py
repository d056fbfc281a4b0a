"""Squared norms of parameters and gradients, and what updates are told of them: kernels/squares.cu.

    arrays   | value of p | gradient of p | value of q ...   cut into chunks: a block of threads each, float64
                  `-------------`-------------`------------> sums (2 P) -- over ranks --> factors (2 + P)

    factors  | norm of all gradients | factor that clips them | rate of parameter 0 | rate of parameter 1 | ...

However many arrays there are, it takes three launches, and the host reads nothing: updates read their factors where
they are.  How arrays are cut follows from their sizes alone, so every run adds up in one order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine

CHUNK = np.dtype([("x", np.uint64), ("count", np.int64)], align=True)
"""`Chunk` of kernels/squares.cu."""
ELEMENTS = 1 << 14
"""Of a chunk: 64 for each thread, so that adding up the threads is little of the work."""
THREADS = 256
"""Of a block, as the kernels have it."""


class Part(NamedTuple):
    """What a rank counts of a parameter: flat arrays without gaps, at least an element."""

    number: int
    value: Array
    grad: Array


class Parts(NamedTuple):
    """Where parts lie, for good: made once, read by every launch.

    Parameters
    ----------
    chunks, starts
        On the device, what the kernels read.
    blocks
        How many chunks there are.
    parameters
        Of all ranks, P.
    kept
        The parts: the table has their addresses.
    """

    chunks: Array
    starts: Array
    blocks: int
    parameters: int
    kept: tuple[Part, ...]


def parts_of(engine: Engine, parts: Sequence[Part], parameters: int) -> Parts:
    """Return where parts lie, at most one of a parameter.

    Parameters
    ----------
    parameters
        Of all ranks; the numbers of parts are below.
    """
    of = {2 * part.number + at: part[1 + at] for part in parts for at in (0, 1)}
    assert len(of) == 2 * len(parts), "two parts of one parameter"
    found, starts = list[tuple[int, int]](), [0]
    for row in range(2 * parameters):
        if row in of:
            found += _chunks(engine, of[row])
        starts.append(len(found))
    table = np.array(found or [(0, 0)], CHUNK)
    take = engine.device.from_host
    return Parts(
        take(table.view(np.uint8)), take(np.array(starts, np.int32)), len(found), parameters, tuple(parts)
    )


def squares(engine: Engine, parts: Parts) -> Array:
    """Return squared norms: float64 (2 P), of value and gradient of each parameter, 0 where it has no part."""
    sums = engine.empty((2 * parts.parameters,), np.float64)
    if parts.blocks:
        partial = engine.empty((parts.blocks,), np.float64)
        real = parts.kept[0].value.dtype
        launch = engine.device.launch
        launch("squares", "squares", (parts.blocks,), (THREADS,), [parts.chunks, partial], real)
        launch("squares", "gather", (sums.size,), (THREADS,), [partial, parts.starts, sums], real)
    else:
        sums[...] = 0
    return sums


def factors(
    engine: Engine, sums: Array, told: Array, *, most: float | None, trust: float, decay: float, eps: float
) -> None:
    """Set `told` (2 + P), float64, to the norm of all gradients, the factor on them, and LARS rates.

    Parameters
    ----------
    sums
        Squared norms over all ranks, (2 P).
    most
        The norm that gradients are clipped to; None leaves them.
    trust, decay, eps
        Of `lars_rate`.
    """
    parameters = sums.size // 2
    arguments = [sums, parameters, math.inf if most is None else most, trust, decay, eps, told]
    engine.device.launch("squares", "factors", (1,), (THREADS,), arguments, np.float64)


def _chunks(engine: Engine, array: Array) -> list[tuple[int, int]]:
    """Return address and elements of each chunk."""
    assert array.ndim == 1 and array.flags.c_contiguous, "squares are of flat contiguous arrays"
    start = engine.device.address(array)
    return [
        (start + at * array.itemsize, min(ELEMENTS, array.size - at)) for at in range(0, array.size, ELEMENTS)
    ]
