"""Progress: messages move while a rank computes.

MPI libraries move non-blocking data inside calls only, and a rank that computes makes none:

    polls between layers   compute |=== conv3 ===|=== conv2 ======|= conv1 =| wait |----------|
                           wire           ....    .               .         ................
    a thread that calls    compute |=== conv3 ===|=== conv2 ======|= conv1 =| wait |--|
                           wire           ....... ............... ......... ...

Any call will do: the thread tests a message that never comes, and what it is given to move.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

LEAST_S, MOST_S = 1e-3, 5e-3
"""Seconds between two calls.  A call takes some 30 us of a core, and where all cores compute, more from them."""
BETWEEN = 32 << 10
"""Bytes of the slowest links between two calls, about: with 128 KB sockets were full and the wire stood still."""


def every_s(beta_s_per_byte: float) -> float:
    """Return the seconds between two calls where the slowest links take so long for a byte."""
    return min(MOST_S, max(LEAST_S, BETWEEN * beta_s_per_byte))


class Progress:
    """A thread that calls MPI now and then between `begin`, where arithmetic hides a movement, and `rest`.

    It does nothing on one rank, where MPI lets one thread call only, or where it was not switched on (`on`).

    Parameters
    ----------
    comm
        Duplicated.  Collective.
    move
        Called as often, for what must be begun by somebody.

    Attributes
    ----------
    every_s
        Seconds between two calls.
    """

    def __init__(self, comm: MPI.Intracomm, move: Callable[[], None]) -> None:
        self.on, self.every_s = False, LEAST_S
        self._can = comm.size > 1 and MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._move = move
        self._comm = comm.Dup() if self._can else MPI.COMM_NULL
        self._busy, self._leave = threading.Event(), False
        self._never = self._comm.Irecv(np.zeros(1), self._comm.rank) if self._can else MPI.REQUEST_NULL
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Something is on its way, and the rank will compute."""
        if self.on and self._can and not self._busy.is_set():
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()
            self._busy.set()

    def rest(self) -> None:
        """Nothing is on its way that computation could hide."""
        self._busy.clear()

    def stop(self) -> None:
        """End the thread; from then on `begin` does nothing.  Talks to nobody."""
        if self._can:
            self._can, self._leave = False, True
            self._busy.set()
            if self._thread is not None:
                self._thread.join()
            self._never.Cancel()
            self._never.Wait()

    def close(self) -> None:
        """Stop, and free the communicator.  Collective."""
        self.stop()
        if self._comm != MPI.COMM_NULL:
            self._comm.Free()

    def _run(self) -> None:
        while self._busy.wait() and not self._leave:
            self._never.Test()
            try:
                self._move()
            except MPI.Exception:  # kept for who waits for it
                return
            time.sleep(self.every_s)
