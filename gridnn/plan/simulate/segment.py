"""Segments: the tasks and dependencies that one operation, or one edge, brings into the task graph.

A segment is a function of the configurations alone, so it is kept and used again.  It knows no other segment's
place: a task is named by `which` segment it is in and its number there,

    which   SOURCE 0     TARGET 1     OWN 2            packed: which << 28 | number
    edge    producer     consumer     the transfers
    op      -            -            its tasks

and dependencies are rows of targets: first the rows of SOURCE, then of TARGET, then its own.

Keys decide between tasks that become ready at the same time.  A successor always has the larger key, and a key says
where a task stands in the program, never when it was made:

    stage of the step    slot within the stage                    number
    forward of op 0..    edges into the op, then the op           in the segment
    backward of ..op 0   edges out of the op, then the op         in the segment
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.simulate.program import LOCAL, Flow, Group, Ints

Longs = NDArray[np.int64]
Waits = list[tuple[list[int], list[int]]]  # (tasks that are awaited, parts that wait)

SHIFT = 28
SOURCE, TARGET, OWN = 0, 1 << SHIFT, 2 << SHIFT
MASK = (1 << SHIFT) - 1
NOWHERE = -1
"""The device of a task that takes no time: a point where several are awaited."""

_SLOT_BITS, _NUMBER_BITS = 16, SHIFT
LAST_SLOT = (1 << _SLOT_BITS) - 1


class Phase(IntEnum):
    """What a task is for."""

    FORWARD = 0
    BACKWARD = 1
    UPDATE = 2
    SEND = 3
    """Data of the forward pass on a link."""
    RETURN = 4
    """Data of the backward pass on a link."""
    SUM = 5
    """Weight gradients on a link."""
    JOIN = 6
    """No work: a point where several tasks are awaited."""


@dataclass(frozen=True)
class Ports:
    """Where data enter and leave an operation: one packed task for each part (as OWN)."""

    enter_forward: list[int]
    leave_forward: list[int]
    enter_backward: list[int]
    leave_backward: list[int]


@dataclass(frozen=True, eq=False)
class Segment:
    """Tasks, and rows of dependencies in CSR form.

    Attributes
    ----------
    device, ns, key, phase, part : ndarray
        One entry a task; `part` counts parts of the operation, or transfers of the edge.
    rows, targets : ndarray of int32
        Targets of row `r` are ``targets[rows[r]:rows[r + 1]]``, packed.
    ports : Ports or None
        Of an operation.
    """

    device: NDArray[np.int32]
    ns: Longs
    key: Longs
    phase: NDArray[np.int8]
    part: NDArray[np.int32]
    rows: NDArray[np.int32]
    targets: NDArray[np.int32]
    ports: Ports | None

    @property
    def size(self) -> int:
        """Tasks."""
        return len(self.ns)


def key_of(stage: int, slot: int) -> int:
    """Return the key of the first task of a segment in a stage; see the table above."""
    assert stage < 1 << 19 and slot <= LAST_SLOT, "more operations or edges than a key can tell apart"
    return (stage << _SLOT_BITS | slot) << _NUMBER_BITS


class Draft:
    """A segment while it is made; lists, for most of what comes is a handful of tasks at a time."""

    def __init__(self) -> None:
        self.key = 0
        self._device: list[int] = []
        self._ns: list[int] = []
        self._phase: list[int] = []
        self._part: list[int] = []
        self._stage_key: list[int] = []
        self._before: list[int] = []
        self._after: list[int] = []

    def tasks(self, phase: Phase, device: Sequence[int], ns: Sequence[int], first_part: int = 0) -> list[int]:
        """Add tasks in the stage that `key` says; return them, packed."""
        count, first = len(ns), len(self._ns)
        assert len(device) == count, f"{len(device)} devices, {count} durations"
        self._device += device
        self._ns += ns
        self._phase += [phase] * count
        self._part += range(first_part, first_part + count)
        self._stage_key += [self.key] * count
        return list(range(OWN + first, OWN + first + count))

    def follow(self, before: list[int], after: list[int]) -> None:
        """Make each of `after` wait for its partner in `before`; one may stand against many."""
        if len(before) == 1:
            before = before * len(after)
        elif len(after) == 1:
            after = after * len(before)
        assert len(before) == len(after), f"{len(before)} tasks awaited by {len(after)}"
        self._before += before
        self._after += after

    def groups(self, phase: Phase, groups: Sequence[Group], leave: list[int], part: int = 0) -> Waits:
        """Add collectives that await the tasks `leave` of their sources; return what their targets wait for."""
        waits: Waits = []
        for group in groups:
            before = [leave[p] for p in listed(group.sources)]
            targets, links = listed(group.targets), listed(group.links)
            assert before and targets, "a collective needs somebody on either side"
            # All to all through a point between: dependencies grow with the members, not with their square.
            if len(before) > 1 and len(links) != 1:
                before = self._join(before)
            if links:
                carried = self.tasks(phase, links, listed(group.ns), part)
                part += len(carried)
                self.follow(before, carried)
                before = self._join(carried) if len(carried) > 1 and len(targets) > 1 else carried
            waits.append((before, targets))
        return waits

    def release(self, waits: Waits, enter: list[int]) -> None:
        """Make the tasks `enter` of the targets wait for their collectives."""
        for before, targets in waits:
            self.follow(before, [enter[p] for p in targets])

    def flow(self, phase: Phase, flow: Flow, leave: list[int], enter: list[int]) -> None:
        """Add what moves between two operations, from the tasks `leave` to the tasks `enter` of their parts."""
        pairs = list(zip(*(map(listed, (flow.source, flow.target, flow.link, flow.ns))), strict=True))
        over = [pair for pair in pairs if pair[2] != LOCAL]
        self._before += [leave[p] for p, _, link, _ in pairs if link == LOCAL]
        self._after += [enter[q] for _, q, link, _ in pairs if link == LOCAL]
        carried = self.tasks(phase, [link for *_, link, _ in over], [ns for *_, ns in over])
        self.follow([leave[p] for p, *_ in over], carried)
        self.follow(carried, [enter[q] for _, q, *_ in over])
        self.release(self.groups(phase, flow.groups, leave, len(carried)), enter)

    def segment(self, rows: tuple[int, int], ports: Ports | None = None) -> Segment:
        """Return what was made; `rows` are the tasks of the source and of the target."""
        ns = np.array(self._ns, np.int64)
        assert not len(ns) or ns.min() >= 0, "a task cannot take less than no time"
        before, after = np.array(self._before, np.int64), np.array(self._after, np.int32)
        first = np.array([0, rows[0], rows[0] + rows[1]])
        row = first[before >> SHIFT] + (before & MASK)
        starts = np.zeros(sum(rows) + len(ns) + 1, np.int32)
        np.cumsum(np.bincount(row, minlength=len(starts) - 1), out=starts[1:])
        return Segment(
            np.array(self._device, np.int32), ns, np.array(self._stage_key, np.int64) + np.arange(len(ns)),
            np.array(self._phase, np.int8), np.array(self._part, np.int32),
            starts, after[np.argsort(row, kind="stable")], ports,
        )  # fmt: skip

    def points(self, count: int) -> list[int]:
        """Add tasks of no work, at which others are awaited."""
        return self.tasks(Phase.JOIN, [NOWHERE] * count, [0] * count)

    def _join(self, before: list[int]) -> list[int]:
        point = self.points(1)
        self.follow(before, point)
        return point


def listed(given: Ints) -> list[int]:
    """Return a row of integers as a list."""
    return given.tolist() if isinstance(given, np.ndarray) else list(given)
