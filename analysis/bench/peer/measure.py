"""What both sides measure with, and the numbers they compute on: the same on both without a file between them."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
PRODUCT = 2048
"""Extent of the square matrices of `product_flops_per_s`."""

SAMPLES = 61
"""Elements of a result that the sides compare."""


def median_s(work: Callable[[], object], least_s: float) -> float:
    """Return the median seconds of `work`, repeated until `least_s` is spent, at least once."""
    taken: list[float] = []
    while not taken or sum(taken) < least_s:
        started_s = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started_s)
    return statistics.median(taken)


def step_s(step: Callable[[], object], count: int, together: Callable[[], object]) -> list[float]:
    """Return the seconds of `count` steps; `together` brings the ranks together before and after each."""
    taken = []
    for _ in range(count):
        together()
        started_s = time.perf_counter()
        step()
        together()
        taken.append(time.perf_counter() - started_s)
    return taken


def product_flops_per_s(product: Callable[[], object], count: int = 5) -> float:
    """Return the operations a second of the fastest of `count` products of `PRODUCT` squared matrices."""
    product()
    return 2 * PRODUCT**3 / min(median_s(product, 0.0) for _ in range(count))


def peak_bytes() -> int:
    """Return the most memory this process has had (``ru_maxrss``, which Linux gives in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def numbers(shape: Sequence[int], seed: int) -> Array:
    """Return float32 in [-1, 1) that look random: each index, mixed with the seed."""
    bits = _mixed(prod(shape), seed)
    return (bits.astype(np.float32) * np.float32(2.0**-31) - np.float32(1)).reshape(tuple(shape))


def classes(shape: Sequence[int], count: int, seed: int) -> Array:
    """Return int64 class numbers below `count`."""
    return (_mixed(prod(shape), seed) % np.uint32(count)).astype(np.int64).reshape(tuple(shape))


def channels_last(array: Array) -> Array:
    """Return a copy (N, C, *S) whose memory has the channels last; of features (N, F), a plain copy."""
    return (
        np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
        if array.ndim > 2
        else array.copy()
    )


def samples(array: Array) -> list[float]:
    """Return `SAMPLES` elements of an array, evenly spread over its logical order, and its norm."""
    picked = np.unravel_index(np.linspace(0, array.size - 1, SAMPLES).astype(np.int64), array.shape)
    norm = float(np.linalg.norm(array.astype(np.float64).ravel()))
    return [*map(float, array[picked]), norm]


def _mixed(count: int, seed: int) -> NDArray[np.uint32]:
    """Return the indices below `count`, mixed by shifts and multiplications (multipliers: Wellons, hash prospector)."""
    bits = np.arange(count, dtype=np.uint32) + np.uint32(0x9E3779B9 * (seed + 1) % 2**32)
    for factor in (0x7FEB352D, 0x846CA68B):
        bits ^= bits >> np.uint32(16)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(15)
    return bits
