"""The watchdog: ends a run whose steps stop, with one message that says who is stuck where.

A rank stuck in a collective cannot raise, and MPI never says that a peer is gone.  So a thread of every rank listens on
a communicator of its own and, once its rank is silent, tells the others where it is:

    silent for        limit/2             0.9 limit      limit             + grace           + 2 grace
    every rank        tells where it is   tells again    |                 |                 |
    lowest rank       collects            collects       speaks, aborts    |                 |
    the next          collects            collects       waits             speaks, aborts    |
    the others        collect             collect        wait              wait              speak for themselves, abort

The last columns are for ranks that lower ones cannot end.  What a transport says went wrong ends the run at once.  The
thread only starts, tests and probes: it never waits for a message, so whatever happened to a peer cannot hold it up.
"""

from __future__ import annotations

import pickle
import platform
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from mpi4py import MPI

from gridnn.comm.agree import abort
from gridnn.comm.trail import AT_END, Place, of_device, place_of
from gridnn.comm.verdict import movement_text, verdict
from gridnn.comm.world import World

STUCK_CODE = 3
"""Exit code of a run that was stuck."""
GRACE_S = 2.5
"""How much longer a rank waits when another one should speak for it."""
_COLLECTORS = 64  # ranks that are told, spread evenly; of more than this not each needs to hear from all
_TELLS = (0.5, 0.9)  # of the limit
_HANG_S = 10.0  # for a watchdog that is itself held up
_TAG = 8


class _Arriving(NamedTuple):
    request: MPI.Request
    buffer: bytearray


class Watchdog:
    """Ends the run when nothing was heard of the main thread for `limit_s` seconds.  A context manager, collective.

    Parameters
    ----------
    limit_s
        More than the longest time between two calls of `heard`.
    say
        Takes the message, from one rank as long as ranks can reach each other.
    """

    def __init__(self, world: World, limit_s: float, say: Callable[[str], None]) -> None:
        self._world, self._limit_s, self._say = world, limit_s, say
        self._heard = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._comm: MPI.Intracomm | None = None
        self._hosts = [platform.node()] * world.size
        self._watched = self._told = 0
        self._ends = self._armed = False
        self._places: dict[int, tuple[float, Place]] = {}
        self._arriving: list[_Arriving] = []
        self._leaving: list[tuple[MPI.Request, bytes]] = []

    def __enter__(self) -> Watchdog:
        world, self._watched = self._world, threading.get_ident()
        # A library that lets one thread call at a time can carry no second conversation.
        if world.size > 1 and MPI.Query_thread() >= MPI.THREAD_MULTIPLE:
            self._comm = world.comm.Dup()
            self._hosts = world.comm.allgather(platform.node())
        self.heard()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.heard()
        if kind is None and self._comm is not None:
            # Who leaves is no longer watched, and no longer answers: all leave together, or are found stuck here.
            self._ends = True
            self._comm.Barrier()
        self._done.set()
        self._thread.join(GRACE_S)
        self._arm(0)
        if kind is None and self._comm is not None:
            self._comm.Free()

    def heard(self) -> None:
        """Tell the watchdog that the run goes on."""
        self._heard = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._limit_s / 20)):
            if fault := self._world.transport.fault():  # who waits for the device would wait for ever
                self._say(self._broken(fault))
                abort(STUCK_CODE)
            silent_s = time.monotonic() - self._heard
            if self._comm is not None:
                self._listen(self._comm)
                self._tell_in_time(self._comm, silent_s)
            if silent_s > self._limit_s + GRACE_S * min(2, self._lower()):
                self._say(self._verdict())
                abort(STUCK_CODE)

    def _tell_in_time(self, comm: MPI.Intracomm, silent_s: float) -> None:
        """Tell the collectors where this rank is, when it is time or when another rank is worried."""
        due = sum(silent_s > share * self._limit_s for share in _TELLS)
        if due == 0:
            self._arm(0)
            due = int(bool(self._recent()))
            self._told = self._told if due else 0
        elif self._told == 0:
            # Should a call of this thread not come back, the process ends all the same.
            self._arm(self._limit_s + 2 * GRACE_S + _HANG_S)
        if due > self._told:
            self._told = due
            message = pickle.dumps(self._place())
            for rank in self._collectors():
                if rank != comm.rank:
                    self._leaving.append((comm.Isend([message, MPI.BYTE], rank, _TAG), message))

    def _listen(self, comm: MPI.Intracomm) -> None:
        """Take in what others told, as far as it is there."""
        status = MPI.Status()
        while comm.Iprobe(tag=_TAG, status=status):
            buffer = bytearray(status.Get_count(MPI.BYTE))
            self._arriving.append(_Arriving(comm.Irecv([buffer, MPI.BYTE], status.source, _TAG), buffer))
        still = []
        for each in self._arriving:
            if each.request.Test():
                place: Place = pickle.loads(each.buffer)
                self._places[place.rank] = time.monotonic(), place
            else:
                still.append(each)
        self._arriving = still
        self._leaving = [(request, kept) for request, kept in self._leaving if not request.Test()]

    def _recent(self) -> dict[int, Place]:
        """Return what others told of this stop, not of an earlier one that went over."""
        since_s = time.monotonic() - 0.75 * self._limit_s - GRACE_S
        return {rank: place for rank, (told_s, place) in self._places.items() if told_s > since_s}

    def _collectors(self) -> range:
        return range(0, self._world.size, -(-self._world.size // _COLLECTORS))

    def _lower(self) -> int:
        """Return how many ranks should speak before this one does."""
        if self._comm is None:
            return 0
        recent, mine = self._recent(), self._world.rank
        known = [rank for rank in self._collectors() if rank == mine or rank in recent]
        return known.index(mine) if mine in known else 2

    def _arm(self, seconds: float) -> None:
        """Let SIGALRM end this process after some time, or with 0 no longer."""
        if seconds or self._armed:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            self._armed = seconds > 0

    def _place(self) -> Place:
        world = self._world
        place = place_of(world.rank, world.clock, world.trail, self._watched)
        if self._ends:
            return place._replace(phase=AT_END)
        return of_device(place, world.trail, world.transport.behind())

    def _broken(self, fault: str) -> str:
        """Return the message about messages that a device could not hand on."""
        place = self._place()
        where = f" in {movement_text(place.inside.kind, place.inside.where)}" if place.inside else ""
        return f"rank {self._world.rank}{where}: {fault}, all ranks are stopped"

    def _verdict(self) -> str:
        places = self._recent() | {self._world.rank: self._place()}
        absent = [] if self._comm is None else [r for r in range(self._world.size) if r not in places]
        return verdict(list(places.values()), absent, self._hosts, self._limit_s)
