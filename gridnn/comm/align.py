"""Clocks of ranks brought onto that of rank 0, by messages.

    rank r     t0 ----.              .---> t1      rank 0 read T in the middle, or at most (t1 - t0) / 2 from it:
    rank 0             `---> T ----'               the clock of r is ahead by (t0 + t1) / 2 - T

The shortest of some round trips says most (Cristian 1989).  Clocks of two computers also run at two speeds, some
millionths apart; two comparisons, before and after what is looked at, say how far they moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gridnn.comm.world import Array, World

# Tag of a round trip, and how many there are: on a quiet network the shortest of a few is near the best there is.
_TRIP, TRIPS = 8, 20


class Reading(NamedTuple):
    """How far a clock was ahead of rank 0's, when (by itself), and how wrong that may be."""

    at_s: float
    ahead_s: float
    uncertainty_s: float


class Line(NamedTuple):
    """How far a clock is ahead of rank 0's: ``ahead_s`` at ``at_s``, and `drift` seconds more each second."""

    at_s: float
    ahead_s: float
    drift: float
    uncertainty_s: float

    def onto(self, times_s: Array) -> Array:
        """Return times of the clock as rank 0 would have read them."""
        aligned: Array = times_s - (self.ahead_s + self.drift * (times_s - self.at_s))
        return aligned


def compare(now: Callable[[], float], ask: Callable[[], float], trips: int = TRIPS) -> Reading:
    """Return how far a clock is ahead of another.

    Parameters
    ----------
    now
        Reads this clock, in seconds.
    ask
        Goes and has the other read.
    """
    found = []
    for _ in range(trips):
        left_s = now()
        theirs_s = ask()
        half_s = (now() - left_s) / 2
        found.append(Reading(left_s + half_s, left_s + half_s - theirs_s, half_s))
    return min(found, key=lambda reading: reading.uncertainty_s)


def between(before: Reading, after: Reading) -> Line:
    """Return the line through two readings; where their uncertainties explain all the difference, no drift.

    Drift out of noise would stretch short spans; without it the better reading is right to within its uncertainty.
    """
    moved_s = after.ahead_s - before.ahead_s
    if abs(moved_s) <= before.uncertainty_s + after.uncertainty_s:
        best = min(before, after, key=lambda reading: reading.uncertainty_s)
        return Line(best.at_s, best.ahead_s, 0.0, best.uncertainty_s)
    middle_s, half_s = (before.at_s + after.at_s) / 2, (before.ahead_s + after.ahead_s) / 2
    drift = moved_s / (after.at_s - before.at_s)
    return Line(middle_s, half_s, drift, max(before.uncertainty_s, after.uncertainty_s))


def read_clocks(world: World, ranks: Sequence[int]) -> Reading | None:
    """Compare the clocks of some ranks with that of rank 0, one after another.  Collective over all ranks.

    It is no traffic of the job: the ledger does not count it.

    Returns
    -------
    Reading or None
        Of this rank's clock, if it is one of `ranks`.
    """
    comm, now, reading, told = world.comm, world.clock.now, None, np.zeros(1)
    if world.rank == 0:
        for rank in ranks:
            for _ in range(TRIPS if rank else 0):
                comm.Recv(told, rank, _TRIP)
                told[0] = now()
                comm.Send(told, rank, _TRIP)
        reading = Reading(now(), 0.0, 0.0) if 0 in ranks else None
    elif world.rank in ranks:

        def ask() -> float:
            comm.Send(told, 0, _TRIP)
            comm.Recv(told, 0, _TRIP)
            return float(told[0])

        reading = compare(now, ask)
    comm.Barrier()  # the next step begins together: a rank that was asked early need not wait inside it
    return reading
