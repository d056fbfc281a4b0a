"""Simulation of a pipeline: every stage works through its tasks in its order, as soon as what they wait for is there.

| task         | waits for                                                              | takes                 |
|--------------|------------------------------------------------------------------------|-----------------------|
| forward p    | forward p of the stages that send to it, and the transfer              | `forward_s`           |
| replay p     | nothing: its input is kept                                             | `replay_s`            |
| backward p   | backward p of the stages it sent to, and the transfer (`local`: none)  | `backward_s`          |
| update       | nothing: it follows the backwards of its own stage                     | `update_s`            |
| transfer     | the transfer before it on the same link in the same direction          | that of its direction |

Every task waits for the one before it at its stage, too.  A transfer keeps no stage busy but for the share that cores
carry (`costs.carried`), which is part of the forward or backward at either end.

A step of an exact schedule begins when the last one has ended, so one step says all.  Its stages wait for each other
in both directions, so its tasks are taken one by one; those of other schedules by whole steps of a stage (`stream`).
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from gridnn.errors import InputError
from gridnn.plan.pipeline.costs import PipelineCost, carried
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.stream import stream
from gridnn.plan.pipeline.timeline import Lane, Links, Timeline, Times, tasks_of


def simulate(schedule: Schedule, cost: PipelineCost, *, steps: int | None = None) -> Timeline:
    """Return the timeline of a pipeline.

    Parameters
    ----------
    steps
        How many to simulate; left out, one of an exact schedule, else as many as fill the pipeline and show its rhythm.

    Raises
    ------
    InputError
        If costs are not those of the schedule's stages, a transfer does not go to a later stage, seconds are negative
        or not finite, or there are too few steps to fill the pipeline.
    """
    _check(schedule, cost)
    cost = carried(cost, back=schedule.name != "local")
    links = _links(cost)
    if not schedule.exact:
        return stream(schedule, cost, links, steps)
    if steps is not None and steps < 1:
        raise InputError(f"{steps} steps to simulate; simulate at least 1")
    count, times = steps or 1, _one_step(schedule, cost, links)
    step_s = max(float(stop_s[-1]) for _, stop_s in times)
    begin_s = step_s * np.arange(count)[:, None]
    lanes = (
        Lane(schedule, k, count, (begin_s + start_s).ravel(), (begin_s + stop_s).ravel())
        for k, (start_s, stop_s) in enumerate(times)
    )
    return Timeline(schedule, cost, step_s, count, tuple(lanes))


def _check(schedule: Schedule, cost: PipelineCost) -> None:
    """Refuse what cannot be simulated.

    Raises
    ------
    InputError
        As `simulate` says.
    """
    if len(cost.stages) != schedule.stages:
        raise InputError(
            f"costs of {len(cost.stages)} stages for a schedule of {schedule.stages}; give the costs of each stage"
        )
    for k, stage in enumerate(cost.stages):
        _check_seconds(f"stage {k}", stage.forward_s, stage.backward_s, stage.update_s)
    if not 0 <= cost.overlap <= 1:
        raise InputError(f"overlap {cost.overlap} of transfers; give a share of them, 0 to 1")
    for source, target, there_s, back_s, *_ in cost.transfers:
        if not 0 <= source < target < schedule.stages:
            raise InputError(
                f"a transfer from stage {source} to stage {target} of {schedule.stages}; transfers go from a stage to "
                "a later one"
            )
        _check_seconds(f"the transfer from stage {source} to stage {target}", there_s, back_s)


def _links(cost: PipelineCost) -> Links:
    """Return the links of a pipeline; transfers of the same two stages go one after the other on one link."""
    links: Links = {}
    for source, target, there_s, back_s, *_ in cost.transfers:
        before = links.get((source, target), (0.0, 0.0))
        links[source, target] = before[0] + there_s, before[1] + back_s
    return links


def _check_seconds(whose: str, *seconds: float) -> None:
    if wrong := [s for s in seconds if not (math.isfinite(s) and s >= 0)]:
        raise InputError(f"{whose} takes {wrong[0]} seconds; give finite seconds, at least 0")


def _one_step(schedule: Schedule, cost: PipelineCost, links: Links) -> list[Times]:
    """Return starts and stops of the tasks of each stage in one step that begins with an empty pipeline."""
    stages = range(schedule.stages)
    orders = [list(tasks_of(schedule, k, 0)) for k in stages]
    took = [{"forward": s.forward_s, "backward": s.backward_s, "update": s.update_s} for s in cost.stages]
    # By verb and stage: where passes go to, and when those of each sender arrived, in the order of passes.
    goes: dict[str, list[dict[int, float]]] = {verb: [{} for _ in stages] for verb in took[0]}
    came: dict[str, list[dict[int, list[float]]]] = {verb: [{} for _ in stages] for verb in took[0]}
    for (source, target), (there_s, back_s) in links.items():
        goes["forward"][source][target], came["forward"][target][source] = there_s, []
        goes["backward"][target][source], came["backward"][source][target] = back_s, []
    starts: list[list[float]] = [[] for _ in stages]
    stops: list[list[float]] = [[] for _ in stages]
    waiting = deque(stages)
    while waiting:
        k = waiting.popleft()
        order, start, stop = orders[k], starts[k], stops[k]
        while len(stop) < len(order):
            verb, number = order[len(stop)]
            arrived = came[verb][k].values()
            if any(len(times) <= number for times in arrived):
                break  # whoever sends what is missing has this stage look again
            now = max([stop[-1] if stop else 0.0, *(times[number] for times in arrived)])
            start.append(now)
            now += took[k][verb]
            stop.append(now)
            for target, seconds in goes[verb][k].items():
                there = came[verb][target][k]
                there.append(max(now, there[-1] if there else 0.0) + seconds)
                waiting.append(target)
    assert all(len(order) == len(stop) for order, stop in zip(orders, stops, strict=True)), "a ring of stages"
    return [(np.array(a), np.array(b)) for a, b in zip(starts, stops, strict=True)]
