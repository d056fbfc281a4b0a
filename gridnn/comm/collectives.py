"""Collectives over the ranks that share a block: sums of gradients and statistics, maxima, gathered shares.

All count themselves in the ledger, whoever carries them.  Those that are started return what `finish` awaits; by MPI
they are queued (`world.sums`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gridnn.comm.carrier import BY_MPI
from gridnn.comm.carrier import Awaited as Awaited  # what finish awaits
from gridnn.comm.clock import NOWHERE, Where
from gridnn.comm.trail import where_is
from gridnn.comm.world import Array, World
from gridnn.geometry.interval import Interval
from gridnn.geometry.traffic import Key, owned


def all_reduce(world: World, ranks: tuple[int, ...], array: Array, key: Key, how: str = "sum") -> Array:
    """Return the elementwise sum, max or min of `array` over `ranks`; alone, the array itself."""
    if len(ranks) < 2 or array.size == 0:
        return array
    flat, transport = array.reshape(-1), world.transport
    away = transport.elsewhere(array)
    out = transport.room(flat.shape, flat.dtype, at_once=False) if away else np.empty_like(flat)
    world.trail.enter("allreduce", ranks, key)
    with world.clock.phase("allreduce", ((key.layer,), key.direction)):
        (message,) = transport.ready([flat])
        world.carrier(array).all_reduce(world, ranks, message, out, how)
    _count_allreduce(world, ranks, array, [(key, array.size)])
    found = transport.landed(out) if away else out
    transport.release([message, out])
    return found.reshape(array.shape)


def start_sum(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]],
    within: Interval | None = None,
) -> Awaited | None:  # fmt: skip
    """Start to sum a contiguous 1-D array in place over `ranks`.

    Parameters
    ----------
    parts
        Keys and sizes of its segments.
    within
        What of it is summed now, where that is not all: the array is counted with its first elements.
    """
    if len(ranks) < 2 or array.size == 0:
        return None
    if within is None or within.start == 0:
        _count_allreduce(world, ranks, array, parts)
    if within is not None:
        array, parts = array[slice(*within)], inside(parts, within)
    world.trail.enter("allreduce", ranks, parts)
    with world.clock.phase("allreduce", where_of(parts)):
        (message,) = world.transport.ready([array])
        request = world.carrier(array).start_sum(world, ranks, message)
    return Landing(world, request, message, array, [message]) if message is not array else request


def start_scalars(world: World, ranks: tuple[int, ...], array: Array, key: Key) -> Awaited | None:
    """Start to sum a few numbers of the host in place over `ranks`, outside of the queue: they may stay open long."""
    if len(ranks) < 2:
        return None
    world.trail.enter("allreduce", ranks, key, "scalars")
    with world.clock.phase("allreduce", where_of([(key, array.size)])):
        request = BY_MPI.start_scalars(world, ranks, array)
    _count_allreduce(world, ranks, array, [(key, array.size)])
    return request


def start_reduce_scatter(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> tuple[Awaited | None, Array]:
    """Start to sum a 1-D array over `ranks`, each keeping its balanced block; returns the request and the block."""
    if len(ranks) < 2 or array.size == 0:
        return None, array
    blocks = [Interval(0, array.size).block(len(ranks), i) for i in range(len(ranks))]
    size = blocks[ranks.index(world.rank)].size
    share, transport = np.empty_like(array, shape=(size,)), world.transport
    away = transport.elsewhere(array)
    received = transport.room((size,), array.dtype, at_once=False) if away else share
    world.trail.enter("reduce_scatter", ranks, parts)
    with world.clock.phase("reduce_scatter", where_of(parts)):
        (message,) = transport.ready([array])
        sizes = [block.size for block in blocks]
        request = world.carrier(array).start_shares(world, ranks, message, received, sizes)
    for at, ((key, _), mine) in enumerate(zip(parts, _owned(world, ranks, array, parts), strict=True)):
        world.ledger.add(key, at == 0, (len(ranks) - 1) * mine * share.itemsize)
    return Landing(world, request, received, share, [message, received]) if away else request, share


def all_gather_shares(
    world: World, ranks: tuple[int, ...], array: Array, parts: Sequence[tuple[Key, int]]
) -> None:
    """Fill a 1-D array, of which every rank of `ranks` holds its balanced block, on all of them."""
    if len(ranks) < 2 or array.size == 0:
        return
    blocks = [Interval(0, array.size).block(len(ranks), i) for i in range(len(ranks))]
    transport = world.transport
    world.trail.enter("allgather", ranks, parts)
    with world.clock.phase("allgather", where_of(parts)):
        message = transport.share(array, slice(*blocks[ranks.index(world.rank)]))
        world.carrier(array).share(world, ranks, message, [block.size for block in blocks])
        if message is not array:
            array[...] = transport.landed(message)
            transport.release([message])
    for at, ((key, size), mine) in enumerate(zip(parts, _owned(world, ranks, array, parts), strict=True)):
        world.ledger.add(key, at == 0, (size - mine) * array.itemsize)


@dataclass(frozen=True)
class Landing:
    """A collective over copies on the host: what it brings goes back to the device when it is awaited.

    Attributes
    ----------
    message, array
        Where it ends, and where that belongs on the device.
    lent
        Messages to let go of then.
    """

    world: World
    request: Awaited
    message: Array
    array: Array
    lent: Sequence[Array]

    def Wait(self) -> None:
        """Return when it is done and `array` holds it."""
        self.request.Wait()
        self.array[...] = self.world.transport.landed(self.message)
        self.world.transport.release(self.lent)


def finish(world: World, request: Awaited | None, kind: str, where: Where = NOWHERE) -> None:
    """Await a started collective."""
    if request is not None:
        with world.clock.phase(f"{kind} wait", where):
            request.Wait()


def inside(parts: Sequence[tuple[Key, int]], within: Interval) -> list[tuple[Key, int]]:
    """Return the keys and sizes of what of an array's segments lies within an interval."""
    starts = accumulate((size for _, size in parts), initial=0)
    found = [(key, (Interval(at, at + n) & within).size) for at, (key, n) in zip(starts, parts, strict=False)]
    return [(key, size) for key, size in found if size]


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
