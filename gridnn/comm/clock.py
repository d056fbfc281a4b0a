"""Seconds by phase: where the time of a step went.

Phases nest, and a moment belongs to the innermost one, so the phases of a step add up:

    compute     |=======|            |=====|
    all-reduce          |============|          ->  compute 12, all-reduce 12
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by phase.  Live, one per rank, for one thread.

    Parameters
    ----------
    now : callable
        Seconds from any origin, never going back.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._open: list[str] = []
        self._mark_s = 0.0
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time spent inside, less that of phases opened inside, goes to ``name``."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """The seconds by phase since the last take, in order of first use; starts again at zero."""
        self._charge()
        taken, self._seconds = self._seconds, {}
        return taken

    def _charge(self) -> None:
        """Give the time since the last change to the innermost open phase."""
        now_s = self._now()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now_s - self._mark_s
        self._mark_s = now_s
