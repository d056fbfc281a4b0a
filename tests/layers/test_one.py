"""Laws 3 and 5: gradients against finite differences, and one process against the plain computation, bitwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import empty
from gridnn.compute.cpu.reference import activation, conv, linear
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from tests.support.laws import data
from tests.support.nets import NETS, build

BATCH = 4


def serial_model(world: World, network: Network, engine: Engine | None = None) -> Model:
    schemes = {n.name: Scheme(GridShape()) for n in network.nodes}
    model = Model(world, place_network(network, schemes, BATCH, 1), "float64", engine=engine)
    model.arena.initialise(3)
    return model


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", NETS)
def test_gradient_of_every_kind(comm: Any, name: str) -> None:
    """The directional derivative in one random direction of all parameters."""
    network = build(name)
    x, target = data(network, BATCH)
    with World(comm) as world:
        model = serial_model(world, network)
        model.arena.begin()
        model.forward(x, target, at=(1, 0))
        model.backward()
        shares = model.arena.shares()
        rng = np.random.default_rng(11)
        directions = [rng.standard_normal(s.value.shape) for s in shares]
        slope = sum(float(s.grad @ d) for s, d in zip(shares, directions, strict=True))
        step, losses = 1e-6, []
        for sign in (1, -1):
            for s, d in zip(shares, directions, strict=True):
                s.value[...] += sign * step * d
            losses.append(model.forward(x, target, at=(1, 0)).loss)
            for s, d in zip(shares, directions, strict=True):
                s.value[...] -= sign * step * d
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=2e-5, abs=1e-7)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", NETS)
def test_other_values_are_those_of_all_parameters(comm: Any, name: str) -> None:
    """Used in place, copies give the loss and the gradients of a model that has these values; nothing is moved."""
    network = build(name)
    x, target = data(network, BATCH)
    with World(comm) as world:
        model = serial_model(world, network)
        arena = model.arena

        def passed() -> list[Any]:
            arena.begin()
            loss = model.forward(x, target, at=(1, 0)).loss
            model.backward()
            return [loss, *(share.grad.copy() for share in arena.shares())]

        before, first = passed(), [share.value.copy() for share in arena.shares()]
        copies = arena.copied()
        with arena.using(copies):
            for share in arena.shares():
                share.value[...] = 1.25 * share.value + 0.125
        assert all((share.value == own).all() for share, own in zip(arena.shares(), first, strict=True))
        with arena.using(copies):
            other = passed()
        same = passed()
        for share in arena.shares():
            share.value[...] = 1.25 * share.value + 0.125
        there = passed()
    for found, wanted in ((same, before), (other, there)):
        for a, b in zip(found, wanted, strict=True):  # moments are about running means, which go on
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert other[0] != before[0]


def laid(array: Any) -> Any:
    """Return an array in gridnn's memory order: a sum's order follows memory, in a BLAS of some processors too."""
    found = empty(array.shape, array.dtype)
    found[...] = array
    return found


@pytest.mark.ranks(1)
def test_one_process_is_the_plain_computation(comm: Any) -> None:
    net = Builder("plain", (2, 6, 5))
    y = net.relu(net.conv(net.input, 3, 3, pad=1))
    network = net.done(net.squared_error(net.linear(net.flatten(y), 4)))
    x, target = data(network, BATCH)
    with World(comm) as world:
        model = serial_model(world, network, Engine(None))
        model.arena.begin()
        verdict = model.forward(x, target)
        model.backward()
        p = model.arena.parameters
        window: Any = {"stride": (1, 1), "dilation": (1, 1), "pad_lo": (1, 1), "pad_hi": (1, 1)}
        z = conv.add_bias(conv.forward(x, p["conv1"]["weight"].value, **window), p["conv1"]["bias"].value)
        a = activation.forward("relu", z)
        flat = a.reshape(BATCH, -1)
        out = conv.add_bias(linear.forward(flat, p["linear1"]["weight"].value), p["linear1"]["bias"].value)
        np.testing.assert_array_equal(model.output, out)
        assert verdict.loss == pytest.approx(float(np.square(out - target).mean()), rel=1e-14)
        dout = 2.0 * (out - target) * (np.full(out.shape, 1 / BATCH) / 4)
        np.testing.assert_array_equal(p["linear1"]["weight"].grad, linear.backward_weights(flat, dout))
        da = activation.backward(
            "relu", z, a, linear.backward_data(dout, p["linear1"]["weight"].value).reshape(a.shape)
        )
        np.testing.assert_array_equal(
            p["conv1"]["weight"].grad, conv.backward_weights(laid(x), laid(da), (3, 2, 3, 3), **window)
        )
        np.testing.assert_array_equal(p["conv1"]["bias"].grad, conv.bias_gradient(laid(da)))
        assert world.ledger.messages == 0
