"""Carriers: who takes messages from rank to rank, and who waits until they are there.

    carrier   messages lie              a movement is started by     `wait`: who waits
    Mpi       where MPI may read them   calls of MPI                 the host
    Nccl      on the device             putting it on a stream       what the device computes next (`gridnn.comm.nccl`)

A transport (`gridnn.comm.transport`) makes messages of arrays and says who carries them past MPI, if somebody does;
arrays of the host always go by MPI.  The ledger is the caller's: a movement has its bytes whoever carries it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mpi4py import MPI
from numpy.typing import NDArray

from gridnn.compute.cpu.memory import innermost
from gridnn.compute.storage import words
from gridnn.geometry.exchange import Piece

if TYPE_CHECKING:
    from gridnn.comm.world import World

Array = NDArray[Any]
Ranks = tuple[int, ...]
OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}


class Awaited(Protocol):
    """A movement under way."""

    def Wait(self) -> object:
        """Return when the rank may compute with what it brings."""
        ...


class Path(Protocol):
    """What one rank sends to others and receives in an exchange: the same at every step."""

    departures: list[Piece]
    arrivals: list[Piece]
    group: Ranks
    lane: str


class Carrier(Protocol):
    """Movements of messages: contiguous arrays, which nobody else touches until they are through.

    `ranks` are ascending world ranks; all of them call, in one order.
    """

    def swap(
        self, world: World, path: Path, rooms: Sequence[Array], messages: Callable[[], Sequence[Array]]
    ) -> list[Any]:
        """Start to receive arrivals into `rooms` (N, C, *S) and to send the departures that `messages` makes."""
        ...

    def all_gather(
        self, world: World, ranks: Ranks, own: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Start to fill a flat buffer with what each rank has, `counts` elements of it."""
        ...

    def reduce_scatter(
        self, world: World, ranks: Ranks, message: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Start to sum a flat message; each rank gets its part, of `counts` elements, in `buffer`."""
        ...

    def done(self, started: Sequence[Any]) -> bool:
        """Return whether movements are through; waits for nothing."""
        ...

    def wait(self, world: World, started: Sequence[Any]) -> None:
        """Return when the rank may compute with what movements bring."""
        ...

    def all_reduce(self, world: World, ranks: Ranks, message: Array, out: Array, how: str) -> None:
        """Reduce a flat message into `out`, with which the rank may compute then."""
        ...

    def share(self, world: World, ranks: Ranks, array: Array, counts: Sequence[int]) -> None:
        """Fill a flat array, of which each rank has its part of `counts` elements, with all parts."""
        ...

    def start_sum(self, world: World, ranks: Ranks, array: Array) -> Awaited:
        """Start to sum a flat array in place, behind other such sums and not before halos."""
        ...

    def start_shares(
        self, world: World, ranks: Ranks, array: Array, share: Array, counts: Sequence[int]
    ) -> Awaited:
        """Start to sum a flat array, each rank getting its part, behind other such sums and not before halos."""
        ...


class Mpi:
    """Messages go by MPI: non-blocking ones move when somebody calls it, the progress thread too."""

    def swap(
        self, world: World, path: Path, rooms: Sequence[Array], messages: Callable[[], Sequence[Array]]
    ) -> list[Any]:
        """Post receives first, then pack: what comes early finds its place."""
        comm = world.comm
        requests = [
            comm.Irecv(words(innermost(room)), peer)
            for (peer, _), room in zip(path.arrivals, rooms, strict=True)
        ]
        made = messages()
        return requests + [
            comm.Isend(words(message), peer) for (peer, _), message in zip(path.departures, made, strict=True)
        ]

    def all_gather(
        self, world: World, ranks: Ranks, own: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Post an all-gather of unequal parts."""
        return [world.group(ranks).Iallgatherv(words(own), [words(buffer), counts])]

    def reduce_scatter(
        self, world: World, ranks: Ranks, message: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Post a reduce-scatter of unequal parts."""
        return [world.group(ranks).Ireduce_scatter(message, buffer, counts)]

    def done(self, started: Sequence[Any]) -> bool:
        """Test all requests."""
        return bool(MPI.Request.Testall(started))

    def wait(self, world: World, started: Sequence[Any]) -> None:
        """Complete all requests."""
        world.patience.wait_all(started)

    def all_reduce(self, world: World, ranks: Ranks, message: Array, out: Array, how: str) -> None:
        """Reduce and wait."""
        comm = world.group(ranks)
        if world.patience.on:
            world.patience.wait_all([comm.Iallreduce(message, out, OPERATIONS[how])])
        else:
            comm.Allreduce(message, out, OPERATIONS[how])

    def share(self, world: World, ranks: Ranks, array: Array, counts: Sequence[int]) -> None:
        """Gather in place and wait."""
        comm = world.group(ranks)
        if world.patience.on:
            world.patience.wait_all([comm.Iallgatherv(MPI.IN_PLACE, [array, counts])])
        else:
            comm.Allgatherv(MPI.IN_PLACE, [array, counts])

    def start_sum(self, world: World, ranks: Ranks, array: Array) -> Awaited:
        """Queue the pieces of a sum."""
        handle = world.sums.all_reduce(world.group(ranks, "sums"), array)
        world.progress.begin()
        return handle

    def start_shares(
        self, world: World, ranks: Ranks, array: Array, share: Array, counts: Sequence[int]
    ) -> Awaited:
        """Queue a reduce-scatter."""
        post = partial(world.group(ranks, "sums").Ireduce_scatter, array, share, counts)
        handle = world.sums.queue([post], (array, share))
        world.progress.begin()
        return handle

    def start_scalars(self, world: World, ranks: Ranks, array: Array) -> Awaited:
        """Post the sum of a few numbers of the host, outside of the queue."""
        request: Awaited = world.group(ranks, "scalars").Iallreduce(MPI.IN_PLACE, array)
        return request


BY_MPI = Mpi()
