"""Every kind of layer as a part of a captured step: none reads on the host, and a launch does what its calls did."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from gridnn.comm.shard import Shard
from gridnn.comm.transport import Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.layers.model import Model
from tests.support import pipelines, shim
from tests.support.nets import NETS, build
from tests.support.shim.device import ShimDevice

SOME = ("unet", "layer-norm", "upsample-linear")


@pytest.fixture(autouse=True)
def kernels() -> None:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")


def of_kind(world: World, name: str, graphs: str) -> pipelines.Trained:
    """Train a network of the tests' on a device."""
    engine = Engine(ShimDevice())
    world.memory, world.transport = engine.memory, Staged(world.memory, engine)
    assert isinstance(engine.device, ShimDevice)
    engine.device.graphs = "on" if graphs == "on" else "off"
    network = build(name)

    def given(world: World, shard: Shard) -> Any:
        return engine.give(shard.array) if engine.holds(shard.array) else shard.array

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipelines, "Model", partial(Model, engine=engine))
        patched.setattr(pipelines, "gather", given)
        found = pipelines.trained(world, network, pipelines.one(network), 5, 2, steps=4)
    assert len(engine.device.captures) == (graphs == "on")
    return found


def check_kind(comm: Any, name: str) -> None:
    with World(comm) as world:
        plain = of_kind(world, name, "off")
    with World(comm) as world:
        graphed = of_kind(world, name, "on")
    assert graphed.losses == plain.losses and graphed.ledger == plain.ledger
    for found, wanted in ((graphed.values, plain.values), (graphed.running, plain.running)):
        assert found.keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", SOME)
def test_kinds_of_layers(comm: Any, name: str) -> None:
    check_kind(comm, name)


@pytest.mark.sweep
@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", sorted(set(NETS) - set(SOME)))
def test_other_kinds_of_layers(comm: Any, name: str) -> None:
    check_kind(comm, name)
