"""A step of training as a graph of CUDA: captured once, then launched with a few calls in place of hundreds.

    captured    kernels and operations on arrays are written down in their order, with their addresses: nothing is done
    launched    they are done, on the same memory, whatever is in it by then

    launch:  | between      | graph   | between          | graph   | between      | graph   | ...
             | batch, keys  | kernels | product (cuBLAS) | kernels | numbers of   | kernels |
             | of dropout   |         |                  |         | the update   |         |

What cannot be captured is called between two parts of the graph (`Device.between`): CuPy refuses to capture cuBLAS, and
a batch comes from the host.  Numbers that a kernel is given by value stay what they were at capture, so those that
change from step to step are read from the device (`Varying`): the learning rate, Adam's step, the key of dropout.

Arrays that are made during a capture come from a pool that the graph keeps, for its kernels have their addresses.  An
array made before must be kept by who made it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol
from weakref import WeakSet, finalize

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import RunError

Array = Any
Call = Callable[[], None]
Graphs = Literal["auto", "on", "off"]
"""What a run wants: graphs where they can be, or an error where not, or none."""


class CaptureError(RunError):
    """Something that a capture does not take: the host reads what is not computed, or copies what it has only now."""


def obstacle(*, passes: int, stages: bool, by_host: bool) -> str | None:
    """Return why the steps of a rank cannot be captured; None if they can.

    Parameters
    ----------
    passes
        Of a step, that are open at once: between their forward and their backward.
    stages
        Whether the plan has some.
    by_host
        Whether messages to other ranks wait for the host.
    """
    if stages or passes > 1:
        return "a step of stages follows the messages of other stages; take a plan without stages"
    if by_host:
        return (
            "messages go by the host, which waits for them in the midst of a step; take one rank, or "
            'comm.transport = "nccl"'
        )
    return None


class Later(Protocol):
    """An array on its way to the host."""

    def wait(self) -> NDArray[Any]:
        """Return it, when all that was started before it was sent is done; what was started after may go on."""
        ...


class Known(NamedTuple):
    """An array that the host has already."""

    array: NDArray[Any]

    def wait(self) -> NDArray[Any]:
        """Return it."""
        return self.array


class Sent(NamedTuple):
    """A copy to the host that a device was asked for.

    Parameters
    ----------
    array
        Of the host, pinned.
    arrived
        Returns when it is there.
    """

    array: NDArray[Any]
    arrived: Call

    def wait(self) -> NDArray[Any]:
        """Return it."""
        self.arrived()
        return self.array


class Home(Protocol):
    """Of a device what `Varying` needs."""

    @property
    def capturing(self) -> bool:
        """Whether operations are captured."""
        ...

    def from_host(self, array: NDArray[Any]) -> Array:
        """Return a copy of a host's array."""
        ...


@dataclass
class _Place:
    """Numbers on a device: how they follow from what changes, and what they follow from now."""

    of: Callable[[Any], NDArray[Any]]
    at: Any
    array: Array


class Varying:
    """Numbers on a device that change from step to step; kernels are given their place.

        told("update", rule, now)    the numbers of now are written, unless they are there; by a capture nothing is
        move("update", now)          before a launch: all places of the group get the numbers of now

    A place has one name for good, and numbers that follow from its name and from what changes (`at`) alone.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._groups: dict[str, dict[Hashable, _Place]] = {}

    def told(self, group: str, name: Hashable, at: Any, of: Callable[[Any], NDArray[Any]]) -> Array:
        """Return the place of the numbers `of(at)`.

        Parameters
        ----------
        group
            What changes: "pass" (its number), "update" (its number, the learning rate, the factor on gradients).
        name
            Of the place in the group.
        of
            Gives the numbers, always equally many.

        Raises
        ------
        CaptureError
            If it is new and a step is captured: nothing can be copied there.
        """
        places = self._groups.setdefault(group, {})
        place = places.get(name)
        if place is None:
            if self._home.capturing:
                raise CaptureError(f"the numbers {name} are new, and nothing is copied from the host")
            place = places[name] = _Place(of, at, self._home.from_host(of(at)))
        elif not self._home.capturing:
            self._write(place, at)
        return place.array

    def move(self, group: str, at: Any) -> None:
        """Write the numbers of a group as they follow from `at`."""
        for place in self._groups.get(group, {}).values():
            self._write(place, at)

    def _write(self, place: _Place, at: Any) -> None:
        if place.at != at:
            before, now = place.of(place.at), place.of(at)
            if not np.array_equal(before, now):  # behind all kernels that read the numbers of before
                place.array[...] = self._home.from_host(now)
            place.at = at


class Graph:
    """Captured work.

    Parameters
    ----------
    pieces
        What a launch calls, in its order.
    kept
        What must stay as long as the graph: its pool of memory.
    nbytes
        Bytes that nobody else gets.
    """

    def __init__(self, pieces: Sequence[Call], kept: object, nbytes: int) -> None:
        self._pieces, self._kept, self.nbytes = tuple(pieces), kept, nbytes

    @property
    def pieces(self) -> int:
        """Calls of a launch."""
        return len(self._pieces)

    def launch(self) -> None:
        """Start the work, in the order in which it was captured, behind what was started before."""
        for piece in self._pieces:
            piece()


class Pools:
    """The memory of graphs: CuPy never gives back what is free in a pool that it drops, so pools outlive their graphs.

    Attributes
    ----------
    left
        Pools of graphs that are gone, or were given up; somebody may still have arrays of them.
    """

    def __init__(self) -> None:
        self._graphs: WeakSet[Graph] = WeakSet()
        self.left: list[Any] = []

    def keep(self, graph: Graph, pool: Any) -> None:
        """Count the memory of a graph, and leave its pool when it is gone: its parts have arrays until then."""
        self._graphs.add(graph)
        finalize(graph, self.left.append, pool).atexit = False

    @property
    def nbytes(self) -> int:
        """Bytes that nobody else gets."""
        left = sum(int(pool.total_bytes()) for pool in self.left)
        return sum(graph.nbytes for graph in self._graphs) + left

    def give_back(self) -> None:
        """Give the device what nobody uses of the pools that are left."""
        for pool in self.left:
            pool.free_all_blocks()
        self.left[:] = [pool for pool in self.left if pool.total_bytes()]


class Recorder:
    """A capture by CuPy, on a stream and with a pool of its own.

    What is captured is launched on the stream that is current then: the one of everything else.

    Parameters
    ----------
    cupy
        The package.
    """

    def __init__(self, cupy: Any) -> None:
        # The default stream cannot be captured; one that blocks would tie itself to it by every operation there.
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self.pool = cupy.cuda.MemoryPool()
        self._pieces: list[Call] = []

    def record(self, work: Call) -> Graph:
        """Capture what `work` starts.

        Raises
        ------
        CaptureError
            If there is something in it that cannot be captured.
        """
        with self._stream:  # CuPy's current one, in this thread
            try:
                self._stream.begin_capture()  # relaxed: the pool may ask the device for memory
                work()
                self._end()
            except BaseException as error:
                with suppress(RuntimeError):  # CUDA has given it up already, perhaps
                    self._stream.end_capture()
                if isinstance(error, RuntimeError):  # of CuPy and CUDA; ours are others
                    raise CaptureError(str(error)) from error
                raise
        return Graph(self._pieces, self.pool, int(self.pool.total_bytes()))

    def between(self, call: Call) -> None:
        """Let a launch call something at this place."""
        self._end()
        self._pieces.append(call)
        self._stream.begin_capture()

    def _end(self) -> None:
        graph = self._stream.end_capture()
        self._pieces.append(graph.launch)
