"""Delayed schedules: the trajectories that their definitions give, and what is late by how much.

The golden numbers are those of h_k = tanh(w_k h_(k-1)), k = 1..3, L = (h_3 - y)^2 / 2, one sample a step; the loss
`squared_error` is twice that, so its learning rate is halved.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.conv import Convolution
from gridnn.layers.model import Model
from gridnn.network.graph import Builder, Network
from tests.support.laws import data
from tests.support.nets import build
from tests.support.pipelines import Cut, Trained, alone, cut_randomly, moves, same, trained

WEIGHTS = (0.9, -0.7, 1.1)
X = (1.0, -0.5, 0.8, 0.3, -1.2, 0.6, 0.9, -0.4)
Y = (0.2, 0.4, -0.1, 0.3, 0.5, -0.3, 0.1, 0.2)
LR = 0.1
GOLDEN = {
    ("stash", 2): (0.9, -0.6676996483, 1.0784530111),
    ("stash", 4): (0.8872329277, -0.6573862850, 1.0606438093),
    ("replay", 3): (0.8846302469, -0.6715456742, 1.0686810215),
    ("replay", 4): (0.8871480535, -0.6574418026, 1.0606433615),
}
PLAIN = {2: (0.8875908120, -0.6721540704, 1.0787313685), 4: (0.8710163947, -0.6457782565, 1.0612292754)}
STASHED_4 = (0.8705711763, -0.6448504901, 1.0606438093)  # PipeDream's weight stashing


def chain() -> Network:
    net, x = Builder("chain", (1,)), "input"
    for _ in WEIGHTS:
        x = net.activation(net.linear(x, 1, bias=False), "tanh")
    return net.done(net.squared_error(x))


def in_stages(network: Network, first: tuple[str, ...]) -> Cut:
    names, stage, schemes = [node.name for node in network.nodes], -1, {}
    for name in names:
        stage += name in first
        schemes[name] = Scheme(GridShape(), stage)
    return Cut(first, schemes)


def set_weights(model: Model) -> None:
    for i, weight in enumerate(WEIGHTS):
        for parameter in model.arena.parameters[f"linear{i + 1}"].values():
            parameter.value[...] = weight


def weights_of(found: Trained) -> list[float]:
    return [found.values[f"linear{k}.weight"].item() for k in (1, 2, 3)]


CHAIN: dict[str, Any] = {
    "lr": LR / 2, "momentum": 0.0, "begin": set_weights,
    "batches": (np.array(X)[:, None], np.array(Y)[:, None]),
}  # fmt: skip
THREE = ("linear1", "linear2", "linear3")


@pytest.mark.ranks(3)
@pytest.mark.parametrize(("form", "steps"), GOLDEN)
def test_golden_trajectories(comm: Any, form: str, steps: int) -> None:
    network = chain()
    with World(comm) as world:
        cut = in_stages(network, THREE)
        found = trained(world, network, cut, 1, 1, "delayed", form=form, steps=steps, drains=(), **CHAIN)
    np.testing.assert_allclose(weights_of(found), GOLDEN[form, steps], rtol=0, atol=1e-9)
    assert found.staleness == [{2 - k} if steps > 2 - k else set() for k in range(3)]
    moves(found, form)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("steps", PLAIN)
def test_plain_backpropagation(comm: Any, steps: int) -> None:
    found = alone(chain(), 1, 1, steps=steps, **CHAIN)
    np.testing.assert_allclose(weights_of(found), PLAIN[steps], rtol=0, atol=1e-9)


def stashing(
    steps: int, warmup: int = 0, momentum: float = 0.0, late: str = "plain"
) -> list[tuple[float, ...]]:
    """Return the weights before each step, and after the last, of weight stashing (Narayanan et al. 2019).

    The batch of step t goes forward and backward through stage k (from 0) with its weights of K - 1 - k updates before;
    with a spike it moves at once by what it had moved in as many updates.  Predicted weights are those that so many
    updates without any gradient lead to.
    """
    history: list[tuple[float, ...]] = [WEIGHTS]
    velocity, spike = [0.0] * 3, late != "plain"
    velocities: list[tuple[float, ...]] = [tuple(velocity)]

    def rate(t: int) -> float:
        return LR * min(1, (t + 1) / max(1, warmup))

    for t in range(steps):
        since = [max(0, t - (2 - k)) for k in range(3)]
        versions = [history[since[k]][k] for k in range(3)]
        for k, s in enumerate(since):
            moving = velocities[s][k]
            for u in range(s, t) if late == "predict" else ():
                moving *= momentum
                versions[k] -= rate(u) * momentum ** min(u, 2 - k) * moving
        outputs = [X[t]]
        for weight in versions:
            outputs.append(math.tanh(weight * outputs[-1]))
        back, now = outputs[-1] - Y[t], list(history[-1])
        for k in reversed(range(3)):
            back *= 1 - outputs[k + 1] ** 2
            delay = min(t, 2 - k) if spike else 0
            velocity[k] = momentum * velocity[k] + back * outputs[k]
            missed = sum(momentum**i for i in range(delay)) * back * outputs[k]
            now[k] -= rate(t) * (momentum**delay * velocity[k] + missed)
            back *= versions[k]
        history.append(tuple(now))
        velocities.append(tuple(velocity))
    return history


@pytest.mark.ranks(3)
def test_stash_is_weight_stashing_with_shifted_clocks(comm: Any) -> None:
    network = chain()
    np.testing.assert_allclose(stashing(4)[4], STASHED_4, rtol=0, atol=1e-9)
    with World(comm) as world:
        for steps, warmup, momentum, late in (
            (3, 0, 0.0, "spike"),
            (5, 0, 0.0, "plain"),
            (8, 0, 0.9, "plain"),
            (8, 0, 0.9, "spike"),
            (7, 5, 0.9, "spike"),  # a rate is that of the batch it is for
            (5, 0, 0.0, "predict"),
            (8, 0, 0.9, "predict"),
            (8, 5, 0.8, "predict"),
        ):
            wanted = stashing(steps, warmup, momentum, late)
            cut = in_stages(network, THREE)
            found = trained(
                world,
                network,
                cut,
                1,
                1,
                "delayed",
                form="stash",
                steps=steps,
                drains=(),
                warmup_steps=warmup,
                late=late,
                **CHAIN | {"momentum": momentum},
            )
            shifted = [wanted[steps - (2 - k)][k] for k in range(3)]
            np.testing.assert_allclose(weights_of(found), shifted, rtol=0, atol=1e-12)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("form", ["replay", "stash"])
def test_one_stage_is_plain_backpropagation_bitwise(comm: Any, form: str) -> None:
    network = build("residual")
    first = network.nodes[0].name
    with World(comm) as world:
        schemes = {node.name: Scheme(GridShape.of(n=comm.size)) for node in network.nodes}
        got = trained(world, network, Cut((first,), schemes), 6, 2, "delayed", form=form)
        plain = trained(world, network, Cut((), schemes), 6, 2)
    assert got.losses == plain.losses
    for name, value in plain.values.items():
        np.testing.assert_array_equal(got.values[name], value)
    moves(got, form)


Gradients = dict[tuple[int, str], Any]


def noting(found: Gradients, world: World) -> Callable[[int, Model], None]:
    """Return what notes a rank's gradients after every step, where it has whole parameters."""

    def note(step: int, model: Model) -> None:
        for layer, of in model.arena.parameters.items():
            for name, parameter in of.items():
                found[step, f"{layer}.{name}"] = parameter.grad.copy()

    return note


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("form", ["replay", "stash"])
@pytest.mark.parametrize("name", ["residual", "dropout", "unet"])
def test_gradients_are_those_of_earlier_batches(comm: Any, name: str, form: str, sample_seed: int) -> None:
    """With weights that stand still; batch norm moves its statistics once a batch, dropout draws its mask twice."""
    network, rng = build(name), random.Random(f"{sample_seed} {name} {comm.size}")
    still: dict[str, Any] = {"lr": 1e-200, "momentum": 0.0, "steps": 6}
    plain: Gradients = {}
    wanted = alone(network, 4, 2, after=noting(plain, None), **still)  # type: ignore[arg-type]
    with World(comm) as world:
        cut, mine = cut_randomly(network, (1,) * comm.size, 2, rng), Gradients()
        got = trained(world, network, cut, 4, 2, "delayed", form=form, after=noting(mine, world), **still)
        delay = comm.size - 1 - world.rank
        checked = 0
        for (step, parameter), gradient in mine.items():
            if step >= delay:
                np.testing.assert_allclose(gradient, plain[step - delay, parameter], rtol=0, atol=1e-10)
                checked += 1
        assert comm.allreduce(checked) == sum((6 - (comm.size - 1 - k)) * n for k, n in enumerate(comm.allgather(
            len({parameter for _, parameter in mine})
        )))  # fmt: skip
    same(got, wanted, f"{form} {cut}")
    assert got.staleness == [{comm.size - 1 - k} for k in range(comm.size)]


def rectified() -> Network:
    net = Builder("rectified", (2, 6, 5))
    x = net.relu(net.conv(net.input, 4, 3, pad=1), name="middle")
    x = net.relu(net.conv(x, 3, 3, pad=1), name="last")
    return net.done(net.cross_entropy(net.linear(net.flatten(x), 4)))


@pytest.mark.ranks(3)
@pytest.mark.parametrize("form", ["replay", "stash"])
def test_a_product_before_a_cut_is_rectified_on_its_way_and_is_not_made_again(comm: Any, form: str) -> None:
    """The ReLU behind the cut masks the gradient by what arrived; nothing differs from a ReLU that computes itself."""
    network, made = rectified(), list[str]()
    forward = Convolution.forward

    def noted(layer: Convolution, *given: Any) -> Any:
        made.append(layer.name)
        return forward(layer, *given)

    with World(comm) as world, patch.object(Convolution, "forward", noted):
        got = trained(
            world, network, in_stages(network, ("conv1", "middle", "last")), 4, 2, "delayed", form=form
        )
        computed = made.copy()
        with patch("gridnn.layers.fuse.absorbable", return_value={}):
            wanted = trained(
                world, network, in_stages(network, ("conv1", "middle", "last")), 4, 2, "delayed", form=form
            )
    assert computed == [["conv1"] * 6, ["conv2"] * 6, []][comm.rank]
    assert got.losses == wanted.losses
    for name, value in wanted.values.items():
        np.testing.assert_array_equal(got.values[name], value)
    moves(got, form)


@pytest.mark.ranks(3)
@pytest.mark.parametrize("form", ["replay", "stash"])
def test_stages_wait_for_their_first_gradient(comm: Any, form: str) -> None:
    network = build("residual")
    with World(comm) as world:
        cut = cut_randomly(network, (1, 1, 1), 2, random.Random(3))
        seen: list[list[Any]] = []

        def look(step: int, model: Model) -> None:
            seen.append([p.value.copy() for of in model.arena.parameters.values() for p in of.values()])

        trained(world, network, cut, 4, 1, "delayed", form=form, steps=5, after=look)
        if not seen[0]:
            return
        delay = 2 - world.rank
        moved = [any((a != b).any() for a, b in zip(x, y, strict=True)) for x, y in pairwise(seen)]
        assert moved == [step + 1 >= delay for step in range(4)]


@pytest.mark.ranks(2, 4)
def test_a_drained_pipeline_begins_anew(comm: Any) -> None:
    """What follows a drain depends on the weights it left, and on nothing else that was on its way."""
    network = build("residual")
    x, target = data(network, 24)
    with World(comm) as world:
        cut = cut_randomly(network, (1,) * comm.size, 4, random.Random(3))
        short = trained(
            world, network, cut, 4, 1, "delayed", steps=3, momentum=0.0, batches=(x[:12], target[:12])
        )

        def begin(model: Model) -> None:
            for layer, of in model.arena.parameters.items():
                for name, parameter in of.items():
                    parameter.value[...] = values[f"{layer}.{name}"]

        values = {name: comm.bcast(value, 0) for name, value in short.values.items()}
        rest = trained(
            world,
            network,
            cut,
            4,
            1,
            "delayed",
            steps=3,
            momentum=0.0,
            batches=(x[12:], target[12:]),
            begin=begin,
        )
        both = trained(
            world, network, cut, 4, 1, "delayed", steps=6, momentum=0.0, batches=(x, target), drains=(3, 6)
        )
        never = trained(world, network, cut, 4, 1, "delayed", steps=6, momentum=0.0, batches=(x, target))
    np.testing.assert_allclose(
        both.losses, short.losses + rest.losses, rtol=1e-12
    )  # moments are about running means
    for name, value in rest.values.items():
        np.testing.assert_allclose(both.values[name], value, rtol=0, atol=1e-12)
    moves(both, "drained twice")
    assert never.losses[:3] == both.losses[:3] and never.losses != both.losses  # the filling after it shows
