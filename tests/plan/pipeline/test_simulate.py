"""Simulated pipelines: timelines by hand, bubbles by formula, all against longest paths, the long run."""

from __future__ import annotations

import math
from graphlib import TopologicalSorter
from itertools import pairwise

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.plan.pipeline.costs import PipelineCost, StageCost, Transfer
from gridnn.plan.pipeline.picture import row
from gridnn.plan.pipeline.schedule import EXACT, FORMS, SCHEDULES, Schedule
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.timeline import Timeline

KINDS = [(name, form) for name in SCHEDULES for form in (FORMS if name == "delayed" else FORMS[:1])]
each_kind = pytest.mark.parametrize(("name", "form"), KINDS)


def equal(
    stages: int, forward_s: float = 1.0, backward_s: float = 2.0, update_s: float = 0.0, moves_s: float = 0.0
) -> PipelineCost:
    """A chain of equal stages."""
    each = StageCost(forward_s, backward_s, update_s, 0, 0, 0)
    moves = [Transfer(k, k + 1, moves_s, moves_s, 0, 0) for k in range(stages - 1)]
    return PipelineCost((each,) * stages, tuple(moves))


def unequal(stages: int, seed: int, moves_s: float = 1.0, whole: bool = False) -> PipelineCost:
    """A chain of unequal stages, with some transfers past others."""
    random = np.random.default_rng(seed)

    def draw() -> float:
        return float(random.integers(0, 5) if whole else random.random())

    links = [(k, k + 1) for k in range(stages - 1)]
    links += [(i, j) for i in range(stages) for j in range(i + 2, stages) if random.random() < 0.3]
    return PipelineCost(
        tuple(StageCost(draw(), draw(), draw(), 0, 0, 0) for _ in range(stages)),
        tuple(Transfer(*link, moves_s * draw(), moves_s * draw(), 0, 0) for link in links),
    )


def slots(line: Timeline, count: int) -> list[str]:
    """What each stage does in each second, blanks and waits alike."""
    return [row(lane, np.arange(count) + 0.5).replace(".", " ").rstrip() for lane in line.lanes]


@pytest.mark.parametrize(
    ("schedule", "pictures"),
    [
        (Schedule("sequential", 3, 2), ["0    a1    b", " 0  a  1  b", "  0a    1b"]),
        (Schedule("gpipe", 3, 4), ["0123    abcd", " 0123  abcd", "  0123abcd"]),
        (Schedule("1f1b", 3, 4), ["012  a3b c d", " 01 a2b3c d", "  0a1b2c3d"]),
        (Schedule("delayed", 3, 1, "stash"), ["012  a3b4c5d", " 01 a2b3c4d5", "  0a1b2c3d4e"]),
        (Schedule("local", 3, 1), ["0a1b2c3d4e5f", " 0a1b2c3d4e5", "  0a1b2c3d4e"]),
    ],
)
def test_pictures_by_hand(schedule: Schedule, pictures: list[str]) -> None:
    line = simulate(schedule, equal(3, 1, 1), steps=None if schedule.exact else 8)
    assert slots(line, 12) == pictures


def times(line: Timeline, stage: int) -> dict[str, tuple[float, float]]:
    return {f"{x.task.verb} {x.task.number}": (x.start_s, x.stop_s) for x in line.lanes[stage].intervals}


def test_two_stages_with_transfers_by_hand() -> None:
    cost = PipelineCost(
        (StageCost(1, 2, 0.5, 0, 0, 0), StageCost(1, 2, 0.5, 0, 0, 0)), (Transfer(0, 1, 0.5, 1, 0, 0),)
    )
    line = simulate(Schedule("gpipe", 2, 2), cost)
    assert times(line, 0) == {
        "forward 0": (0, 1), "forward 1": (1, 2), "backward 0": (6.5, 8.5), "backward 1": (8.5, 10.5),
        "update 0": (10.5, 11),
    }  # fmt: skip
    assert times(line, 1) == {
        "forward 0": (1.5, 2.5), "forward 1": (2.5, 3.5), "backward 0": (3.5, 5.5), "backward 1": (5.5, 7.5),
        "update 0": (7.5, 8),
    }  # fmt: skip
    assert line.step_s == 11
    assert line.busy_s == (6.5, 6.5)
    assert line.bubbles == pytest.approx((1 - 6.5 / 11,) * 2)


def test_a_link_carries_one_transfer_at_a_time() -> None:
    cost = PipelineCost(
        (StageCost(1, 1, 0, 0, 0, 0), StageCost(1, 1, 0, 0, 0, 0)),
        # Two transfers of one pair of stages share its link: 3 s a pass.
        (Transfer(0, 1, 1, 0, 0, 0), Transfer(0, 1, 2, 0, 0, 0)),
    )
    line = simulate(Schedule("gpipe", 2, 3), cost)
    assert [line.lanes[1].intervals[p].start_s for p in range(3)] == [4, 7, 10]
    assert simulate(Schedule("local", 2, 3), cost).step_s == 9


@pytest.mark.parametrize("name", SCHEDULES)
def test_stages_carry_the_share_of_transfers_that_nothing_hides(name: str) -> None:
    """Both ends, there and back; not in a replay, which sends nothing, and not back where no gradient goes back."""
    back = name != "local"
    given = PipelineCost(
        (StageCost(2.0, 3.0, 0.5, 0, 0, 0), StageCost(4.0, 3.0, 0.5, 0, 0, 0), StageCost(1.0, 2.0, 0.5, 0, 0, 0)),
        (Transfer(0, 1, 0.8, 0.4, 0, 0), Transfer(1, 2, 1.6, 0.8, 0, 0)), 0.25,
    )  # fmt: skip
    by_hand = PipelineCost(
        (
            StageCost(2.0 + 0.6, 3.0 + 0.3 * back, 0.5, 0, 0, 0, 0, 0.6),
            StageCost(4.0 + 0.6 + 1.2, 3.0 + 0.9 * back, 0.5, 0, 0, 0, 0, 1.8),
            StageCost(1.0 + 1.2, 2.0 + 0.6 * back, 0.5, 0, 0, 0, 0, 1.2),
        ),
        (Transfer(0, 1, 0.2, 0.1, 0, 0), Transfer(1, 2, 0.4, 0.2, 0, 0)),
    )
    schedule = Schedule(name, 3, 4)
    found, wanted = simulate(schedule, given), simulate(schedule, by_hand)
    assert found.step_s == pytest.approx(wanted.step_s, rel=1e-12)
    assert found.busy_s == pytest.approx(wanted.busy_s, rel=1e-12)
    assert found.step_s > simulate(schedule, given._replace(overlap=1.0)).step_s


def test_a_replay_goes_before_its_backward_and_does_not_wait_for_it() -> None:
    line = simulate(Schedule("delayed", 2, 1), equal(2, 1, 2, 0, 1), steps=4)
    found = times(line, 0)
    # The gradient is there at 6: stage 1 is forward 2-3, backward 3-5, and it takes 1 to come back.
    assert (found["forward 1"], found["replay 0"], found["backward 0"]) == ((1, 2), (2, 3), (6, 8))
    assert "replay 0" not in times(line, 1)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "passes"), [(1, 1), (1, 5), (2, 1), (2, 2), (3, 7), (5, 4), (8, 32)])
def test_the_bubble_of_equal_stages(name: str, stages: int, passes: int) -> None:
    line = simulate(Schedule(name, stages, passes), equal(stages))
    assert line.step_s == 3 * (passes + stages - 1)
    # Huang et al. 2019, section 2.3: O((K - 1) / (M + K - 1)).
    assert line.bubbles == (1 - passes / (passes + stages - 1),) * stages
    assert line.bubble == pytest.approx((stages - 1) / (passes + stages - 1))


@pytest.mark.parametrize(("stages", "passes"), [(1, 1), (2, 1), (3, 1), (3, 4), (6, 2), (9, 3)])
def test_without_a_flush_equal_stages_never_wait(stages: int, passes: int) -> None:
    for schedule in (Schedule("delayed", stages, passes, "stash"), Schedule("local", stages, passes)):
        line = simulate(schedule, equal(stages, update_s=0.5))
        assert line.step_s == 3 * passes + 0.5
        assert line.bubbles == (0.0,) * stages
    again = simulate(Schedule("delayed", stages, passes), equal(stages, update_s=0.5))
    assert again.step_s == (4 if stages > 1 else 3) * passes + 0.5
    assert again.bubbles[:-1] == (0.0,) * (stages - 1)


@pytest.mark.parametrize("moves_s", [0.0, 0.25, 1.0, 4.0])
def test_with_one_pass_a_step_delayed_stages_wait_for_transfers(moves_s: float) -> None:
    # Forward 2 of stage 0 follows backward 0 there, which follows both of stage 1 and both transfers: two steps.
    line = simulate(Schedule("delayed", 2, 1, "stash"), equal(2, moves_s=moves_s))
    assert line.step_s == pytest.approx(3 + moves_s)
    more = simulate(Schedule("delayed", 2, 4, "stash"), equal(2, moves_s=moves_s))
    # With several passes there is time between: the transfers are hidden until the link is the slowest of all.
    assert more.step_s == pytest.approx(4 * max(3, moves_s))


def longest_paths(schedule: Schedule, cost: PipelineCost, steps: int) -> list[list[tuple[float, float]]]:
    """Starts and stops of all tasks by the rules alone: a graph of what waits for what, and its longest paths."""
    took: dict[object, float] = {}
    after: dict[object, list[object]] = {}

    def add(node: object, seconds: float, *before: object) -> None:
        took[node], after[node] = seconds, list(before)

    orders: list[list[object]] = []
    for k, stage in enumerate(cost.stages):
        order: list[object] = []
        for step in range(steps):
            for verb, number in schedule.step(k, step):
                if verb == "backward" and schedule.replays(k):
                    order.append(("replay", number, k))
                order.append((verb, number, k))
        by_verb = {
            "forward": stage.forward_s, "replay": stage.forward_s, "backward": stage.backward_s,
            "update": stage.update_s,
        }  # fmt: skip
        for node in order:
            add(node, by_verb[node[0]])  # type: ignore[index]
        for a, b in pairwise(order):
            after[b].append(a)
        orders.append(order)
    for i, j, there_s, back_s, *_ in cost.transfers:
        for verb, a, b, seconds in (("forward", i, j, there_s), ("backward", j, i, back_s)):
            if verb == "backward" and schedule.name == "local":
                continue
            sent = sorted(node[1] for node in orders[a] if node[0] == verb)  # type: ignore[index]
            for number in sent:
                add(("link", a, b, number), seconds, (verb, number, a))
                if number > sent[0]:
                    after["link", a, b, number].append(("link", a, b, number - 1))
                if (verb, number, b) in after:
                    after[verb, number, b].append(("link", a, b, number))
    stops: dict[object, float] = {}
    for node in TopologicalSorter(after).static_order():
        stops[node] = max((stops[b] for b in after[node]), default=0.0) + took[node]
    return [[(stops[node] - took[node], stops[node]) for node in order] for order in orders]


@each_kind
@pytest.mark.parametrize("seed", range(6))
def test_times_are_the_longest_paths(name: str, form: str, seed: int) -> None:
    stages, passes = 1 + seed % 5, 1 + seed * 7 % 4
    schedule = Schedule(name, stages, passes, form)
    cost = unequal(stages, seed, whole=seed % 2 == 0)
    steps = 1 if schedule.exact else 2 * stages + 5
    line = simulate(schedule, cost, steps=steps)
    for lane, expected in zip(line.lanes, longest_paths(schedule, cost, steps), strict=True):
        assert np.stack([lane.start_s, lane.stop_s], axis=1) == pytest.approx(np.array(expected))


@each_kind
@pytest.mark.parametrize("seed", range(10))
def test_a_step_is_at_least_what_must_be(name: str, form: str, seed: int) -> None:
    schedule = Schedule(name, 2 + seed % 4, 1 + seed % 3, form)
    cost = unequal(schedule.stages, seed, moves_s=3.0)
    line = simulate(schedule, cost)
    assert line.step_s >= max(line.busy_s)
    assert all(0 <= part <= 1 for part in line.bubbles)
    way_back = schedule.name != "local"
    slowest = max(max(x.forward_s, way_back * x.backward_s) for x in cost.transfers)
    assert line.step_s >= schedule.passes * slowest - 1e-12
    if schedule.exact:  # one pass there and back by the chain, and the update
        there = sum(x.forward_s + x.backward_s for x in cost.transfers if x.target == x.source + 1)
        path = sum(x.forward_s + x.backward_s for x in cost.stages) + there + cost.stages[0].update_s
        assert line.step_s >= path - 1e-12
        assert line.step_s == line.stop_s
    if name == "sequential" and seed % 2:  # nothing at the same time but updates
        assert line.step_s >= schedule.passes * (path - cost.stages[0].update_s) - 1e-12


@pytest.mark.parametrize(("name", "form"), [kind for kind in KINDS if kind[0] not in EXACT])
@pytest.mark.parametrize("seed", range(12))
def test_the_long_run(name: str, form: str, seed: int) -> None:
    schedule = Schedule(name, 1 + seed % 5, 1 + seed % 2, form)
    cost = unequal(schedule.stages, seed + 100, moves_s=3.0, whole=seed % 3 == 0)
    found = simulate(schedule, cost)
    long = simulate(schedule, cost, steps=540)
    # 180 steps are whole periods, whichever ranks are in the slowest ring: 1 to 6 steps.
    rates = []
    for k, lane in enumerate(long.lanes):
        ends = [x.stop_s for x in lane.intervals if x.task.verb == "update"]
        rates.append((ends[-1] - ends[-181]) / 180)
        assert len(ends) == 540 - schedule.delay(k)
    assert found.step_s == pytest.approx(max(rates), rel=1e-9)
    assert found.step_s == pytest.approx(long.step_s, rel=1e-9)
    assert found.steps < 200


@each_kind
@pytest.mark.parametrize(("stages", "passes"), [(1, 3), (4, 1), (3, 4)])
def test_counts_are_those_of_the_schedule(name: str, form: str, stages: int, passes: int) -> None:
    schedule = Schedule(name, stages, passes, form)
    line = simulate(schedule, unequal(stages, 5))
    assert line.staleness == tuple(schedule.delay(k) for k in range(stages))
    assert line.open == tuple(schedule.open(k) for k in range(stages))


def test_several_steps_of_an_exact_schedule() -> None:
    schedule, cost = Schedule("1f1b", 3, 4), equal(3, moves_s=0.5, update_s=1)
    one, three = simulate(schedule, cost), simulate(schedule, cost, steps=3)
    assert three.step_s == one.step_s
    assert three.stop_s == pytest.approx(3 * one.step_s)
    assert three.staleness == (0, 0, 0)
    first, last = three.lanes[1].intervals[0], three.lanes[1].intervals[-1]
    assert last.task.number == 2
    assert three.lanes[1].intervals[9].start_s == first.start_s + one.step_s


@each_kind
def test_many_stages_and_passes(name: str, form: str) -> None:
    line = simulate(Schedule(name, 64, 256, form), equal(64))
    again = 256 if (name, form) == ("delayed", "replay") else 0
    steps = {"sequential": 64 * 256 * 3, "gpipe": 3 * (256 + 63), "1f1b": 3 * (256 + 63)}
    assert line.step_s == steps.get(name, 3 * 256 + again)


def test_nothing_takes_no_time() -> None:
    for name in SCHEDULES:
        line = simulate(Schedule(name, 3, 2), equal(3, 0, 0))
        assert (line.step_s, line.bubble) == (0, 0)


@pytest.mark.parametrize(
    ("schedule", "cost", "steps", "text"),
    [
        (Schedule("gpipe", 3, 1), equal(2), None, "2 stages for a schedule of 3"),
        (Schedule("gpipe", 2, 1), equal(2, -1), None, "stage 0 takes -1"),
        (Schedule("local", 2, 1), equal(2, math.nan), None, "takes nan"),
        (Schedule("gpipe", 2, 1), equal(2, moves_s=math.inf), None, "stage 0 to stage 1 takes inf"),
        (Schedule("gpipe", 2, 1), equal(2), 0, "at least 1"),
        (Schedule("delayed", 4, 1), equal(4), 4, "at least 5"),
        (Schedule("gpipe", 2, 1), equal(2)._replace(overlap=1.5), None, "overlap 1.5"),
        (Schedule("gpipe", 2, 1), equal(2)._replace(transfers=(Transfer(1, 0, 1, 1, 0, 0),)), None, "later one"),
        (Schedule("gpipe", 2, 1), equal(2)._replace(transfers=(Transfer(1, 2, 1, 1, 0, 0),)), None, "later one"),
    ],
)  # fmt: skip
def test_what_cannot_be(schedule: Schedule, cost: PipelineCost, steps: int | None, text: str) -> None:
    with pytest.raises(InputError, match=text):
        simulate(schedule, cost, steps=steps)
