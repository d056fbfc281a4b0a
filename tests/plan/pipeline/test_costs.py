"""Costs of stages: together they are the price of the plan, and what crosses is counted and priced by itself."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

import pytest

from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.memory import _Walk, predict_memory
from gridnn.cost.price import price_plan
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Widths
from gridnn.network.graph import INPUT, Builder, Network
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.stages import Stages, cut_network
from gridnn.plan.pipeline.stagecost import kept_arrays, pipeline_cost
from tests.cost.test_tables import RATES, TWO_LEVELS, plain, residual, translator
from tests.plan.jobs import drawn, uniform

HALF = replace(TWO_LEVELS, overlap=0.5)


def staged(network: Network, first: list[str], grids: list[str], batch: int) -> tuple[PlacedNetwork, Stages]:
    """Place a network in stages with one grid each, one stage's ranks behind another's."""
    stages, schemes, at = cut_network(network, first), {}, 0
    for k, words in enumerate(grids):
        grid = GridShape.parse(words)
        schemes.update({name: Scheme(grid, at) for name in stages.layers(k)})
        at += grid.size
    return place_network(network, schemes, batch, at), stages


@pytest.mark.parametrize("network", [plain(), residual(), translator()], ids=lambda n: n.name)
@pytest.mark.parametrize("machine", [RATES, TWO_LEVELS, HALF], ids=["rates", "two", "half"])
@pytest.mark.parametrize(("passes", "cut"), [(1, False), (4, False), (3, True)])
def test_one_stage_costs_what_the_plan_costs(network, machine, passes, cut):
    for grid in ("n4", "n2 k2", "n2 w2"):
        placed = place_network(network, uniform(network, grid), 8, 4)
        stages = cut_network(network, [network.nodes[0].name])
        options = {"states": 2, "bucket_bytes": 1 << 12, "cut_optimizer": cut}
        cost = pipeline_cost(placed, stages, machine, 4, passes, **options)
        assert cost.transfers == ()
        (one,) = cost.stages
        price = price_plan(placed, machine, 4, passes, **options)
        assert passes * (one.forward_s + one.backward_s) + one.update_s == pytest.approx(
            price.overlapped_s, rel=1e-12
        )


@pytest.mark.parametrize("width", [4, Widths(2, 4)])
def test_what_crosses_is_counted_as_a_run_counts_it(width):
    """Data parallel stages move nothing by exchanges but what crosses: the ledger's repartitions are the transfers."""
    for network, first in ((plain(), ["linear1"]), (residual(), ["conv2", "conv4"])):
        placed, stages = staged(network, first, ["n4", "n2", "n3"][: len(first) + 1], 12)
        cost = pipeline_cost(placed, stages, RATES, width, 1)
        counted = {"forward": 0, "backward": 0}
        for rank in range(placed.procs):
            for key, moved in predict_step(placed, rank, width).items():
                if key.collective in ("repartition", "halo"):
                    counted[key.direction] += moved.received_bytes
        assert sum(t.forward_bytes for t in cost.transfers) == counted["forward"] > 0
        assert sum(t.backward_bytes for t in cost.transfers) == counted["backward"] > 0


@pytest.mark.parametrize("grids", [["n4", "k3"], ["n2 k2", "c2"], ["h2", "n2 k2"], ["1", "1"]])
def test_bytes_of_a_transfer_are_the_boxes_that_are_needed(grids):
    """Stages share no rank, so all of every needed box is sent, and a gradient for all of it comes back."""
    placed, stages = staged(plain(), ["linear1"], grids, 12)
    cost = pipeline_cost(placed, stages, RATES, 8, 2)
    (edge,) = (e for e in placed.edges if e.owner == "linear1")
    boxes = sum(volume(edge.need.box(rank)) for rank in range(placed.procs))
    (found,) = cost.transfers
    assert (found.source, found.target) == (0, 1)
    assert found.forward_bytes == found.backward_bytes == 8 * boxes


def test_seconds_of_a_transfer_are_those_of_its_link():
    near = Machine(
        "m", "s", "d", 1e9, 0.0, 0.0, 1,
        (Level("node", 2, 1e-6, 1e-9), Level("network", 0, 1e-5, 1e-8, 1)), BEST,
    )  # fmt: skip
    net = Builder("two", (32,))
    network = net.done(net.squared_error(net.linear(net.linear(net.input, 64), 8)))
    for ahead, alpha, beta in ((0, 1e-6, 1e-9), (1, 1e-5, 2e-8)):  # two ranks of a node share its link
        first = {"linear1": 0, "linear2": 1 + ahead, "loss": 1 + ahead}
        schemes = {name: Scheme(GridShape(), rank) for name, rank in first.items()}
        placed = place_network(network, schemes, 10, 3)
        (found,) = pipeline_cost(placed, cut_network(network, ["linear2"]), near, 4, 1).transfers
        assert found.forward_s == found.backward_s == pytest.approx(alpha + beta * 10 * 64 * 4)


def test_an_output_goes_to_every_stage_that_reads_it_and_not_through_others():
    net = Builder("skip", (8,))
    a = net.linear(net.input, 8)
    b = net.linear(a, 8)
    c = net.linear(b, 8)
    network = net.done(net.squared_error(net.linear(net.add(a, c), 8)))
    placed, stages = staged(network, ["linear2", "linear3", "add1"], ["1", "1", "n2", "k2"], 4)
    cost = pipeline_cost(placed, stages, RATES, 4, 1)
    assert [t[:2] for t in cost.transfers] == [(0, 1), (0, 3), (1, 2), (2, 3)]
    straight = {t[:2]: t.forward_bytes for t in cost.transfers}
    assert straight[0, 3] == 4 * 8 * 4  # halves of the channels on each of two ranks
    assert straight[1, 2] == 4 * 8 * 4


def test_stages_cost_what_their_layers_cost_alone():
    """Moving a stage to other ranks of a flat machine changes nothing: each costs as when the others were not there."""
    network = plain()
    placed, stages = staged(network, ["linear1"], ["n2 h2", "k2"], 8)
    cost = pipeline_cost(placed, stages, RATES, 4, 1)
    for k, (grid, procs) in enumerate((("n2 h2", 4), ("k2", 2))):
        alone = price_plan(place_network(network, uniform(network, grid), 8, procs), RATES, 4)
        edges = {"linear1"}  # what comes to it from the stage before is a transfer
        forward = sum(
            layer.forward_s + sum(
                m.seconds for m in layer.movements
                if m.direction == "forward" and not (layer.name in edges and m.part == "edge")
                and m.collective != "halo"  # behind the interior
            )
            for layer in alone.layers if layer.name in stages.layers(k)
        )  # fmt: skip
        assert cost.stages[k].forward_s == pytest.approx(forward, rel=0.05)
        assert cost.stages[k].forward_s >= forward - 1e-12


@pytest.mark.parametrize("width", [4, Widths(2, 4)])
@pytest.mark.parametrize("network", [plain(), residual(), translator()], ids=lambda n: n.name)
def test_kept_arrays_are_those_alive_between_forward_and_backward(network, width):
    rng = random.Random(3)
    for at in range(12):
        schemes = drawn(network, 8, 4, rng)
        if network.tied:  # layers of the same weights have one grid
            schemes = uniform(network, ["n4", "n2 k2", "k4", "c4", "n2 c2", "w4"][at % 6])
        placed = place_network(network, schemes, 8, 4)
        for rank in range(4):
            walk = _Walk(placed, rank, width)
            walk.forward()
            arrays = dict(chain.from_iterable(of.items() for of in kept_arrays(placed, rank, width)))
            kept = sum(size for array, size in arrays.items() if not array.startswith(INPUT))
            assert kept == walk.heap.live


def test_memory_of_stages():
    network = residual()
    placed, stages = staged(network, ["conv2", "conv4"], ["n2", "1", "k2"], 8)
    cost = pipeline_cost(placed, stages, RATES, 4, 2, states=2)
    middle = cost.stages[1]  # one rank, so nothing is cut
    weights = sum(volume(p.layout.box(2)) for x in placed.layers for p in x.placement.parameters)
    assert middle.weight_bytes == weights * 4 * (2 + 2)
    # conv2, conv3 and the sum read the output of the first stage, each of them all of it.
    assert middle.input_bytes == 4 * 8 * 16 * 16 * 16
    use = predict_memory(placed, 2, 4, 2)
    assert middle.weight_bytes + middle.kept_bytes + middle.worst_bytes == use.total_bytes
    assert cost.stages[0].input_bytes == 4 * 4 * 3 * 16 * 16  # half of the data
    assert cost.stages[0].kept_bytes > cost.stages[0].input_bytes
    (_, narrow, _) = pipeline_cost(placed, stages, RATES, Widths(2, 4), 2, states=2).stages
    use = predict_memory(placed, 2, Widths(2, 4), 2)
    assert narrow.weight_bytes == weights * (4 * (2 + 2) + 2)  # and copies that products multiply by
    assert narrow.weight_bytes + narrow.kept_bytes + narrow.worst_bytes == use.total_bytes


def test_many_ranks_are_sampled_in_every_stage():
    network = plain()
    placed, stages = staged(network, ["linear1", "linear2"], ["n16", "n8", "n8"], 32)
    whole, _ = staged(network, ["linear1", "linear2"], ["n8", "n4", "n4"], 16)
    many, few = (pipeline_cost(p, stages, RATES, 4, 1) for p in (placed, whole))
    for a, b in zip(many.stages, few.stages, strict=True):
        assert a.forward_s == pytest.approx(b.forward_s, rel=1e-9) and a.kept_bytes == b.kept_bytes
    assert sum(t.forward_bytes for t in many.transfers) == 2 * sum(t.forward_bytes for t in few.transfers)


def test_stages_that_share_a_rank_are_refused():
    network = plain()
    schemes = {n.name: Scheme(GridShape.parse("n2"), 1 if n.name == "linear2" else 0) for n in network.nodes}
    placed = place_network(network, schemes, 8, 3)
    with pytest.raises(InputError, match="ranks of its own"):
        pipeline_cost(placed, cut_network(network, ["linear2"]), RATES, 4, 1)
