"""What moves in a program is what the run exchanges, at the seconds that `cost` has, on the devices it goes through."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gridnn.cost.collectives import allreduce_s, effective_beta, members
from gridnn.cost.compute import pass_seconds
from gridnn.cost.machine import Machine
from gridnn.cost.movement import COLLECTIVE_S
from gridnn.cost.profile import PASSES
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import Interval, volume
from gridnn.geometry.layout import Dim, Layout, cut
from gridnn.network import spec as s
from gridnn.network.graph import Builder
from gridnn.network.placed import place_network
from gridnn.network.zoo import build as build_zoo
from gridnn.plan.problem import Job
from gridnn.plan.simulate.boxes import boxes_of, kind_of, overlaps
from gridnn.plan.simulate.build import program_of, simulate_plan
from gridnn.plan.simulate.flows import movement, worst_s
from gridnn.plan.simulate.links import Links
from gridnn.plan.simulate.timeline import timeline
from tests.plan.jobs import FREE, MACHINE, chain, drawn, parted, price, spent, uniform
from tests.support.nets import NETS, build


def exchange_s(exchange: Exchange, machine: Machine, itemsize: int, procs: int) -> float:
    """Return the seconds of the slowest rank, piece by piece."""
    if exchange.kind in COLLECTIVE_S:
        full = exchange.target if exchange.kind == "allgather" else exchange.source
        return max(
            float(
                COLLECTIVE_S[exchange.kind](
                    machine, members(machine, g), volume(full.box(g[0])) * itemsize, procs
                )
            )
            for g in exchange.groups
        )
    found = []
    for rank in exchange.ranks:
        for pieces in (exchange.receives(rank), exchange.sends(rank)):
            seconds = 0.0
            for peer, box in pieces:
                if peer != rank:
                    level = sum(rank // unit != peer // unit for unit in machine.units)
                    beta = float(effective_beta(machine, level, procs))
                    seconds += machine.levels[level].alpha_s + beta * itemsize * volume(box)
            found.append(seconds)
    return max(found)


@pytest.mark.parametrize("name", NETS)
def test_a_movement_is_the_exchange_of_the_run(name: str, sample_seed: int) -> None:
    """Volumes, kind and seconds, on grids of any size on any ranks."""
    network, rng, procs = build(name), random.Random(f"{sample_seed} {name}"), 6
    free, shared = Links(FREE, procs), Links(MACHINE, procs)
    placed = place_network(network, drawn(network, 5, procs, rng), 5, procs)
    exchanges = [e.exchange for e in placed.edges if e.exchange] + [layer.settle for layer in placed.layers]
    for exchange in exchanges:
        source, target = boxes_of(exchange.source), boxes_of(exchange.target)
        got = overlaps(source, target)
        if exchange.source == exchange.target:
            assert not (got * (source.ranks[:, None] != target.ranks)).any()
            continue
        for rank, column in zip(target.ranks.tolist(), got.T, strict=True):
            pieces = {p: volume(box) for p, box in exchange.receives(rank)}
            assert dict(zip(source.ranks.tolist(), column.tolist(), strict=True)) == {
                **dict.fromkeys(source.ranks.tolist(), 0), **pieces
            }  # fmt: skip
        moved = movement(free, source, target, 4)
        assert bool(moved.forward) == bool(moved.backward) == (exchange.kind != "none")
        if not moved.forward:
            continue
        kind = kind_of(source, target, got)
        assert kind == (exchange.kind if exchange.kind in COLLECTIVE_S else "other")
        for lanes, e in ((moved.forward, exchange), (moved.backward, exchange.transpose())):
            assert worst_s(lanes) == pytest.approx(exchange_s(e, FREE, 4, procs))
        # With few streams out of a node a movement takes at most what it takes when all ranks talk.
        busy = movement(shared, source, target, 4)
        for lanes, e in ((busy.forward, exchange), (busy.backward, exchange.transpose())):
            assert 0 < worst_s(lanes) <= exchange_s(e, MACHINE, 4, procs) * (1 + 1e-12)


def test_blocks_of_which_only_a_part_is_wanted_are_no_all_gather() -> None:
    """As where a concatenation reads the middle of a producer's channels."""
    scheme = Scheme(GridShape.of(k=2))
    source = Layout(scheme, (cut(4, scheme.grid, ("k",)),))
    for want, kind in ((Interval(0, 4), "allgather"), (Interval(1, 3), "repartition")):
        target = Layout(scheme, (Dim(4, (), (want,)),))
        assert Exchange(source, target).kind == kind
        boxes = boxes_of(source), boxes_of(target)
        found = kind_of(*boxes, overlaps(*boxes))
        assert found == (kind if kind == "allgather" else "other")


def test_sums_within_layers() -> None:
    """Batch norm sums two numbers a channel both ways, and its gradients with them; the loss sums forward alone."""
    net = Builder("sums", (4, 8, 8))
    x = net.batch_norm(net.conv(net.input, 8, 1, name="conv"), name="norm")
    network = net.done(net.cross_entropy(net.linear(net.flatten(x), 10, name="last")))
    job = Job(network, FREE, 2, 12, 3)
    schemes = uniform(network, "n2") | {"last": Scheme(GridShape.of(k=2)), "loss": Scheme(GridShape.of(k=2))}
    program = program_of(job, [[schemes[node.name]] for node in network.nodes])
    cost = {name: program.operation(at, 0) for at, name in enumerate(program.operations)}
    both_s = float(allreduce_s(FREE, (2, 2), 2 * 8 * 8, 2))
    (after,), (ahead,) = cost["norm"].after_forward, cost["norm"].before_backward
    assert list(ahead.ns) == [round(1e9 * both_s)] * 2
    assert list(after.ns) == [round(1e9 * (3 + 2) * both_s)] * 2  # of three passes two are over
    assert cost["conv"].gradients and not cost["norm"].gradients and any(cost["norm"].update_ns)
    loss_s = [float(allreduce_s(FREE, (2, 2), nbytes, 2)) for nbytes in (4 * 4, 3 * 8 * 4)]  # of 4 samples
    assert sum(sum(g.ns) for g in cost["loss"].after_forward) == pytest.approx(2e9 * 3 * sum(loss_s), abs=2)
    assert not cost["loss"].before_backward and not cost["last"].gradients


def test_movements_inside_a_layer_are_made_as_often_as_it_says() -> None:
    """An LSTM under "k2" gathers its hidden state before each step."""
    network = build_zoo("rnnlm", (1, 8), 30, hidden=16, pieces=2)
    job = Job(network, FREE, 2, 4)
    priced = {layer.name: layer for layer in price(job, uniform(network, "k2")).layers}
    program = program_of(job, [[Scheme(GridShape.of(k=2))]] * len(network.nodes))
    found = dict(
        zip(
            program.operations, (program.operation(i, 0) for i in range(len(program.operations))), strict=True
        )
    )
    inside = [name for name, layer in priced.items() if layer.moved_s("forward", "settle")]
    assert any(node.name in inside and isinstance(node.spec, s.LSTM) for node in network.nodes)
    for name in inside:
        for groups, direction in (
            (found[name].after_forward, "forward"),
            (found[name].before_backward, "backward"),
        ):
            assert sum(max(g.ns) for g in groups) == pytest.approx(
                1e9 * priced[name].moved_s(direction, "settle"), abs=9
            )


def test_ranks_of_a_node_share_a_stream_only_with_those_that_talk() -> None:
    """Under "k2 c2" half of the ranks receive from the other node, twice as much; price takes all to do so at once."""
    network, schemes = chain(), parted(chain(), "k2 c2")
    shared, free = (Job(network, replace(m, touch_s_per_element=0), 4, 8) for m in (MACHINE, FREE))
    assert simulate_plan(free, schemes).cost_s == pytest.approx(price(free, schemes).step_s, abs=2e-8)
    assert simulate_plan(shared, schemes).cost_s == pytest.approx(price(free, schemes).step_s, rel=0.03)
    assert price(shared, schemes).step_s > 1.3 * price(free, schemes).step_s


def test_a_rank_that_many_read_from_sends_one_after_the_other() -> None:
    network = chain(64)
    schemes = parted(network, "1 | n4 | n4")
    found = timeline(simulate_plan(Job(network, FREE, 4, 8), schemes))
    nbytes = 2 * 64 * 4  # to each of three
    expected = round(1e9 * (1e-6 + 1e-9 * nbytes + 2 * (5e-6 + 1e-8 * nbytes)))
    assert spent(found, "relu1 to linear2", "send") == [("rank 0 out", expected)]
    assert spent(found, "relu1 to linear2", "return") == [("rank 0 in", expected)]


def test_two_movements_out_of_a_node_wait_for_its_only_stream() -> None:
    """Ranks 0 and 1 of one node give to ranks 2 and 3 of the other, each for itself, at the same time."""
    net = Builder("pair", (256,))
    a, b = (net.linear(net.input, 256, bias=False, name=name) for name in ("a", "b"))
    c, d = net.linear(a, 256, bias=False, name="c"), net.linear(b, 256, bias=False, name="d")
    network = net.done(net.squared_error(net.add(c, d)))
    one = {name: Scheme(GridShape(), rank) for rank, name in enumerate("abcd")}
    schemes = {node.name: one.get(node.name, one["d"]) for node in network.nodes}
    found = timeline(simulate_plan(Job(network, MACHINE, 4, 8), schemes))
    sends = [t for t in found if t.operation in ("a to c", "b to d") and t.phase == "send"]
    on = {t.operation: (t.start_ns, t.end_ns) for t in sends if t.device == "node 1 network in 0"}
    carried = round(1e9 * 1e-8 * 8 * 256 * 4)
    start = on["a to c"][0]
    assert on == {"a to c": (start, start + carried), "b to d": (start + carried, start + 2 * carried)}
    ports = {t.device: t.end_ns - t.start_ns for t in sends if t.device != "node 1 network in 0"}
    assert ports == {"rank 2 in": 5000 + carried, "rank 3 in": 5000 + carried}


def test_ranks_with_larger_blocks_take_longer() -> None:
    job = Job(build("conv3"), MACHINE, 3, 5)
    program = program_of(job, [[Scheme(GridShape.of(n=3))]] * len(job.network.nodes))
    placed = place_network(job.network, uniform(job.network, "n3"), 5, 3)
    for at, layer in enumerate(placed.layers):
        cost = program.operation(at, 0)
        seconds = [[pass_seconds(layer, rank, MACHINE, p) for rank in range(3)] for p in PASSES]
        assert list(cost.forward_ns) == [round(1e9 * x) for x in seconds[0]]
        assert list(cost.backward_ns) == [round(1e9 * (a + b)) for a, b in zip(*seconds[1:], strict=True)]
    assert len(set(program.operation(0, 0).forward_ns)) == 2  # two samples, or one
