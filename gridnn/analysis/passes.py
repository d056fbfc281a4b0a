"""Passes (micro-batches) on a clock: which one a measured span is of, and what a simulated pipeline does with each.

A run counts no passes in its spans, but does them in the order of its schedule, and between two of them there is always
some work of the step (`update`, `data`):

    phases   update data update compute halo compute update compute allreduce compute update ...
                                [---- forward 0 ---]        [----- backward 0 -----]
             what computes forward after `data` is a new pass, else one that is made again for the backward after it

Passes have their number in the step of their batch: where gradients are late, a backward is of an earlier step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.timeline import Interval, Timeline, tasks_of
from gridnn.train.spans import Spans

BETWEEN = ("update", "data", "checkpoint")
"""Phases of a step that are of no pass."""


class OfPass(NamedTuple):
    """A pass: its number in the step of its batch, and that step."""

    number: int
    step: int


class Told(NamedTuple):
    """What a stage does in a predicted step, seconds from the start of the step; `of` is None of an update."""

    verb: str
    of: OfPass | None
    start_s: float
    stop_s: float


def passes_of(spans: Spans, schedule: Schedule, stage_of: Sequence[int]) -> list[OfPass | None]:
    """Return the pass of each span; None of what belongs to none, and where a step has not the passes of its schedule.

    Parameters
    ----------
    stage_of
        The stage of each rank of the run, -1 of one without.
    """
    found: list[OfPass | None] = [None] * len(spans)
    order = np.lexsort((spans.start_ns, spans.step, spans.rank))
    where = spans.rank[order].astype(np.int64) * (int(spans.step.max(initial=0)) + 1) + spans.step[order]
    for part in np.split(order, np.flatnonzero(np.diff(where)) + 1):
        if not len(part):
            continue
        stage, step = stage_of[spans.rank[part[0]]], int(spans.step[part[0]])
        if stage < 0:
            continue
        late, m = schedule.delay(stage), schedule.passes
        done = {"forward": 0, "backward": 0}
        named: list[tuple[list[int], OfPass]] = []
        for work, verb in _passes(spans, part.tolist()):
            ahead = verb == "forward"
            at = done["backward" if verb == "replay" else verb]
            named.append((work, OfPass(at, step if ahead else step - late)))
            if verb in done:
                done[verb] += 1
        # A pipeline that is filled or drained in this step does one of the two only.
        if done["forward"] == m and done["backward"] in (0, m):
            for work, of in named:
                for at in work:
                    found[at] = of
    return found


def _passes(spans: Spans, part: Sequence[int]) -> Iterator[tuple[list[int], str]]:
    """Yield the spans of each pass of a rank in a step, in order, with its verb."""
    work: list[int] = []
    fresh = False
    for at in (*part, -1):
        phase = BETWEEN[0] if at < 0 else spans.phases[spans.phase[at]]
        if phase not in BETWEEN:
            work.append(at)
            continue
        ways = [
            spans.places[spans.place[i]].direction for i in work if spans.phases[spans.phase[i]] == "compute"
        ]
        if ways:  # or it was the sum of something
            forward = ways[0] == "forward"
            yield work, "forward" if forward and fresh else "replay" if forward else "backward"
            fresh = False
        work, fresh = [], fresh or phase == "data"


def told_step(line: Timeline, stage: int, step: int) -> list[Told]:
    """Return what a stage does in a step of a simulated pipeline that is full, its last one, as if it were `step`.

    Seconds are from the first task of any stage in it.
    """
    m, last = line.schedule.passes, line.steps - 1
    found = []
    for each in _last(line, stage):
        verb, number = each.task
        of = None if verb == "update" else OfPass(number % m, number // m - last + step)
        found.append(Told(verb, of, each.start_s, each.stop_s))
    begin_s = min(_last(line, k)[0].start_s for k in range(line.schedule.stages))
    return [told._replace(start_s=told.start_s - begin_s, stop_s=told.stop_s - begin_s) for told in found]


def _last(line: Timeline, stage: int) -> list[Interval]:
    """Return the tasks of a stage in the last step."""
    count = sum(1 for _ in tasks_of(line.schedule, stage, line.steps - 1))
    return list(line.lanes[stage].intervals[-count:])
