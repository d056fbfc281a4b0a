"""Laws 1 and 4: every layer kind on every axis equals one process and moves what is predicted."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import find
from gridnn.errors import InputError
from gridnn.geometry.grid import AXES, GridShape
from gridnn.network.placed import place_network
from tests.support.factor import factorisations
from tests.support.laws import check, random_schemes, uniform_schemes
from tests.support.nets import NETS, build

BATCH = 5
SIZES = (1, 2, 3, 4, 6, 8)


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("name", NETS)
def test_each_axis_alone(comm: Any, name: str) -> None:
    network = build(name)
    with World(comm) as world:
        for axis in AXES:
            check(world, network, uniform_schemes(network, f"{axis}{comm.size}"), BATCH)


@pytest.mark.ranks(4, 6, 8)
@pytest.mark.parametrize("name", NETS)
def test_sampled_grids(comm: Any, name: str, sample_seed: int) -> None:
    """Every layer on a grid and a first rank of its own; one uniform grid; the optimizer's shares cut."""
    network, rng = build(name), random.Random(f"{sample_seed} {name} {comm.size}")
    with World(comm) as world:
        check(world, network, random_schemes(network, comm.size, BATCH, rng), BATCH)
        grids = [g for g in factorisations(comm.size, AXES) if g["n"] <= BATCH]
        check(
            world,
            network,
            uniform_schemes(network, str(GridShape.of(**rng.choice(grids)))),
            BATCH,
            cut_optimizer=True,
        )


FLOAT32 = 2e-5  # of the largest element; sums of some hundred terms in another order


@pytest.mark.ranks(3)
@pytest.mark.parametrize("name", NETS)
def test_float32(comm: Any, name: str, sample_seed: int) -> None:
    network, rng = build(name), random.Random(f"float32 {sample_seed} {name}")
    with World(comm) as world:
        for schemes in (uniform_schemes(network, "h3"), random_schemes(network, comm.size, BATCH, rng)):
            check(world, network, schemes, BATCH, dtype="float32", tolerance=FLOAT32)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    "name", ["conv-wide", "conv-groups", "residual", "linear-chain", "conv3d", "max-pool"]
)
@pytest.mark.parametrize("provider", ["numpy", "direct", "winograd", "onednn"])
def test_every_provider(comm: Any, name: str, provider: str) -> None:
    """Each provider, wherever it can compute, against one process with kernels by rule."""
    onednn = find() if provider == "onednn" else None
    if provider == "onednn" and onednn is None:
        pytest.skip("oneDNN is not installed")
    network = build(name)
    with World(comm) as world:
        kernels = None if provider == "numpy" else load()
        for grid in ("n2", "h2", "k2"):
            engine = Engine(kernels, world.memory, onednn, Choice("fixed", prefer=provider))
            check(world, network, uniform_schemes(network, grid), BATCH, dtype="float32", tolerance=FLOAT32,
                  engine=engine)  # fmt: skip


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("name", ["conv3", "conv5-stride2", "conv-groups", "conv1d", "conv3d"])
def test_halo_overlap_changes_nothing(comm: Any, name: str) -> None:
    network = build(name)
    with World(comm) as world:
        grid = "w" if name == "conv1d" else "h"
        schemes = uniform_schemes(network, f"{grid}{comm.size}")
        late = check(world, network, schemes, BATCH, overlap=False)
        early = check(world, network, schemes, BATCH, overlap=True)
        assert late.ledger == early.ledger


@pytest.mark.ranks(2)
def test_a_batch_smaller_than_n_is_refused(comm: Any) -> None:
    network = build("conv3")
    with pytest.raises(InputError, match=r"cuts the batch 2 ways.*only 1 samples"):
        place_network(network, uniform_schemes(network, "n2"), 1, comm.size)


@pytest.mark.sweep
@pytest.mark.ranks(*SIZES, timeout=3000)
@pytest.mark.parametrize("name", NETS)
def test_all_grids(comm: Any, name: str) -> None:
    """The nightly sweep: all uniform grids of all sizes up to the world's, and fifty random plans."""
    network, rng = build(name), random.Random(f"sweep {name} {comm.size}")
    with World(comm) as world:
        for size, cut in product(range(1, comm.size + 1), (False, True)):
            for f in factorisations(size, AXES):
                if f["n"] <= BATCH:
                    check(
                        world,
                        network,
                        uniform_schemes(network, str(GridShape.of(**f))),
                        BATCH,
                        cut_optimizer=cut,
                    )
        for _ in range(50):
            check(world, network, random_schemes(network, comm.size, BATCH, rng), BATCH)
