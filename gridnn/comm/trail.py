"""The trail: which movements this rank has entered, so that a stuck run can say where everybody is.

Movements are numbered by the ranks that take part: those ranks enter the same movements in the same order, whatever
else each of them does in between.  So what two ranks say of one number can be compared:

    ranks 0-3    1 halo conv1    2 all-reduce conv1    3 halo conv2          rank 0 waits in 3
    ranks 0-3    1 halo conv1    2 all-reduce conv1    3 all-gather fc6      rank 2 waits in 3, which is another one
    ranks 0, 1                     1 reduce-scatter pool1                    ranks 2 and 3 have no part in it

A device that carries messages itself may be far behind its host, which enters movements and goes on.  Then the rank is
where the device is.

Between stages that work on several passes at once only messages of one direction have one order: each direction is a
`lane`, with numbers of its own.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import NamedTuple

from gridnn.comm.clock import NOWHERE, Clock, Where
from gridnn.geometry.traffic import Key

Ranks = tuple[int, ...]
Subject = Key | Sequence[tuple[Key, int]]
"""Whose the data is: one key, or the keys and sizes of a buffer's segments."""
Entry = tuple[str, Ranks, Subject, str]
"""A movement as it was entered: kind, ranks, whose data, lane."""
KEPT, HELD = 64, 4096
"""Movements that a rank tells others, and remembers: a device may be as far behind the host that started them."""
_GROUPS = 1024  # different tuples of ranks that are told apart by identity
_DEEP = 12  # stack frames told to others
_WAIT = " wait"
AT_END = "end"
"""Phase of a rank that has done all and waits for the others."""


class Movement(NamedTuple):
    """A movement that a rank has entered: the `number`-th of these `ranks`, counted from 1."""

    kind: str
    ranks: Ranks
    number: int
    where: Where
    lane: str = ""


class Place(NamedTuple):
    """Where a rank is, as it tells others."""

    rank: int
    phase: str
    """Innermost open phase of its clock, "" outside of all."""
    where: Where
    recent: tuple[Movement, ...]
    """The last movements it entered, oldest first."""
    stack: tuple[str, ...]
    """Lines of code of its main thread, innermost first."""

    @property
    def inside(self) -> Movement | None:
        """The movement in which it waits, or that it is just starting; None if it does something else."""
        kind = self.phase.removesuffix(_WAIT)
        named = (m for m in reversed(self.recent) if (m.kind, m.where) == (kind, self.where))
        return next(named, None)

    def entered(self, ranks: Ranks, lane: str = "") -> int:
        """Return the number of the last movement of these ranks that it remembers, 0 for none."""
        return next((m.number for m in reversed(self.recent) if (m.ranks, m.lane) == (ranks, lane)), 0)


class Trail:
    """The movements of one rank: the main thread adds to it, the watchdog reads it.

    `enter` stands before every movement and takes a fifth of a microsecond; all else is done when it is read.
    """

    __slots__ = ("_counts", "_recent")

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, tuple[Ranks, list[int]]]] = {"": {}}
        self._recent: deque[Entry] = deque(maxlen=HELD)

    def enter(self, kind: str, ranks: Ranks, subject: Subject, lane: str = "") -> None:
        """Note that this rank enters a movement among `ranks`."""
        # By identity, because the hash of a tuple of a thousand ranks takes longer than all the rest.
        found = self._counts[lane].get(id(ranks)) if lane in self._counts else None
        (found or self._new(ranks, lane))[1][0] += 1
        self._recent.append((kind, ranks, subject, lane))

    def _new(self, ranks: Ranks, lane: str) -> tuple[Ranks, list[int]]:
        counts = self._counts.setdefault(lane, {})
        if len(counts) >= _GROUPS:  # somebody makes new tuples of the same ranks again and again
            numbers = {ranks: number for (ranks, at), number in self._numbers().items() if at == lane}
            counts = self._counts[lane] = {id(each): (each, [number]) for each, number in numbers.items()}
        counts[id(ranks)] = ranks, [0]  # holds the tuple, so its identity stays its own
        return counts[id(ranks)]

    def _numbers(self) -> dict[tuple[Ranks, str], int]:
        numbers: dict[tuple[Ranks, str], int] = {}
        for lane, counts in tuple(self._counts.items()):
            for ranks, (count,) in tuple(counts.values()):
                numbers[ranks, lane] = numbers.get((ranks, lane), 0) + count
        return numbers

    def last(self) -> Entry | None:
        """Return the movement that was entered last."""
        return self._recent[-1] if self._recent else None

    def recent(self, upto: Entry | None = None) -> tuple[Movement, ...]:
        """Return the last movements, oldest first.

        Parameters
        ----------
        upto
            The last that counts: a device that has not come through it is in none of those that its host entered since.
        """
        numbers, entries, found = self._numbers(), tuple(self._recent), list[Movement]()
        counts = not any(entry is upto for entry in entries)
        for entry in reversed(entries):
            kind, ranks, subject, lane = entry
            counts = counts or entry is upto
            if counts:
                found.append(Movement(kind, ranks, numbers[ranks, lane], where_is(subject), lane))
                if len(found) == KEPT:
                    break
            numbers[ranks, lane] -= 1
        return tuple(reversed(found))


def where_is(subject: Subject) -> Where:
    """Return whose data this is, as the clock says it."""
    if isinstance(subject, Key):
        return (subject.layer,), subject.direction
    return tuple(dict.fromkeys(key.layer for key, _ in subject)), subject[0][0].direction


def place_of(rank: int, clock: Clock, trail: Trail, thread: int) -> Place:
    """Return where a rank is.

    Parameters
    ----------
    thread
        Of the run, by `threading.get_ident`; this function is called by another one.
    """
    phase, where = clock.now_in() or ("", NOWHERE)
    frame = sys._current_frames().get(thread)
    return Place(rank, phase, where, trail.recent(), stack_of(frame))


def of_device(place: Place, trail: Trail, behind: Entry | None) -> Place:
    """Return where a rank is whose device is behind: in a movement, if its host waits in none.

    Parameters
    ----------
    behind
        The first movement that the device has not come through.
    """
    if behind is None or place.inside is not None:
        return place
    kind, _, subject, _ = behind
    return place._replace(phase=kind + _WAIT, where=where_is(subject), recent=trail.recent(behind))


def stack_of(frame: FrameType | None) -> tuple[str, ...]:
    """Return the lines a frame and its callers are at, innermost first."""
    lines: list[str] = []
    while frame is not None and len(lines) < _DEEP:
        lines.append(f"{_short(frame.f_code)}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(lines)


def _short(code: CodeType) -> str:
    """Return the path of a file from the package on, or its last two parts."""
    parts = code.co_filename.split("/")
    start = max((i for i, part in enumerate(parts) if part == "gridnn"), default=len(parts) - 2)
    return "/".join(parts[max(0, start) :])
