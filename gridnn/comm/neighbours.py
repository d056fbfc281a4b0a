"""Links between neighbours, measured: round trips of messages of the host, or of devices' arrays as a run sends them.

rank 0 --- rank 1     rank 2 --- rank 3     at once: pairs that begin with an even rank
           rank 1 --- rank 2                then the others

lower rank   says (bytes, round trips)  --> upper     until it says that there are no more
             out  ----------------------->  back      each round trip, by a `Wire`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.align import compare
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.exchange import Piece
from gridnn.geometry.interval import Box, Interval

Array = NDArray[Any]
Facts = dict[str, Any]
Trip = Callable[[], object]
SHORT, SIZES = 8, (4 << 10, 64 << 10, 1 << 20, 8 << 20)
"""Bytes of what the latency is measured by, and of what the bandwidth is."""
# A size is measured for about so long, and not begun where one round trip would take longer than half of it.
_SIZE_S, _TRIPS = 0.2, 50
_END = np.zeros(2, np.int64)


class Wire(Protocol):
    """A way for messages between two ranks."""

    def trip(self, world: World, peer: int, nbytes: int, asks: bool) -> Trip:
        """Return what makes this rank's half of a round trip; who `asks` sends first."""
        ...


class HostWire:
    """Messages of the host, by MPI."""

    def trip(self, world: World, peer: int, nbytes: int, asks: bool) -> Trip:
        """Return blocking calls."""
        out, back = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)

        def asked() -> None:
            world.comm.Send(out, peer)
            world.comm.Recv(back, peer)

        def answered() -> None:
            world.comm.Recv(back, peer)
            world.comm.Send(back, peer)

        return asked if asks else answered


@dataclass(eq=False)  # known by itself: what a transport keeps of it
class Leg:
    """One way of a round trip, as a path of an exchange: a whole array goes, or comes."""

    source: Box
    target: Box
    departures: list[Piece]
    arrivals: list[Piece]
    group: tuple[int, ...] = ()
    lane: str = ""


class DeviceWire:
    """Arrays of devices, as the world's transport carries them: packed, sent, unpacked; the host waits for the device.

    Parameters
    ----------
    engine
        Of the device.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def trip(self, world: World, peer: int, nbytes: int, asks: bool) -> Trip:
        """Return two exchanges, of which each goes one way."""
        elements = max(1, nbytes // 4)
        box = Interval(0, 1), Interval(0, elements)
        array = self._engine.memory.zeros((1, elements), np.float32)
        going, coming = Leg(box, box, [(peer, box)], []), Leg(box, box, [], [(peer, box)])
        legs = (going, coming) if asks else (coming, going)

        def trip() -> None:
            for leg in legs:
                load, carrier = world.transport.load(leg, array, np.float32), world.carrier(array)
                carrier.wait(world, carrier.swap(world, leg, load.rooms(), partial(load.messages, array)))
                load.put(array)
                load.done()
            self._engine.synchronize()

        return trip


BY_HOST = HostWire()


def measure_neighbours(world: World, wire: Wire = BY_HOST) -> list[Facts]:
    """Return latency and bandwidth between each rank and the next, the same on all ranks.  Collective.

    Pairs of ranks are measured all at once, first those that begin with an even rank.  The latency is half the
    shortest of some round trips of 8 bytes, the bandwidth the best of some sizes, one way at a time.
    """
    mine: list[tuple[int, float, float]] = []
    for parity in (0, 1):
        world.comm.Barrier()
        if world.rank % 2 == parity and world.rank + 1 < world.size:
            mine.append((world.rank, *_ask(world, wire, world.rank + 1)))
        elif world.rank % 2 != parity and world.rank > 0:
            _answer(world, wire, world.rank - 1)
    told = [link for links in world.comm.allgather(mine) for link in links]
    return [
        {"ranks": [lower, lower + 1], "latency_s": latency_s, "bytes_per_s": rate}
        for lower, latency_s, rate in sorted(told)
    ]


def _ask(world: World, wire: Wire, peer: int) -> tuple[float, float]:
    """Return seconds of a short message and bytes a second of long ones, to a rank that answers."""
    half_s = _half_trip_s(world, wire, peer, SHORT, 2)  # the first of all connects
    half_s = latency_s = _half_trip_s(world, wire, peer, SHORT, _trips(half_s))
    best, last = 0.0, SHORT
    for nbytes in SIZES:
        expected_s = half_s * nbytes / last  # too much where the latency was most of it
        if half_s > 2 * latency_s and 2 * expected_s > _SIZE_S / 2:
            break
        half_s, last = _half_trip_s(world, wire, peer, nbytes, _trips(expected_s)), nbytes
        best = max(best, nbytes / half_s)
    world.comm.Send(_END, peer)
    return latency_s, best


def _trips(half_s: float) -> int:
    """Return how many round trips there is time for."""
    return max(2, min(_TRIPS, int(_SIZE_S / (2 * half_s))))


def _half_trip_s(world: World, wire: Wire, peer: int, nbytes: int, trips: int) -> float:
    """Announce some round trips, make them, and return half of the shortest."""
    world.comm.Send(np.array([nbytes, trips], np.int64), peer)
    trip = wire.trip(world, peer, nbytes, asks=True)

    def ask() -> float:
        trip()
        return 0.0  # nobody's clock is read: only how long it took counts

    return compare(time.perf_counter, ask, trips).uncertainty_s


def _answer(world: World, wire: Wire, peer: int) -> None:
    """Send back what comes until nothing more is announced."""
    announced = np.zeros(2, np.int64)
    while True:
        world.comm.Recv(announced, peer)
        nbytes, trips = (int(number) for number in announced)
        if not trips:
            return
        trip = wire.trip(world, peer, nbytes, asks=False)
        for _ in range(trips):
            trip()
