"""Timelines: when each stage does what, and what follows from it: a step, the bubble, staleness, open passes.

    stage 0   |F0|F1|F2|F3|........|B0 |B1 |B2 |B3 |U|      busy    4 F + 4 B + U
    stage 1      |F0|F1|F2|F3|..|B0 |B1 |B2 |B3 |U|         bubble  1 - busy / step
    stage 2         |F0|F1|F2|F3|B0 |B1 |B2 |B3 |U|
              |<---------------- step ----------------->|

A forward that is made a second time (`replay`) is work, no bubble.  A stage that waits for a transfer is in a bubble.
Staleness and open passes are counted from the tasks of the lanes, not asked of the schedule: so they test it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.plan.pipeline.costs import PipelineCost, StageCost
from gridnn.plan.pipeline.schedule import Schedule, Task

REPLAY = "replay"
"""The verb of a forward that is made again before its backward; schedules do not name it, lanes do."""
Floats = NDArray[np.float64]
Times = tuple[Floats, Floats]
"""When the tasks of a stage start and stop, seconds (T,)."""
Links = dict[tuple[int, int], tuple[float, float]]
"""Seconds that a pass is on its way, forward and backward, by source and target."""


class Interval(NamedTuple):
    """A task of a stage on the clock, which begins with the first task of the pipeline."""

    task: Task
    start_s: float
    stop_s: float


@dataclass(frozen=True, eq=False)
class Lane:
    """What a stage does, in its order.

    Attributes
    ----------
    start_s, stop_s
        Of each task, seconds (T,).
    """

    schedule: Schedule
    stage: int
    steps: int
    start_s: Floats
    stop_s: Floats

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks (T,)."""
        return tuple(task for step in range(self.steps) for task in tasks_of(self.schedule, self.stage, step))

    @cached_property
    def intervals(self) -> tuple[Interval, ...]:
        """The tasks on the clock (T,)."""
        times = zip(self.tasks, self.start_s.tolist(), self.stop_s.tolist(), strict=True)
        return tuple(Interval(*each) for each in times)

    @property
    def open(self) -> int:
        """Passes, at most, that have gone forward and not yet backward."""
        changes = ({"forward": 1, "backward": -1}.get(task.verb, 0) for task in self.tasks)
        return max(accumulate(changes), default=0)

    @property
    def staleness(self) -> int:
        """By how many steps, at most, an update is behind the newest batch that has gone forward."""
        newest = found = 0
        for task in self.tasks:
            if task.verb == "forward":
                newest = task.number // self.schedule.passes
            elif task.verb == "update":
                found = max(found, newest - task.number)
        return found


@dataclass(frozen=True, eq=False)
class Timeline:
    """A simulated pipeline.

    Attributes
    ----------
    step_s
        Seconds a step: of exact schedules from its first task to its last; of others from one step's end to the next's
        once the pipeline is full.
    steps
        Steps that are simulated; without a flush the first of them fill the pipeline.
    lanes
        One for each stage.
    """

    schedule: Schedule
    cost: PipelineCost
    step_s: float
    steps: int
    lanes: tuple[Lane, ...]

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds that each stage works in a step."""
        return tuple(work_s(self.schedule, k, stage) for k, stage in enumerate(self.cost.stages))

    @property
    def bubbles(self) -> tuple[float, ...]:
        """Which part of a step each stage waits."""
        return tuple(1 - busy / self.step_s if self.step_s else 0.0 for busy in self.busy_s)

    @property
    def bubble(self) -> float:
        """Which part of a step the stages wait, on the average."""
        return sum(self.bubbles) / len(self.lanes)

    @property
    def staleness(self) -> tuple[int, ...]:
        """By how many steps the gradients of each stage are late: the newest batch's step less the update's."""
        return tuple(lane.staleness for lane in self.lanes)

    @property
    def open(self) -> tuple[int, ...]:
        """How many passes, at most, each stage has open at once."""
        return tuple(lane.open for lane in self.lanes)

    @property
    def stop_s(self) -> float:
        """When the last task stops."""
        return max(float(lane.stop_s[-1]) for lane in self.lanes)


def work_s(schedule: Schedule, stage: int, cost: StageCost) -> float:
    """Return the seconds that a stage works in a step, its replays and its update included."""
    again = cost.replay_s if schedule.replays(stage) else 0.0
    return schedule.passes * (cost.forward_s + again + cost.backward_s) + cost.update_s


def tasks_of(schedule: Schedule, stage: int, step: int) -> Iterator[Task]:
    """Yield what a stage does in a step, a replay before each backward that wants one."""
    replays = schedule.replays(stage)
    for task in schedule.step(stage, step):
        if replays and task.verb == "backward":
            yield Task(REPLAY, task.number)
        yield task
