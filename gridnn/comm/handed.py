"""Device memory handed to MPI: each class of operations as a run calls it, and whether what comes is right.

    class                       calls (`gridnn.comm.carrier`)              what comes
    messages                    Irecv and Isend; Recv and Send             the array of the rank to the left, in a ring
    blocking collectives        Allreduce (sum, max); Allgatherv in place  a sum, the largest; the parts of all ranks
    non-blocking collectives    Iallreduce in place; Ireduce_scatter;      a sum; a part of it; the parts of all ranks
                                Iallgatherv

Each with small and with larger arrays, which libraries send in different ways.  All elements are looked at, on the
host.  A library that cannot take device memory may die of it: only who may die calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.carrier import BY_MPI
from gridnn.comm.cuda_aware import OPERATIONS
from gridnn.comm.neighbours import Leg
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.interval import Interval

Array = NDArray[Any]
Came = Iterator[tuple[str, Array, Array]]
"""Calls, an array of the device that they filled, and what should be in it."""
ELEMENTS = (24, 1 << 18)
"""Of the arrays: what libraries send at once, and what they ask for room for."""
_RANKS, _PLACES = 16, 7  # of numbers that are different, so that any sum is exact in float32


def handed(world: World, engine: Engine, name: str) -> str:
    """Return what is wrong on this rank with a class of operations on device memory, "" for nothing.  Collective.

    Parameters
    ----------
    name
        One of `OPERATIONS`.
    """
    found = ""  # the first; the rank goes on, for others may have found nothing and call
    for elements in ELEMENTS:
        for calls, got, wanted in _CLASSES[name](world, engine, max(elements, world.size)):
            wrong = int(np.count_nonzero(engine.device.to_host(got).reshape(-1) != wanted))
            if wrong and not found:
                found = f"{calls}: {wrong} of {wanted.size} numbers were wrong"
    return found


def _messages(world: World, engine: Engine, elements: int) -> Came:
    """Send to the right in a ring."""
    left, right = (world.rank - 1) % world.size, (world.rank + 1) % world.size
    box = Interval(0, 1), Interval(0, elements)
    wanted = _numbers(left, elements)
    out, room = engine.take(_numbers(world.rank, elements)[None]), engine.memory.zeros((1, elements), "f")
    leg = Leg(box, box, [(right, box)], [(left, box)])
    engine.synchronize()
    BY_MPI.wait(world, BY_MPI.swap(world, leg, [room], lambda: [out]))
    yield "Irecv and Isend", room, wanted
    room[...] = 0
    engine.synchronize()
    if world.rank % 2:  # there is one: not all wait for each other
        world.comm.Recv(room, left)
        world.comm.Send(out, right)
    else:
        world.comm.Send(out, right)
        world.comm.Recv(room, left)
    yield "Send and Recv", room, wanted


def _blocking(world: World, engine: Engine, elements: int) -> Came:
    """Reduce, and gather in place."""
    ranks = tuple(range(world.size))
    for how, dtype, wanted in (
        ("sum", "d", _sum(world.size, elements)),
        ("max", "f", _most(world.size, elements)),
    ):
        own, out = (
            _taken(engine, _numbers(world.rank, elements).astype(dtype)),
            engine.device.empty(elements, dtype),
        )
        engine.synchronize()
        BY_MPI.all_reduce(world, ranks, own, out, how)
        yield f"Allreduce ({how})", out, wanted
    counts, parts = _parts(world, elements)
    array = np.zeros(elements, np.float32)
    array[slice(*parts[world.rank])] = parts[world.rank].start + 1
    own = _taken(engine, array)
    engine.synchronize()
    BY_MPI.share(world, ranks, own, counts)
    yield "Allgatherv in place", own, _starts(parts)


def _non_blocking(world: World, engine: Engine, elements: int) -> Came:
    """Sum in place, scatter a sum, gather."""
    ranks = tuple(range(world.size))
    counts, parts = _parts(world, elements)
    array = _taken(engine, _numbers(world.rank, elements))
    engine.synchronize()
    BY_MPI.start_sum(world, ranks, array).Wait()
    yield "Iallreduce in place", array, _sum(world.size, elements)
    array, share = (
        _taken(engine, _numbers(world.rank, elements)),
        engine.device.empty(counts[world.rank], "f"),
    )
    engine.synchronize()
    BY_MPI.start_shares(world, ranks, array, share, counts).Wait()
    yield "Ireduce_scatter", share, _sum(world.size, elements)[slice(*parts[world.rank])]
    own, buffer = (
        np.full(counts[world.rank], parts[world.rank].start + 1, "f"),
        engine.device.empty(elements, "f"),
    )
    part = _taken(engine, own)
    engine.synchronize()
    BY_MPI.wait(world, BY_MPI.all_gather(world, ranks, part, buffer, counts))
    yield "Iallgatherv", buffer, _starts(parts)


_CLASSES: dict[str, Callable[[World, Engine, int], Came]] = dict(
    zip(OPERATIONS, (_messages, _blocking, _non_blocking), strict=True)
)


def _taken(engine: Engine, array: Array) -> Array:
    """Return a flat array on the device."""
    found: Array = engine.device.from_host(array)
    return found


def _parts(world: World, elements: int) -> tuple[list[int], list[Interval]]:
    """Return how many elements each rank has, and which."""
    parts = [Interval(0, elements).block(world.size, rank) for rank in range(world.size)]
    return [part.size for part in parts], parts


def _numbers(rank: int, elements: int) -> Array:
    """Return the array of a rank."""
    return np.asarray(rank % _RANKS + np.arange(elements) % _PLACES, np.float32)


def _sum(ranks: int, elements: int) -> Array:
    """Return the sum of the arrays of all ranks."""
    return np.asarray(
        sum(r % _RANKS for r in range(ranks)) + ranks * (np.arange(elements) % _PLACES), np.float64
    )


def _most(ranks: int, elements: int) -> Array:
    """Return the largest of all ranks."""
    return _numbers(min(ranks, _RANKS) - 1, elements)


def _starts(parts: list[Interval]) -> Array:
    """Return the array of which each rank has its part: 1 more than where it begins."""
    return np.concatenate([np.full(part.size, part.start + 1, np.float32) for part in parts])
