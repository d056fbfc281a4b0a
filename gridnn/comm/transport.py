"""Transports: how an array gets from where it is computed into a message, and back.

    transport   arrays are   a message is                          `ready`                     `landed`
    Host        on the host  the array, packed where it has gaps   nothing to wait for         the message itself
    Staged      on a device  a copy of it on the host              waits for the device        copied to the device
    Aware       on a device  the array, packed where it has gaps   waits for the device        the message itself

MPI reads what it is given at once and knows nothing of streams, so what a device computes must be done before a message
is posted, and what it still reads must be read before one is received into its place: here, and nowhere else, a rank
waits for its device on behalf of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import Memory, innermost

Array = NDArray[Any]


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


class Host:
    """Arrays are in the host's memory: messages are made of them as they are."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of the rank's memory."""
        return self._memory.empty(shape, dtype)

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy."""
        return [self._packed(part) for part in parts]

    def landed(self, message: Array) -> Array:
        """Return the message."""
        return message

    def elsewhere(self, array: Array) -> bool:
        """Return False."""
        return False

    def _packed(self, part: Array) -> Array:
        message = innermost(part)
        if message.flags.c_contiguous:
            return message
        copy = self._memory.empty(part.shape, part.dtype)
        copy[...] = part
        return innermost(copy)


class Carrier(Protocol):
    """What copies between host and device: an engine."""

    def take(self, array: Array) -> Array:
        """Return a copy of a host's array on the device."""
        ...

    def give(self, array: Array) -> Array:
        """Return a copy of a device's array on the host."""
        ...

    def holds(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        ...

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array (N, C, *S) on the device."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that was started."""
        ...


class Staged(Host):
    """Arrays are on a device, messages on the host: for any MPI, and for ranks that share a device.

    Parameters
    ----------
    memory
        Of the host, for messages.
    carrier
        What copies.
    """

    def __init__(self, memory: Memory, carrier: Carrier) -> None:
        super().__init__(memory)
        self._carrier = carrier

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return copies on the host, made when the device has computed the parts."""
        carrier = self._carrier
        return [innermost(carrier.give(p)) if carrier.holds(p) else self._packed(p) for p in parts]

    def landed(self, message: Array) -> Array:
        """Return a copy on the device."""
        return self._carrier.take(message)

    def elsewhere(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        return self._carrier.holds(array)


class Aware(Host):
    """Arrays are on a device, and so are messages: for an MPI that reads and writes a device's memory.

    Parameters
    ----------
    memory
        Of the host, for what is there: losses, norms.
    carrier
        Where arrays come from, and who is waited for.
    """

    def __init__(self, memory: Memory, carrier: Carrier) -> None:
        super().__init__(memory)
        self._carrier = carrier

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of the device that nothing reads any more."""
        buffer = self._carrier.empty(shape, dtype)
        self._carrier.synchronize()  # a kernel under way may read what was there before
        return buffer

    def ready(self, parts: Sequence[Array]) -> list[Array]:
        """Return each part itself where it is contiguous, else a copy beside it; they are computed."""
        found = [self._beside(p) if self._carrier.holds(p) else self._packed(p) for p in parts]
        self._carrier.synchronize()
        return found

    def _beside(self, part: Array) -> Array:
        message = innermost(part)
        if message.flags.c_contiguous:
            return message
        copy = self._carrier.empty(part.shape, part.dtype)
        copy[...] = part
        return innermost(copy)
