"""Loads: the messages of one exchange with all neighbours, each an array of its own or all in one buffer.

A host's messages go each alone; a device's go `Together`, as a launch, a copy or a wait costs as much for all of them
as for one:

    own    -- one launch -->  | piece | piece | piece |  -- one copy, one wait -->  | message | message | message |
    target <- one launch ---  | piece | piece | piece |  <- one copy -------------  | message | message | message |
                               on the device                                        on the host, where it is `Staged`

Where MPI writes into the device itself all is packed before it is told where, and the wait for that is the one for what
was there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import innermost
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pieces import accumulate, pack, pieces_of, unpack
from gridnn.geometry.exchange import Piece
from gridnn.geometry.interval import Box, extents_of, local_slices

if TYPE_CHECKING:
    from gridnn.comm.transport import OnDevice, Transport

Array = NDArray[Any]


class Path(Protocol):
    """What one rank sends to others and receives in an exchange: the same at every step, arrivals in order of boxes."""

    source: Box
    target: Box
    departures: list[Piece]
    arrivals: list[Piece]


class Load:
    """The messages of one rank in one exchange: each an array of its own.

    Attributes
    ----------
    arrived
        (box, message) of what is received; collectives put theirs here.
    """

    def __init__(self, transport: Transport, path: Path, dtype: DTypeLike) -> None:
        self._transport, self._path, self._dtype = transport, path, dtype
        self.arrived: list[tuple[Box, Array]] = []
        self.sent: list[Array] = []

    def rooms(self) -> list[Array]:
        """Return arrays (N, C, *S), channels innermost, that MPI may write the arrivals into."""
        room, dtype = self._transport.room, self._dtype
        self.arrived = [(box, room(extents_of(box), dtype)) for _, box in self._path.arrivals]
        return [message for _, message in self.arrived]

    def messages(self, own: Array) -> list[Array]:
        """Return the departures as contiguous messages (N, *S, C) that MPI may read until `done`."""
        path = self._path
        self.sent = self._transport.ready([own[local_slices(b, path.source)] for _, b in path.departures])
        return self.sent

    def each(self) -> list[Array]:
        """Return what arrived, message by message, where the rank computes."""
        return [self._transport.landed(message) for _, message in self.arrived]

    def only(self) -> Array:
        """Return what arrived, where the rank computes, if it is one message."""
        (found,) = self.each()
        return found

    def put(self, array: Array) -> None:
        """Copy what arrived to its places in an array of the target box."""
        for box, message in self.arrived:
            array[local_slices(box, self._path.target)] = self._transport.landed(message)

    def add(self, array: Array, first: int = 0, stop: int | None = None) -> None:
        """Add what arrived, or some of it, to an array of the target box."""
        for box, message in self.arrived[first:stop]:
            array[local_slices(box, self._path.target)] += self._transport.landed(message)

    def done(self) -> None:
        """Let go of all messages: MPI neither reads nor writes them any more."""
        self._transport.release([*self.sent, *(message for _, message in self.arrived)])
        self.arrived, self.sent = [], []


class Kept:
    """What is kept of a path: where its pieces lie.

    Attributes
    ----------
    departures, arrivals
        Pieces of the source and of the target; those of each share a buffer.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.departures = pieces_of(engine, [box for _, box in path.departures], path.source)
        self.arrivals = pieces_of(engine, [box for _, box in path.arrivals], path.target)


class Together(Load):
    """The messages of one exchange in two buffers, of what is sent and of what is received."""

    def __init__(self, transport: OnDevice, path: Path, dtype: DTypeLike, kept: Kept, own: Array) -> None:
        super().__init__(transport, path, dtype)
        self._device, self._kept, self._own = transport, kept, own
        self._going: Array | None = None  # that MPI reads
        self._coming: Array | None = None  # that MPI writes
        self._landed: Array | None = None

    def rooms(self) -> list[Array]:
        """Return the parts of one buffer."""
        path, parts = self._path, list[Array]()
        first = self._device.packs_first and bool(path.departures)
        if path.arrivals:
            pieces = self._kept.arrivals
            self._coming = self._device.buffer(pieces.elements, self._dtype, at_once=not first)
            parts = pieces.within(self._coming)
        if first:
            self._pack()
        self.arrived = [(box, part) for (_, box), part in zip(path.arrivals, parts, strict=True)]
        return parts

    def messages(self, own: Array) -> list[Array]:
        """Return the parts of one buffer."""
        assert own is self._own, "another array than this load is of"
        if not self._path.departures:
            return []
        going = self._pack() if self._going is None else self._going
        return [innermost(part) for part in self._kept.departures.within(going)]

    def _pack(self) -> Array:
        """Return the buffer of departures, which MPI may read."""
        pieces, engine = self._kept.departures, self._device.engine
        packed = engine.device.empty(pieces.elements, self._own.dtype)
        pack(engine, self._own, pieces, packed)
        self._going = self._device.computed(packed)
        return self._going

    def each(self) -> list[Array]:
        """Return the parts of the buffer, which goes there as a whole."""
        return self._kept.arrivals.within(self._there()) if self.arrived else []

    def put(self, array: Array) -> None:
        """Copy by one launch."""
        if self.arrived:
            unpack(self._device.engine, array, self._kept.arrivals, self._there())

    def add(self, array: Array, first: int = 0, stop: int | None = None) -> None:
        """Add by one launch."""
        some = self._kept.arrivals.some(first, len(self.arrived) if stop is None else stop)
        if some.shapes:
            accumulate(self._device.engine, array, some, self._there())

    def done(self) -> None:
        """Let go of both buffers."""
        self._device.release([buffer for buffer in (self._going, self._coming) if buffer is not None])
        self.arrived, self._going, self._coming, self._landed = [], None, None, None

    def _there(self) -> Array:
        """Return the buffer of what arrived, on the device."""
        if self._landed is None:
            assert self._coming is not None, "no room was asked for, so nothing arrived"
            self._landed = self._device.landed(self._coming)
        return self._landed
