"""Two widths of elements: activations in two bytes, sums and parameters in four; one width is the same as ever."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gridnn.cost.grids import Grids
from gridnn.cost.machine import BEST, Level, Machine, load_machine
from gridnn.cost.memory import predict_memory
from gridnn.cost.price import price_plan
from gridnn.cost.tables import CostTables
from gridnn.cost.traffic import predict_forward, predict_step, received
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Widths, widths_of
from gridnn.network.graph import Builder
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.zoo import usual
from gridnn.plan.outcome import outcome
from gridnn.plan.problem import Job, Problem
from tests.support.laws import random_schemes, uniform_schemes
from tests.support.nets import build

BATCH, RANKS = 5, 4
BF16 = Widths(2, 4)
BYTES = Machine("bytes", "test", "2026-11-22", 1e9, 0.0, 0.0, 1 << 30, (Level("all", 0, 0.0, 1.0),), BEST)
"""A machine on which a byte takes a second and nothing else takes any."""
NETS = ["residual", "inception", "unet", "linear-chain", "global-average", "layer-norm"]


def placed(name: str) -> PlacedNetwork:
    network = build(name)
    schemes = random_schemes(network, RANKS, BATCH, random.Random(f"widths {name}"))
    return place_network(network, schemes, BATCH, RANKS)


def test_one_width_is_two_of_a_kind() -> None:
    assert widths_of(4) == Widths(4, 4) and widths_of(BF16) is BF16
    network = placed("residual")
    assert predict_step(network, 1, 4) == predict_step(network, 1, Widths(4, 4))
    assert predict_memory(network, 1, 4, 1) == predict_memory(network, 1, Widths(4, 4), 1)


@pytest.mark.parametrize("name", NETS)
def test_only_values_on_their_way_are_narrow(name: str) -> None:
    network, narrow = placed(name), 0
    for rank in range(RANKS):
        wanted = dict(predict_step(network, rank, 4).items())
        found = dict(predict_step(network, rank, BF16).items())
        assert found.keys() == wanted.keys()
        for key, volume_ in found.items():
            halved = key.collective in ("halo", "repartition", "allgather") and key.direction != "update"
            assert volume_.messages == wanted[key].messages
            assert volume_.received_bytes * (2 if halved else 1) == wanted[key].received_bytes, key
            narrow += halved
    assert narrow


def test_the_largest_logit_is_compared_in_full() -> None:
    """Classes cut over two ranks: a rank receives as many tops, sums and best classes as there are samples."""
    net = Builder("classes", (7,))
    made = net.done(net.cross_entropy(net.linear(net.input, 4, name="last")))
    whole = place_network(made, uniform_schemes(made, "k2"), 6, 2)
    forward = predict_forward(whole, 0, BF16, train=True, score=True)
    (volume_,) = (found for key, found in forward.items() if key.collective == "allreduce")
    assert volume_.messages == 3 and volume_.received_bytes == 6 * 4 + 18 * 8 + 6 * 8


def test_memory() -> None:
    """Parameters have a copy to multiply by; activations take half; the optimizer's state is as wide as ever."""
    network = placed("residual")
    for rank in range(RANKS):
        wanted, found = predict_memory(network, rank, 4, 2), predict_memory(network, rank, BF16, 2)
        elements = sum(
            volume(p.layout.box(rank)) for layer in network.layers for p in layer.placement.parameters
        )
        assert found.parameters_bytes == wanted.parameters_bytes + 2 * elements
        assert found.state_bytes == wanted.state_bytes
        assert wanted.arrays_bytes / 2 <= found.arrays_bytes < wanted.arrays_bytes


def test_prices_follow_bytes() -> None:
    network, machine = usual("alexnet"), load_machine("h100")
    for grid in ("n4", "h4", "k4", "n2 h2"):
        whole = place_network(network, uniform_schemes(network, grid), 64, 4)
        full, half = (price_plan(whole, machine, widths) for widths in (4, BF16))
        for x, y in zip(full.layers, half.layers, strict=True):
            for a, b in zip(x.movements, y.movements, strict=True):
                values = a.collective in ("halo", "repartition", "allgather") and a.direction != "update"
                assert (b.seconds < a.seconds) if values else (b.seconds == a.seconds), (x.name, a, b)
        assert half.received_bytes <= full.received_bytes and half.compute_s == full.compute_s


@pytest.mark.parametrize("grid", ["n4", "k4", "n2 k2", "c4", "k2 c2", "n2 h2"])
def test_tables_of_a_search_are_as_wide(grid: str) -> None:
    """Terms on their way to rest take four bytes there and values two back; gradients four; the rest is edges."""
    net = Builder("plain", (4, 16, 16))
    x = net.max_pool(net.relu(net.conv(net.input, 16, 5, pad=2)), 2)
    network = net.done(net.cross_entropy(net.linear(net.relu(net.linear(net.flatten(x), 64)), 16)))
    scheme = Scheme(GridShape.parse(grid))
    rows = Grids(np.array([scheme.grid.sizes], dtype=np.int64))
    whole = place_network(network, {n.name: scheme for n in network.nodes}, 8, 4)
    steps = [predict_step(whole, rank, BF16) for rank in range(4)]
    tables = CostTables(BYTES, 8, 4, BF16, bucket_bytes=1)
    for layer in whole.layers[:-1]:
        node = layer.node
        costs = tables.layer(
            node.spec, [network.shapes[i] for i in node.inputs], network.shapes[node.name], rows
        )
        both = [e for e in (layer.settle, layer.settle.transpose()) if e.kind != "none"]
        moved = max(
            sum(received(e.source, e.target, r)[1] * BF16.moved(e.kind) for e in both) for r in range(4)
        )
        assert costs.settle_s[0] == pytest.approx(moved, rel=1e-12), node.name
        summed = sum(
            v.received_bytes for step in steps for k, v in step.items()
            if k.layer == node.name and k.collective == "allreduce"
        )  # fmt: skip
        assert costs.gradients_s[0] == pytest.approx(summed / 4, rel=0.02), node.name
    job = Job(network, BYTES, 4, 8, activation_bytes=2)
    assert job.widths == BF16 and Job(network, BYTES, 4, 8).widths == Widths(4, 4)
    problem = Problem(job, [rows] * len(network.nodes))
    edges = sum(problem.edge(*e)[0, 0] for e in problem.edges)
    layers = sum(c.gradients_s[0] + c.settle_s[0] + c.statistics_s[0] for c in problem.layers)
    most = max(step.received_bytes for step in steps)
    assert most * 0.97 <= edges + layers <= most * 1.35  # each layer's busiest rank, not one rank's sum
    assert outcome(job, {n.name: scheme for n in network.nodes}).received_bytes == most
