"""Loads: the messages of one exchange with all neighbours, each an array of its own or all in one buffer.

A host's messages go each alone; a device's go `Together`, as a launch, a copy or a wait costs as much for all of them
as for one:

    own    -- one launch -->  | piece | piece | piece |  -- one copy, one wait -->  | message | message | message |
    target <- one launch ---  | piece | piece | piece |  <- one copy -------------  | message | message | message |
                               on the device                                        on the host, where it is `Staged`
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
Spare = list[tuple[Array, int]]
"""Buffers of the host that no exchange uses, and which wait was the last when each was let go of."""


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

    def only(self) -> Array:
        """Return what arrived, where the rank computes, if it is one message."""
        ((_, message),) = self.arrived
        return self._transport.landed(message)

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
        self.arrived, self.sent = [], []


class Kept:
    """What is kept of a path: where its pieces lie, and host buffers that no exchange uses.

    Attributes
    ----------
    departures, arrivals
        Pieces of the source and of the target; those of each share a buffer.
    spare
        Host buffers of departures, of arrivals.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.departures = pieces_of(engine, [box for _, box in path.departures], path.source)
        self.arrivals = pieces_of(engine, [box for _, box in path.arrivals], path.target)
        self.spare: tuple[Spare, Spare] = ([], [])


class Together(Load):
    """The messages of one exchange in two buffers, of what is sent and of what is received."""

    def __init__(self, transport: OnDevice, path: Path, dtype: DTypeLike, kept: Kept) -> None:
        super().__init__(transport, path, dtype)
        self._device, self._kept = transport, kept
        self._buffers: list[Array | None] = [None, None]  # that MPI reads, writes
        self._landed: Array | None = None

    def rooms(self) -> list[Array]:
        """Return the parts of one buffer."""
        if not self._path.arrivals:
            return []
        self._buffers[1] = buffer = self._device.buffer(self._kept, self._dtype)
        parts = self._kept.arrivals.within(buffer)
        self.arrived = [(box, part) for (_, box), part in zip(self._path.arrivals, parts, strict=True)]
        return parts

    def messages(self, own: Array) -> list[Array]:
        """Return the parts of one buffer."""
        pieces, engine = self._kept.departures, self._device.engine
        if not self._path.departures:
            return []
        packed = engine.device.empty(pieces.elements, own.dtype)
        pack(engine, own, pieces, packed)
        self._buffers[0] = buffer = self._device.computed(self._kept, packed)
        return [innermost(part) for part in pieces.within(buffer)]

    def only(self) -> Array:
        """Return the buffer as the one message that it is."""
        message: Array = self._kept.arrivals.within(self._there())[0]
        return message

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
        super().done()
        for spare, buffer in zip(self._kept.spare, self._buffers, strict=True):
            if buffer is not None:
                self._device.give_back(spare, buffer)
        self._buffers, self._landed = [None, None], None

    def _there(self) -> Array:
        """Return the buffer of what arrived, on the device."""
        if self._landed is None:
            assert self._buffers[1] is not None, "no room was asked for, so nothing arrived"
            self._landed = self._device.landed(self._buffers[1])
        return self._landed
