"""Cost vectors against what single placed layers cost, rank by rank."""

from __future__ import annotations

import numpy as np
import pytest

from gridnn.cost.blocks import multiply_adds as block_multiply_adds
from gridnn.cost.compute import pass_seconds
from gridnn.cost.grids import Grids
from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.profile import PASSES
from gridnn.cost.tables import CostTables
from gridnn.cost.traffic import predict_step, received
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.traffic import Traffic
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.count import multiply_adds
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.plan.problem import Job, Problem
from gridnn.plan.space import grids_of

BYTES = Machine("bytes", "test", "2026-11-21", 1e9, 0.0, 0.0, 1 << 30, (Level("all", 0, 0.0, 1.0),), BEST)
RATES = Machine("rates", "test", "2026-11-21", 1e9, 1e-9, 1e-5, 1 << 30, (Level("all", 0, 1e-6, 1e-9),), BEST)
TWO_LEVELS = Machine(
    "two", "test", "2026-11-21", 1e10, 1e-10, 1e-5, 1 << 30,
    (Level("node", 4, 1e-6, 1e-10), Level("network", 0, 5e-6, 1e-9, 1)), BEST,
)  # fmt: skip


def residual() -> Network:
    net = Builder("residual", (3, 16, 16))
    x = net.relu(net.batch_norm(net.conv(net.input, 16, 3, pad=1)))
    y = net.relu(net.batch_norm(net.conv(x, 16, 3, pad=1)))
    x = net.relu(net.add(x, net.conv(y, 16, 1)))
    z = net.concat(net.conv(x, 16, 3, stride=2, pad=1), net.max_pool(x, 2))
    z = net.global_pool(net.relu(z))
    return net.done(net.cross_entropy(net.linear(z, 16)))


def plain() -> Network:
    net = Builder("plain", (4, 16, 16))
    x = net.max_pool(net.relu(net.conv(net.input, 16, 5, pad=2)), 2)
    x = net.relu(net.linear(net.flatten(x), 64))
    return net.done(net.cross_entropy(net.linear(x, 16)))


def translator() -> Network:
    return zoo.build("nmt", (1, 16), 48, hidden=24, pieces=2)


def of(traffic: Traffic, layer: str, collectives: tuple[str, ...]) -> int:
    return sum(
        v.received_bytes for k, v in traffic.items() if k.layer == layer and k.collective in collectives
    )


@pytest.mark.parametrize("network", [residual(), plain(), translator()], ids=lambda n: n.name)
@pytest.mark.parametrize("procs", [4, 8, 6, 3])
def test_a_layer_computes_as_long_as_its_slowest_rank(network, procs):
    job = Job(network, RATES, procs, 24)
    for node in network.nodes:
        grids = grids_of(network, node, 24, procs)
        inputs = [network.shapes[i] for i in node.inputs]
        first = set(node.inputs) == {"input"}
        shares = bool(node.shared)
        costs = job.tables().layer(
            node.spec, inputs, network.shapes[node.name], grids, first=first, shares=shares
        )
        update = costs.compute_s * 0
        for i in range(len(grids)):
            scheme = grids.scheme(i)
            placed = place_network(network, dict.fromkeys([n.name for n in network.nodes], scheme), 24, procs)
            layer = next(x for x in placed.layers if x.node is node)
            slowest = max(
                sum(pass_seconds(layer, rank, RATES, p) for p in PASSES) for rank in range(scheme.grid.size)
            )
            elements = sum(np.prod(p.layout.block_shape(0)) for p in layer.placement.parameters)
            update[i] = elements * 3 * RATES.touch_s_per_element
            assert costs.compute_s[i] == pytest.approx(slowest + update[i], rel=0.08), (node, str(scheme))


@pytest.mark.parametrize("grid", ["n4", "k4", "n2 k2", "c4", "n2 h2", "k2 c2", "h2 w2"])
def test_sums_move_the_bytes_of_the_ledger(grid):
    network, batch = plain(), 8
    shape = GridShape.parse(grid)
    rows = Grids(np.array([shape.sizes], dtype=np.int64))
    tables = CostTables(BYTES, batch, 4, 4, bucket_bytes=1)
    placed = place_network(network, {n.name: rows.scheme(0) for n in network.nodes}, batch, 4)
    steps = [predict_step(placed, rank, 4) for rank in range(4)]
    for node in network.nodes[:-1]:
        costs = tables.layer(
            node.spec, [network.shapes[i] for i in node.inputs], network.shapes[node.name], rows
        )
        counted = (
            sum(of(step, node.name, ("allreduce",)) for step in steps) / 4
        )  # a bucket is not cut by layer
        assert costs.gradients_s[0] == pytest.approx(counted, rel=0.02), node.name
    whole = max(s.received_bytes for s in steps)
    total = Problem(Job(network, BYTES, 4, batch), [rows] * len(network.nodes))
    edges = sum(total.edge(*e)[0, 0] for e in total.edges)
    layers = sum(c.gradients_s[0] + c.settle_s[0] + c.statistics_s[0] for c in total.layers)
    assert edges + layers == pytest.approx(whole, rel=0.35)  # each layer's busiest rank, not one rank's sum
    assert edges + layers >= whole * 0.97


@pytest.mark.parametrize("grid", ["n4", "k4", "n2 k2", "c2 k2", "n2 c2", "k2 w2", "n2 w2"])
def test_what_moves_inside_a_layer_takes_the_time_of_its_bytes(grid):
    """At a second a byte: states of an LSTM, products of attention, terms of an embedding, one rank's, both ways."""
    network, batch = translator(), 8
    scheme = Scheme(GridShape.parse(grid))
    rows = Grids(np.array([scheme.grid.sizes], dtype=np.int64))
    placed = place_network(network, {n.name: scheme for n in network.nodes}, batch, 4)
    moved = 0
    for layer in placed.layers[:-1]:
        node = layer.node
        inputs = [network.shapes[i] for i in node.inputs]
        costs = CostTables(BYTES, batch, 4, 4, passes=3).layer(
            node.spec, inputs, network.shapes[node.name], rows
        )
        inside = [(1, layer.settle), *((i.times, i.exchange) for i in layer.placement.inner)]
        both = [(times, e) for times, x in inside if x.kind != "none" for e in (x, x.transpose())]
        elements = max(sum(t * received(e.source, e.target, rank)[1] for t, e in both) for rank in range(4))
        assert costs.settle_s[0] == pytest.approx(3 * 4 * elements, rel=1e-12), node.name
        moved += elements
    assert bool(moved) == ("k" in grid or "c" in grid)


@pytest.mark.parametrize("network", [residual(), plain(), translator()], ids=lambda n: n.name)
@pytest.mark.parametrize("grid", ["n1", "n2", "k2", "c2", "w2", "h2", "n2 k2 w2"])
def test_one_count_of_multiply_adds(network, grid):
    """The formula over many blocks against the one of a placed layer."""
    scheme = Scheme(GridShape.parse(grid))
    placed = place_network(network, {n.name: scheme for n in network.nodes}, 8, 8)
    kinds = Builder("kinds", (8, 8, 8))
    x = kinds.conv_transpose(kinds.conv(kinds.input, 16, 3, pad=1, groups=4), 8, 2, stride=2)
    more = kinds.done(kinds.cross_entropy(x))
    others = place_network(more, {n.name: scheme for n in more.nodes}, 8, 8)
    for layer in (*placed.layers, *others.layers):
        place, spec = layer.placement, layer.node.spec
        blocks = [[np.array([float(e)]) for e in need.block_shape(0)] for need in place.needs]
        out = [np.array([float(e)]) for e in place.raw.block_shape(0)]
        weight = place.parameters[0].layout.block_shape(0) if place.parameters else None
        kernel = None if weight is None else np.array([float(np.prod(weight[1:]))])
        assert block_multiply_adds(spec, blocks, out, kernel)[0] == multiply_adds(spec, place, 0), (
            layer.node.name
        )


def test_what_a_layer_keeps_is_what_the_walk_of_a_step_takes():
    """Memory of the kinds that sequences add: LSTM and attention, at rest in a search and in a run."""
    network, batch = translator(), 8
    for grid in ("n1", "n2", "k2", "n2 k2"):
        scheme = Scheme(GridShape.parse(grid))
        placed = place_network(network, {n.name: scheme for n in network.nodes}, batch, 4)
        rows = Grids(np.array([scheme.grid.sizes], dtype=np.int64))
        for layer in placed.layers:
            if not isinstance(layer.node.spec, s.LSTM | s.Attention):
                continue
            node, place = layer.node, layer.placement
            inputs = [network.shapes[i] for i in node.inputs]
            costs = CostTables(BYTES, batch, 4, 4, states=0).layer(
                node.spec, inputs, network.shapes[node.name], rows, shares=bool(node.shared)
            )
            arrays = [*place.needs, *place.kept, *(p.layout for p in place.parameters for _ in range(2))]
            assert costs.memory_bytes[0] == 4 * sum(np.prod(a.block_shape(0)) for a in arrays), node.name


@pytest.mark.parametrize("machine", [BYTES, RATES, TWO_LEVELS], ids=lambda m: m.name)
@pytest.mark.parametrize("network", [residual(), plain()], ids=lambda n: n.name)
@pytest.mark.parametrize("procs", [4, 16])
def test_a_floor_is_below_every_edge(machine, network, procs):
    job = Job(network, machine, procs, 32)
    grids = [grids_of(network, node, 32, procs) for node in network.nodes]
    problem = Problem(job, grids)
    positive = False
    for edge in problem.edges:
        floor, seconds = problem.floor(*edge), problem.edge(*edge)
        assert (floor <= seconds.min(axis=0) * (1 + 1e-9) + 1e-18).all(), edge
        positive = positive or bool((floor > 0).any())
    assert positive


def test_bytes_between_nodes_cost_more_than_inside():
    network = plain()
    job = Job(network, TWO_LEVELS, 8, 32)
    problem = Problem(job, [grids_of(network, node, 32, 8) for node in network.nodes])
    fc = next(i for i, n in enumerate(network.nodes) if n.name == "linear1")
    grids = problem.candidates[fc].degrees.tolist()
    inside, across = grids.index([2, 4, 1, 1, 1, 1]), grids.index([1, 8, 1, 1, 1, 1])
    edge = next(e for e in problem.edges if e[1] == fc)
    source = problem.candidates[edge[0]].degrees.tolist()
    same = problem.edge(*edge)
    assert same[source.index([2, 4, 1, 1, 1, 1]), inside] < same[source.index([1, 8, 1, 1, 1, 1]), across]
