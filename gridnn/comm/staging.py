"""Pinned memory of the host that messages of a device are staged in: made once, lent, and lent again.

    lent for     written by                   free again when
    departures   the device, on the stream    MPI has read it; what the device may still copy from it comes before on
                 of what it computes          that stream
    arrivals     MPI, at once                 the device has copied from it: when the host has waited since

                 step 1                                   step 2
    bucket 0     | made | sum | copied back |             | lent | sum | copied back |
    bucket 1          | made | sum | copied back |             | lent | sum | ...

Buckets, halos and gathers have the same sizes at every step, so from the second or third step on nothing is made.  A
buffer is of a power of two of bytes: what CuPy's pool of pinned memory takes for less, too (`PinnedMemoryPool.malloc`).
What is pinned is bounded: beyond that, what nobody uses is let go of, and then ordinary memory is lent, which is made
anew each time, and which CuPy copies once more, into pinned memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
BUFFERS = 2
"""Of a size, that are made before one is waited for: MPI fills one while the device reads the other."""
LEAST_BYTES, MOST_BYTES = 1 << 9, 1 << 32
"""Of a buffer; of all pinned memory of a rank, which the system cannot use for anything else."""
_NEVER = -1


@dataclass(eq=False)
class _Buffer:
    """Pinned memory, and how often the host had waited when the device began to copy from it."""

    memory: NDArray[np.uint8]
    read: int = _NEVER


class Staging:
    """The pinned memory of a rank.  One thread uses it.

    Parameters
    ----------
    pinned
        Makes some, of so many bytes.
    idle
        Returns when the device has done all that was started; calls `waited`.
    most_bytes
        That may be pinned at once.
    """

    def __init__(
        self, pinned: Callable[[int], NDArray[np.uint8]], idle: Callable[[], None], most_bytes: int = MOST_BYTES
    ) -> None:  # fmt: skip
        self._pinned, self._idle, self._most_bytes = pinned, idle, most_bytes
        self._spare: dict[int, list[_Buffer]] = {}  # by bytes; the one let go of first is the first
        self._lent: dict[int, _Buffer] = {}  # by the identity of its memory
        self._waits = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are pinned."""
        spare = (buffer for found in self._spare.values() for buffer in found)
        return sum(buffer.memory.nbytes for buffer in (*spare, *self._lent.values()))

    @property
    def lent(self) -> int:
        """How many buffers are lent."""
        return len(self._lent)

    def waited(self) -> None:
        """Note that the host has waited for all that the device was told."""
        self._waits += 1

    def lend(self, elements: int, dtype: DTypeLike, at_once: bool) -> Array:
        """Return a flat array of any content.

        Parameters
        ----------
        at_once
            MPI may write into it now; else the host waits for the device first.
        """
        nbytes = elements * np.dtype(dtype).itemsize
        buffer = self._found(max(LEAST_BYTES, 1 << (nbytes - 1).bit_length()), at_once) if nbytes else None
        if buffer is None:
            return np.empty(elements, dtype)
        buffer.read = _NEVER
        self._lent[id(buffer.memory)] = buffer
        return buffer.memory[:nbytes].view(dtype)

    def reads(self, message: Array) -> None:
        """Note that the device begins to copy from an array, or a part of it, that was lent."""
        buffer = self._lent.get(id(_owner(message)))
        if buffer is not None:
            buffer.read = self._waits

    def release(self, messages: Sequence[Array]) -> None:
        """Take back what was lent, of which these are arrays or parts: MPI neither reads nor writes it any more."""
        for message in messages:
            buffer = self._lent.pop(id(_owner(message)), None)
            if buffer is not None:
                self._spare.setdefault(buffer.memory.nbytes, []).append(buffer)

    def close(self) -> None:
        """Let go of all that is not lent, when the device does not copy from it any more."""
        if any(self._busy(buffer) for found in self._spare.values() for buffer in found):
            self._idle()
        self._spare.clear()

    def _busy(self, buffer: _Buffer) -> bool:
        """Return whether the device may still copy from it."""
        return buffer.read == self._waits

    def _found(self, nbytes: int, at_once: bool) -> _Buffer | None:
        """Return a buffer of so many bytes, None where no more may be pinned."""
        spare = self._spare.get(nbytes, [])
        # For the device first one that it reads: that is as good for it, and leaves another for MPI.
        for at, buffer in enumerate(spare):
            if self._busy(buffer) != at_once:
                return spare.pop(at)
        if spare and not at_once:
            return spare.pop(0)
        made = self._made(nbytes) if len(spare) < BUFFERS else None
        if made is None and spare:
            self._idle()
            made = spare.pop(0)
        return made

    def _made(self, nbytes: int) -> _Buffer | None:
        """Return a new buffer; within the bound, if need be in place of others that nobody uses."""
        room = self._most_bytes - self.nbytes
        if nbytes > room:
            for found in self._spare.values():
                for buffer in [each for each in found if not self._busy(each)]:
                    if nbytes > room:
                        found.remove(buffer)
                        room += buffer.memory.nbytes
        return _Buffer(self._pinned(nbytes)) if nbytes <= room else None


def _owner(array: Array) -> Array:
    """Return the array that a view is of, as it was made."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
