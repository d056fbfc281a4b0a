"""Laws 1 and 4 where devices hand messages on themselves: layers on grids, cut optimizers, stages, unequal passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gridnn.comm.nccl import Nccl
from gridnn.comm.shard import Shard, gather
from gridnn.comm.transport import Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.layers.model import Model
from tests.support import pipelines, shim
from tests.support.laws import check, random_schemes, run, uniform_schemes
from tests.support.nccl import LIMIT_S, on_device
from tests.support.nets import build
from tests.support.shim.device import ShimDevice

pytestmark = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
BATCH = 5
SOME = ["residual", "linear-chain"]
MORE = [
    "conv3",
    "conv-groups",
    "max-pool",
    "batch-norm",
    "inception",
    "unet",
    "layer-norm",
    "upsample",
    "conv3d",
]


def held(comm: Any, name: str, grids: str, seed: str) -> None:
    """Hold a network to the laws on uniform and random grids; no order between communicators is left to chance."""
    network, rng = build(name), random.Random(seed)
    with World(comm) as world:
        engine = on_device(world, "reverse", connects=True)
        for grid in grids:
            check(world, network, uniform_schemes(network, f"{grid}{comm.size}"), BATCH, engine=engine)
        schemes = random_schemes(network, comm.size, BATCH, rng)
        check(world, network, schemes, BATCH, cut_optimizer=True, engine=engine)


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("name", SOME)
def test_ranks_with_a_device_each(comm: Any, name: str, sample_seed: int) -> None:
    held(comm, name, "hc" if name == "residual" else "kn", f"nccl {sample_seed} {name} {comm.size}")


@pytest.mark.ranks(2)
def test_two_byte_words(comm: Any) -> None:
    """What is stored in bfloat16 goes as it is, terms of sums as float32: bit for bit what MPI brings two ranks."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
    network = build("residual")
    for grid in ("h2", "c2"):
        found = []
        for direct in (False, True):
            with World(comm) as world:
                if direct:
                    engine = on_device(world, precision="bf16")
                else:
                    engine = Engine(ShimDevice(), "bf16")
                    world.memory, world.transport = engine.memory, Staged(world.memory, engine)
                found.append(
                    run(world, network, uniform_schemes(network, grid), BATCH, dtype="float32", engine=engine)
                )
        staged, handed_on = found
        np.testing.assert_array_equal(handed_on.output, staged.output)
        for name, array in handed_on.values.items():
            np.testing.assert_array_equal(array, staged.values[name], err_msg=name)
        assert not handed_on.predicted.differences(handed_on.ledger)


@pytest.mark.sweep
@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("name", [*SOME, *MORE])
def test_every_way_to_cut(comm: Any, name: str, sample_seed: int) -> None:
    held(comm, name, "nkch", f"nccl sweep {sample_seed} {name} {comm.size}")


def in_stages(
    comm: Any, monkeypatch: pytest.MonkeyPatch, cut: pipelines.Cut, passes: int, schedule: str,
    limit_s: float = LIMIT_S, connects: bool = True,
) -> pipelines.Trained:  # fmt: skip
    """Return what stages train whose devices hand messages on."""
    with World(comm) as world, monkeypatch.context() as changed:
        # Stages meet directions between them in different orders, and hosts each other where they first do.
        engine = on_device(world, ordered=False, connects=connects)
        world.transport._carrier.links.library.limit_s = limit_s  # type: ignore[attr-defined]

        def given(_: World, shard: Shard) -> Any:
            array = engine.give(shard.array) if engine.holds(shard.array) else shard.array
            return gather(world, Shard(array, shard.layout))

        changed.setattr(pipelines, "Model", partial(Model, engine=engine))
        changed.setattr(pipelines, "gather", given)
        return pipelines.trained(world, build("residual"), cut, 7, passes, schedule)


def a_cut(comm: Any, sizes: Sequence[int], seed: int) -> pipelines.Cut:
    rng = random.Random(f"nccl stages {seed} {comm.size}")
    return pipelines.cut_randomly(build("residual"), sizes, 2, rng)


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_stages(comm: Any, schedule: str, sample_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of unequal size: what one process trains."""
    cut = a_cut(comm, [comm.size // 2] * 2, sample_seed)
    wanted = pipelines.alone(build("residual"), 7, 3, schedule=schedule)
    pipelines.same(in_stages(comm, monkeypatch, cut, 3, schedule), wanted, f"{cut} {schedule}")


@pytest.mark.ranks(2)
def test_stages_that_first_meet_when_they_answer_would_hang(
    comm: Any, sample_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that was sent ahead waits on the device for a host that waits for this one."""
    monkeypatch.setattr("gridnn.comm.nccl.BACK", {})
    cut = a_cut(comm, (1, 1), sample_seed)
    with pytest.raises(AssertionError, match="a host waits for ever"):
        in_stages(comm, monkeypatch, cut, 3, "1f1b", limit_s=1.0)


@pytest.mark.ranks(3)
@pytest.mark.parametrize("schedule", ["delayed", "local"])
def test_stages_at_different_steps(
    comm: Any, schedule: str, sample_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients that are taken steps later hold up nobody: what the same stages train by MPI."""
    cut, passes = a_cut(comm, (1, 1, 1), sample_seed), 3
    with World(comm) as world:
        wanted = pipelines.trained(world, build("residual"), cut, 7, passes, schedule)
    pipelines.same(in_stages(comm, monkeypatch, cut, passes, schedule), wanted, f"{cut} {schedule}")


@pytest.mark.ranks(2)
def test_directions_on_one_stream_would_hang(
    comm: Any, sample_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that goes forward stands behind one that comes back, and that behind the first, on another device."""
    swap = Nccl.swap

    def together(carrier: Nccl, world: World, path: Any, *told: Any) -> Any:
        return swap(carrier, world, SimpleNamespace(**vars(path) | {"lane": ""}), *told)

    monkeypatch.setattr(Nccl, "swap", together)
    cut = a_cut(comm, (1, 1), sample_seed)
    with pytest.raises(AssertionError, match="on a device it would wait for ever"):
        in_stages(comm, monkeypatch, cut, 3, "1f1b", limit_s=0.5, connects=False)
