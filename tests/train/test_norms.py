"""Norms: a device measures what the host does, over stages too; one that is not finite ends all ranks together."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from gridnn.comm.shard import Shard, gather
from gridnn.comm.world import World
from gridnn.errors import RunError
from gridnn.layers.model import Model
from gridnn.train.norms import DeviceNorms, HostNorms, norms_of
from gridnn.train.sections import TrainSection
from gridnn.train.step import Trainer
from tests.support import pipelines, shim
from tests.support.nccl import on_device
from tests.support.nets import build

needs_kernels = pytest.mark.skipif(
    shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU"
)
SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {"clip_norm": 0.5},
    "lars": {"optimizer": "lars", "lr": 1.0, "clip_norm": 2.0, "weight_decay": 0.01},
}
SCHEDULES = ("1f1b", "delayed", "local")


def a_cut(comm: Any, seed: int) -> pipelines.Cut:
    rng = random.Random(f"norms {seed} {comm.size}")
    return pipelines.cut_randomly(build("residual"), (1,) * comm.size, 2, rng)


def held(comm: Any, seed: int, words: str, schedule: str) -> None:
    """Hold stages whose devices sum norms to what the same stages train on processors: none waits for ever."""
    cut, settings, network = a_cut(comm, seed), SETTINGS[words], build("residual")
    with World(comm) as world:
        wanted = pipelines.trained(world, network, cut, 7, 3, schedule, **settings)
    with World(comm) as world:
        engine = on_device(world, ordered=False, connects=True)

        def given(_: World, shard: Shard) -> Any:
            array = engine.give(shard.array) if engine.holds(shard.array) else shard.array
            return gather(world, Shard(array, shard.layout))

        model = patch.object(pipelines, "Model", partial(Model, engine=engine))
        with model, patch.object(pipelines, "gather", given):
            found = pipelines.trained(world, network, cut, 7, 3, schedule, **settings)
    pipelines.same(found, wanted, f"{words} {cut} {schedule}", 1e-9)


@needs_kernels
@pytest.mark.ranks(3)
@pytest.mark.parametrize(("words", "schedule"), [("clip", "delayed"), ("lars", "1f1b")])
def test_stages_whose_devices_sum_norms(comm: Any, sample_seed: int, words: str, schedule: str) -> None:
    held(comm, sample_seed, words, schedule)


@needs_kernels
@pytest.mark.sweep
@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("schedule", ["gpipe", *SCHEDULES])
@pytest.mark.parametrize("words", SETTINGS)
def test_more_stages(comm: Any, sample_seed: int, words: str, schedule: str) -> None:
    held(comm, sample_seed, words, schedule)


@pytest.mark.ranks(3)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_norm_that_is_not_finite(comm: Any, schedule: str) -> None:
    """It ends all ranks together, those too whose stage has no gradient yet: nobody waits for who is gone."""
    step, backward, made = Trainer.step, Trainer._backward, list[int]()

    def noted(self: Trainer, number: int, *more: Any) -> Any:
        made.append(number)
        return step(self, number, *more)

    def spoiled(self: Trainer, number: int) -> None:
        backward(self, number)
        if self.stage == comm.size - 1:  # has the first gradient
            for share in self.model.arena.shares():
                share.grad[...] = math.nan

    with (
        patch.object(Trainer, "step", noted), patch.object(Trainer, "_backward", spoiled),
        # Outside: a world that sees the error keeps its communicator, on which messages are on their way still.
        pytest.raises(RunError, match="the gradient's norm is nan") as caught, World(comm) as world,
    ):  # fmt: skip
        pipelines.trained(world, build("residual"), a_cut(comm, 1), 6, 2, schedule, clip_norm=1.0)
    assert caught.value.everywhere
    comm.Barrier()
    assert comm.allgather(made) == [made] * comm.size


@needs_kernels
@pytest.mark.ranks(1)
@pytest.mark.parametrize("words", SETTINGS)
def test_a_device_measures_what_the_host_does(comm: Any, words: str) -> None:
    """After other weights were used for a while, too; nothing is read but what is asked for."""
    given: dict[str, Any] = {"batch": 4, "steps": 1, "dtype": "float64"} | SETTINGS[words]
    config = TrainSection(**given)
    found = []
    for device in (False, True):
        with World(comm) as world:
            engine = on_device(world) if device else None
            placed = pipelines.job_of(
                build("residual"), pipelines.one(build("residual")), 4, 1, "1f1b", "replay", 1, "float64"
            ).placed
            model = Model(world, placed, "float64", 1 << 12, False, engine=engine)
            arena, rng = model.arena, np.random.default_rng(2)
            arena.initialise(3)
            with arena.using(arena.copied()):
                pass
            for share in arena.shares():
                share.grad[...] = model.engine.take(rng.standard_normal(share.grad.shape))
            rows = {share.entry.name: i for i, share in enumerate(reversed(arena.shares()))}
            norms = norms_of(world, arena, config, rows, model.engine)
            assert isinstance(norms, DeviceNorms if device else HostNorms)
            told, later = norms.measure(), norms.read()
            assert later is not None and (engine is None or engine.device.waits == 0)
            found.append((float(told.grad_scale if engine is None else told.grad_scale[0]), later.wait()[0]))
            told, later = norms.measure(counts=False), norms.read()
            assert later is not None and later.wait()[0] == 0
            assert float(told.grad_scale if engine is None else told.grad_scale[0]) == 1.0
    assert found[1] == pytest.approx(found[0], rel=1e-12) and found[0][0] < 1
