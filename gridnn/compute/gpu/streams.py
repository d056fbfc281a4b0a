"""Streams of a device: what is put on one is done in its order, and nothing else orders two of them but events.

    compute    | conv1 |o record               wait | conv2 |        wait: what comes after it on this stream begins
    messages             `wait | halo |o record ---^                 when the event is reached; the host goes on at once

Kernels run on what CuPy calls the current stream.  Others are made non-blocking: CUDA's default stream, which mostly is
the current one, waits for all that are not.  Only this file makes streams and events of CuPy's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

URGENT, USUAL = -100, 0
"""Priorities: lower numbers go first, and CUDA takes the nearest that a device has."""
Load = Callable[[str], Any]


class Event(Protocol):
    """A place in a stream."""

    @property
    def done(self) -> bool:
        """Whether the device has come to it; asks and does not wait."""
        ...


class Stream(Protocol):
    """What a device does in one order."""

    @property
    def pointer(self) -> int:
        """What libraries know it by."""
        ...

    def record(self) -> Event:
        """Return the place behind all that was put on it so far."""
        ...

    def wait(self, event: Event) -> None:
        """Let what is put on it from now on begin when an event is reached; the host goes on."""
        ...


class Streams(Protocol):
    """The streams of a rank's device."""

    def compute(self) -> Stream:
        """Return the stream that kernels are put on now."""
        ...

    def new(self, urgent: bool) -> Stream:
        """Return another stream; of two with work ready, the urgent one's goes first."""
        ...

    def bind(self) -> None:
        """Make the device that of the thread that calls."""
        ...


class CupyStreams:
    """Streams of a CUDA device through CuPy.

    Parameters
    ----------
    number
        Of the devices that this process sees.
    load
        Imports a module.
    """

    def __init__(self, number: int, load: Load = import_module) -> None:
        self._cuda, self._number = load("cupy").cuda, number

    def compute(self) -> Stream:
        """Return CuPy's current stream."""
        return _CupyStream(self._cuda, self._cuda.get_current_stream())

    def new(self, urgent: bool) -> Stream:
        """Return a non-blocking stream."""
        made = self._cuda.Stream(non_blocking=True, priority=URGENT if urgent else USUAL)
        return _CupyStream(self._cuda, made)

    def bind(self) -> None:
        """Make the device current: a thread that CuPy does not know has device 0, and would make a context there."""
        self._cuda.Device(self._number).use()


class _CupyStream:
    """A stream of CuPy's."""

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._cuda, self._stream = cuda, stream

    @property
    def pointer(self) -> int:
        """The address of CUDA's structure; 0 is the default stream."""
        return int(self._stream.ptr)

    def record(self) -> Event:
        """Return an event without a time: those are cheaper to wait for."""
        event: Event = self._stream.record(self._cuda.Event(disable_timing=True))
        return event

    def wait(self, event: Event) -> None:
        """Put a wait for an event on the stream."""
        self._stream.wait_event(event)
