"""Transports: how an array gets from where it is computed into a message, and back.

    transport   arrays are   a message is                          `ready`                     `landed`
    Host        on the host  the array, packed where it has gaps   nothing to wait for         the message itself
    Staged      on a device  a copy of it on the host              waits for the device        copied to the device
    Aware       on a device  the array, packed where it has gaps   waits for the device        the message itself
    Direct      on a device  the array, packed where it has gaps   nothing to wait for         the message itself

MPI reads what it is given at once and knows nothing of streams, so what a device computes must be done before a message
is posted, and what it still reads must be read before one is received into its place: here, and nowhere else, a rank
waits for its device on behalf of messages.  `Direct` never does: who carries its messages past MPI waits on the device.

What a transport makes of one exchange with all neighbours is a `Load` (`gridnn.comm.load`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.comm.load import Kept, Load, Path, Spare, Together
from gridnn.compute.cpu.memory import Memory, innermost
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pieces import packable
from gridnn.compute.interface import Memory as Source

if TYPE_CHECKING:
    from gridnn.comm.carrier import Carrier
    from gridnn.comm.nccl import Nccl
    from gridnn.comm.trail import Entry

Array = NDArray[Any]
BUFFERS = 2
"""Of a path and direction, that are made before one is waited for: one is filled while the device reads the other."""


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

    def _beside(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it."""
        engine, host = self.engine, self._memory
        return [_packed(p, engine.memory if engine.holds(p) else host) for p in parts]


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
        found = self._beside(parts)
        self.engine.synchronize()
        return found

    def buffer(self, kept: Kept, dtype: DTypeLike) -> Array:
        """Return memory of the device that nothing reads any more."""
        return self.room((kept.arrivals.elements,), dtype)

    def computed(self, kept: Kept, packed: Array) -> Array:
        """Return what is packed, when it is."""
        self.engine.synchronize()
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

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of the device."""
        made: Array = self.engine.empty(shape, dtype)
        return made

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it."""
        return self._beside(parts)

    def buffer(self, kept: Kept, dtype: DTypeLike) -> Array:
        """Return memory of the device."""
        return self.room((kept.arrivals.elements,), dtype)

    def computed(self, kept: Kept, packed: Array) -> Array:
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
