"""Runs whose arrays are all on a device: the curve of the processor, and checkpoints that go from one to the other.

The device is the tests' own: kernels run by fibers on the CPU.  What CuPy does with the same calls it cannot tell.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train import engine as engines
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.record import Summary
from gridnn.train.resume import open_start
from gridnn.train.run import prepare, train
from tests.support import shim
from tests.support.shim.device import ShimDevice

BASE = (
    "model.name=little", "data.pad=1", "train.batch=8", "train.dtype=float64", "train.lr=0.05",
    "train.clip_norm=0.5", "train.weight_decay=0.001", "train.warmup_steps=0", "train.schedule=constant",
    "checkpoint.every_steps=2",
)  # fmt: skip
STEPS = 4


def little(input_shape: tuple[int, ...], classes: int) -> Network:
    """Convolution with halos, batch norm, a pool, dropout and a fully connected layer."""
    net = Builder("little", input_shape)
    x = net.relu(net.batch_norm(net.conv(net.input, 5, 3, pad=1, bias=False)))
    x = net.flatten(net.max_pool(x, 3, 2, 1))
    return net.done(net.cross_entropy(net.linear(net.dropout(x, 0.2), classes)))


@pytest.fixture(autouse=True)
def in_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    monkeypatch.setitem(zoo._ZOO, "little", little)
    monkeypatch.setattr(engines, "open_device", lambda rank: ShimDevice())


def curve(world: World, folder: Path, plan: str, device: str, steps: int, *settings: str) -> Any:
    """Train from the newest checkpoint in the folder; return all losses of the record, on all ranks."""
    words = [*BASE, f"train.steps={steps}", *settings]
    config = load_config(None, words, plan, str(folder), device)
    console = Console(world.rank, io.StringIO())
    ready = prepare(world, config, console)
    assert isinstance(ready.engine, Engine) is (device != "cpu")
    start = open_start(world, config, "auto", console)
    summary = train(ready, start)
    assert isinstance(summary, Summary)
    assert summary.predicted_bytes == summary.counted_bytes
    if device != "cpu":
        assert summary.predicted_memory_bytes / 4 < summary.memory_bytes < 4 * summary.predicted_memory_bytes
    lines = (folder / "steps.jsonl").read_text().splitlines() if world.rank == 0 else []
    return world.comm.bcast(np.array([json.loads(line)["loss"] for line in lines]))


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_the_curve_of_the_processor(comm: Any, shared_path: Path, optimizer: str) -> None:
    words = (f"train.optimizer={optimizer}", f"train.cut_optimizer={str(optimizer == 'adamw').lower()}")
    for plan in (f"n{comm.size}", f"h{comm.size}"):
        found = []
        for device in ("cpu", "gpu"):
            with World(comm) as world:
                found.append(curve(world, shared_path / f"{plan} {device}", plan, device, STEPS, *words))
        assert len(found[0]) == STEPS
        np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(("first", "then"), [("gpu", "cpu"), ("cpu", "gpu"), ("gpu", "auto")])
def test_checkpoints_go_from_one_to_the_other(comm: Any, shared_path: Path, first: str, then: str) -> None:
    with World(comm) as world:
        whole = curve(world, shared_path / "whole", "n2", "cpu", STEPS, "train.momentum=0.9")
    with World(comm) as world:
        half = curve(world, shared_path / "halves", "h2", first, STEPS // 2, "train.momentum=0.9")
    with World(comm) as world:
        both = curve(world, shared_path / "halves", "n2", then, STEPS, "train.momentum=0.9")
    assert len(half) == STEPS // 2
    np.testing.assert_allclose(both, whole, rtol=1e-9)
