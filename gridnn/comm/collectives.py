"""Collectives over the ranks that share a block: sums of gradients and statistics, maxima, gathered shares.

All count themselves in the ledger.  The non-blocking ones are queued (`world.sums`) and return what `finish` awaits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from mpi4py import MPI

from gridnn.comm.clock import NOWHERE, Where
from gridnn.comm.sums import Handle
from gridnn.comm.trail import where_is
from gridnn.comm.world import Array, World
from gridnn.geometry.interval import Interval
from gridnn.geometry.traffic import Key, owned

OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}


def all_reduce(world: World, ranks: tuple[int, ...], array: Array, key: Key, how: str = "sum") -> Array:
    """Return the elementwise sum, max or min of `array` over `ranks`; alone, the array itself."""
    if len(ranks) < 2 or array.size == 0:
        return array
    out = np.empty_like(array)
    world.trail.enter("allreduce", ranks, key)
    with world.clock.phase("allreduce", ((key.layer,), key.direction)):
        world.group(ranks).Allreduce(np.ascontiguousarray(array), out, OPERATIONS[how])
    _count_allreduce(world, ranks, array, [(key, array.size)])
    return out


def start_sum(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> Handle | None:
    """Start to sum a contiguous 1-D array in place over `ranks`; `parts` are the keys and sizes of its segments."""
    if len(ranks) < 2 or array.size == 0:
        return None
    world.trail.enter("allreduce", ranks, parts)
    with world.clock.phase("allreduce", where_of(parts)):
        request = world.sums.all_reduce(world.group(ranks, "sums"), array)
    world.progress.begin()
    _count_allreduce(world, ranks, array, parts)
    return request


def start_reduce_scatter(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> tuple[Handle | None, Array]:
    """Start to sum a 1-D array over `ranks`, each keeping its balanced block; returns the request and the block."""
    if len(ranks) < 2 or array.size == 0:
        return None, array
    blocks = [Interval(0, array.size).block(len(ranks), i) for i in range(len(ranks))]
    share = np.empty(blocks[ranks.index(world.rank)].size, array.dtype)
    world.trail.enter("reduce_scatter", ranks, parts)
    with world.clock.phase("reduce_scatter", where_of(parts)):
        comm = world.group(ranks, "sums")
        post = partial(comm.Ireduce_scatter, array, share, [b.size for b in blocks])
        request = world.sums.queue([post], (array, share))
    world.progress.begin()
    for at, ((key, _), mine) in enumerate(zip(parts, _owned(world, ranks, array, parts), strict=True)):
        world.ledger.add(key, at == 0, (len(ranks) - 1) * mine * share.itemsize)
    return request, share


def all_gather_shares(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> None:
    """Fill a 1-D array, of which every rank of `ranks` holds its balanced block, on all of them."""
    if len(ranks) < 2 or array.size == 0:
        return
    blocks = [Interval(0, array.size).block(len(ranks), i) for i in range(len(ranks))]
    world.trail.enter("allgather", ranks, parts)
    with world.clock.phase("allgather", where_of(parts)):
        world.group(ranks).Allgatherv(MPI.IN_PLACE, [array, [b.size for b in blocks]])
    for at, ((key, size), mine) in enumerate(zip(parts, _owned(world, ranks, array, parts), strict=True)):
        world.ledger.add(key, at == 0, (size - mine) * array.itemsize)


def finish(world: World, request: Handle | None, kind: str, where: Where = NOWHERE) -> None:
    """Await a started collective."""
    if request is not None:
        with world.clock.phase(f"{kind} wait", where):
            request.Wait()


def where_of(parts: Sequence[tuple[Key, int]]) -> Where:
    """Return whose segments these are, for the clock."""
    return where_is(parts)


def _count_allreduce(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> None:
    for at, ((key, size), mine) in enumerate(zip(parts, _owned(world, ranks, array, parts), strict=True)):
        world.ledger.add(key, at == 0, ((len(ranks) - 1) * mine + size - mine) * array.itemsize)


def _owned(world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]) -> list[int]:
    """Return how much of each segment of the buffer handed to MPI lies in this rank's balanced block."""
    sizes = [size for _, size in parts]
    assert sum(sizes) == array.size, f"{parts[0][0]}: segments of {sum(sizes)} in a buffer of {array.size}"
    return owned(sizes, len(ranks), ranks.index(world.rank))
