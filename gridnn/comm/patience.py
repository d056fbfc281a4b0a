"""Patience: how a rank waits for messages where ranks share cores.

    a core for each     rank 0  |=====|~~~~~~|====|         MPI looks until something comes: the first to know
    cores are shared    rank 0  |=====|~ ~  ~|====|         the rank sleeps between two looks, and its core computes
                        rank 1  |============|              for another meanwhile

A library that yields between two looks still takes most of a core: four ranks on two cores, links of 350 Mbit/s, spent
a fifth of a step waiting and left no core idle.  So where a machine has more ranks than cores, all ranks of the world
are patient: blocking and non-blocking collectives do not match, and so they have to agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

LEAST_S, MOST_S = 2e-5, 5e-4
"""Seconds between two looks."""
SHARE = 0.125
"""Of the seconds waited so far, a sleep: by so much a wait may become longer."""


class Patience:
    """How a rank waits.

    Attributes
    ----------
    on
        Whether it sleeps between two looks; the same on all ranks of a world.
    """

    def __init__(self) -> None:
        self.on = False

    def until(self, done: Callable[[], bool]) -> None:
        """Look, and sleep, until it is done."""
        started_s = time.perf_counter()
        while not done():
            waited_s = time.perf_counter() - started_s
            time.sleep(min(MOST_S, max(LEAST_S, SHARE * waited_s)))

    def wait_all(self, requests: Sequence[MPI.Request]) -> None:
        """Complete requests."""
        if self.on:
            self.until(lambda: bool(MPI.Request.Testall(requests)))
        else:
            MPI.Request.Waitall(requests)
