"""Timelines: when every task of a step starts and ends, what decided it, and a picture of it for a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.simulate.graph import BASE, SIZE, TaskGraph
from gridnn.plan.simulate.loop import Schedule
from gridnn.plan.simulate.program import Program
from gridnn.plan.simulate.segment import Longs, Phase
from gridnn.plan.simulate.simulator import Simulator


class Task(NamedTuple):
    """One task: what it is, where and when it runs."""

    name: str
    operation: str
    """The operation, or the edge as "producer to consumer"."""
    phase: str
    part: int
    device: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """All tasks of a step, in the order in which they became ready.

    Attributes
    ----------
    owner, phase, part, device : ndarray
        Operation (edges counted behind them), `Phase`, part, and device (-1: none) of each task.
    start_ns, end_ns : ndarray
    waited_for : ndarray
        The task whose end let this one start: one that it depends on or, if only the device was missing, the one
        before it there; -1 for none.
    """

    program: Program
    owner: NDArray[np.int32]
    phase: NDArray[np.int8]
    part: NDArray[np.int32]
    device: NDArray[np.int32]
    start_ns: Longs
    end_ns: Longs
    waited_for: Longs

    def __len__(self) -> int:
        return len(self.start_ns)

    def __getitem__(self, at: int) -> Task:
        program, owner, phase = self.program, int(self.owner[at]), Phase(self.phase[at]).name.lower()
        operations, part, device = program.operations, int(self.part[at]), int(self.device[at])
        if owner < len(operations):
            operation = operations[owner]
        else:
            i, j = program.edges[owner - len(operations)]
            operation = f"{operations[i]} to {operations[j]}"
        where = program.devices[device] if device >= 0 else ""
        times = int(self.start_ns[at]), int(self.end_ns[at])
        return Task(f"{operation} {phase} {part}", operation, phase, part, where, *times)

    def __iter__(self) -> Iterator[Task]:
        return (self[at] for at in range(len(self)))

    @property
    def makespan_ns(self) -> int:
        """The end of the last task."""
        return int(self.end_ns.max(initial=0))

    def busy_ns(self) -> dict[str, int]:
        """Return how long each device works; those without a task are in it, with 0."""
        placed = self.device >= 0
        spent = np.zeros(len(self.program.devices), np.int64)
        np.add.at(spent, self.device[placed], (self.end_ns - self.start_ns)[placed])
        return dict(zip(self.program.devices, spent.tolist(), strict=True))

    def busy_fraction(self) -> dict[str, float]:
        """Return which part of the step each device works; it is idle for the rest."""
        whole = max(1, self.makespan_ns)
        return {device: ns / whole for device, ns in self.busy_ns().items()}

    def critical_path(self) -> list[Task]:
        """Return the tasks that make the step as long as it is, first to last, without the points between them.

        Each starts when the one before it ends, so their durations add up to the makespan.
        """
        path, at = [], int(self.end_ns.argmax()) if len(self) else -1
        while at >= 0:
            if self.phase[at] != Phase.JOIN:
                path.append(self[at])
            at = int(self.waited_for[at])
        return path[::-1]

    def chrome_trace(self) -> str:
        """Return the timeline as Chrome trace JSON, a lane a device, which Perfetto and chrome://tracing open.

        Numbers begin at 1: process 0 and lane 0 are those of an idle machine to some viewers.
        """
        about: dict[str, object] = {"ph": "M", "pid": 1, "tid": 1}
        events = [{**about, "name": "process_name", "args": {"name": "simulated step"}}]
        for lane in np.unique(self.device[self.device >= 0]).tolist():
            about["tid"] = lane + 1
            events.append({**about, "name": "thread_name", "args": {"name": self.program.devices[lane]}})
            events.append({**about, "name": "thread_sort_index", "args": {"sort_index": lane}})
        for at in np.nonzero((self.device >= 0) & (self.end_ns > self.start_ns))[0].tolist():
            task = self[at]
            events.append({
                "ph": "X", "pid": 1, "tid": int(self.device[at]) + 1, "name": task.name, "cat": task.phase,
                "ts": task.start_ns / 1e3, "dur": (task.end_ns - task.start_ns) / 1e3,
                "args": {"operation": task.operation, "part": task.part},
            })  # fmt: skip
        return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})


def timeline(simulator: Simulator) -> Timeline:
    """Return the timeline of a simulator's current state."""
    graph, schedule = simulator.state
    slots = schedule.order[: schedule.count].astype(np.int64)
    owner, segments = graph.tasks["segment"][slots], graph.state.segments
    by_slot = np.zeros((2, graph.slots), np.int32)
    for segment, base, size in zip(segments, *graph.state.table[[BASE, SIZE]], strict=True):
        by_slot[:, base : base + size] = segment.phase, segment.part
    return Timeline(
        simulator.program, owner, by_slot[0, slots].astype(np.int8), by_slot[1, slots], graph.tasks["device"][slots],
        schedule.times[slots, 1], schedule.times[slots, 2], _waited_for(graph, schedule, slots),
    )  # fmt: skip


def _waited_for(graph: TaskGraph, schedule: Schedule, slots: Longs) -> Longs:
    """Return for each task of the order the place of the one whose end let it start."""
    place = np.zeros(graph.slots, np.int64)
    place[slots] = np.arange(len(slots))
    start, end = schedule.times[slots, 1], schedule.times[slots, 2]
    found = np.full(len(slots), -1)

    # The device first, then what it depends on, which is the better reason where both ended together.
    device = graph.tasks["device"][slots]
    by_device = np.argsort(device, kind="stable")
    earlier, later = by_device[:-1], by_device[1:]
    same = (device[earlier] == device[later]) & (device[later] >= 0) & (end[earlier] == start[later])
    found[later[same]] = earlier[same]
    before, after = (place[x] for x in graph.dependencies(graph.state))
    last = end[before] == start[after]
    found[after[last]] = before[last]
    return found
