"""On its way while products by weights are computed: gradients by inputs; nothing, if nothing is to be hidden."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gridnn.comm import mover
from gridnn.comm.mover import Pending
from gridnn.comm.world import World
from gridnn.layers import model as module
from gridnn.layers.model import Model
from gridnn.network.placed import place_network
from tests.support.laws import check, data, random_schemes, uniform_schemes
from tests.support.nets import build

BATCH = 6


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("overlap", [True, False])
def test_gradients_on_their_way(comm: Any, monkeypatch: pytest.MonkeyPatch, overlap: bool) -> None:
    started, on_their_way = list[Pending](), dict[str, int]()

    def start(*arguments: Any) -> Pending:
        started.append(mover.start(*arguments))
        return started[-1]

    monkeypatch.setattr(module, "start", start)
    network = build("conv3")
    with World(comm) as world:
        placed = place_network(network, uniform_schemes(network, f"h{comm.size}"), BATCH, comm.size)
        model = Model(world, placed, "float64", overlap=overlap)
        model.arena.initialise(1)
        for layer in model.layers:

            def weigh(name: str = layer.name, weigh: Any = layer.weigh) -> None:
                on_their_way[name] = sum(bool(pending.requests) for pending in started)
                weigh()

            monkeypatch.setattr(layer, "weigh", weigh)
        x, target = data(network, BATCH)
        model.arena.begin()
        model.forward(
            x[tuple(slice(*i) for i in model.input_box)], target[tuple(slice(*i) for i in model.target_box)]
        )
        started.clear()
        model.backward()
        model.arena.await_sums()
    conv = next(name for name in on_their_way if name.startswith("conv"))
    assert on_their_way[conv] == (1 if overlap else 0)
    assert overlap or not any(on_their_way.values())


@pytest.mark.ranks(3, 4)
@pytest.mark.parametrize("name", ["residual", "inception", "unet"])
def test_serial_equality_with_nothing_hidden(comm: Any, name: str, sample_seed: int) -> None:
    """Laws 1 and 4 where layers are on grids and ranks of their own: who only passes on waits, too."""
    network, rng = build(name), random.Random(f"{sample_seed} {name} {comm.size}")
    with World(comm) as world:
        check(world, network, random_schemes(network, comm.size, BATCH, rng), BATCH, overlap=False)
        check(world, network, uniform_schemes(network, f"h{comm.size}"), BATCH, overlap=False)
