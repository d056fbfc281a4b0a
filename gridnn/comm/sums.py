"""Sums in pieces: large all-reduces that keep the wire full and leave a way through for halos.

    whole          |================ 150 MB of fc6 ================|halo|            a halo waits for all of it
    in pieces      |====|====|halo|====|====|====|====|====|====|====|               it waits for those under way

A sum of a bucket is queued as pieces, of which a few are under way at once: one alone leaves the wire idle between its
rounds, many are as one large message.  Where memory carries the bytes whole sums are faster, and halos wait for
milliseconds; so how large a piece is follows from the machine (`cost.collectives.piece_bytes`).  Whoever calls MPI next
starts the next piece: a layer that has finished (`drive`), the progress thread, the wait at the end.

Order: pieces start in the order in which they were queued, on communicators that nothing else uses.  All ranks queue
sums in one order, that of the layers; so the first piece that is not done, of all ranks, is under way on all of its
ranks, and none waits for ever.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mpi4py import MPI
from numpy.typing import NDArray

from gridnn.comm.patience import Patience
from gridnn.geometry.interval import Interval

WHOLE = sys.maxsize
"""Bytes of a piece that no sum has."""
WINDOW, MOST = 4, 64
"""Pieces under way at once; at most, where they are all done whenever somebody looks."""

Post = Callable[[], MPI.Request]
Look = Callable[[list[MPI.Request]], list[int] | None]


class Handle:
    """A queued collective.  `Test` and `Wait` as of an MPI request."""

    def __init__(self, sums: Sums, pieces: int, kept: object) -> None:
        self.left, self._sums, self._kept = pieces, sums, kept

    def Test(self) -> bool:
        """Return whether it is done."""
        self._sums.drive()
        return not self.left

    def Wait(self) -> None:
        """Return when it is done."""
        self._sums.wait(self)


class Sums:
    """The queue of a rank.  Any thread may call it.

    Parameters
    ----------
    patience
        How the rank waits for a collective.

    Attributes
    ----------
    piece_bytes
        Of a piece, about; the same on all ranks.  `WHOLE` unless somebody who knows the machine sets it.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.piece_bytes = WHOLE
        self._lock = threading.Lock()
        self._todo: deque[tuple[Post, Handle]] = deque()
        self._live: list[tuple[MPI.Request, Handle]] = []
        self._window = WINDOW
        self._error: MPI.Exception | None = None

    def all_reduce(self, comm: MPI.Intracomm, array: NDArray[Any]) -> Handle:
        """Queue the sum of a contiguous 1-D array over a communicator, in place."""
        whole, count = Interval(0, array.size), max(1, round(array.nbytes / self.piece_bytes))
        pieces = [array[slice(*whole.block(count, i))] for i in range(count)]
        return self.queue([partial(comm.Iallreduce, MPI.IN_PLACE, piece) for piece in pieces], array)

    def queue(self, posts: Sequence[Post], kept: object = None) -> Handle:
        """Queue what starts the requests of a collective, one after the other; begin as far as there is room.

        `kept` stays alive until it is done: memory that MPI writes into.
        """
        handle = Handle(self, len(posts), kept)
        with self._lock:
            self._todo += [(post, handle) for post in posts]
            self._start()
        return handle

    def drive(self) -> None:
        """Move on what is under way and start what may be started; waits for nothing."""
        if (self._live or self._todo) and self._lock.acquire(blocking=False):
            try:
                self._retire(MPI.Request.Testsome)
                if self._todo and not self._live:  # the wire stood still
                    self._window = min(2 * self._window, MOST)
                self._start()
            finally:
                self._lock.release()

    def wait(self, handle: Handle) -> None:
        """Return when a collective is done."""
        if self._patience.on:
            self._patience.until(lambda: self._moved(handle))
        with self._lock:
            while handle.left:
                self._retire(MPI.Request.Waitsome)
                self._start()

    def _moved(self, handle: Handle) -> bool:
        self.drive()
        return not handle.left

    def _start(self) -> None:
        while self._todo and len(self._live) < self._window:
            post, handle = self._todo.popleft()
            with self._telling():
                self._live.append((post(), handle))

    def _retire(self, look: Look) -> None:
        """Forget what `look` finds done."""
        with self._telling():
            done = look([request for request, _ in self._live])
        for at in sorted(done or (), reverse=True):
            _, handle = self._live.pop(at)
            handle.left -= 1

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell every caller from now on what went wrong for one: who waits is seldom who started."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except MPI.Exception as error:
            self._error = error
            raise
