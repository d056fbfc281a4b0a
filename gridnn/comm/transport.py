"""Transports: how an array gets from where it is computed into a message, and back.

    transport   arrays are   a message is                          `ready`                     `landed`
    Host        on the host  the array, packed where it has gaps   nothing to wait for         the message itself
    Staged      on a device  a copy of it in pinned host memory    waits for the device        copied to the device
    Aware       on a device  the array, packed where it has gaps   waits for the device        the message itself
    Direct      on a device  the array, packed where it has gaps   nothing to wait for         the message itself

MPI reads what it is given at once and knows nothing of streams, so what a device computes must be done before a message
is posted, and what it still reads must be read before one is received into its place: in `_computed_so_far`, and
nowhere else, a rank waits for its device on behalf of messages.  `Direct` never does: who carries its messages past MPI
waits on the device.

    what waits, once                       Staged                            Aware
    an exchange with neighbours            for the copy of all departures    for all that is packed, before it receives
    a rank of it that only receives        if both buffers are under way     for what was where it receives
    a sum, a gather, a share of either     for the copy                      for what is given

Copies in both directions are on the stream of what is computed: what is sent was computed there last, and what is
received is read there next, so a stream of their own would wait for it, and be waited for, at both ends.

What a transport makes of one exchange with all neighbours is a `Load` (`gridnn.comm.load`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from numpy.typing import DTypeLike, NDArray

from gridnn.comm.load import Kept, Load, Path, Together
from gridnn.comm.staging import Staging
from gridnn.compute.cpu.memory import Memory, innermost, shaped
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pieces import packable
from gridnn.compute.interface import Memory as Source

if TYPE_CHECKING:
    from gridnn.comm.carrier import Carrier
    from gridnn.comm.nccl import Nccl
    from gridnn.comm.trail import Entry

Array = NDArray[Any]


class Transport(Protocol):
    """How arrays become messages.

    Attributes
    ----------
    waits
        Whether the host waits for a device on behalf of messages.
    capturable
        Whether a graph of a device may have them in it (`Device.between`).
    """

    waits: bool
    capturable: bool

    def room(self, shape: Sequence[int], dtype: DTypeLike, at_once: bool = True) -> Array:
        """Return an array (N, C, *S), channels innermost, that MPI may write a message into.

        Parameters
        ----------
        at_once
            Else MPI writes only after a `ready`, or a `share`, of something that is not empty, which waits for both.
        """
        ...

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return parts of arrays as contiguous messages that MPI may read, of shape (N, *S, C)."""
        ...

    def share(self, array: Array, own: slice) -> Array:
        """Return a message of a flat array's size that MPI may read a part of, and write the others."""
        ...

    def landed(self, message: Array) -> Array:
        """Return an array from `room`, once it is received, where the rank computes."""
        ...

    def release(self, messages: Sequence[Array]) -> None:
        """Let go of messages and rooms, or parts of them: MPI neither reads nor writes them any more."""
        ...

    def close(self, orderly: bool) -> None:
        """Let go of memory that is kept for messages; `orderly`, unless MPI may still use some."""
        ...

    def elsewhere(self, array: Array) -> bool:
        """Return whether an array is on a device, so that its messages are copies."""
        ...

    def load(self, path: Path, own: Array, dtype: DTypeLike) -> Load:
        """Return the messages of an exchange of `own`, an array of the source box."""
        ...

    def direct(self, array: Array) -> Carrier | None:
        """Return who carries an array from rank to rank, None where MPI does."""
        ...

    def behind(self) -> Entry | None:
        """Return the first movement that was started, and that the device has not come through; any thread may ask."""
        ...

    def fault(self) -> str:
        """Return what went wrong with messages since they were started, "" for nothing; any thread may ask."""
        ...


class Host:
    """Arrays are in the host's memory: messages are made of them as they are."""

    waits, capturable = True, False

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def room(self, shape: Sequence[int], dtype: DTypeLike, at_once: bool = True) -> Array:
        """Return an array of the rank's memory."""
        return self._memory.empty(shape, dtype)

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy."""
        return [_packed(part, self._memory) for part in parts]

    def share(self, array: Array, own: slice) -> Array:
        """Return the array."""
        (message,) = self.ready([array])
        return message

    def landed(self, message: Array) -> Array:
        """Return the message."""
        return message

    def release(self, messages: Sequence[Array]) -> None:
        """Do nothing: they are arrays as all others."""

    def close(self, orderly: bool) -> None:
        """Do nothing: nothing is kept."""

    def elsewhere(self, array: Array) -> bool:
        """Return False."""
        return False

    def load(self, path: Path, own: Array, dtype: DTypeLike) -> Load:
        """Return messages that are arrays of their own."""
        return Load(self, path, dtype)

    def direct(self, array: Array) -> Carrier | None:
        """Return None: by MPI."""
        return None

    def behind(self) -> Entry | None:
        """Return None: what MPI has not done the host waits for itself."""
        return None

    def fault(self) -> str:
        """Return nothing: MPI raises what it finds."""
        return ""


def _packed(part: Array, memory: Source) -> Array:
    """Return a part as a contiguous message: itself where it is one already, else a copy in a memory."""
    message = innermost(part)
    if message.flags.c_contiguous:
        return message
    copy = memory.empty(part.shape, part.dtype)
    copy[...] = part
    return innermost(copy)


class OnDevice(Host):
    """Arrays are on a device: what `Staged`, `Aware` and `Direct` have in common.

    Parameters
    ----------
    memory
        Of the host, for what is there: messages, losses.
    engine
        Of the device.

    Attributes
    ----------
    packs_first
        Whether departures are packed before MPI is told where arrivals go: one wait is for both.
    """

    packs_first = False

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
        return Together(self, path, dtype, kept, own)

    def buffer(self, elements: int, dtype: DTypeLike, at_once: bool) -> Array:
        """Return a flat buffer that MPI may write all arrivals into: at once, or when something was `computed`."""
        raise AssertionError("a transport says where its buffers are")

    def computed(self, packed: Array) -> Array:
        """Return a buffer that MPI may read, of what is packed on the device."""
        raise AssertionError("a transport says what MPI may read")

    def _computed_so_far(self, array: Array | None = None, copy: Array | None = None) -> None:
        """Wait until the device has done all that it was told, a copy of a contiguous array to the host with it.

        The one place where the host waits for a device on behalf of messages.
        """
        if array is None:
            self.engine.synchronize()
        else:
            self.engine.device.to_host(array, copy)

    def _beside(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it."""
        engine, host = self.engine, self._memory
        return [_packed(p, engine.memory if engine.holds(p) else host) for p in parts]


class Staged(OnDevice):
    """Messages are on the host: for any MPI, and for ranks that share a device."""

    def __init__(self, memory: Memory, engine: Engine) -> None:
        super().__init__(memory, engine)
        self.staging = Staging(engine.device.pinned, self._computed_so_far)

    def room(self, shape: Sequence[int], dtype: DTypeLike, at_once: bool = True) -> Array:
        """Return pinned memory of the host."""
        return shaped(self.buffer(prod(shape), dtype, at_once), shape)

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return copies on the host, made when the device has computed the parts."""
        holds = self.engine.holds
        return [self._copy(p) if holds(p) else _packed(p, self._memory) for p in parts]

    def share(self, array: Array, own: slice) -> Array:
        """Return pinned memory of the host, where the part is copied to."""
        if not self.elsewhere(array):
            return super().share(array, own)
        part = array[own]
        message = self.buffer(array.size, array.dtype, at_once=not part.size)
        if part.size:
            self._computed_so_far(part, message[own])
        return message

    def landed(self, message: Array) -> Array:
        """Return a copy on the device."""
        self.staging.reads(message)
        found: Array = self.engine.take(message)
        return found

    def release(self, messages: Sequence[Array]) -> None:
        """Keep them for others: MPI is done with them, a copy to the device may go on."""
        self.staging.release(messages)

    def close(self, orderly: bool) -> None:
        """Let go of pinned memory; where MPI may still write, it is the end of the process that does."""
        if orderly:
            self.staging.close()

    def elsewhere(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        return self.engine.holds(array)

    def buffer(self, elements: int, dtype: DTypeLike, at_once: bool) -> Array:
        """Return pinned memory of the host."""
        return self.staging.lend(elements, dtype, at_once)

    def computed(self, packed: Array) -> Array:
        """Return a copy on the host, made when the device has packed it."""
        return self._copy(packed)

    def _copy(self, part: Array) -> Array:
        """Return a contiguous copy on the host (N, *S, C); for one without elements nobody waits."""
        message = innermost(self.engine.fitted(part))
        copy = self.buffer(message.size, message.dtype, at_once=False).reshape(message.shape)
        if message.size:
            self._computed_so_far(message, copy)
        return copy

    def _computed_so_far(self, array: Array | None = None, copy: Array | None = None) -> None:
        """Wait, and let what was copied from be written again."""
        super()._computed_so_far(array, copy)
        self.staging.waited()


class Aware(OnDevice):
    """Messages are on the device too: for an MPI that reads and writes a device's memory."""

    packs_first = True

    def room(self, shape: Sequence[int], dtype: DTypeLike, at_once: bool = True) -> Array:
        """Return an array of the device that nothing reads any more, or will not when MPI writes."""
        room: Array = self.engine.empty(shape, dtype)
        if at_once:  # a kernel under way may read what was there before
            self._computed_so_far()
        return room

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it; they are computed."""
        found = self._beside(parts)
        if any(part.size for part in parts):
            self._computed_so_far()
        return found

    def buffer(self, elements: int, dtype: DTypeLike, at_once: bool) -> Array:
        """Return memory of the device that nothing reads any more, or will not when MPI writes."""
        return self.room((elements,), dtype, at_once)

    def computed(self, packed: Array) -> Array:
        """Return what is packed, when it is."""
        self._computed_so_far()
        return packed


class Direct(OnDevice):
    """Messages are on the device, and devices hand them on: what waits for what is the carrier's, on the device.

    An array that is let go of is the device's again for what it computes next, not for what another stream still does
    with it: so a movement keeps its arrays until what computes waits for it.

    Parameters
    ----------
    carrier
        Who takes them from rank to rank.
    """

    waits, capturable = False, True

    def __init__(self, memory: Memory, engine: Engine, carrier: Nccl) -> None:
        super().__init__(memory, engine)
        self._carrier = carrier

    def room(self, shape: Sequence[int], dtype: DTypeLike, at_once: bool = True) -> Array:
        """Return an array of the device."""
        made: Array = self.engine.empty(shape, dtype)
        return made

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it."""
        return self._beside(parts)

    def buffer(self, elements: int, dtype: DTypeLike, at_once: bool) -> Array:
        """Return memory of the device."""
        return self.room((elements,), dtype)

    def computed(self, packed: Array) -> Array:
        """Return what is packed, or will be."""
        return packed

    def direct(self, array: Array) -> Carrier | None:
        """Return the carrier for arrays of the device; those of the host go by MPI."""
        return self._carrier if self.engine.holds(array) else None

    def behind(self) -> Entry | None:
        """Return the first movement that the device has not come through."""
        return self._carrier.behind()

    def fault(self) -> str:
        """Return what the carrier's library found out since."""
        return self._carrier.fault()
