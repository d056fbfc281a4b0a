"""Pictures of pipelines for terminals: a row a stage, a column a slice of time, all slices as long.

    1f1b, 3 stages, 4 passes: 23 ms a step; stages wait 43 % of it

    stage 0  001122............aaaa33bbbb....cccc....dddd++
    stage 1     0011......aaaa22bbbb..33cccc....dddd++
    stage 2        00aaaa11bbbb..22cccc..33dddd++
             0 s                                      23 ms

A column shows what its stage does in the middle of the slice; tasks shorter than a slice may not be seen.

| character   | what                                                      |
|-------------|-----------------------------------------------------------|
| 0 1 ... 9   | the forward of a pass, by the last digit of its number    |
| a b ... j   | the backward of a pass: a for 0, b for 1                  |
| A B ... J   | the forward of a pass made again (`replay`)               |
| +           | the update                                                |
| .           | waits                                                     |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.plan.explain.tell import time_text
from gridnn.plan.pipeline.schedule import Task
from gridnn.plan.pipeline.timeline import REPLAY, Lane, Timeline

WIDTH = 100
LEAST = 40
"""Columns below which a picture shows nothing."""
_LETTERS = {"forward": "0123456789", "backward": "abcdefghij", REPLAY: "ABCDEFGHIJ"}


def picture(
    timeline: Timeline, *, width: int = WIDTH, start_s: float = 0.0, stop_s: float | None = None
) -> list[str]:
    """Return the lines of a picture.

    Parameters
    ----------
    width
        Columns, all in all.
    start_s, stop_s
        What is shown; left out, from the first task to the last.

    Raises
    ------
    InputError
        If it is too narrow, or nothing is between start and stop.
    """
    if width < LEAST:
        raise InputError(f"a picture of {width} columns is too narrow; give it {LEAST} or more")
    stop_s = timeline.stop_s if stop_s is None else stop_s
    if not start_s < stop_s:
        raise InputError(
            f"a picture from {start_s:g} s to {stop_s:g} s shows nothing; let it stop later than it starts"
        )
    names = [f"stage {k}  " for k in range(len(timeline.lanes))]
    margin = max(map(len, names))
    slice_s = (stop_s - start_s) / (width - margin)
    middles = start_s + slice_s * (np.arange(width - margin) + 0.5)
    rows = [
        f"{name:{margin}}{row(lane, middles)}".rstrip()
        for name, lane in zip(names, timeline.lanes, strict=True)
    ]
    return [
        _head(timeline),
        "",
        *rows,
        _ruler(margin, width, start_s, stop_s),
        "",
        *_legend(timeline, slice_s),
    ]


def row(lane: Lane, at_s: NDArray[np.floating[Any]]) -> str:
    """Return what a stage does at some moments, a character each; blank before its first task and after its last."""
    begun = np.searchsorted(lane.start_s, at_s, side="right") - 1  # the last task that has begun
    letters = []
    for task, time_s in zip(begun.tolist(), at_s.tolist(), strict=True):
        if task < 0 or time_s >= lane.stop_s[-1]:
            letters.append(" ")
        else:
            letters.append(letter(lane.tasks[task]) if time_s < lane.stop_s[task] else ".")
    return "".join(letters)


def letter(task: Task) -> str:
    """Return the character of a task."""
    return _LETTERS[task.verb][task.number % 10] if task.verb in _LETTERS else "+"


def _head(timeline: Timeline) -> str:
    schedule = timeline.schedule
    form = f" ({schedule.form})" if schedule.name == "delayed" else ""
    return (
        f"{schedule.name}{form}, {_many(schedule.stages, 'stage')}, {_many(schedule.passes, 'pass')}: "
        f"{time_text(timeline.step_s)} a step; stages wait {100 * timeline.bubble:.0f} % of it"
    )


def _ruler(margin: int, width: int, start_s: float, stop_s: float) -> str:
    first, last = time_text(start_s) if start_s else "0 s", time_text(stop_s)
    return f"{'':{margin}}{first}{last:>{width - margin - len(first)}}"


def _legend(timeline: Timeline, slice_s: float) -> list[str]:
    replays = any(map(timeline.schedule.replays, range(len(timeline.lanes))))
    again = "; A, B, ... its forward made again" if replays else ""
    tenth = "; 10 is 0, a again" if timeline.schedule.passes * timeline.steps > 10 else ""
    return [
        f"0, 1, ... forward of a pass; a, b, ... its backward{again}{tenth}",
        f"+ update; . waits; a column is {time_text(slice_s)}",
    ]


def _many(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "es" if word.endswith("s") else "s")
