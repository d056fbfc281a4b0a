"""Seconds by phase: where the time of a step went; and on request the spans they are made of.

Phases nest, and a moment belongs to the innermost one, so the phases of a step add up:

    compute     |=======|            |=====|
    all-reduce          |============|          ->  compute 12, all-reduce 12

Spans say for which layers, too.  Inside a phase the layer may change, and a span ends where phase or layer does:

    compute     |= conv1 =|= relu1 =|            |= relu1 =|= conv2 =|
    halo                            |=== conv2 ==|
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

Where = tuple[tuple[str, ...], str]
"""Layers, and direction."""
NOWHERE: Where = ((), "")


class Span(NamedTuple):
    """A stretch of time spent on one thing."""

    phase: str
    where: Where
    start_s: float
    stop_s: float


class _Phase:
    """A phase, to be entered once; a class, because a generator would take half as long again."""

    __slots__ = ("_clock", "_name", "_where")

    def __init__(self, clock: Clock, name: str, where: Where) -> None:
        self._clock, self._name, self._where = clock, name, where

    def __enter__(self) -> None:
        self._clock._begin(self._name, self._where)

    def __exit__(self, *_: object) -> None:
        self._clock._end()


class Clock:
    """Adds up seconds by phase.  Live, one per rank, for one thread.

    Parameters
    ----------
    now : callable
        Seconds from any origin, never going back.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self._open: list[str] = []
        self._where: list[Where] = []
        self._mark_s = 0.0
        self._seconds: dict[str, float] = {}
        self._spans: list[tuple[str, Where, float, float]] | None = None

    def phase(self, name: str, where: Where = NOWHERE) -> _Phase:
        """Time spent inside, less that of phases opened inside, goes to ``name``."""
        return _Phase(self, name, where)

    def _begin(self, name: str, where: Where) -> None:
        """Open a phase."""
        self._charge()
        self._open.append(name)
        self._where.append(where)

    def _end(self) -> None:
        """Close the innermost phase."""
        self._charge()
        self._open.pop()
        self._where.pop()

    def at(self, where: Where) -> None:
        """Say what the innermost phase works for from now on; only spans tell it apart."""
        if self._spans is not None and self._open and where != self._where[-1]:
            self._charge()
            self._where[-1] = where

    def now_in(self) -> tuple[str, Where] | None:
        """Return the innermost phase and what it works for; another thread may ask, while this one is stuck."""
        names, wheres = tuple(self._open), tuple(self._where)
        return (names[-1], wheres[-1]) if names and wheres else None

    def take(self) -> dict[str, float]:
        """The seconds by phase since the last take, in order of first use; starts again at zero."""
        self._charge()
        taken, self._seconds = self._seconds, {}
        return taken

    def keep(self) -> None:
        """Keep spans from now on."""
        self._charge()
        self._spans = []

    def kept(self) -> list[Span]:
        """Return the spans since `keep`, in order and without overlaps, and keep no more."""
        self._charge()
        pieces, self._spans = self._spans or [], None
        spans: list[Span] = []
        for name, where, start_s, stop_s in pieces:
            if spans and spans[-1].stop_s == start_s and spans[-1][:2] == (name, where):
                start_s = spans.pop().start_s
            if stop_s > start_s:
                spans.append(Span(name, where, start_s, stop_s))
        return spans

    def _charge(self) -> None:
        """Give the time since the last change to the innermost open phase."""
        now_s = self.now()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now_s - self._mark_s
            if self._spans is not None:  # what is not needed now is done afterwards
                self._spans.append((name, self._where[-1], self._mark_s, now_s))
        self._mark_s = now_s
