"""Links between devices: communicators of NCCL, the streams they are used on, and what is under way there.

    launch     compute --event--> stream of the link: | group of calls | --event--> who waits: `Launched.Wait`
    behind     the first event of all that the device has not come to: where a rank hangs, if its device does
    fault      what NCCL found out meanwhile, such as a process that is gone

The host starts and goes on.  It meets others where a communicator is made and where two ranks first send each other
something on it (NCCL connects then), and it looks at its clock where it waits for the device: here at the end of a run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from numpy.typing import NDArray

from gridnn.comm.trail import Entry
from gridnn.compute.gpu.streams import Event, Stream, Streams
from gridnn.errors import RunError

if TYPE_CHECKING:
    from gridnn.comm.world import World

Array = NDArray[Any]
Ranks = tuple[int, ...]
Call = Callable[[], None]
MOVES, SUMS = "", "sums"
"""Purposes of streams and communicators; beside them, lanes between stages."""
QUIET_S, LOOK_S = 10.0, 1e-3
"""Seconds that the end of a run waits for what is on its way, and between two looks."""
RESULTS = {
    6: "another process is gone, or the network to it",
    7: "it has not been done yet: NCCL_COMM_BLOCKING must be 1",
    8: "it took too long",
}
"""Results of NCCL that CuPy may have no words for."""


class Group(NamedTuple):
    """Ranks with a communicator and the stream it is used on; `places` are those of world ranks in it."""

    communicator: Any
    stream: Stream
    places: dict[int, int]


class Launched:
    """A movement on a stream.

    Parameters
    ----------
    between
        Calls now, or at this place of every launch of a graph that is captured now (`Device.between`).
    kept
        Arrays that it reads and writes: free memory is free for what computes, which knows nothing of other streams.
    """

    def __init__(self, between: Callable[[Call], None], streams: Streams, kept: Sequence[Array]) -> None:
        self._between, self._streams, self._kept = between, streams, kept
        self.event: Event | None = None
        """Behind it; none while it is captured."""

    @property
    def done(self) -> bool:
        """Whether the device has come through it."""
        return self.event is not None and self.event.done

    def Wait(self) -> None:
        """Let what is computed from now on wait for it; the host goes on."""
        self._between(self._wait)
        self._kept = ()

    def _wait(self) -> None:
        assert self.event is not None, "a movement is awaited that was not started"
        self._streams.compute().wait(self.event)


class Links:
    """The links of a rank.  The main thread uses them; any thread may ask `behind` and `fault`.

    Parameters
    ----------
    between
        Of the device: calls now, or at this place of every launch of a graph that is captured now.
    library
        NCCL with the names of `cupy.cuda.nccl`.
    """

    def __init__(self, between: Callable[[Call], None], streams: Streams, library: Any) -> None:
        self._between, self.streams, self.library = between, streams, library
        self._by_purpose: dict[tuple[str, Ranks], Stream] = {}
        self._groups: WeakKeyDictionary[World, dict[tuple[str, Ranks], Group]] = WeakKeyDictionary()
        self._communicators: list[Any] = []
        self._closing = threading.Lock()
        self._open: deque[tuple[Event, Entry | None]] = deque()

    def launch(
        self,
        world: World,
        purpose: str,
        ranks: Ranks,
        calls: Callable[[Group, int], None],
        kept: Sequence[Array],
    ) -> Launched:
        """Put a group of calls on the stream of its purpose, behind what is computed so far.

        Raises
        ------
        RunError
            If NCCL refuses.
        """
        group, entry = self.group(world, purpose, ranks), world.trail.last()
        launched = Launched(self._between, self.streams, kept)

        def put() -> None:
            group.stream.wait(self.streams.compute().record())
            with telling("messages were handed on"):
                self.library.groupStart()
                try:
                    calls(group, group.stream.pointer)
                finally:  # left open, it would take in all that follows, the end of communicators too
                    self.library.groupEnd()
            launched.event = group.stream.record()
            while self._open and self._open[0][0].done:
                self._open.popleft()
            self._open.append((launched.event, entry))

        self._between(put)
        return launched

    def group(self, world: World, purpose: str, ranks: Ranks) -> Group:
        """Return the group of `ranks` (ascending world ranks) for a purpose, made on first use by them."""
        found = self._of(world)
        if (purpose, ranks) not in found:
            identity, wrong = self.identity(world, ranks)
            if wrong:
                raise RunError(f"NCCL has no identity for a communicator: {wrong}")
            self.make(world, purpose, ranks, identity)
        return found[purpose, ranks]

    def has(self, world: World, purpose: str, ranks: Ranks) -> bool:
        """Return whether there is a communicator of `ranks` for a purpose; the same on all of them."""
        return (purpose, ranks) in self._of(world)

    def identity(self, world: World, ranks: Ranks) -> tuple[Any, str]:
        """Return what a communicator of `ranks` is made with, and why there is none.  Collective over them, by MPI."""
        comm, told = world.group(ranks), None
        if comm.rank == 0:
            try:
                told = self.library.get_unique_id(), ""
            except Exception as error:  # the others wait to be told
                told = None, said(error)
        found: tuple[Any, str] = comm.bcast(told)
        return found

    def make(self, world: World, purpose: str, ranks: Ranks, identity: Any) -> None:
        """Make the communicator of `ranks` for a purpose.  Collective over them."""
        with telling("a communicator was made"):
            made = self.library.NcclCommunicator(len(ranks), identity, ranks.index(world.rank))
        at = (purpose, ranks if purpose not in (MOVES, SUMS) else ())
        if at not in self._by_purpose:
            self._by_purpose[at] = self.streams.new(urgent=purpose != SUMS)
        places = {rank: place for place, rank in enumerate(ranks)}
        self._of(world)[purpose, ranks] = Group(made, self._by_purpose[at], places)
        self._communicators.append(made)

    def _of(self, world: World) -> dict[tuple[str, Ranks], Group]:
        """Return the groups of a world, which are closed with it."""
        if world not in self._groups:
            self._groups[world] = {}
            world.also_close(partial(self.close, world))
        return self._groups[world]

    def behind(self) -> Entry | None:
        """Return the first movement that the device has not come through."""
        waiting = tuple(self._open)
        if waiting:
            self.streams.bind()
        return next((entry for event, entry in waiting if not event.done), None)

    def fault(self) -> str:
        """Return what NCCL found out since movements were started, "" for nothing."""
        if not self._communicators or not self._closing.acquire(blocking=False):
            return ""
        try:
            self.streams.bind()
            for communicator in tuple(self._communicators):
                communicator.check_async_error()
        except Exception as error:  # CuPy's own, and what `said` knows
            return f"NCCL failed ({said(error)})"
        finally:
            self._closing.release()
        return ""

    def quiet(self, limit_s: float) -> bool:
        """Return whether all that was started is through, for which the host waits so long."""
        stop_s = time.monotonic() + limit_s
        while not all(event.done for event, _ in tuple(self._open)):
            if time.monotonic() > stop_s:
                return False
            time.sleep(LOOK_S)
        return True

    def close(self, world: World, orderly: bool) -> None:
        """Let go of the communicators of a world: by force where something may never be through.

        By force all at once: each gives memory of the device back, for which it waits until nothing runs there, and a
        movement of one that is not ended yet may run for ever.
        """
        made = [group.communicator for group in self._groups.pop(world, {}).values()]
        quiet = orderly and bool(made) and self.quiet(QUIET_S)
        with self._closing:
            for communicator in made:
                self._communicators.remove(communicator)
            if quiet:
                for communicator in made:
                    communicator.destroy()
            elif made:  # destroying would wait for what is under way
                with suppress(
                    RuntimeError, KeyError
                ):  # of NCCL: who ends by force has an error to tell already
                    self.library.groupStart()
                    for communicator in made:
                        communicator.abort()
                    self.library.groupEnd()
        if not self._communicators:  # nobody will look whether what was under way is through
            self._open.clear()


@contextmanager
def telling(when: str) -> Iterator[None]:
    """Say what NCCL did not do, and what to try.

    Raises
    ------
    RunError
        For any error within that is not ours.
    """
    try:
        yield
    except (RunError, AssertionError):
        raise
    except Exception as error:  # CuPy's own, and what `said` knows
        raise RunError(
            f'NCCL failed while {when}: {said(error)}; NCCL_DEBUG=WARN says more, comm.transport = "staged" goes '
            "without it"
        ) from error


def said(error: Exception) -> str:
    """Return an error of NCCL in words."""
    if isinstance(error, KeyError):  # CuPy's table of errors ends before NCCL's
        return f"error {error}: {RESULTS.get(error.args[0], 'this CuPy has no words for it')}"
    return str(error).strip() or type(error).__name__
