"""Simulation in whole: timelines by hand, the rules of the event loop, and what a timeline tells."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from gridnn.plan.simulate.native import library_path
from gridnn.plan.simulate.program import LOCAL, EdgeCost, Flow, Group, OperationCost, Program
from gridnn.plan.simulate.simulator import Simulator
from gridnn.plan.simulate.timeline import Task, Timeline, timeline
from tests.plan.programs import chain, random_choice, random_program

compiled = pytest.param(
    False, id="compiled", marks=pytest.mark.skipif(not library_path().exists(), reason="make kernels first")
)
each_loop = pytest.mark.parametrize("plain", [compiled, pytest.param(True, id="plain")])


def times(t: Timeline) -> dict[str, tuple[str, int, int]]:
    return {task.name: (task.device, task.start_ns, task.end_ns) for task in t if task.phase != "join"}


@each_loop
def test_golden_a(plain: bool) -> None:
    found = timeline(Simulator(chain(), (0, 0, 1), plain=plain))
    assert found.makespan_ns == 8
    assert times(found) == {
        "o1 forward 0": ("rank 0", 0, 2),
        "o1 forward 1": ("rank 1", 0, 2),
        "o2 forward 0": ("rank 0", 2, 5),
        "o2 forward 1": ("rank 1", 2, 5),
        "o2 to o3 send 0": ("0 to 1", 5, 6),
        "o3 forward 0": ("rank 1", 6, 8),
    }


@each_loop
def test_golden_b_as_a_change_of_a(plain: bool) -> None:
    simulator = Simulator(chain(), (0, 0, 1), plain=plain)
    assert simulator.propose(1, 1) == pytest.approx(11e-9)
    simulator.accept()
    assert times(timeline(simulator)) == {
        "o1 forward 0": ("rank 0", 0, 2),
        "o1 forward 1": ("rank 1", 0, 2),
        "o1 to o2 send 0": ("0 to 1", 2, 3),
        "o2 forward 0": ("rank 1", 3, 9),
        "o3 forward 0": ("rank 1", 9, 11),
    }


def two(first: OperationCost, second: OperationCost, flow: Flow) -> Program:
    names = ("rank 0", "rank 1", "link", "idle")
    costs = (first, second)
    return Program(
        ("a", "b"), (1, 1), ((0, 1),), names, lambda i, _: costs[i], lambda *_: EdgeCost(flow, flow)
    )


BOTH, LINK = (0, 1), (2,)
STRAIGHT = Flow(BOTH, BOTH, (LOCAL, LOCAL), (0, 0))


@each_loop
def test_a_step_with_sums_that_overlap_and_contend(plain: bool) -> None:
    """Two operations on both ranks; one link carries the sums of both, the second one waits for it."""
    first = OperationCost(BOTH, (2, 2), (3, 3), (1, 1), gradients=(Group(BOTH, BOTH, LINK, (4,)),))
    second = OperationCost(BOTH, (1, 1), (2, 2), (0, 0), gradients=(Group(BOTH, BOTH, LINK, (5,)),))
    simulator = Simulator(two(first, second, STRAIGHT), (0, 0), plain=plain)
    found = timeline(simulator)
    expected = {
        "a forward": (0, 2),
        "b forward": (2, 3),
        "b backward": (3, 5),
        "a backward": (5, 8),
        "b update": (10, 10),
        "a update": (14, 15),
    }
    by_part = {f"{name} {r}": (f"rank {r}", *t) for name, t in expected.items() for r in BOTH}
    assert times(found) == {**by_part, "b sum 0": ("link", 5, 10), "a sum 0": ("link", 10, 14)}
    assert found.busy_ns() == {"rank 0": 9, "rank 1": 9, "link": 9, "idle": 0}
    assert found.busy_fraction()["rank 0"] == 9 / 15
    names = [task.name for task in found.critical_path()]
    assert [name[:-2] for name in names] == [
        "a forward",
        "b forward",
        "b backward",
        "b sum",
        "a sum",
        "a update",
    ]


@each_loop
def test_groups_around_forward_and_backward(plain: bool) -> None:
    around = (Group(BOTH, BOTH, (2, 3), (3, 1)),)
    first = OperationCost(BOTH, (2, 1), (3, 3), (0, 0), after_forward=around, before_backward=around)
    second = OperationCost(BOTH, (1, 1), (2, 2), (0, 0))
    found = times(timeline(Simulator(two(first, second, STRAIGHT), (0, 0), plain=plain)))
    assert found["a send 0"] == ("link", 2, 5) and found["a send 1"] == ("idle", 2, 3)
    assert found["b forward 1"] == ("rank 1", 5, 6)
    assert found["b backward 1"] == ("rank 1", 6, 8)
    assert found["a return 0"] == ("link", 8, 11)
    assert found["a backward 1"] == ("rank 1", 11, 14)
    assert not any("update" in name for name in found)


@each_loop
def test_ties_are_served_in_program_order_and_backward_in_reverse(plain: bool) -> None:
    """A source with two consumers on one rank: both become ready at once."""
    one = OperationCost((0,), (1,), (1,), (0,))
    flow = Flow((0,), (0,), (LOCAL,), (0,))
    program = Program(
        ("a", "b", "c", "d"), (1,) * 4, ((0, 1), (0, 2), (1, 3), (2, 3)), ("rank",),
        lambda *_: one, lambda *_: EdgeCost(flow, flow),
    )  # fmt: skip
    order = [task.name[:-2] for task in timeline(Simulator(program, (0,) * 4, plain=plain))]
    assert order == [f"{n} forward" for n in "abcd"] + [f"{n} backward" for n in "dcba"]


@pytest.mark.parametrize("seed", range(12))
def test_the_rules_hold_on_random_programs(seed: int) -> None:
    program = random_program(seed)
    simulator = Simulator(program, random_choice(program, np.random.default_rng(seed)), plain=seed % 2 == 0)
    graph, schedule = simulator.state
    before, after = graph.dependencies(graph.state)
    ready, start, end = schedule.times.T
    key, device, ns = (graph.tasks[name] for name in ("key", "device", "ns"))
    order = schedule.order[: schedule.count]
    assert len(before) > len(order) > 100
    # A successor has the larger key, and no two tasks share one: the order of ties is a total one.
    assert (key[before] < key[after]).all() and len(set(key[order])) == len(order)
    # Ready is the latest of what a task waits for.
    latest = np.zeros_like(ready)
    np.maximum.at(latest, after, end[before])
    assert (latest[order] == ready[order]).all()
    # A device serves by (ready, key), without a pause while somebody waits.
    ranked = order[np.lexsort((key[order], ready[order]))]
    assert (ranked == order).all()
    for d in range(len(program.devices)):
        mine = order[device[order] == d]
        free = 0
        for t in mine:
            assert start[t] == max(ready[t], free)
            free = end[t]
    assert (end[order] - start[order] == ns[order]).all()
    assert (start[order][device[order] < 0] == ready[order][device[order] < 0]).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_critical_path_has_no_gap(seed: int) -> None:
    program = random_program(seed)
    found = timeline(Simulator(program, random_choice(program, np.random.default_rng(seed))))
    path = found.critical_path()
    assert path[0].start_ns == 0 and path[-1].end_ns == found.makespan_ns
    assert all(a.end_ns == b.start_ns for a, b in pairwise(path))
    assert max(found.busy_fraction().values()) <= 1


def test_a_trace_has_a_lane_for_each_device_that_works() -> None:
    found = timeline(Simulator(chain(), (0, 0, 1)))
    trace = json.loads(found.chrome_trace())
    lanes = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert sorted(lanes.values()) == ["0 to 1", "rank 0", "rank 1"]
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(spans) == len(found)
    last = next(e for e in spans if e["name"] == "o3 forward 0")
    assert (last["ts"], last["dur"], lanes[last["tid"]], last["cat"]) == (0.006, 0.002, "rank 1", "forward")
    assert found[len(found) - 1] == Task("o3 forward 0", "o3", "forward", 0, "rank 1", 6, 8)


def test_an_operation_of_no_parts_and_one_without_edges() -> None:
    cost = [OperationCost((), (), (), ()), OperationCost((0,), (5,), (7,), (1,))]
    program = Program(
        ("none", "one"), (1, 1), (), ("rank",), lambda i, _: cost[i], lambda *_: EdgeCost(Flow())
    )
    assert Simulator(program, (0, 0)).makespan_ns == Simulator(program, (0, 0), plain=True).makespan_ns == 13
