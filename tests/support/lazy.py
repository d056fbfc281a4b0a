"""Streams of a device of the tests that put everything off: what they were told is done when somebody waits for it.

compute            is done at once, as the tests' device does: so what another stream brings is there too late
                   unless `compute` waits for it, and was overwritten before unless it waited for `compute`
another stream     notes what is put on it; a wait for its event, by `compute` or the host, has it done up to there
memory             known by its addresses, as a library is given them, and not kept: who lets go of it too early
                   is told
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from typing import Any, NamedTuple, Protocol

import numpy as np

from tests.support.shim.capture import owner_of
from tests.support.shim.device import DeviceArray, ShimDevice


class Task(Protocol):
    """Something on a stream."""

    def ready(self) -> bool:
        """Return whether it could be done now."""
        ...

    def perform(self) -> None:
        """Do it; waits for what it needs."""
        ...


class StreamDevice(ShimDevice):
    """A device with streams beside that of its kernels.

    Attributes
    ----------
    started
        How much was put on `compute` so far.
    """

    def __init__(self, order: str = "forward", capability: tuple[int, int] = (8, 0)) -> None:
        super().__init__(order, capability)
        self._others = 0
        self._owners: dict[int, weakref.ref[Any]] = {}

    @property
    def started(self) -> int:
        return len(self.launches) + self._others

    def from_host(self, array: Any) -> DeviceArray:
        self._others += 1
        return super().from_host(array)

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        self._others += 1
        super().matmul(a, b, out)

    def address(self, array: DeviceArray) -> int:
        if not isinstance(array, DeviceArray):
            raise TypeError(f"a host's array {array.shape} has no address on the device")
        owner = owner_of(array)
        self._owners[owner.ctypes.data] = weakref.ref(owner)
        return super().address(array)

    def block(self, address: int, nbytes: int) -> Block:
        """Return the memory at an address; refuse what is no array of the device."""
        self._owners = {at: ref for at, ref in self._owners.items() if ref() is not None}
        for at, ref in self._owners.items():
            owner = ref()
            if owner is not None and at <= address and address + nbytes <= at + owner.nbytes:
                return Block(ref, address, nbytes)
        raise RuntimeError(f"invalid argument: {nbytes} bytes at {address} are no array of the device")


class Block(NamedTuple):
    """Memory of an array that somebody else keeps, or not."""

    owner: weakref.ref[Any]
    address: int
    nbytes: int

    def view(self) -> Any:
        """Return its bytes."""
        if self.owner() is None:
            raise AssertionError("memory was let go of while another stream works on it")
        return np.ctypeslib.as_array((ctypes.c_ubyte * self.nbytes).from_address(self.address))


class Done(NamedTuple):
    """An event of `compute`, where all is done at once."""

    started: int

    @property
    def done(self) -> bool:
        return True


class Late(NamedTuple):
    """An event of another stream."""

    stream: LazyStream
    position: int

    @property
    def done(self) -> bool:
        """Whether it could be: who is told so and does not wait still reads what was there before."""
        return self.stream.could(self.position)


class Compute:
    """The stream of kernels."""

    pointer = 0

    def __init__(self, device: StreamDevice) -> None:
        self._device = device

    def record(self) -> Done:
        return Done(self._device.started)

    def wait(self, event: Late) -> None:
        event.stream.run(event.position)


class LazyStream:
    """Another stream.

    Attributes
    ----------
    seen
        How much of `compute` was done before what is put on it now.
    """

    def __init__(self, pointer: int, urgent: bool) -> None:
        self.pointer, self.urgent, self.seen = pointer, urgent, -1
        self._tasks: list[Task] = []
        self._next = 0

    def record(self) -> Late:
        return Late(self, len(self._tasks))

    def wait(self, event: Any) -> None:
        assert isinstance(event, Done), "streams of messages wait for what is computed only"
        self.seen = max(self.seen, event.started)

    def put(self, task: Task) -> None:
        self._tasks.append(task)

    @property
    def left(self) -> int:
        """Tasks that nobody has waited for."""
        return len(self._tasks) - self._next

    def could(self, position: int) -> bool:
        return all(task.ready() for task in self._tasks[self._next : position])

    def run(self, position: int | None = None) -> None:
        stop = len(self._tasks) if position is None else position
        while self._next < stop:
            self._next += 1
            self._tasks[self._next - 1].perform()


class LazyStreams:
    """The streams of a device, as `gridnn.compute.gpu.streams.Streams`."""

    def __init__(self, device: StreamDevice) -> None:
        self._compute = Compute(device)
        self._numbers = itertools.count(1)
        self.made: dict[int, LazyStream] = {}

    def compute(self) -> Any:
        return self._compute

    def new(self, urgent: bool) -> Any:
        stream = LazyStream(next(self._numbers), urgent)
        self.made[stream.pointer] = stream
        return stream

    def bind(self) -> None:
        """Any thread may use it."""


class Careless(Compute):
    """A stream of kernels that forgets to wait, for tests of tests."""

    def wait(self, event: Late) -> None:
        """Go on."""
