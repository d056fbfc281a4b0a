"""The formulas against the paper's, and against what a step really lists, message by message."""

from __future__ import annotations

import random
from itertools import product
from math import prod

import pytest

from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.price import price_plan
from gridnn.cost.traffic import predict_step, received
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.placement import rest
from tests.support.factor import factorisations
from tests.support.laws import random_schemes, uniform_schemes
from tests.support.nets import NETS, build


def perceptron(*widths: int) -> Network:
    net = Builder("perceptron", (widths[0],))
    x = net.input
    for width in widths[1:]:
        x = net.linear(x, width, bias=False)
    return net.done(net.squared_error(x))


def by_collective(network: Network, grid: str, batch: int, rank: int = 0) -> dict[tuple[str, str, str], int]:
    shape = GridShape.parse(grid)
    placed = place_network(network, uniform_schemes(network, grid), batch, shape.size)
    found: dict[tuple[str, str, str], int] = {}
    for key, volume_ in predict_step(placed, rank, 4).items():
        name = (key.layer, key.direction, key.collective)
        found[name] = found.get(name, 0) + volume_.received_bytes
    return found


def test_the_15d_product_moves_what_the_paper_says() -> None:
    """Gholami et al. 2018, Eq. 8, with dX reduce-scattered (docs/decisions/0011): B = 32, Pr = 4, Pc = 2."""
    d0, d1, d2, batch, pr, pc = 16, 64, 32, 32, 4, 2
    found = by_collective(perceptron(d0, d1, d2), f"n{pc} k{pr}", batch)
    x1 = 4 * (pr - 1) * d1 * batch // pr // pc
    assert found == {
        ("linear2", "forward", "allgather"): x1,
        ("linear2", "backward", "reduce_scatter"): x1,
        ("linear1", "backward", "allreduce"): 4 * 2 * (pc - 1) * d0 * d1 // pr // pc,
        ("linear2", "backward", "allreduce"): 4 * 2 * (pc - 1) * d1 * d2 // pr // pc,
    }


def test_pure_batch_moves_weights_only() -> None:
    """Gholami et al. 2018, Eq. 4: 2 (P-1)/P |W| a rank; in a bucket a layer's part may lie on other ranks' blocks."""
    found = [by_collective(perceptron(16, 64, 32), "n4", 8, rank) for rank in range(4)]
    for name, size in (("linear1", 16 * 64), ("linear2", 64 * 32)):
        assert sum(f[name, "backward", "allreduce"] for f in found) == 4 * 2 * 3 * size
    assert {sum(f.values()) for f in found} == {4 * 2 * 3 * (16 * 64 + 64 * 32) // 4}


def test_alternating_k_and_c_needs_no_gather_of_activations() -> None:
    network, batch = perceptron(16, 64, 32, 64, 32), 8
    schemes = {
        n.name: Scheme(GridShape.parse("k4" if n.name in ("linear1", "linear3") else "c4"))
        for n in network.nodes
    }
    placed = place_network(network, schemes, batch, 4)
    forward = {
        (k.layer, k.collective): v.received_bytes
        for k, v in predict_step(placed, 0, 4).items()
        if k.direction == "forward"
    }
    scatter, gather = 4 * 3 * batch * 32 // 4, 4 * 3 * batch * 32 // 4
    assert forward == {
        ("linear2", "reduce_scatter"): scatter,  # k4 -> c4 is free, then the sum over c
        ("linear3", "allgather"): gather,  # c4 -> k4 wants X whole
        ("linear4", "reduce_scatter"): scatter,
    }


def test_a_halo_is_two_sided_inside() -> None:
    """Gholami et al. 2018, Eq. 7 counts one side; an inner strip receives 2 X_W X_C floor(k/2) words a sample."""
    net = Builder("strip", (3, 16, 10))
    x = net.conv(net.conv(net.input, 6, 1, bias=False), 4, 5, pad=2, bias=False)
    network = net.done(net.squared_error(x))
    inner, outer = (by_collective(network, "h4", 2, rank)[("conv2", "forward", "halo")] for rank in (1, 0))
    assert (inner, outer) == (4 * 2 * (2 * 10 * 6 * 2), 4 * 2 * (10 * 6 * 2))


def test_an_lstm_gathers_its_state_before_each_step_but_the_first() -> None:
    batch, steps, hidden = 8, 6, 16
    network = zoo.build("rnnlm", (1, steps), 10, hidden=hidden)
    for grid, ways, states in (("n4", 1, 4), ("k4", 4, 1), ("n2 k2", 2, 2), ("k2 c2", 4, 1)):
        placed = place_network(network, uniform_schemes(network, grid), batch, 4)
        state = (ways - 1) * (batch // states) * (hidden // ways)
        # The output of the layer before comes once, all its steps together; then a state for each step but the first.
        received_bytes = 4 * (steps + steps - 1) * state
        for rank in range(4):
            found = {
                (k.layer, k.direction): v
                for k, v in predict_step(placed, rank, 4).items()
                if k.layer == "lstm2" and k.collective in ("allgather", "reduce_scatter")
            }
            if ways == 1:
                assert not found
                continue
            assert {way for _, way in found} == {"forward", "backward"}
            assert {v.received_bytes for v in found.values()} == {received_bytes}
            assert {v.messages for v in found.values()} == {steps}


def test_attention_sums_its_products_over_features() -> None:
    batch, steps = 4, 6
    network = zoo.build("nmt", (1, 2 * steps), 10, hidden=16)
    found = by_collective(network, "n2 k2", batch)
    share = 4 * (batch // 2) * steps * steps // 2
    for direction, kind in product(("forward", "backward"), ("reduce_scatter", "allgather")):
        assert found["attention", direction, kind] == share


@pytest.mark.parametrize("name", ["rnntc", "rnnlm", "nmt"])
@pytest.mark.parametrize("grid", ["k2", "n2 k2", "k2 c2", "n2 k2 c2", "k4"])
def test_bytes_and_seconds_of_recurrent_networks_are_of_the_same_movements(name: str, grid: str) -> None:
    """At a second a byte and no latency the price of a movement is its bytes."""
    machine = Machine(
        "bytes", "test", "2026-11-21", 1e9, 0.0, 0.0, 1 << 30, (Level("all", 0, 0.0, 1.0),), BEST
    )
    network = zoo.build(name, (1, 8), 16, hidden=16, pieces=2)
    shape = GridShape.parse(grid)
    placed = place_network(network, uniform_schemes(network, grid), 8, shape.size)
    price = price_plan(placed, machine, 4, passes=2)
    kinds = ("allgather", "reduce_scatter")
    moved = [(n.name, m) for n in price.layers for m in n.movements if m.collective in kinds]
    assert {layer for layer, _ in moved} >= {n.name for n in network.nodes if isinstance(n.spec, s.LSTM)}
    for layer, movement in moved:
        assert movement.seconds == pytest.approx(movement.received_bytes, rel=1e-9), layer


@pytest.mark.parametrize("name", NETS)
def test_formula_equals_the_list_of_messages(name: str, sample_seed: int) -> None:
    """What `received` says in closed form is what the exchange lists, for every rank of random plans."""
    network, rng = build(name), random.Random(f"{sample_seed} {name}")
    for procs in (1, 3, 4, 6):
        placed = place_network(network, random_schemes(network, procs, 5, rng), 5, procs)
        exchanges = [e.exchange for e in placed.edges if e.exchange] + [
            layer.settle for layer in placed.layers
        ]
        for exchange in [*exchanges, *(e.transpose() for e in exchanges)]:
            for rank in range(procs):
                pieces = [(peer, box) for peer, box in exchange.receives(rank) if peer != rank]
                assert received(exchange.source, exchange.target, rank) == (
                    len(pieces),
                    sum(volume(b) for _, b in pieces),
                )


def test_bytes_are_conserved() -> None:
    """Over all ranks a movement between two rests moves the array less what stays."""
    shape = (6, 10, 7, 4)
    for f in factorisations(6, ("n", "k", "h", "w")):
        for g in factorisations(6, ("n", "k", "h", "w")):
            a, b = rest(shape, Scheme(GridShape.of(**f))), rest(shape, Scheme(GridShape.of(**g)))
            stays = sum(
                volume(tuple(i & j for i, j in zip(a.box(r), b.box(r), strict=True))) for r in range(6)
            )
            assert sum(received(a, b, r)[1] for r in range(6)) == prod(shape) - stays
            assert Exchange(a, b).kind == ("none" if f == g else Exchange(a, b).kind)
