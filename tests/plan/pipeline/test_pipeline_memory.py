"""Memory of stages by schedule, by hand; and pictures of timelines."""

from __future__ import annotations

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.pipeline.costs import PipelineCost, StageCost, Transfer
from gridnn.plan.pipeline.memory import StageMemory, pipeline_memory
from gridnn.plan.pipeline.picture import picture, row
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.simulate import simulate

STAGE = StageCost(1e-3, 2e-3, 1e-3, weight_bytes=3000, kept_bytes=50, input_bytes=7, worst_bytes=11)
COST = PipelineCost((STAGE,) * 3, tuple(Transfer(k, k + 1, 5e-4, 5e-4, 0, 0) for k in range(2)))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("sequential", 3, 4), [(3000, 0, 0, 50, 11)] * 3),
        (Schedule("gpipe", 3, 4), [(3000, 0, 0, 200, 11)] * 3),
        (Schedule("1f1b", 3, 4), [(3000, 0, 0, 50 * n, 11) for n in (3, 2, 1)]),
        (Schedule("1f1b", 3, 2), [(3000, 0, 0, 50 * n, 11) for n in (2, 2, 1)]),
        (Schedule("local", 3, 4), [(3000, 0, 0, 50, 11)] * 3),
        # 2 steps of 4 passes are open besides the one that goes back; of them only what came in.
        (Schedule("delayed", 3, 4), [(3000, 0, 7 * 4 * d, 50, 11) for d in (2, 1, 0)]),
        # Values are one part of three, copied for the step that is made and d before; gradients and momentum are once.
        (
            Schedule("delayed", 3, 4, "stash"),
            [(3000, 1000 * n, 0, 50 * (4 * d + 1), 11) for n, d in ((3, 2), (2, 1), (0, 0))],
        ),
    ],
)
def test_memory_by_hand(schedule: Schedule, expected: list[tuple[int, ...]]) -> None:
    found = pipeline_memory(schedule, COST)
    assert found == tuple(StageMemory(*each) for each in expected)
    assert [each.total_bytes for each in found] == [sum(each) for each in expected]


@pytest.mark.parametrize(("states", "older"), [(0, 1500), (1, 1000), (2, 750)])
def test_old_weights_are_values_alone(states: int, older: int) -> None:
    schedule = Schedule("delayed", 2, 1, "stash")
    cost = PipelineCost((STAGE, STAGE), ())
    assert [each.older_bytes for each in pipeline_memory(schedule, cost, states)] == [2 * older, 0]


def test_memory_needs_all_stages() -> None:
    with pytest.raises(InputError, match="3 stages for a schedule of 2"):
        pipeline_memory(Schedule("gpipe", 2, 1), COST)


def test_a_picture_is_as_long_as_its_tasks() -> None:
    line = simulate(Schedule("1f1b", 3, 4), COST)
    assert line.step_s == pytest.approx(23e-3)
    lines = picture(line, width=9 + 46)  # 2 columns a millisecond
    assert lines[0] == "1f1b, 3 stages, 4 passes: 23 ms a step; stages wait 43 % of it"
    assert lines[2:5] == [
        "stage 0  001122............aaaa33bbbb....cccc....dddd++",
        "stage 1     0011......aaaa22bbbb..33cccc....dddd++",
        "stage 2        00aaaa11bbbb..22cccc..33dddd++",
    ]
    assert lines[5].split() == ["0", "s", "23", "ms"]
    assert len(lines[5]) == 55
    assert "a column is 500 us" in lines[-1]


@pytest.mark.parametrize(
    "schedule", [Schedule("delayed", 3, 2), Schedule("local", 3, 2), Schedule("gpipe", 3, 40)]
)
def test_pictures_are_at_most_as_wide_as_asked(schedule: Schedule) -> None:
    line = simulate(schedule, COST)
    for width in (40, 100):
        lines = picture(line, width=width)
        assert max(map(len, lines[2:6])) == width
        assert max(map(len, lines)) <= 100


def test_a_picture_says_what_goes_forward_again() -> None:
    lines = picture(simulate(Schedule("delayed", 3, 2), COST))
    assert "A" in lines[2] and "A" in lines[3] and "A" not in lines[4]
    assert "made again" in lines[-2]
    assert "made again" not in "".join(picture(simulate(Schedule("delayed", 3, 2, "stash"), COST)))


def test_a_row_is_blank_before_and_after() -> None:
    line = simulate(Schedule("gpipe", 3, 1), COST)
    lane = line.lanes[2]
    shown = row(lane, np.array([0.0, lane.start_s[0] + 1e-6, lane.stop_s[1] - 1e-6, lane.stop_s[-1] + 1e-6]))
    assert shown == " 0a "
    part = picture(line, start_s=float(lane.start_s[0]), stop_s=float(lane.stop_s[-1]))
    assert part[4][9] == "0" and part[4][-1] == "+"


def test_the_tenth_pass_is_0_and_a_again() -> None:
    line = simulate(Schedule("gpipe", 1, 12), PipelineCost((STAGE,), ()))
    lines = picture(line, width=9 + 37 * 2)
    assert lines[2].split()[-1].startswith("001122334455667788990011aaaabbbb")
    assert lines[2].endswith("iiiijjjjaaaabbbb++")
    assert "10 is 0, a again" in lines[-2]


def test_pictures_that_show_nothing() -> None:
    line = simulate(Schedule("gpipe", 3, 1), COST)
    with pytest.raises(InputError, match="too narrow"):
        picture(line, width=20)
    with pytest.raises(InputError, match="shows nothing"):
        picture(line, start_s=1.0)
