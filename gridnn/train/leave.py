"""When a run must save and leave before its end, and how all ranks come to know it after the same step.

| what comes                            | to whom     | reason        | exit code | what follows                    |
|---------------------------------------|-------------|---------------|-----------|---------------------------------|
| the time limit is near                | rank 0      | `TIME`        | 85        | the batch script requeues       |
| SIGUSR1: the warning of the scheduler | some or all | `WARNED`      | 85        | the same                        |
| SIGTERM: cancelled, preempted, ...    | some or all | `TERMINATED`  | 143       | what the scheduler has in mind  |

A signal reaches ranks at different moments of different steps, and only one of them looks at the clock; they must
leave after the same step all the same.  So each adds what it knows to a sum that all ranks see, a step later; with it
goes the word of rank 0 that it is time for a checkpoint, after which the run goes on:

    step      7            8            9
    rank 0    ---+ sum     ---+ sum     ---+        SIGUSR1 reaches rank 2 in step 7; the sum that starts after step 7
    rank 2    -!-+ starts  ---+ known   ---+        is known after step 8, to all; all save, and leave, after step 8
                   \\_ nobody waits _/

This file needs neither MPI nor NumPy until there are steps: the porch listens for signals before it loads them, and
what comes during the start is kept for the first step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gridnn.comm.world import World

REQUEUE_CODE = 85
"""Exit code of a run that has saved, is not finished, and wants to be started again."""
_MARGIN_SHARE = 0.25  # of the time there was at the start: a short job still does something


class Reason(NamedTuple):
    """Why a run leaves before its end, and the exit code that says so."""

    words: str
    exit_code: int


TIME = Reason("the time limit of the job is near", REQUEUE_CODE)
WARNED = Reason("the warning signal came (SIGUSR1)", REQUEUE_CODE)
TERMINATED = Reason("the job is being ended (SIGTERM)", 128 + signal.SIGTERM)
# Later ones win: a job that is being ended must not come back because its time was up as well.
REASONS = (TIME, WARNED, TERMINATED)
_SIGNALS = {signal.SIGUSR1: WARNED, signal.SIGTERM: TERMINATED}


class Signals:
    """What this process was told by signals; a context manager that listens from its start to its end.

    Signals are noted, nothing else: Python shows them to the main thread between two of its own instructions, which
    inside a call of MPI or a kernel means after it.
    """

    def __init__(self) -> None:
        self.told: set[Reason] = set()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other one
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def ignore(self) -> None:
        """Be deaf from now on, also after the end: for a rank on its way out with an exit code to deliver.

        srun --kill-on-bad-exit answers the first rank that leaves with a code above 0 by SIGTERM to the others, and the
        job would end with 143 instead of the code they were about to give.
        """
        if self._before:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.told.add(_SIGNALS[signal.Signals(number)])


class Verdict(NamedTuple):
    """What all ranks do after a step, the same on each: leave, save and go on, or (mostly) neither."""

    stop: Reason | None
    save: bool


class Stopper:
    """Tells all ranks after the same step to save, or to save and leave; a context manager, collective.

    Parameters
    ----------
    world
        The ranks that must agree.
    signals
        What this rank was told.
    left_s : float or None
        Seconds until the time limit; only rank 0's counts, others may give None.
    margin_s : float
        Seconds that saving and leaving may take, twice the longest step not included.  A quarter of `left_s` at most.
    clock
        Seconds from anywhere.
    """

    def __init__(
        self,
        world: World,
        signals: Signals,
        left_s: float | None,
        margin_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signals, self._clock = signals, clock
        self._comm = world.comm.Dup() if world.size > 1 else None
        self._heard, self._longest_s = clock(), 0.0
        self._deadline_s: float | None = None
        if left_s is not None and world.rank == 0:
            self._deadline_s = self._heard + left_s - min(margin_s, _MARGIN_SHARE * left_s)
        self._asked = False  # for a checkpoint, at the last call
        self._request: Any = None
        self._sums: Any = None  # of all ranks, once the request is done
        self._sent: Any = None

    def __enter__(self) -> Stopper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._comm is not None:  # after an error others may not follow
            if self._request is not None:
                self._request.Wait()
            self._comm.Free()

    def after_step(self, save: bool = False) -> Verdict:
        """Return what all ranks do now, the same on each; to be called after every step, by all.

        Sends 16 bytes that the ledger does not count: they are no traffic of a layer.  On one rank it sends nothing
        and answers at once; on more, what is said after a step is known after the next.

        Parameters
        ----------
        save : bool
            The clock says that it is time for a checkpoint.  One rank is to say so (rank 0: clocks differ); saying it
            again while the verdict is on its way counts as once.
        """
        save = save and not self._asked
        mine, self._asked = [*self._mine(), save], save
        if self._comm is None:
            self._asked = False
            return _verdict(mine)
        import numpy as np

        verdict = Verdict(None, False)
        if self._request is not None:
            self._request.Wait()
            verdict = _verdict(self._sums)
        self._sent, self._sums = np.array(mine, np.int32), np.zeros(len(mine), np.int32)
        self._request = self._comm.Iallreduce(self._sent, self._sums)
        return verdict

    def _mine(self) -> list[bool]:
        """Return for each of REASONS whether this rank knows of it."""
        now = self._clock()
        self._longest_s, self._heard = max(self._longest_s, now - self._heard), now
        told = set(self._signals.told)
        # The sum is known a step from now, and saving comes after the step that follows.
        if self._deadline_s is not None and now + 2 * self._longest_s >= self._deadline_s:
            told.add(TIME)
        return [reason in told for reason in REASONS]


def _verdict(counts: Sequence[int]) -> Verdict:
    """Return what follows from how many ranks know of each reason, and how many want to save."""
    known = [reason for reason, count in zip(REASONS, counts[:-1], strict=True) if count]
    return Verdict(known[-1] if known else None, bool(counts[-1]))
