"""Prices of plans: their bytes are the ledger's, their seconds add up, and hide no more than can be hidden."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from gridnn.cost.collectives import allgather_s, allreduce_s, members, reduce_scatter_s
from gridnn.cost.compute import forward_work, masked_seconds, pass_seconds
from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.price import PlanPrice, price_plan, priced_ranks, spread_ranks
from gridnn.cost.profile import PASSES, BlockShape, Profile, Sample, work_of
from gridnn.cost.traffic import predict_step
from gridnn.geometry.traffic import Key, Volume
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import PlacedNetwork, place_network
from tests.support.laws import random_schemes, uniform_schemes
from tests.support.nets import NETS, build

MACHINE = Machine(
    "m", "s", "d", 1e12, 1e-10, 1e-6, 1,
    (Level("node", 2, 1e-6, 1e-9), Level("network", 0, 5e-6, 1e-8, 1)), BEST,
)  # fmt: skip


def placed_as(network: Network, grid: str, batch: int, procs: int) -> PlacedNetwork:
    return place_network(network, uniform_schemes(network, grid), batch, procs)


def volumes(price: PlanPrice) -> dict[Key, Volume]:
    return {
        Key(layer.name, *m[:3]): Volume(m.messages, m.received_bytes)
        for layer in price.layers
        for m in layer.movements
    }


@pytest.mark.parametrize("name", NETS)
def test_every_movement_of_a_step_has_seconds_and_the_bytes_of_a_rank(name: str, sample_seed: int) -> None:
    """Keys and bytes equal the prediction that the ledger of a run is held to (law 4); seconds are never nothing."""
    network, rng = build(name), random.Random(f"{sample_seed} {name}")
    for procs, passes, cut in ((1, 1, False), (4, 2, False), (6, 1, True)):
        placed = place_network(network, random_schemes(network, procs, 5, rng), 5, procs)
        price = price_plan(placed, MACHINE, 4, passes, bucket_bytes=1000, cut_optimizer=cut)
        predicted = [
            predict_step(placed, rank, 4, passes=passes, bucket_bytes=1000, cut_optimizer=cut)
            for rank in range(procs)
        ]
        keys = {key for traffic in predicted for key, _ in traffic.items()}
        found = volumes(price)
        # A rank may only send: then it takes time under a key of which it receives nothing.
        assert keys <= set(found)
        by_rank = [dict(traffic.items()) for traffic in predicted]
        assert all(any(r.get(key, Volume()) == volume for r in by_rank) for key, volume in found.items())
        assert all(m.seconds > 0 for layer in price.layers for m in layer.movements)
        assert price.received_bytes == max(t.received_bytes for t in predicted)
        assert (price.comm_s == 0) == (procs == 1)
        assert price.step_s == pytest.approx(sum(layer.compute_s + layer.comm_s for layer in price.layers))
        assert 0 < price.overlapped_s <= price.step_s * (1 + 1e-12)
        assert price.overlapped_s >= price.compute_s * (1 - 1e-12)


def test_the_15d_product_by_hand() -> None:
    """Gholami et al. 2018, Eq. 8 with dX scattered: "n2 k2" on nodes of two, so k is inside a node and n between."""
    net = Builder("two", (16,))
    network = net.done(net.squared_error(net.linear(net.linear(net.input, 64, bias=False), 32, bias=False)))
    price = price_plan(placed_as(network, "n2 k2", 8, 4), MACHINE, 4, states=1)
    first, second, _ = price.layers
    along_k, along_n = members(MACHINE, (0, 1)), members(MACHINE, (0, 2))
    assert (along_k, along_n) == ((2, 2), (1, 2))
    x = 4 * 64 * 4  # 64 features of 4 samples
    dw = 4 * (16 * 64 + 64 * 32) / 2  # both in one bucket
    assert {m[:3]: m.seconds for m in second.movements} == pytest.approx({
        ("forward", "allgather", "k"): float(allgather_s(MACHINE, along_k, x, 4)),
        ("backward", "reduce_scatter", "k"): float(reduce_scatter_s(MACHINE, along_k, x, 4)),
        ("backward", "allreduce", "n"): float(allreduce_s(MACHINE, along_n, dw, 4)) * 2 / 3,
    })  # fmt: skip
    flops = 2 * 4 * 64 * 32 / 2
    assert second.forward_s == pytest.approx(1e-6 + flops / 1e12 + 4 * 16 * 1e-10)
    assert second.weights_s == pytest.approx(1e-6 + flops / 1e12)
    assert second.update_s == pytest.approx(3 * 64 * 32 / 2 * 1e-10)
    assert (first.data_s, second.data_s) == (0, second.forward_s)  # the first makes no gradient of the input


def strip(side: int, channels: int) -> Network:
    net = Builder("strip", (channels, side, side))
    x = net.conv(net.conv(net.input, channels, 3, pad=1), channels, 3, pad=1)
    return net.done(net.squared_error(x))


def test_overlap_hides_a_halo_behind_the_interior_and_edges_behind_weights() -> None:
    placed = placed_as(strip(32, 4), "h2", 1, 2)
    price = price_plan(placed, MACHINE, 4)
    conv1, conv2, _ = price.layers
    halo_s, back_s = conv2.moved_s("forward"), conv2.moved_s("backward", "edge")
    assert conv2.interior == 15 / 16 and conv1.interior == 0  # the input is read, halo included
    inside_s = conv2.interior * conv2.forward_s
    hidden_s = min(halo_s, inside_s) + min(back_s, conv2.weights_s)
    sums_s = conv1.moved_s("backward", "gradients") + conv2.moved_s("backward", "gradients")
    # The sum of conv2's share runs behind conv1's gradient by its weights; the rest of both is left over.
    hidden_s += min(
        conv2.moved_s("backward", "gradients"), conv1.weights_s + conv1.moved_s("backward", "edge")
    )
    assert halo_s > 0 and back_s > 0 and sums_s > 0
    assert price.overlapped_s == pytest.approx(price.step_s - hidden_s)


@pytest.mark.parametrize("grid", ["h2", "n4", "n2 h2", "k2"])
def test_where_ranks_carry_bytes_themselves_less_is_hidden(grid: str) -> None:
    """From everything that can be to nothing, ever less; computing is never hidden."""
    placed = placed_as(build("residual"), grid, 4, 4)
    shares = (1.0, 0.7, 0.3, 0.0)
    prices = [price_plan(placed, replace(MACHINE, overlap=share), 4, 2) for share in shares]
    found = [price.overlapped_s for price in prices]
    assert found == sorted(found) and found[0] < found[-1]
    assert all(price.step_s == prices[0].step_s for price in prices)
    assert found[-1] == pytest.approx(prices[-1].step_s)


def test_passes_repeat_all_but_sums_and_update() -> None:
    placed = placed_as(build("residual"), "n2 h2", 4, 4)
    one, three = price_plan(placed, MACHINE, 4), price_plan(placed, MACHINE, 4, 3)
    once_s = sum(layer.moved_s("backward", "gradients") + layer.update_s for layer in one.layers)
    assert three.step_s == pytest.approx(3 * one.step_s - 2 * once_s)


def test_one_rank_is_its_arithmetic_and_the_forward_of_an_absorbed_relu_is_free() -> None:
    placed = placed_as(build("residual"), "1", 4, 1)
    price = price_plan(placed, MACHINE, 4, states=0)
    assert [price.step_s, price.overlapped_s] == pytest.approx([price.compute_s] * 2)
    free = [layer.name for layer in price.layers if layer.forward_s == 0]
    assert free and all(name.startswith("relu") for name in free)
    assert all(layer.data_s > 0 for layer in price.layers if layer.name in free)  # gradients are masked
    every = sum(
        masked_seconds(layer, 0, MACHINE) if layer.node.name in free
        else sum(pass_seconds(layer, 0, MACHINE, p) for p in PASSES)
        for layer in placed.layers
    )  # fmt: skip
    assert sum(layer.compute_s - layer.update_s for layer in price.layers) == pytest.approx(every)


def test_what_was_measured_comes_before_the_rates() -> None:
    placed = placed_as(strip(8, 4), "n2", 4, 2)
    layer = placed.layers[1]
    x = y = (2, 4, 8, 8)
    family = work_of(layer.node.spec, np.array([x]), np.array([y])).family
    sample = Sample(family, x, y, 2 * 2 * 4 * 64 * 36, 1, 1e-3, 2e-3, 3e-3)
    machine = replace(MACHINE, profile=Profile("s", "d", (sample,)))
    assert BlockShape(layer.placement.needs[0].block_shape(0), layer.placement.raw.block_shape(0)) == (x, y)
    assert [pass_seconds(layer, 0, machine, p) for p in PASSES] == [1e-3, 2e-3, 3e-3]
    loss = placed.layers[-1]
    assert pass_seconds(loss, 0, machine, "forward") == pass_seconds(loss, 0, MACHINE, "forward")
    assert price_plan(placed, machine, 4).layers[1].forward_s == 1e-3


def test_a_rank_outside_a_scheme_computes_nothing() -> None:
    network = build("residual")
    placed = place_network(network, uniform_schemes(network, "n2"), 4, 3)
    layer = placed.layers[0]
    assert pass_seconds(layer, 2, MACHINE, "forward") == 0 < pass_seconds(layer, 1, MACHINE, "forward")
    assert forward_work(layer, 2) == (0, 0)


def test_many_ranks_are_sampled_from_the_first_to_the_last() -> None:
    assert priced_ranks(16) == tuple(range(16))
    ranks = priced_ranks(1024)
    assert len(ranks) == 8 and ranks[0] == 0 and ranks[-1] == 1023 and len({r % 2 for r in ranks}) == 2
    assert [spread_ranks(n, 4) for n in (1, 2, 4, 16)] == [(0,), (0, 1), (0, 1, 2, 3), (0, 5, 10, 15)]


def test_few_ranks_never_cost_more_than_all() -> None:
    placed = placed_as(build("residual"), "n2 h2", 4, 4)
    every = price_plan(placed, MACHINE, 4)
    assert every.ranks == (0, 1, 2, 3)
    assert price_plan(placed, MACHINE, 4, ranks=(1,)).step_s <= every.step_s


def test_a_sender_to_many_takes_its_time() -> None:
    """One rank gives four what it has: it receives nothing forward, and all wait for it."""
    net = Builder("fan", (64,))
    network = net.done(net.squared_error(net.linear(net.linear(net.input, 64, bias=False), 4, bias=False)))
    schemes = uniform_schemes(network, "k4") | {"linear1": uniform_schemes(network, "1")["linear1"]}
    price = price_plan(place_network(network, schemes, 8, 4), MACHINE, 4)
    (moved,) = [m for m in price.layers[1].movements if m.direction == "forward"]
    assert moved.seconds >= 3 * 8 * 64 * 4 * 1e-9
