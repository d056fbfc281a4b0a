r"""NCCL: devices hand messages to each other; hosts put movements on streams, and wait for none.

    compute   | pack |o  interior                  | wait | unpack | boundary
                      \ event                      ^ event
    moves              `| halo with neighbours |o--'           high priority: the next layer waits for it
    sums      --| gradients of the layers behind | ...         awaited by the update

An event before a movement: what it reads is computed, what it writes is read.  An event after it: who wants the result
waits on the device, and only then are its arrays let go of.

| communicator                       | on stream         | what goes on it                                   |
|------------------------------------|-------------------|---------------------------------------------------|
| of all ranks; of a group           | moves, urgent     | point to point; gathers, reductions, statistics   |
| of a group, for sums               | sums              | gradients: long, and no halo stands behind them   |
| of a group, for a direction        | its own, urgent   | what crosses from stage to stage: stages meet the |
| between stages (`lane`)            |                   | two directions in different orders                |

Order.  A stream does one thing after another, and a movement begins when all its ranks are there.  All ranks start all
movements in one order, that of the layers, and between stages those of one direction, that of passes: so of all that
are not through the first one of a stream is under way on all of its ranks.

Meetings.  Where a communicator is made, and where two ranks first send each other something, hosts wait for each other
and NCCL asks for memory of the device, which may wait for all that runs there.  So stages meet on the lane back when
they meet on the lane there, in the first pass: later, a pass sent ahead may wait on the device for a stage whose host
waits here.

Bytes.  The ledger counts what a movement is by definition, as for MPI: what a rank receives.  NCCL knows equal parts
only; unequal ones go as a group of broadcasts, in which a rank receives the parts of all others, or of reductions, in
which it gives away all parts but its own: the bytes of an all-gather or a reduce-scatter of unequal parts.  Moves are
of bytes, whatever they mean; sums of float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.links import MOVES, SUMS, Group, Launched, Links, telling
from gridnn.comm.trail import Entry
from gridnn.compute.cpu.memory import innermost
from gridnn.compute.gpu.device import CupyDevice, Device
from gridnn.compute.gpu.streams import CupyStreams, Streams
from gridnn.errors import RunError

if TYPE_CHECKING:
    from gridnn.comm.carrier import Path
    from gridnn.comm.world import World

Array = NDArray[Any]
Ranks = tuple[int, ...]
SUMMED = {"f": "NCCL_FLOAT32", "d": "NCCL_FLOAT64"}
"""What NCCL calls dtypes that are summed, by their character."""
BACK = {"forward": "backward"}
"""The lane on which the same ranks answer, of the lane on which they first meet."""
OPERATIONS = {"sum": "NCCL_SUM", "max": "NCCL_MAX", "min": "NCCL_MIN"}


class Nccl:
    """A carrier of a rank's messages between devices.

    Parameters
    ----------
    device
        Of this rank; no other rank has it.
    library
        NCCL with the names of `cupy.cuda.nccl`.
    """

    def __init__(self, device: Device, streams: Streams, library: Any) -> None:
        self._device, self._library = device, library
        self.links = Links(device.between, streams, library)

    def swap(
        self, world: World, path: Path, rooms: Sequence[Array], messages: Callable[[], Sequence[Array]]
    ) -> list[Any]:
        """Receive and send in one group: alone, each call would wait for its peer before the next begins."""
        made = messages()
        coming = [
            (peer, *self._bytes(innermost(room)))
            for (peer, _), room in zip(path.arrivals, rooms, strict=True)
        ]
        going = [
            (peer, *self._bytes(message)) for (peer, _), message in zip(path.departures, made, strict=True)
        ]
        if not coming and not going:
            return []

        def calls(group: Group, stream: int) -> None:
            for call, parts in ((group.communicator.recv, coming), (group.communicator.send, going)):
                for peer, *place in parts:
                    call(*place, group.places[peer], stream)

        ranks = path.group if path.lane else tuple(range(world.size))
        if path.lane in BACK and not self.links.has(world, BACK[path.lane], ranks):
            self._meet(world, BACK[path.lane], path)
        return [self.links.launch(world, path.lane, ranks, calls, [*made, *rooms])]

    def all_gather(
        self, world: World, ranks: Ranks, own: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Gather."""
        return [self._gather(world, ranks, own, buffer, counts)]

    def reduce_scatter(
        self, world: World, ranks: Ranks, message: Array, buffer: Array, counts: Sequence[int]
    ) -> list[Any]:
        """Scatter a sum, at once."""
        return [self._scatter(world, MOVES, ranks, message, buffer, counts)]

    def done(self, started: Sequence[Any]) -> bool:
        """Ask for events."""
        return all(launched.done for launched in started)

    def wait(self, world: World, started: Sequence[Any]) -> None:
        """Let what computes wait for events."""
        for launched in started:
            launched.Wait()

    def all_reduce(self, world: World, ranks: Ranks, message: Array, out: Array, how: str) -> None:
        """Reduce; what computes waits."""
        self._reduce(world, MOVES, ranks, message, out, how).Wait()

    def share(self, world: World, ranks: Ranks, array: Array, counts: Sequence[int]) -> None:
        """Gather in place; what computes waits."""
        own = list(_parts(array, counts))[ranks.index(world.rank)]
        self._gather(world, ranks, own, array, counts).Wait()

    def start_sum(self, world: World, ranks: Ranks, array: Array) -> Launched:
        """Sum in place on the stream of sums."""
        return self._reduce(world, SUMS, ranks, array, array, "sum")

    def start_shares(
        self, world: World, ranks: Ranks, array: Array, share: Array, counts: Sequence[int]
    ) -> Launched:
        """Scatter a sum on the stream of sums."""
        return self._scatter(world, SUMS, ranks, array, share, counts)

    def attach(self, world: World) -> None:
        """Make the communicator of all ranks: of an exchange between some the others know nothing.  Collective."""
        self.links.group(world, MOVES, tuple(range(world.size)))

    def start_first(self, world: World, ranks: Ranks, array: Array) -> Launched:
        """Sum in place on the stream of moves."""
        return self._reduce(world, MOVES, ranks, array, array, "sum")

    def behind(self) -> Entry | None:
        """Return the first movement that the device has not come through; any thread may ask."""
        return self.links.behind()

    def fault(self) -> str:
        """Return what NCCL found out since movements were started, "" for nothing; any thread may ask."""
        return self.links.fault()

    def _meet(self, world: World, lane: str, path: Path) -> None:
        """Make the communicator of the ranks of a path for the lane back, and send a byte wherever one will go."""
        coming, going = ([peer for peer, _ in pieces] for pieces in (path.departures, path.arrivals))
        array = self._device.empty(len(coming) + len(going), np.uint8)
        start, kind = self._address(array), self._library.NCCL_UINT8

        def calls(group: Group, stream: int) -> None:
            for at, peer in enumerate(coming):
                group.communicator.recv(start + at, 1, kind, group.places[peer], stream)
            for at, peer in enumerate(going, len(coming)):
                group.communicator.send(start + at, 1, kind, group.places[peer], stream)

        self.links.launch(world, lane, path.group, calls, [array]).Wait()

    def _reduce(
        self, world: World, purpose: str, ranks: Ranks, given: Array, out: Array, how: str
    ) -> Launched:
        kind, operation = self._type(given), getattr(self._library, OPERATIONS[how])
        places = self._address(given), self._address(out), given.size

        def calls(group: Group, stream: int) -> None:
            group.communicator.allReduce(*places, kind, operation, stream)

        return self.links.launch(world, purpose, ranks, calls, [given, out])

    def _gather(
        self, world: World, ranks: Ranks, own: Array, buffer: Array, counts: Sequence[int]
    ) -> Launched:
        """Gather equal parts, or broadcast each."""
        mine, source, byte = ranks.index(world.rank), self._address(own), self._library.NCCL_UINT8
        parts = [self._bytes(part) for part in _parts(buffer, counts)]
        equal = len(set(counts)) == 1

        def calls(group: Group, stream: int) -> None:
            communicator = group.communicator
            if equal:
                target, nbytes, _ = parts[0]
                communicator.allGather(source, target, nbytes, byte, stream)
                return
            for root, (target, nbytes, _) in enumerate(parts):
                if nbytes:  # read at the root only
                    communicator.broadcast(
                        source if root == mine else target, target, nbytes, byte, root, stream
                    )

        return self.links.launch(world, MOVES, ranks, calls, [own, buffer])

    def _scatter(
        self, world: World, purpose: str, ranks: Ranks, given: Array, out: Array, counts: Sequence[int]
    ) -> Launched:
        """Scatter equal parts of the sum, or reduce each."""
        mine, target = ranks.index(world.rank), self._address(out)
        kind, total = self._type(given), self._library.NCCL_SUM
        parts = [self._address(part) for part in _parts(given, counts)]

        def calls(group: Group, stream: int) -> None:
            communicator = group.communicator
            if len(set(counts)) == 1:
                communicator.reduceScatter(parts[0], target, counts[0], kind, total, stream)
                return
            for root, (part, count) in enumerate(zip(parts, counts, strict=True)):
                if count:  # written at the root only
                    communicator.reduce(part, target if root == mine else 0, count, kind, total, root, stream)

        return self.links.launch(world, purpose, ranks, calls, [given, out])

    def _address(self, array: Array) -> int:
        """Return where an array without gaps is on the device."""
        assert array.flags.c_contiguous, f"a message of {array.shape} has gaps"
        return self._device.address(array)

    def _bytes(self, part: Array) -> tuple[int, int, int]:
        """Return where an array is, of how many, and of what: bytes."""
        return self._address(part), part.nbytes, self._library.NCCL_UINT8

    def _type(self, array: Array) -> int:
        name = SUMMED.get(np.dtype(array.dtype).char)
        if name is None:
            raise RunError(
                f"sums between devices are of float32 or float64, not of {array.dtype}: convert it first"
            )
        return int(getattr(self._library, name))


def _parts(array: Array, counts: Sequence[int]) -> Iterator[Array]:
    """Yield the parts of a flat array."""
    for start, stop in pairwise(np.cumsum([0, *counts]).tolist()):
        yield array[start:stop]


def open_nccl(device: Device, load: Callable[[str], Any] = import_module) -> Nccl:
    """Return the carrier of a CUDA device.

    Parameters
    ----------
    load
        Imports a module.

    Raises
    ------
    RunError
        If it cannot be loaded.
    """
    assert isinstance(device, CupyDevice), "only CuPy has NCCL"
    with telling("it was loaded"):
        return Nccl(device, CupyStreams(device.number, load), load("cupy.cuda.nccl"))
