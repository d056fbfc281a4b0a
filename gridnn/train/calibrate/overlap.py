"""How much of a sum is hidden behind arithmetic: what a network card does by itself, and what cores must carry.

    sums alone          wire    |..........|                         T
    products alone      compute |============|                       C, a little longer than T
    both at once        compute |##============|                     T + C - hidden

A step is priced with `Machine.beside`, which for C > T says (1 - overlap) T + C; so overlap = hidden / T.  Sums go
as in a run: buckets, begun by `gridnn.comm.collectives`, moved on by the progress thread.  Products are NumPy's, or of
the device whose arrays are summed: they are started at once, and the host has the sums to itself.  Sums are of
gradients, and so float32 in every precision; products are of arrays as a layer multiplies them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from gridnn.comm.collectives import finish, start_sum
from gridnn.comm.world import Array, World
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.traffic import Key

BUCKET = 4 << 20
"""Bytes of a sum: a run's default."""
SIDE = 384
"""Of the square matrices of a product, of some tenths of a millisecond to a few."""
LEAST_S, MOST_SIDE = 5e-4, 8192
"""On a device matrices grow until a product takes so long: the host's part of starting it is next to nothing then."""
LONGER = 1.2
"""How much longer the products take than the sums."""
MOST = 64
"""Sums in a measurement at most, all begun at once."""
_KEY = Key("calibrate", "backward", "", "")


class Overlap(NamedTuple):
    """Seconds of the slowest rank, medians of some turns, and the share that follows."""

    sums_s: float
    products_s: float
    both_s: float
    share: float


def share_hidden(sums_s: float, products_s: float, both_s: float) -> float:
    """Return the share of the sums that took no time of the products, between 0 and 1."""
    return min(1.0, max(0.0, (sums_s + products_s - both_s) / sums_s))


def measure_overlap(
    world: World, quick: bool, say: Callable[[str], None], device: Engine | None = None
) -> Overlap:  # fmt: skip
    """Measure sums over all ranks alone, products alone, and both.  Collective; the same on all ranks.

    Needs two ranks or more.  Products run with the threads that NumPy has at the time.

    Parameters
    ----------
    device
        What computes where arrays are on a device; None is the host.
    """
    least_s, turns = (0.05, 5) if quick else (0.2, 11)
    one = _taken(np.zeros(BUCKET // 4, np.float32), device)
    multiply = _product(SIDE, device)

    def summed(arrays: list[Array], products: int) -> None:
        everyone = tuple(range(world.size))
        requests = [start_sum(world, everyone, array, [(_KEY, array.size)]) for array in arrays]
        for _ in range(products):
            multiply()
        world.progress.rest()
        for request in requests:
            finish(world, request, "allreduce")
        if device is not None:
            device.synchronize()

    was, world.progress.on = world.progress.on, True
    try:
        once_s = min(_slowest_s(world, lambda: summed([one], 0)) for _ in range(4))
        arrays = [np.zeros_like(one) for _ in range(min(MOST, math.ceil(least_s / once_s)))]
        side, product_s = SIDE, min(_slowest_s(world, lambda: summed([], 8)) for _ in range(4)) / 8
        while device is not None and product_s < LEAST_S and side < MOST_SIDE:
            side *= 2
            multiply = _product(side, device)
            product_s = min(_slowest_s(world, lambda: summed([], 8)) for _ in range(4)) / 8
        summed(arrays, 0)  # touches the arrays
        sums_s = _slowest_s(world, lambda: summed(arrays, 0))
        products = max(1, math.ceil(LONGER * sums_s / product_s))
        # The three beside each other in every turn, for a machine may change its clock.
        three = [partial(summed, a, n) for a, n in ((arrays, 0), ([], products), (arrays, products))]
        taken = [[_slowest_s(world, work) for work in three] for _ in range(turns)]
    finally:
        world.progress.on = was
    share = statistics.median(share_hidden(*turn) for turn in taken)
    say(f"links: {len(arrays)} sums beside products measured")
    sums_s, products_s, both_s = (statistics.median(turn[at] for turn in taken) for at in range(3))
    return Overlap(sums_s, products_s, both_s, share)


def _taken(array: Array, device: Engine | None) -> Array:
    return array if device is None else device.take(array)


def _product(side: int, device: Engine | None) -> Callable[[], object]:
    """Return what starts a product of square matrices."""
    left = np.ones((side, side), np.float32)
    if device is None:
        return partial(np.matmul, left, left, out=np.empty_like(left))
    stored = device.activations(np.float32)
    left = device.take(left.astype(stored))
    return partial(device.device.matmul, left, left, device.empty(left.shape, stored))


def _slowest_s(world: World, work: Callable[[], None]) -> float:
    """Return the seconds of some work on the slowest rank.  Collective."""
    world.comm.Barrier()
    started_s = time.perf_counter()
    work()
    return float(max(world.comm.allgather(time.perf_counter() - started_s)))
