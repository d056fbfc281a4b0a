"""The curve of a run does not know its grid: a residual network on many plans, 20 steps, float64.

Everything that could differ is on: batch norm, dropout, augmentation, weight decay, clipping, a schedule.
The reference is the same run on one process; plans differ from it by the order of sums only.
"""

from __future__ import annotations

import io
import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.layers.model import Model
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.data import EvaluationOrder, Loader
from gridnn.train.record import Summary
from gridnn.train.resume import Start
from gridnn.train.run import prepare, train
from gridnn.train.step import Evaluation, Trainer
from tests.support.laws import random_schemes

STEPS, BATCH = 20, 24
BASE = (
    "model.name=tiny-residual", "data.pad=1", "data.noise=0.05", f"train.steps={STEPS}", f"train.batch={BATCH}",
    "train.dtype=float64", "train.eval=false", "train.lr=0.05", "train.warmup_steps=0", "train.schedule=constant",
)  # fmt: skip
SGD = (
    "train.momentum=0.9", "train.weight_decay=0.001", "train.clip_norm=0.5", "train.warmup_steps=5",
    "train.schedule=cosine", "train.label_smoothing=0.1",
)  # fmt: skip
UNIFORM = ("n4", "k4", "h4", "w4", "n2 k2", "n2 h2", "h2 w2", "c2 k2")


def tiny_residual(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    norm: bool = True,
    dropout_rate: float = 0.2,
    label_smoothing: float = 0.0,
) -> Network:
    """Two residual blocks, the second with a stride and a projection."""
    net = Builder("tiny-residual", input_shape)

    def conv(x: str, channels: int, kernel: int, stride: int = 1, pad: int = 0) -> str:
        x = net.conv(x, channels, kernel, stride, pad, bias=not norm)
        return net.batch_norm(x) if norm else x

    x = net.relu(conv(net.input, 5, 3, 1, 1))
    x = net.relu(net.add(conv(net.relu(conv(x, 5, 3, 1, 1)), 5, 3, 1, 1), x))
    x = net.relu(net.add(conv(net.relu(conv(x, 7, 3, 2, 1)), 7, 3, 1, 1), conv(x, 7, 1, 2)))
    x = net.dropout(net.global_pool(x), dropout_rate)
    return net.done(net.cross_entropy(net.linear(x, classes), label_smoothing))


@pytest.fixture(autouse=True)
def in_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zoo._ZOO, "tiny-residual", tiny_residual)


def curve(world: World, folder: Path, plan: str, *settings: str) -> Any:
    """The losses of a run, from its record; the same on all ranks."""
    config = load_config(None, [*BASE, *settings], plan)
    ready = prepare(world, config, Console(world.rank, io.StringIO()))
    folder.mkdir(exist_ok=True)
    summary = train(ready, Start(folder if world.rank == 0 else None))
    assert isinstance(summary, Summary)
    assert summary.predicted_bytes == summary.counted_bytes
    assert (summary.counted_bytes > 0) == (world.size > 1)
    lines = (folder / "steps.jsonl").read_text().splitlines() if world.rank == 0 else []
    return world.comm.bcast(np.array([json.loads(line)["loss"] for line in lines]))


@lru_cache(maxsize=32)
def alone(folder: Path, *settings: str) -> Any:
    """The same on one process."""
    from mpi4py import MPI

    with World(MPI.COMM_SELF) as world:
        return curve(world, folder, "1", *settings)


def check(comm: Any, folder: Path, plan: str, *settings: str, wanted: tuple[str, ...] | None = None) -> None:
    """Hold a plan to the curve of one process, with the same settings or with those `wanted`."""
    with World(comm) as world:
        # One rank computes it; the others would only take its core.
        serial = (
            alone(folder / "alone", *(settings if wanted is None else wanted)) if world.rank == 0 else None
        )
        serial, got = world.comm.bcast(serial), curve(world, folder / "grid", plan, *settings)
    assert len(got) == len(serial) == STEPS
    assert got[-1] != got[0]
    np.testing.assert_allclose(got, serial, rtol=1e-9, err_msg=plan)


@pytest.mark.ranks(4)
@pytest.mark.parametrize("plan", UNIFORM)
def test_uniform_grids(comm: Any, shared_path: Path, plan: str) -> None:
    check(comm, shared_path, plan, *SGD)


@pytest.mark.ranks(4)
@pytest.mark.parametrize("draw", range(2))
def test_a_random_grid_for_every_layer(comm: Any, shared_path: Path, sample_seed: int, draw: int) -> None:
    network = tiny_residual((1, 8, 8), 10)
    schemes = random_schemes(network, comm.size, BATCH, random.Random(f"{sample_seed} {draw}"))
    write_plan(comm, shared_path, {name: str(scheme) for name, scheme in schemes.items()})
    check(comm, shared_path, str(shared_path / "plan.json"), *SGD)


@pytest.mark.ranks(4)
def test_idle_ranks(comm: Any, shared_path: Path) -> None:
    """One rank idle always, the others now and then."""
    write_plan(comm, shared_path, {"*": "n3", "conv2": "h2 @1", "linear1": "k2"})
    check(comm, shared_path, str(shared_path / "plan.json"), *SGD)


def write_plan(comm: Any, folder: Path, layers: dict[str, str]) -> None:
    if comm.rank == 0:
        text = json.dumps({"format": "gridnn-plan", "version": 1, "layers": layers})
        (folder / "plan.json").write_text(text)
    comm.Barrier()


@pytest.mark.ranks(4)
@pytest.mark.parametrize("plan", ["n2 k2", "c2 h2"])
@pytest.mark.parametrize("rule", ["adam", "adamw", "lars", "nesterov"])
def test_other_optimizers(comm: Any, shared_path: Path, rule: str, plan: str) -> None:
    settings = ["train.weight_decay=0.01", f"train.optimizer={'sgd' if rule == 'nesterov' else rule}"]
    settings += {"lars": ["train.lr=2.0", "train.trust=0.02"], "nesterov": ["train.nesterov=true"]}.get(
        rule, ["train.lr=0.003"]
    )
    check(comm, shared_path, plan, *settings)


@pytest.mark.ranks(4)
@pytest.mark.parametrize("plan", ["n4", "n2 k2"])
@pytest.mark.parametrize(
    "settings", [("train.cut_optimizer=true",), ("train.bucket_bytes=300",), ("comm.overlap=false",)]
)
def test_how_it_is_done_is_not_seen(
    comm: Any, shared_path: Path, plan: str, settings: tuple[str, ...]
) -> None:
    check(comm, shared_path, plan, *SGD, *settings, wanted=SGD)


@pytest.mark.ranks(4)
@pytest.mark.parametrize("plan", ["n4", "n2 h2"])
def test_accumulation_is_one_update(comm: Any, shared_path: Path, plan: str) -> None:
    """Without batch norm and dropout, which know the passes."""
    plain = (*SGD, "model.options.norm=false", "model.options.dropout_rate=0.0")
    check(comm, shared_path, plan, *plain, "train.accumulate=2", wanted=plain)
    check(comm, shared_path, plan, *SGD, "train.accumulate=2")


def evaluate(world: World, plan: str, batch: int) -> tuple[Evaluation, int]:
    """Judge the test part of the digits with fresh weights; returns the verdict and the number of samples."""
    config = load_config(None, [*BASE, f"train.batch={batch}"], plan)
    ready = prepare(world, config, Console(world.rank, io.StringIO()))
    model = Model(world, ready.job.placed, "float64")
    model.arena.initialise(config.train.seed)
    order = EvaluationOrder(ready.test.count, batch)
    boxes = [(model.input_box, model.target_box)]
    with Loader(ready.test, order, boxes, "float64", config.data.augment.without_chance(), 0) as loader:
        verdict = Trainer(world, [model], ready.job, config.train, 1, 1).evaluate(loader, order.steps)
    return verdict, ready.test.count


@pytest.mark.ranks(3)
@pytest.mark.parametrize("plan", ["n3", "k3", "h3", "n2"])
def test_evaluation_counts_every_sample_once(comm: Any, plan: str) -> None:
    from mpi4py import MPI

    with World(MPI.COMM_SELF) as world:
        _, count = evaluate(world, "1", 64)
        whole, _ = evaluate(world, "1", count)
    assert count % 64 not in (0, 63)
    with World(comm) as world:
        uneven, _ = evaluate(world, plan, 64)
    assert uneven.accuracy == whole.accuracy
    assert uneven.loss == pytest.approx(whole.loss, rel=1e-12)
