"""Programs of networks: a step takes what `cost` says, and overlaps only what may overlap."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from gridnn.cost.compute import masked_seconds
from gridnn.cost.movement import COLLECTIVE_S
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.zoo import build as build_zoo
from gridnn.plan.problem import Job
from gridnn.plan.simulate.build import program_of, simulate_plan
from gridnn.plan.simulate.simulator import Simulator
from gridnn.plan.simulate.timeline import timeline
from gridnn.plan.simulate.wiring import absorbed_by, wiring_of
from tests.plan.jobs import FREE, MACHINE, chain, drawn, parted, price, spent, uniform
from tests.support.nets import build

SERIAL = [
    "1",
    "n2 | 1",
    "k2",
    "c2",
    "k4",
    "c4",
    "k4 | n4 | k4",
    "n4 | k4 | c4",
    "n4 | k2 | 1",
    "n2 | c4 | k2",
]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("grids", SERIAL)
def test_a_chain_in_which_nothing_overlaps_takes_its_price(grids: str, passes: int) -> None:
    """Nothing is updated while data move, and only the first layer sums gradients, when all else is done."""
    network, machine = chain(), replace(MACHINE, touch_s_per_element=0)
    job, schemes = Job(network, machine, 4, 8 * passes, passes), parted(network, grids)
    found, expected = simulate_plan(job, schemes, 1), price(job, schemes, 1)
    assert expected.comm_s > 0 or grids == "1"
    assert found.cost_s == pytest.approx(expected.step_s, abs=2e-8)  # some thirty tasks, each rounded


@pytest.mark.parametrize("grid", ["n4", "n2 k2", "n2 h2"])
def test_sums_that_ranks_carry_themselves_hide_nothing(grid: str) -> None:
    """One after the other they take the price, but that a layer updates while others compute."""
    network, found = build_zoo("alexnet", (4, 227, 227), 16, dropout_rate=0.0), []
    for share in (1.0, 0.5, 0.0):
        job = Job(network, replace(MACHINE, overlap=share), 4, 16, 2)
        simulator, expected = simulate_plan(job, uniform(network, grid)), price(job, uniform(network, grid))
        found.append(simulator.cost_s)
        busy = timeline(simulator).busy_ns()["rank 0"]
        sums_s = sum(layer.moved_s("backward", "gradients") for layer in expected.layers)
        assert busy == pytest.approx(1e9 * (expected.compute_s + (1 - share) * sums_s), rel=0.02)
    assert all(seconds <= expected.step_s * (1 + 1e-6) for seconds in found)
    if grid == "n4":
        assert found[2] == pytest.approx(expected.step_s, rel=0.02)


def test_one_rank_takes_its_arithmetic() -> None:
    for name in ("residual", "inception", "unet"):
        job = Job(build(name), MACHINE, 1, 4, 2, states=2)
        schemes = uniform(job.network, "1")
        assert simulate_plan(job, schemes).cost_s == pytest.approx(price(job, schemes).step_s, abs=2e-7)


@pytest.mark.parametrize("name", ["resnet20", "inception_v3", "alexnet"])
def test_a_step_is_between_the_busiest_rank_and_the_price(name: str) -> None:
    """Equal ranks: one plan for all layers, extents that divide."""
    shape = {"resnet20": (4, 32, 32), "inception_v3": (4, 107, 107), "alexnet": (4, 227, 227)}[name]
    network = build_zoo(name, shape, 16, **({"dropout_rate": 0.0} if name == "alexnet" else {}))
    grids = {"resnet20": ["n4", "n2 k2", "k4", "n2 h2", "c2", "h2 w2"]}.get(name, ["n4", "n2 k2", "k4"])
    for grid in grids:
        job, schemes = Job(network, MACHINE, 4, 16, 2), uniform(network, grid)
        found, expected = timeline(simulate_plan(job, schemes)), price(job, schemes)
        busiest = max(busy for device, busy in found.busy_ns().items() if is_rank(device))
        assert busiest <= found.makespan_ns <= 1e9 * expected.step_s * (1 + 1e-6)
        assert busiest == pytest.approx(1e9 * expected.compute_s, rel=0.02 if "h" in grid else 1e-5)
        # Sums of gradients do run behind the backward of other layers.
        if "n" in grid:
            assert found.makespan_ns < 1e9 * expected.step_s - 1000


def is_rank(device: str) -> bool:
    return device.startswith("rank") and not device.endswith((" in", " out"))


def fork(width: int = 64) -> Network:
    """Two readers of one output, and a sum of both."""
    net = Builder("fork", (width,))
    x = net.linear(net.input, width, bias=False, name="stem")
    a, b = (net.linear(x, width, bias=False, name=name) for name in ("left", "right"))
    return net.done(net.squared_error(net.add(a, b, name="sum")))


def test_what_two_layers_want_alike_is_carried_once_and_otherwise_twice() -> None:
    job = Job(fork(), FREE, 2, 8)
    both = timeline(simulate_plan(job, uniform(job.network, "k2")))
    alike = spent(both, "stem to stem relay", "send")
    gathered = round(1e9 * COLLECTIVE_S["allgather"](FREE, (2, 2), 8 * 64 * 4, 2).item())
    assert alike == [("rank 0 in", gathered), ("rank 1 in", gathered)]
    assert len(spent(both, "stem to stem relay", "return")) == 2
    assert not spent(both, "stem relay to left", "send")
    # "c2" wants the features that a rank of "k2" has: nothing to carry for that reader.
    mixed = uniform(job.network, "k2") | {"right": Scheme(GridShape.of(c=2))}
    assert spent(timeline(simulate_plan(job, mixed)), "stem to stem relay", "send") == alike
    other = uniform(job.network, "k2") | {"right": Scheme(GridShape.of(n=2))}
    assert len(spent(timeline(simulate_plan(job, other)), "stem to stem relay", "send")) == 4
    # The gradients of both readers are awaited before one of them goes back.
    begin = min(t.start_ns for t in both if t.operation == "stem to stem relay" and t.phase == "return")
    ends = [t.end_ns for t in both if t.operation in ("left", "right") and t.phase == "backward"]
    assert begin == max(ends)


def test_a_relu_its_producer_computes_is_free_and_stands_where_that_stands() -> None:
    network = build("residual")
    names = [node.name for node in network.nodes]
    absorbed = absorbed_by(network)
    assert {names[relu] for relu in absorbed} == {n for n in names if n.startswith("relu")}
    job = Job(network, MACHINE, 2, 4)
    two = [Scheme(GridShape.of(n=2)), Scheme(GridShape())]
    leaders = list(range(len(names)))
    for relu, host in absorbed.items():
        leaders[relu] = leaders[host]
    program = program_of(job, [two] * len(names), leaders)
    relu, host = next(iter(absorbed.items()))
    wiring = wiring_of(network)
    at = {i: wiring.at[i] for i in (relu, host)}
    assert not any(program.operation(at[relu], 0).forward_ns) and any(
        program.operation(at[host], 0).forward_ns
    )
    edge = program.edges.index((at[host], at[relu]))
    with pytest.raises(AssertionError, match="stands where"):
        program.edge(edge, 0, 1)
    # Free to stand elsewhere it still is rectified where it comes from, and masks by itself.
    alone = program_of(job, [two] * len(names))
    layer = place_network(network, uniform(network, "n2"), 4, 2).layers[relu]
    expected = round(1e9 * masked_seconds(layer, 0, MACHINE))
    assert list(alone.operation(at[relu], 0).forward_ns) == [0, 0]
    assert list(alone.operation(at[relu], 0).backward_ns) == [expected] * 2 and expected
    alone.edge(edge, 0, 1)


@pytest.mark.parametrize("name", ["residual", "inception", "unet", "add"])
def test_a_choice_among_many_is_the_plan_of_one_choice_each(name: str, sample_seed: int) -> None:
    """However it was come by: by proposals from another choice, or as a program of its own."""
    network, rng, procs = build(name), random.Random(f"{sample_seed} {name}"), 4
    job, names = Job(network, MACHINE, procs, 4), [node.name for node in network.nodes]
    rows = [drawn(network, 4, procs, rng) for _ in range(3)]
    leaders = list(range(len(names)))
    for relu, host in absorbed_by(network).items():
        leaders[relu] = leaders[host]
        for row in rows:
            row[names[relu]] = row[names[host]]
    schemes = [[row[n] for row in rows] for n in names]
    program, wiring = program_of(job, schemes, leaders), wiring_of(network)
    picks, counts = [0] * len(names), [len(row) for row in schemes]
    choice = tuple(wiring.configuration(x, picks, counts) for x in range(len(wiring.operations)))
    simulator = Simulator(program, choice)
    for _ in range(25):
        leader = rng.choice(sorted(set(leaders)))
        moved = [i for i in range(len(names)) if leaders[i] == leader]
        pick = rng.randrange(3)
        for i in moved:
            picks[i] = pick
        seconds = simulator.propose_all(wiring.change(moved, picks, counts))
        plan = {n: schemes[i][picks[i]] for i, n in enumerate(names)}
        assert seconds == simulate_plan(job, plan).cost_s
        simulator.accept()


def test_a_relay_names_its_readers_by_one_number() -> None:
    wiring = wiring_of(build("inception"))
    counts = [2 + i % 3 for i in range(len(wiring.at))]
    (node,) = [i for i, uses in enumerate(wiring.uses) if len(uses) > 1]
    readers = wiring.readers(node)
    rng = np.random.default_rng(0)
    for _ in range(20):
        picks = [int(rng.integers(n)) for n in counts]
        number = wiring.configuration(wiring.relay[node], picks, counts)
        assert wiring.picked(node, number, counts) == {r: picks[r] for r in readers}
        assert wiring.change([readers[1]], picks, counts) == {
            wiring.at[readers[1]]: picks[readers[1]], wiring.relay[node]: number
        }  # fmt: skip
