"""Transports: how an array gets from where it is computed into a message, and back.

    transport   arrays are   a message is                          `ready`                     `landed`
    Host        on the host  the array, packed where it has gaps   nothing to wait for         the message itself
    Staged      on a device  a copy of it on the host              waits for the device        copied to the device
    Aware       on a device  the array, packed where it has gaps   waits for the device        the message itself

MPI reads what it is given at once and knows nothing of streams, so what a device computes must be done before a message
is posted, and what it still reads must be read before one is received into its place: here, and nowhere else, a rank
waits for its device on behalf of messages.

The messages of one exchange with all neighbours are a `Load`.  A host's go each alone; a device's go `Together`, as a
launch, a copy or a wait costs as much for all of them as for one:

    own    -- one launch -->  | piece | piece | piece |  -- one copy, one wait -->  | message | message | message |
    target <- one launch ---  | piece | piece | piece |  <- one copy -------------  | message | message | message |
                               on the device                                        on the host; `Aware` has no need
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import Memory, innermost
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pieces import accumulate, pack, packable, pieces_of, unpack
from gridnn.compute.interface import Memory as Source
from gridnn.geometry.exchange import Piece
from gridnn.geometry.interval import Box, extents_of, local_slices

Array = NDArray[Any]
Spare = list[tuple[Array, int]]
"""Buffers of the host that no exchange uses, and which wait was the last when each was let go of."""
BUFFERS = 2
"""Of a path and direction, that are made before one is waited for: one is filled while the device reads the other."""


class Path(Protocol):
    """What one rank sends to others and receives in an exchange: the same at every step, arrivals in order of boxes."""

    source: Box
    target: Box
    departures: list[Piece]
    arrivals: list[Piece]


class Transport(Protocol):
    """How arrays become messages."""

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array (N, C, *S), channels innermost, that MPI may write a message into."""
        ...

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return parts of arrays as contiguous messages that MPI may read, of shape (N, *S, C)."""
        ...

    def landed(self, message: Array) -> Array:
        """Return an array from `room`, once it is received, where the rank computes."""
        ...

    def elsewhere(self, array: Array) -> bool:
        """Return whether an array is on a device, so that its messages are copies."""
        ...

    def load(self, path: Path, own: Array, dtype: DTypeLike) -> Load:
        """Return the messages of an exchange of `own`, an array of the source box."""
        ...


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


class Host:
    """Arrays are in the host's memory: messages are made of them as they are."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of the rank's memory."""
        return self._memory.empty(shape, dtype)

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy."""
        return [_packed(part, self._memory) for part in parts]

    def landed(self, message: Array) -> Array:
        """Return the message."""
        return message

    def elsewhere(self, array: Array) -> bool:
        """Return False."""
        return False

    def load(self, path: Path, own: Array, dtype: DTypeLike) -> Load:
        """Return messages that are arrays of their own."""
        return Load(self, path, dtype)


def _packed(part: Array, memory: Source) -> Array:
    """Return a part as a contiguous message: itself where it is one already, else a copy in a memory."""
    message = innermost(part)
    if message.flags.c_contiguous:
        return message
    copy = memory.empty(part.shape, part.dtype)
    copy[...] = part
    return innermost(copy)


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


class OnDevice(Host):
    """Arrays are on a device: what `Staged` and `Aware` have in common.

    Parameters
    ----------
    memory
        Of the host, for what is there: messages, losses, norms.
    engine
        Of the device.
    """

    def __init__(self, memory: Memory, engine: Engine) -> None:
        super().__init__(memory)
        self.engine = engine
        self._kept: WeakKeyDictionary[Path, Kept] = WeakKeyDictionary()

    def load(self, path: Path, own: Array, dtype: DTypeLike) -> Load:
        """Return messages that go together, if kernels can pack them."""
        if not (self.engine.holds(own) and own.dtype == dtype and packable(own)):
            return super().load(path, own, dtype)
        kept = self._kept.get(path)
        if kept is None:
            kept = self._kept[path] = Kept(self.engine, path)
        return Together(self, path, dtype, kept)

    def buffer(self, kept: Kept, dtype: DTypeLike) -> Array:
        """Return a flat buffer that MPI may write all arrivals into."""
        raise AssertionError("a transport says where its buffers are")

    def computed(self, kept: Kept, packed: Array) -> Array:
        """Return a buffer that MPI may read, of what is packed on the device."""
        raise AssertionError("a transport says what MPI may read")

    def give_back(self, spare: Spare, buffer: Array) -> None:
        """Take a buffer that MPI does not use any more."""


class Staged(OnDevice):
    """Messages are on the host: for any MPI, and for ranks that share a device."""

    def __init__(self, memory: Memory, engine: Engine) -> None:
        super().__init__(memory, engine)
        self._waits = 0

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return copies on the host, made when the device has computed the parts."""
        engine = self.engine
        return [innermost(engine.give(p)) if engine.holds(p) else _packed(p, self._memory) for p in parts]

    def landed(self, message: Array) -> Array:
        """Return a copy on the device."""
        found: Array = self.engine.take(message)
        return found

    def elsewhere(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        return self.engine.holds(array)

    def buffer(self, kept: Kept, dtype: DTypeLike) -> Array:
        """Return memory of the host."""
        return self._borrowed(kept.spare[1], kept.arrivals.elements, dtype)

    def computed(self, kept: Kept, packed: Array) -> Array:
        """Return a copy on the host, made when the device has packed it."""
        host = self._borrowed(kept.spare[0], packed.size, packed.dtype)
        self.engine.device.to_host(packed, host)
        self._waits += 1
        return host

    def give_back(self, spare: Spare, buffer: Array) -> None:
        """Keep a buffer for the next exchange of its path: MPI is done with it, a copy to the device may go on."""
        spare.append((buffer, self._waits))

    def _borrowed(self, spare: Spare, elements: int, dtype: DTypeLike) -> Array:
        """Return a buffer of the host that nobody reads or writes: one of a done exchange, or a new one."""
        fitting = [i for i, (buffer, _) in enumerate(spare) if buffer.dtype == dtype]
        if not fitting or (len(fitting) < BUFFERS and spare[fitting[0]][1] == self._waits):
            return self.engine.device.pinned(elements * np.dtype(dtype).itemsize).view(dtype)
        buffer, waits = spare.pop(fitting[0])  # the one let go of first
        if waits == self._waits:  # nobody has waited since
            self.engine.synchronize()
            self._waits += 1
        return buffer


class Aware(OnDevice):
    """Messages are on the device too: for an MPI that reads and writes a device's memory."""

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of the device that nothing reads any more."""
        buffer: Array = self.engine.empty(shape, dtype)
        self.engine.synchronize()  # a kernel under way may read what was there before
        return buffer

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it; they are computed."""
        engine, host = self.engine, self._memory
        found = [_packed(p, engine.memory if engine.holds(p) else host) for p in parts]
        self.engine.synchronize()
        return found

    def buffer(self, kept: Kept, dtype: DTypeLike) -> Array:
        """Return memory of the device that nothing reads any more."""
        return self.room((kept.arrivals.elements,), dtype)

    def computed(self, kept: Kept, packed: Array) -> Array:
        """Return what is packed, when it is."""
        self.engine.synchronize()
        return packed
