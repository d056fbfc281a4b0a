"""Simulation of pipelines without a flush, a step of a stage at a time, until they have found their rhythm.

At step t a stage needs forwards of step t, of stages before it, and backwards of earlier steps, of stages after it.  So
steps are taken in order, in a step stages in order, and all tasks of a stage in a step are one array:

    stop_i = max(stop_{i-1}, ready_i) + took_i = C_i + max over j <= i of (ready_j - C_{j-1}),   C the sums of `took`

What follows is decided by a few times x: from when stages and links are free, when what is on its way arrives.  A step
later they are A x, linear in (max, +); in the long run they grow by the largest cycle mean of A (Baccelli, Cohen,
Olsder and Quadrat 1992, chapter 3), and that is what a step takes.  It is at least the work of the busiest stage or
link, and for every x and every c, as in the bounds of Collatz and Wielandt,

    least of (A^c x - x) / c   <=   a step   <=   largest of (A^c x - x) / c,

which meet once the pipeline has found its rhythm.

    two stages, one pass, F = B = 1, a transfer takes 1: the transfers are not hidden, a step takes 3 and not 2

    stage 0   0 1 . . . a 2 b 3 . . c 4 d 5 . . e           F2 waits for a, a for stage 1, stage 1 for F0
    stage 1       0 a 1 b . . 2 c 3 d . . 4 e               period: 2 steps, 6 seconds
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.plan.pipeline.costs import PipelineCost
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.timeline import REPLAY, Floats, Lane, Links, Timeline, Times, tasks_of, work_s

SAME = 1e-9
"""Relative difference of two times that are the same: rounding, no more."""
PATIENCE = 16
"""Steps a stage, after filling, in which the bounds must meet; the upper one is taken where they have not."""


class Pace(NamedTuple):
    """Bounds of the seconds of a step in the long run."""

    least_s: float
    most_s: float

    @property
    def known(self) -> bool:
        """Whether they have met."""
        return self.most_s <= self.least_s * (1 + SAME)


class _Form(NamedTuple):
    """The tasks of a stage in a step: which are forwards (M,) and backwards (M,), the seconds that each takes (T,)."""

    forwards: NDArray[np.intp]
    backwards: NDArray[np.intp]
    took_s: Floats


def stream(schedule: Schedule, cost: PipelineCost, links: Links, steps: int | None) -> Timeline:
    """Return the timeline of a schedule without flush; see `simulate`."""
    full = schedule.delay(0)
    least, most = full + 2, full + 2 + PATIENCE * schedule.stages
    if steps is not None and steps < least:
        raise InputError(
            f"{steps} steps do not fill the {schedule.stages} stages of a {schedule.name} schedule; simulate at "
            f"least {least}"
        )
    done: list[list[Times]] = []
    states: list[Floats] = []
    pace = Pace(_busiest_s(schedule, cost, links), math.inf)
    for times, state in islice(_steps(schedule, cost, links), most if steps is None else steps):
        done.append(times)
        states.append(state)
        if len(done) >= least:
            pace = _closer(pace, states[full:], 2 * schedule.stages)
        if steps is None and pace.known:
            break
    lanes = (
        Lane(schedule, k, len(done), *map(np.concatenate, zip(*times, strict=True)))
        for k, times in enumerate(zip(*done, strict=True))
    )
    # Where they meet, the lower one is free of rounding.
    return Timeline(schedule, cost, pace.least_s if pace.known else pace.most_s, len(done), tuple(lanes))


def _busiest_s(schedule: Schedule, cost: PipelineCost, links: Links) -> float:
    """Return what no step can be shorter than: its busiest stage, its busiest link."""
    back = schedule.name != "local"
    stages = max(work_s(schedule, k, stage) for k, stage in enumerate(cost.stages))
    return max([stages, *(schedule.passes * max(s, back * t) for s, t in links.values())])


def _closer(pace: Pace, states: list[Floats], longest: int) -> Pace:
    """Return what is known of a step after one more of them.

    Parameters
    ----------
    states
        The times that decide, of each step (S, T).
    longest
        Period, in steps, to look at.
    """
    least_s, most_s = pace
    for period in range(1, min(longest + 1, len(states))):
        later = states[-1] - states[-1 - period]
        least_s, most_s = max(least_s, later.min() / period), min(most_s, later.max() / period)
    return Pace(float(least_s), float(most_s))


def _steps(schedule: Schedule, cost: PipelineCost, links: Links) -> Iterator[tuple[list[Times], Floats]]:
    """Yield, step by step, starts and stops of the tasks of each stage; and the times that decide all that follows.

    The latter begin with those from which each stage is free (K,); links and what is on its way follow, in one order.
    """
    stages, none = range(schedule.stages), np.full(schedule.passes, -np.inf)
    there = [{target: s for (source, target), (s, _) in links.items() if source == k} for k in stages]
    back = [{source: s for (source, target), (_, s) in links.items() if target == k} for k in stages]
    if schedule.name == "local":
        back = [{} for _ in stages]
    # Its first steps, before its delay, are alike, and so are all others.
    forms = [[_form(schedule, k, s, cost) for s in (0, schedule.delay(k))] for k in stages]
    free = [0.0] * schedule.stages
    busy: dict[tuple[int, int], float] = {}  # by who sends and who receives: until when their link is
    # By the batch's step and the stage: when the last of what its forwards, its backwards need is there.
    waiting: dict[tuple[int, int], Floats] = {}
    coming: dict[tuple[int, int], Floats] = {}
    for step in count():
        times = []
        for k in stages:
            batch = step - schedule.delay(k)
            form = forms[k][batch >= 0]
            ready = np.full(len(form.took_s), -np.inf)
            ready[form.forwards] = waiting.pop((step, k), none)
            if batch >= 0:
                ready[form.backwards] = coming.pop((batch, k), none)
            stop = _one_after_other(ready, form.took_s, free[k])
            times.append((np.maximum(ready, np.concatenate(([free[k]], stop[:-1]))), stop))
            free[k] = stop[-1]
            for others, at, key, needed in (
                (there[k], form.forwards, step, waiting),
                (back[k], form.backwards, batch, coming),
            ):
                for other, seconds in others.items() if len(at) else ():
                    arrive = _one_after_other(stop[at], np.full(len(at), seconds), busy.get((k, other), 0.0))
                    busy[k, other] = arrive[-1]
                    needed[key, other] = np.maximum(needed.get((key, other), none), arrive)
        on_way = (coming[key] for key in sorted(coming, key=lambda key: (key[0] - step, key[1])))
        yield times, np.concatenate([free, [busy[key] for key in sorted(busy)], *on_way])


def _form(schedule: Schedule, stage: int, step: int, cost: PipelineCost) -> _Form:
    """Return the tasks of a stage in a step as arrays."""
    verbs = np.array([task.verb for task in tasks_of(schedule, stage, step)])
    of = cost.stages[stage]
    took = {"forward": of.forward_s, REPLAY: of.replay_s, "backward": of.backward_s, "update": of.update_s}
    places = [np.flatnonzero(verbs == verb) for verb in ("forward", "backward")]
    return _Form(places[0], places[1], np.array([took[verb] for verb in verbs]))


def _one_after_other(ready: Floats, took: Floats, free: float) -> Floats:
    """Return when tasks stop that start in this order, each when it is ready and the one before it has stopped."""
    until = np.cumsum(took)
    found: Floats = until + np.maximum(free, np.maximum.accumulate(ready - (until - took)))
    return found
