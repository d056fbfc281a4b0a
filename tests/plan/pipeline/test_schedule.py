"""Schedules: what every stage does, each once, in an order that keeps few passes open, from first step to drain."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest

from gridnn.errors import InputError
from gridnn.plan.pipeline.schedule import EXACT, FORMS, SCHEDULES, Schedule, Task

SIZES = [(1, 1), (1, 4), (2, 1), (2, 3), (3, 4), (4, 2), (5, 9), (8, 8)]
KINDS = [(name, form) for name in SCHEDULES for form in (FORMS if name == "delayed" else FORMS[:1])]
each_kind = pytest.mark.parametrize(("name", "form"), KINDS)
each_size = pytest.mark.parametrize(("stages", "passes"), SIZES)
FIRST, STEPS = 3, 7
"""Batches of steps 3 to 9 go in."""


def tasks(schedule: Schedule, stage: int, first: int = FIRST, steps: int = STEPS) -> list[Task]:
    stop = first + steps
    return [t for s in range(first, schedule.last_step(stop)) for t in schedule.step(stage, s, first, stop)]


@each_kind
@each_size
def test_every_pass_goes_forward_once_then_backward_once_then_counts(
    name: str, form: str, stages: int, passes: int
) -> None:
    schedule = Schedule(name, stages, passes, form)
    numbers = list(range(FIRST * passes, (FIRST + STEPS) * passes))
    for stage in range(stages):
        done = tasks(schedule, stage)
        place = {task: at for at, task in enumerate(done)}
        by_verb = {verb: [t.number for t in done if t.verb == verb] for verb in Counter(t.verb for t in done)}
        # In order, too: stages hand passes over in the order in which they are wanted.
        assert by_verb == {
            "forward": numbers,
            "backward": numbers,
            "update": list(range(FIRST, FIRST + STEPS)),
        }
        assert all(place[Task("forward", n)] < place[Task("backward", n)] for n in numbers)
        for step in range(FIRST, FIRST + STEPS):
            update = place[Task("update", step)]
            assert place[Task("backward", (step + 1) * passes - 1)] < update
            if step + 1 < FIRST + STEPS:
                assert update < place[Task("backward", (step + 1) * passes)]


@each_kind
@each_size
def test_as_many_passes_are_open_as_it_says(name: str, form: str, stages: int, passes: int) -> None:
    schedule = Schedule(name, stages, passes, form)
    for stage in range(stages):
        change = {"forward": 1, "backward": -1, "update": 0}
        done = tasks(schedule, stage, steps=stages + 2)
        counted = list(accumulate(change[task.verb] for task in done))
        assert max(counted) == schedule.open(stage)
        assert counted[-1] == 0


@each_kind
@each_size
def test_late_steps(name: str, form: str, stages: int, passes: int) -> None:
    schedule = Schedule(name, stages, passes, form)
    for stage in range(stages):
        late = stages - 1 - stage if name == "delayed" else 0
        assert schedule.delay(stage) == late
        assert schedule.replays(stage) == (late > 0 and form == "replay")
        for step in range(FIRST, FIRST + stages + 2):
            updates = [t.number for t in schedule.step(stage, step, FIRST) if t.verb == "update"]
            # Unchanged until the first gradient is there, then an update a step.
            assert updates == ([step - late] if step - late >= FIRST else [])


@each_kind
@each_size
def test_drained_and_begun_again(name: str, form: str, stages: int, passes: int) -> None:
    schedule = Schedule(name, stages, passes, form)
    stop = FIRST + STEPS
    assert schedule.last_step(stop) == stop + (stages - 1) * (name == "delayed")
    for stage in range(stages):
        for step in range(stop, schedule.last_step(stop) + 3):
            late = list(schedule.step(stage, step, FIRST, stop))
            assert not [t for t in late if t.verb == "forward"]
            assert step < schedule.last_step(stop) or not late
        # Resumed at a step, it is as new, with other numbers.
        fresh = tasks(schedule, stage, first=0)
        begun = {"forward": FIRST * passes, "backward": FIRST * passes, "update": FIRST}
        assert [Task(t.verb, t.number - begun[t.verb]) for t in tasks(schedule, stage)] == fresh


def words(schedule: Schedule, stage: int, steps: int = 1) -> str:
    """The tasks as the docstring has them: digits forward, letters backward, a bar for an update."""
    show = {"forward": "0123456789", "backward": "abcdefghij"}
    found = [t for s in range(steps) for t in schedule.step(stage, s)]
    return "".join(show[t.verb][t.number] if t.verb in show else "|" for t in found)


@pytest.mark.parametrize(
    ("schedule", "orders"),
    [
        (Schedule("sequential", 2, 3), ["0a1b2c|"] * 2),
        (Schedule("gpipe", 3, 4), ["0123abcd|"] * 3),
        (Schedule("1f1b", 3, 4), ["012a3bcd|", "01a2b3cd|", "0a1b2c3d|"]),
        (Schedule("1f1b", 4, 2), ["01ab|"] * 3 + ["0a1b|"]),
        (Schedule("local", 2, 2), ["0a1b|"] * 2),
    ],
)
def test_orders_by_hand(schedule: Schedule, orders: list[str]) -> None:
    assert [words(schedule, k) for k in range(schedule.stages)] == orders


def test_delayed_order_by_hand() -> None:
    assert words(Schedule("delayed", 3, 1), 0, 5) == "012a|3b|4c|"
    assert words(Schedule("delayed", 3, 1), 1, 4) == "01a|2b|3c|"
    assert words(Schedule("delayed", 3, 1), 2, 3) == "0a|1b|2c|"
    assert words(Schedule("delayed", 2, 2), 0, 3) == "012a3b|4c5d|"


def test_exact_ones() -> None:
    assert [name for name in SCHEDULES if Schedule(name, 2, 2).exact] == list(EXACT)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("dapple", 2, 2), "sequential, gpipe, 1f1b, delayed, local"),
        (("gpipe", 0, 2), "0 stages"),
        (("gpipe", 2, 0), "0 passes"),
        (("delayed", 2, 2, "mixed"), "replay or stash"),
    ],
)
def test_what_cannot_be(given: tuple[str, int, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Schedule(*given)
