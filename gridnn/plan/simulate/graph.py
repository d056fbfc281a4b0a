"""The task graph: segments in slots, so that a change of one operation touches its own segments and no others.

    slot      0 ... 15      16 ... 19     20 ... 31      32 ...
              op 0          edge 0        op 1           (free)

A state of the graph is a small table that says where each segment is.  A proposal copies the table and puts its new
segments into free slots; the old ones stay where they are until the proposal is accepted, so a rejection is to
forget the copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gridnn.plan.simulate.assemble import edge_segment, operation_segment
from gridnn.plan.simulate.program import Program
from gridnn.plan.simulate.segment import MASK, SHIFT, Longs, Segment

BASE, SIZE, ROWS, TARGETS = range(4)

# Side by side, for the event loop asks for them together (struct task of the C).
TASK = np.dtype([("ns", np.int64), ("key", np.int64), ("device", np.int32), ("segment", np.int32)])


@dataclass(frozen=True, eq=False)
class State:
    """A state of the graph: a segment for every operation, then for every edge, and where they are.

    Attributes
    ----------
    table : ndarray (4, segments)
        First slot, tasks, address of the rows, address of the targets.
    """

    choice: tuple[int, ...]
    segments: tuple[Segment, ...]
    table: Longs

    @property
    def tasks(self) -> int:
        """Tasks in all segments."""
        return int(self.table[SIZE].sum())


class Segments:
    """Makes the segments of a program and keeps them, the latest `most_tasks` tasks of them."""

    def __init__(self, program: Program, most_tasks: int = 4_000_000) -> None:
        self.program, self._most, self._kept_tasks = program, most_tasks, 0
        self._kept: dict[tuple[int, ...], Segment] = {}
        into: dict[int, int] = defaultdict(int)
        out_of: dict[int, int] = defaultdict(int)
        self._edges = []
        last = 2 * len(program.operations) - 1
        for i, j in program.edges:
            self._edges.append(((j, last - i if program.backward else -1), (into[j], out_of[i])))
            into[j], out_of[i] = into[j] + 1, out_of[i] + 1

    def operation(self, i: int, a: int) -> Segment:
        """Return the segment of an operation in configuration `a`."""
        kept = self._kept.get((i, a))
        if kept is None:
            program = self.program
            cost = program.operation(i, a)
            kept = self._keep((i, a), operation_segment(cost, i, len(program.operations), program.backward))
        return kept

    def edge(self, e: int, a: int, b: int) -> Segment:
        """Return the segment of an edge whose ends have configurations `a` and `b`."""
        kept = self._kept.get((e, a, b))
        if kept is None:
            i, j = self.program.edges[e]
            ends = self.operation(i, a), self.operation(j, b)
            kept = self._keep((e, a, b), edge_segment(self.program.edge(e, a, b), *ends, *self._edges[e]))
        return kept

    def _keep(self, key: tuple[int, ...], segment: Segment) -> Segment:
        self._kept[key] = segment
        self._kept_tasks += segment.size
        while self._kept_tasks > self._most and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._kept_tasks -= self._kept.pop(oldest).size
        return segment


class TaskGraph:
    """All slots, and the current state.

    Parameters
    ----------
    choice
        Configuration of each operation at the start.

    Attributes
    ----------
    state : State
        What was accepted last.
    tasks : ndarray of TASK
        By slot; those of free slots mean nothing.
    """

    def __init__(self, program: Program, choice: tuple[int, ...], segments: Segments | None = None) -> None:
        self.program, self.segments = program, segments or Segments(program)
        count = len(program.operations)
        ends = np.array(program.edges, np.int32).reshape(-1, 2)
        own = np.arange(count, dtype=np.int32)
        self.source, self.target = (np.concatenate([own, ends[:, side]]) for side in (0, 1))
        touching: list[list[int]] = [[] for _ in range(count)]
        for e, (i, j) in enumerate(program.edges):
            touching[i].append(2 * (count + e))
            touching[j].append(2 * (count + e) + 1)
        self._touching = touching
        self.incident = np.array([x for row in touching for x in row], np.int32)
        self.incident_from = np.cumsum([0, *map(len, touching)]).astype(np.int32)
        self._free: dict[int, list[int]] = defaultdict(list)
        self._top = 0
        self.tasks = np.zeros(1024, TASK)
        every = {i: self.segments.operation(i, choice[i]) for i in range(count)}
        every |= {
            count + e: self.segments.edge(e, choice[i], choice[j]) for e, (i, j) in enumerate(program.edges)
        }
        nothing = State(choice, tuple(every.values()), np.zeros((4, len(every)), np.int64))
        self.state = self._put(nothing, choice, every)

    @property
    def slots(self) -> int:
        """Length of the arrays by slot."""
        return len(self.tasks)

    def changed(self, change: Mapping[int, int]) -> tuple[State, list[int]]:
        """Return the state after operations take other configurations, and the segments that are new in it."""
        choice = list(self.state.choice)
        for i, a in change.items():
            choice[i] = a
        count, new = len(choice), {i: self.segments.operation(i, a) for i, a in change.items()}
        for i in change:
            for e in {x >> 1 for x in self._touching[i]}:
                a, b = self.program.edges[e - count]
                new[e] = self.segments.edge(e - count, choice[a], choice[b])
        return self._put(self.state, tuple(choice), new), list(new)

    def move_to(self, state: State, changed: list[int]) -> None:
        """Make a state of `changed` the current one; the slots of what it replaces are free."""
        old, self.state = self.state, state
        self._release(old, changed)

    def forget(self, state: State, changed: list[int]) -> None:
        """Free the slots of a state that is not wanted."""
        self._release(state, changed)

    def dependencies(self, state: State) -> tuple[Longs, Longs]:
        """Return every dependency of a state: the slots that are awaited, and those that wait."""
        before, after = [], []
        base, size = state.table[BASE], state.table[SIZE]
        for s, segment in enumerate(state.segments):
            i, j = self.source[s], self.target[s]
            frame = [s] if s < len(state.choice) else [i, j, s]
            slots = np.concatenate([np.arange(base[f], base[f] + size[f]) for f in frame])
            before.append(np.repeat(slots, np.diff(segment.rows)))
            firsts = base[[i, j, s]]
            after.append(firsts[segment.targets >> SHIFT] + (segment.targets & MASK))
        return np.concatenate(before), np.concatenate(after)

    def _put(self, old: State, choice: tuple[int, ...], new: Mapping[int, Segment]) -> State:
        table, segments = old.table.copy(), list(old.segments)
        for s, segment in new.items():
            base, size = self._take(segment.size), segment.size
            run = self.tasks[base : base + size]
            run["ns"], run["key"], run["device"], run["segment"] = segment.ns, segment.key, segment.device, s
            table[:, s] = base, size, segment.rows.ctypes.data, segment.targets.ctypes.data
            segments[s] = segment
        return State(choice, tuple(segments), table)

    def _take(self, size: int) -> int:
        """Return the first of `size` free slots."""
        room = _room(size)
        if self._free[room]:
            return self._free[room].pop()
        base, self._top = self._top, self._top + room
        if self._top > self.slots:
            self.tasks = np.pad(self.tasks, (0, 2 * self._top - self.slots))
        return base

    def _release(self, state: State, which: list[int]) -> None:
        for s in which:
            self._free[_room(int(state.table[SIZE, s]))].append(int(state.table[BASE, s]))


def _room(size: int) -> int:
    """Return the slots that are handed out for `size` tasks: few different numbers, so that runs fit again."""
    grain = 1 << max(0, size.bit_length() - 4)
    return -(-size // grain) * grain
