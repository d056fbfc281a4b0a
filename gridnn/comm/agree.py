"""Agreement: an error of one rank becomes an error of all, so that none waits for ever."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mpi4py import MPI

from gridnn.comm.world import World
from gridnn.errors import GridnnError

# Tag of "I fail", and how long ranks that fail for one reason may be apart.
_FAILED, _MOMENT_S = 7, 0.3
# How long the MPI library may take to end the run before a rank ends itself.
_ABORT_S = 5.0


@contextmanager
def agreed(world: World) -> Iterator[None]:
    """Do something that may fail on some ranks only; raise the first rank's error on all.

    What stands inside must not communicate.  Collective at its end.

    Raises
    ------
    GridnnError
        Of the class and with the message of the lowest rank that failed.
    """
    mine: GridnnError | None = None
    try:
        yield
    except GridnnError as error:
        mine = error
    told = world.comm.allgather(None if mine is None else (type(mine), str(mine)))
    failed = [(rank, what) for rank, what in enumerate(told) if what is not None]
    if failed:
        rank, (kind, message) = failed[0]
        alone = f" (rank {rank} only)" if len(failed) == 1 and world.size > 1 else ""
        shared = kind(message + alone)
        shared.everywhere = True
        raise shared


def speaks_for_all(comm: MPI.Intracomm) -> bool:
    """Return whether this rank, which fails on its own, should say why: of ranks that fail together, one does.

    Every rank that fails tells all others; one that was told before it failed, or is told by a lower rank
    within a moment, leaves the word to that one.

    Parameters
    ----------
    comm
        A communicator on which nothing else is sent: others may be anywhere in their work.
    """
    if comm.Iprobe(tag=_FAILED):
        return False
    for rank in range(comm.size):
        if rank != comm.rank:
            comm.Isend([bytearray(), MPI.BYTE], rank, _FAILED)
    deadline_s = time.monotonic() + _MOMENT_S
    while comm.size > 1 and time.monotonic() < deadline_s:
        if any(comm.Iprobe(lower, _FAILED) for lower in range(comm.rank)):
            return False
        time.sleep(0.01)
    return True


def abort(code: int) -> NoReturn:
    """End all processes of the run, and wait before that until what they wrote has left."""
    sys.stdout.flush()
    sys.stderr.flush()
    # A launcher drops the output it has not yet forwarded when the job is aborted: the error would be lost.
    time.sleep(2 * _MOMENT_S)
    # An MPI that cannot reach its launcher, or whose lock is held by a stuck call, may not come back: then SIGALRM ends
    # this process, whatever its threads are doing.
    signal.setitimer(signal.ITIMER_REAL, _ABORT_S)
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)  # MPICH's comes back where it cannot tell its launcher: on the far side of a cut network
