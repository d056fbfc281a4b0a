"""Laws 1 and 4 where every array is on a device: kernels run by fibers, messages staged through the host."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine, Precision
from tests.support import shim
from tests.support.laws import check, random_schemes, uniform_schemes
from tests.support.nets import NETS, build
from tests.support.shim.device import ShimDevice

BATCH = 5
FLOAT32 = 2e-5
SOME = ["conv3", "conv-groups", "max-pool", "residual", "inception", "unet", "linear-chain"]
SOME += ["layer-norm", "layer-norm-features", "upsample", "upsample-linear"]


def on_device(
    world: World, order: str = "forward", transport: type[Staged | Aware] = Staged, precision: Precision = "float32",
    device: ShimDevice | None = None,
) -> Engine:  # fmt: skip
    """Return an engine whose device the world's arrays are on from now on."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    engine = Engine(device or ShimDevice(order), precision)
    world.memory, world.transport = engine.memory, transport(world.memory, engine)
    return engine


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", NETS)
def test_one_rank(comm: Any, name: str) -> None:
    with World(comm) as world:
        check(world, build(name), uniform_schemes(build(name), "n1"), BATCH, engine=on_device(world))


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("name", SOME)
def test_ranks_that_share_a_device(comm: Any, name: str, sample_seed: int) -> None:
    network, rng = build(name), random.Random(f"device {sample_seed} {name} {comm.size}")
    with World(comm) as world:
        engine = on_device(world, "reverse")
        for grid in ("n", "k", "h"):
            check(world, network, uniform_schemes(network, f"{grid}{comm.size}"), BATCH, engine=engine)
        check(
            world,
            network,
            random_schemes(network, comm.size, BATCH, rng),
            BATCH,
            cut_optimizer=True,
            engine=engine,
        )


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("name", ["residual", "unet", "linear-chain"])
def test_messages_of_a_device(comm: Any, name: str, sample_seed: int) -> None:
    """An MPI that reads a device's memory: the same laws, and no array is copied to the host but what is judged."""
    network, rng = build(name), random.Random(f"aware {sample_seed} {name} {comm.size}")
    with World(comm) as world:
        engine = on_device(world, transport=Aware)
        for schemes in (
            uniform_schemes(network, f"h{comm.size}"),
            uniform_schemes(network, f"c{comm.size}"),
            random_schemes(network, comm.size, BATCH, rng),
        ):
            check(world, network, schemes, BATCH, engine=engine)
            check(world, network, schemes, BATCH, engine=engine, cut_optimizer=True)


@pytest.mark.ranks(3)
@pytest.mark.parametrize("name", ["residual", "conv3d"])
def test_float32(comm: Any, name: str) -> None:
    network = build(name)
    with World(comm) as world:
        schemes = uniform_schemes(network, "h3")
        check(world, network, schemes, BATCH, dtype="float32", tolerance=FLOAT32, engine=on_device(world))
