"""Sums of each channel over space, and over samples too: kernels/sums.cu.

    rows of a sample   | chunk 0 | chunk 1 | chunk 2 |    a block of threads each: float64 partial sums
                            `---------+--------'          then one thread an element adds them up, the first first

How rows are cut follows from shapes alone, so that every run and every device adds up in one order.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.gpu.dense import blank
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.storage import wide_of

LANES, ROWS = 32, 8
"""Channels and rows that a block of threads takes at a time."""
MOST_CHUNKS = 256
"""Of a sum: with 64 channels they fill a large device, and one thread can still add them up."""
LEAST_ROWS = 64
"""Rows of a chunk: eight for each thread, else starting the threads is most of the work."""


def rows_of_a_chunk(rows: int, sums: int = 1) -> int:
    """Return into chunks of how many rows each of that many sums is cut."""
    chunks = max(1, MOST_CHUNKS // max(1, sums))
    return max(LEAST_ROWS, -(-rows // chunks))


def channel_sums(
    engine: Engine, x: Array, samples: int, y: Array | None = None, masked: Array | None = None
) -> Array:
    """Return the sums of x (N, C, *S) over space: (samples, C), made in float64, of the dtype that x is computed in.

    Parameters
    ----------
    x
        A dense block.
    samples
        N, or 1 to sum over samples as well.
    y, masked
        Dense blocks like x, or None: where y is not above 0, x does not count, and `masked` is set to what does.
    """
    channels = x.shape[1]
    sums = blank(engine, (samples, channels), wide_of(x.dtype))
    if not x.size:
        sums[...] = 0
        return sums
    rows = x.size // (samples * channels)
    chunk = rows_of_a_chunk(rows, samples)
    chunks = -(-rows // chunk)
    partial = engine.device.empty(samples * chunks * channels, np.float64)
    engine.device.launch(
        "sums", "channel_sums", (samples * chunks, -(-channels // LANES)), (LANES, ROWS),
        [x, y, masked, rows, channels, chunk, chunks, partial], x.dtype,
    )  # fmt: skip
    engine.walk("sums", "fold", sums.size, [partial, chunks, channels, sums.size, sums], x.dtype)
    return sums
