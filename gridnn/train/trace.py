"""Looking at some steps of a run: every rank notes what it did when, rank 0 brings it together on its own clock.

    step      0    1  |  2    3    4    5  |  6   ...        run.trace_steps = 4
                      |--- spans are kept -|
              clocks compared        clocks compared

The first two steps are left out where there are enough: they meet cold caches and kernels not yet chosen.  So are those
that fill a pipeline without a flush, in which stages behind do nothing yet.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.comm.align import Line, Reading, between, read_clocks
from gridnn.comm.clock import Span
from gridnn.comm.world import World
from gridnn.train.spans import Place, Spans

COLD_STEPS = 2
"""Steps at the start that are no like of the others."""
MOST_RANKS = 256
"""Ranks looked at: rank 0 asks one after another, and a page with more lanes is read by nobody."""
_COLUMNS = ("rank", "step", "phase", "place", "start_ns", "duration_ns")


class Mine(NamedTuple):
    """What a rank tells about itself beside its spans."""

    rank: int
    host: str
    offset_ns: int
    uncertainty_ns: int
    phases: tuple[str, ...]
    places: tuple[Place, ...]
    spans: int


class Trace:
    """The spans of one rank on their way into the record.  All methods are collective.

    Parameters
    ----------
    total : int
        Steps of the run.
    wanted : int
        Steps to look at; 0 looks at none, and then nothing is done.
    start : int
        Steps that were made before.
    filling : int
        Steps until all stages of a pipeline are busy.
    """

    def __init__(self, world: World, total: int, wanted: int, start: int = 0, filling: int = 0) -> None:
        self.world, self.steps = world, looked_at(total, wanted, start, filling)
        self.ranks = spread(world.size, MOST_RANKS)
        self._looks = world.rank in self.ranks
        self._before: Reading | None = None
        self._line: Line | None = None
        self._kept: list[tuple[int, list[Span]]] = []

    def before(self, step: int) -> None:
        """Get ready for a step."""
        if step in self.steps:
            if step == self.steps[0]:
                self._before = read_clocks(self.world, self.ranks)
            if self._looks:
                self.world.clock.keep()

    def after(self, step: int) -> None:
        """Put away what was kept of a step."""
        if step in self.steps:
            if self._looks:
                self._kept.append((step, self.world.clock.kept()))
            if step == self.steps[-1]:
                after = read_clocks(self.world, self.ranks)
                if self._before is not None and after is not None:
                    self._line = between(self._before, after)

    def gather(self) -> Spans | None:
        """Return the spans of all ranks on rank 0; None elsewhere, or if none were kept."""
        if not self.steps:
            return None
        mine, numbers = (None, np.zeros((0, len(_COLUMNS)), np.int64))
        if self._line is not None:
            mine, numbers = pack(self.world.rank, self._kept, self._line)
        told = self.world.comm.gather(mine)
        counts = [] if told is None else [0 if m is None else m.spans * len(_COLUMNS) for m in told]
        every = np.empty((sum(counts) // len(_COLUMNS), len(_COLUMNS)), np.int64)
        self.world.comm.Gatherv(numbers, [every, counts] if told is not None else None)
        if told is None:
            return None
        return together([m for m in told if m is not None], every, self.world.size, tuple(self.steps))


def looked_at(total: int, wanted: int, start: int = 0, filling: int = 0) -> range:
    """Return the steps looked at: from the third of a start on if there are enough, else the last ones.

    Of a pipeline that takes some steps to fill, as many later.
    """
    first = max(start, min(start + COLD_STEPS + filling, total - wanted))
    return range(first, min(first + wanted, total))


def spread(size: int, most: int) -> tuple[int, ...]:
    """Return all ranks, or `most` of them spread evenly, the first always."""
    return tuple(range(size)) if size <= most else tuple(i * size // most for i in range(most))


def pack(rank: int, kept: Sequence[tuple[int, Sequence[Span]]], line: Line) -> tuple[Mine, NDArray[np.int64]]:
    """Return the spans of a rank as numbers, on the clock of rank 0, and what the numbers mean.

    Ends are rounded to nanoseconds, not durations: spans that meet, meet afterwards.
    """
    phases, places = dict[str, int](), dict[Place, int]()
    rows = [
        (rank, step, phases.setdefault(s.phase, len(phases)), places.setdefault(Place(*s.where), len(places)))
        for step, spans in kept
        for s in spans
    ]
    ends_s = np.array([(s.start_s, s.stop_s) for _, spans in kept for s in spans]).reshape(-1, 2)
    ends_ns = np.rint(line.onto(ends_s) * 1e9).astype(np.int64)
    numbers = np.empty((len(rows), len(_COLUMNS)), np.int64)
    numbers[:, :4] = np.array(rows, np.int64).reshape(-1, 4)
    numbers[:, 4], numbers[:, 5] = ends_ns[:, 0], ends_ns[:, 1] - ends_ns[:, 0]
    return Mine(
        rank, platform.node(), round(line.ahead_s * 1e9), round(line.uncertainty_s * 1e9),
        tuple(phases), tuple(places), len(rows),
    ), numbers  # fmt: skip


def together(members: Sequence[Mine], every: NDArray[np.int64], procs: int, steps: tuple[int, ...]) -> Spans:
    """Return the spans of several ranks as one, with one list of phases and places.

    Parameters
    ----------
    members
        The ranks; the first is rank 0, whose first step is where time starts.
    every
        Their numbers, one rank after another.
    """
    phases, places = dict[str, int](), dict[Place, int]()
    at = 0
    for member in members:
        part = every[at : at + member.spans]
        for column, names, all_names in ((2, member.phases, phases), (3, member.places, places)):
            part[:, column] = _renumbered(part[:, column], names, all_names)
        at += member.spans
    if len(every):
        every[:, 4] -= every[0, 4]
    columns = dict(zip(_COLUMNS, every.T, strict=True))
    small = {name: columns[name].astype(np.int32) for name in _COLUMNS[:4]}
    return Spans(
        ranks=tuple(m.rank for m in members), hosts=tuple(m.host for m in members), procs=procs, steps=steps,
        offset_ns=tuple(m.offset_ns for m in members), uncertainty_ns=tuple(m.uncertainty_ns for m in members),
        phases=tuple(phases), places=tuple(places),
        rank=small["rank"], step=small["step"], phase=small["phase"], place=small["place"],
        start_ns=np.ascontiguousarray(columns["start_ns"]),
        duration_ns=np.ascontiguousarray(columns["duration_ns"]),
    )  # fmt: skip


def _renumbered(numbers: NDArray[np.int64], names: Sequence[Any], known: dict[Any, int]) -> NDArray[np.int64]:
    """Return numbers that count through `names`, counted through `known`, which learns the new ones."""
    table = np.array([known.setdefault(name, len(known)) for name in names], np.int64)
    return table[numbers] if len(numbers) else numbers
