"""Steps on a device without a wait, and as graphs: the numbers of steps as always, bit for bit.

The device is the tests' own: it does at launches what it captured, on the same memory, and refuses what CUDA refuses.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.comm.nccl import Nccl
from gridnn.comm.world import World
from gridnn.compute.gpu import norm
from gridnn.compute.gpu.cudnn_engine import open_engine
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.found import Found
from gridnn.compute.gpu.graph import Varying
from gridnn.compute.gpu.room import Room
from gridnn.errors import InputError, RunError
from gridnn.geometry.interval import Box
from gridnn.layers.norm import BatchNormalisation
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train import engine as engines
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.data import EvaluationOrder, Loader, Order
from gridnn.train.data.order import PassOrder
from gridnn.train.record import Summary
from gridnn.train.replay import Replay
from gridnn.train.resume import open_start
from gridnn.train.run import models_of_job, prepare, train
from gridnn.train.step import Trainer
from tests.support import shim
from tests.support.lazy import LazyStreams, StreamDevice
from tests.support.nccl import Library
from tests.support.paper_cudnn import PaperCudnn
from tests.support.shim.device import DeviceArray, ShimDevice

BASE = ("model.name=small", "train.batch=7", "train.accumulate=2", "train.dtype=float64", "data.pad=1")
STEPS = 7
RULES = {
    "momentum": ("train.momentum=0.9", "train.warmup_steps=4", "train.schedule=cosine", "train.weight_decay=0.01"),
    "adam": ("train.optimizer=adam", "train.lr=0.01", "train.warmup_steps=3"),
    "adamw": ("train.optimizer=adamw", "train.lr=0.01", "train.weight_decay=0.1", "train.schedule=cosine"),
    "plain": ("train.momentum=0.0", "train.accumulate=1", "train.dtype=float32", "train.lr=0.1"),
    "bf16": ("compute.precision=bf16", "train.dtype=float32", "train.momentum=0.9", "train.warmup_steps=5"),
    "clip": ("train.clip_norm=0.5", "train.optimizer=adam", "train.warmup_steps=3", "train.dtype=float32"),
    "lars": ("train.optimizer=lars", "train.lr=2.0", "train.trust=0.02", "train.clip_norm=0.5", "train.momentum=0.9",
             "train.weight_decay=0.01"),
}  # fmt: skip


def small(input_shape: tuple[int, ...], classes: int) -> Network:
    """Convolutions, batch norm, a sum, channels side by side, a pool, dropout, fully connected layers."""
    net = Builder("small", input_shape)
    x = net.relu(net.batch_norm(net.conv(net.input, 4, 3, pad=1, bias=False)))
    y = net.concat(net.conv(x, 3, 1), net.add(x, net.conv(x, 4, 3, pad=1)))
    x = net.flatten(net.max_pool(y, 3, 2, 1))
    x = net.dropout(net.activation(net.linear(x, 9), "tanh"), 0.3)
    return net.done(net.cross_entropy(net.linear(x, classes)))


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> list[ShimDevice]:
    """Let every run take a device of the tests'; return those that were."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    found = list[ShimDevice]()

    def opened(rank: int, limit: float | None = None) -> tuple[ShimDevice, Room]:
        found.append(ShimDevice())
        return found[-1], Room("here", 1 << 26)

    monkeypatch.setitem(zoo._ZOO, "small", small)
    monkeypatch.setattr(engines, "open_device", opened)
    return found


class Trained(NamedTuple):
    """What training left."""

    losses: list[float]
    norms: list[float | None]
    judged: list[float]
    arrays: dict[str, Any]
    device: ShimDevice
    trainer: Trainer
    waits: list[tuple[int, int, int]]  # of each step: waits, late waits, kernels that Python started


def trained(
    world: World, graphs: str, *words: str, steps: int = STEPS, judge: tuple[int, ...] = (), plan: str = "1",
    after: Callable[[int, Trainer], None] = lambda step, trainer: None,
) -> Trained:  # fmt: skip
    """Train on a device, as `gridnn.train.run` does."""
    settings = [*BASE, f"train.steps={steps}", *words, f"compute.graphs={graphs}"]
    config = load_config(None, settings, plan, None, "gpu")
    run = prepare(world, config, Console(world.rank, io.StringIO()))
    t, job, engine = config.train, run.job, run.engine
    assert isinstance(engine, Engine) and isinstance(engine.device, ShimDevice)
    order, device = Order(run.train.count, t.batch, t.seed), engine.device
    models = models_of_job(world, job, t, True, engine)
    models[0].arena.initialise(t.seed)
    trainer = Trainer(world, models, job, t, order.steps_per_epoch, steps)
    test_order = EvaluationOrder(21, job.placed.batch)
    boxes: list[tuple[Box, Box]] = [(each.input_box, each.target_box) for each in models]
    results, judged, waits = [], list[float](), list[tuple[int, int, int]]()
    with (
        Loader(
            run.train, PassOrder(order, job.passes), boxes, t.dtype, config.data.augment, t.seed
        ) as loader,
        Loader(run.test, test_order, boxes, t.dtype, config.data.augment, t.seed) as test_loader,
    ):
        for step in range(steps):
            before = device.waits + DeviceArray.reads, device.late_waits, len(device.launches)
            results += trainer.step(step, loader)
            now = device.waits + DeviceArray.reads, device.late_waits, len(device.launches)
            waits.append((now[0] - before[0], now[1] - before[1], now[2] - before[2]))
            after(step, trainer)
            if step in judge:
                results += trainer.drain(step + 1)
                judged.append(trainer.evaluate(test_loader, test_order.steps).loss)
        results += trainer.drain(steps)
    assert [result.step for result in results] == list(range(steps))
    arrays = {f"value {s.entry.name}": engine.give(s.value) for s in models[0].arena.shares()}
    for name, of_piece in trainer.optimizer.state_arrays().items():
        arrays |= {f"{kind} {name}": engine.give(array) for kind, array in of_piece.items()}
    for layer in models[0].layers:
        if isinstance(layer, BatchNormalisation):
            arrays |= {f"{layer.name}.{k}": engine.give(a) for k, a in layer.statistics().items()}
    losses, norms = [r.loss for r in results], [r.norm for r in results]
    return Trained(losses, norms, judged, arrays, device, trainer, waits)


def same(found: Trained, wanted: Trained) -> bool:
    """Return whether two trainings gave the same bits."""
    return (
        found.losses == wanted.losses and found.judged == wanted.judged and found.norms == wanted.norms
        and found.arrays.keys() == wanted.arrays.keys()
        and all(np.array_equal(found.arrays[name], array) for name, array in wanted.arrays.items())
    )  # fmt: skip


@pytest.mark.ranks(1)
@pytest.mark.parametrize("rule", RULES)
def test_graphs_change_no_bit(comm: Any, rule: str) -> None:
    """Rates that change, dropout, batch norm, state, norms, two passes of unequal size, evaluations between steps."""
    found, clips = [], "train.clip_norm=0.5" in RULES[rule]
    for graphs in ("off", "on"):
        with World(comm) as world:
            found.append(trained(world, graphs, *RULES[rule], judge=(1, 4, 5)))
    plain, graphed = found
    assert same(graphed, plain)
    assert all(math.isfinite(loss) for loss in plain.losses) and len(set(plain.losses)) == STEPS
    assert graphed.trainer.optimizer.updates == plain.trainer.optimizer.updates == STEPS
    assert graphed.trainer.staleness == plain.trainer.staleness == {0}
    (record,) = graphed.device.captures
    assert not plain.device.captures and record.nbytes > 0
    for run, by_graph in ((plain, STEPS), (graphed, 3)):  # the third step is captured
        assert all(wait[0] == 0 and wait[1] <= 1 + clips for wait in run.waits), "the host waited in a step"
        assert all((norm is not None) is clips for norm in run.norms)
        assert not clips or len({norm for norm in run.norms if norm is not None and norm > 0.5}) > 2
        assert [wait[2] > 0 for wait in run.waits] == [step < by_graph for step in range(STEPS)]
    products = sum(node.spec.__class__.__name__ == "Linear" for node in graphed.trainer.job.network.nodes)
    assert record.cuts > 3 * products


@pytest.mark.ranks(1)
@pytest.mark.parametrize("forgotten", ["update", "pass", "batch", "none"])
def test_what_is_forgotten_is_seen(comm: Any, monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    """Numbers that stay as they were captured, as if they were given by value: the rate, the mask, the batch."""
    words = RULES["momentum"]
    with World(comm) as world:
        plain = trained(world, "off", *words)
    move, fill = Varying.move, Replay._fill
    if forgotten == "batch":
        monkeypatch.setattr(Replay, "_fill", lambda self, part: fill(self, 0))
    monkeypatch.setattr(
        Varying, "move", lambda self, group, at: None if group == forgotten else move(self, group, at)
    )
    with World(comm) as world:
        found = trained(world, "on", *words)
    assert found.losses[:2] == plain.losses[:2], "those steps were made as always"
    assert same(found, plain) is (forgotten == "none")


@pytest.mark.ranks(1)
@pytest.mark.parametrize("graphs", ["on", "auto"])
def test_a_layer_that_reads_is_named(
    comm: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], graphs: str
) -> None:
    """ "on" ends the run; "auto" says it and goes on as without graphs, with the same numbers."""
    with World(comm) as world:
        plain = trained(world, "off")
    apply = norm.backward_apply

    def curious(engine: Engine, x: Any, statistics: Any, *more: Any) -> Any:
        assert float(statistics[1].sum()) > 0
        return apply(engine, x, statistics, *more)

    monkeypatch.setattr(norm, "backward_apply", curious)
    why = r"\(layer batch_?norm1, backward\): the host reads an array of the device"
    with World(comm) as world:
        if graphs == "on":
            with pytest.raises(RunError, match=rf'graphs = "on": .*{why}.*compute.graphs = "off"'):
                trained(world, graphs)
        else:
            found = trained(world, graphs)
            assert same(found, plain) and not found.device.captures
            said = capfd.readouterr().err
            assert said.count('compute.graphs = "auto"') == 1 and "the host reads an array" in said


@pytest.mark.ranks(1)
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_loss_that_is_not_finite(comm: Any, graphs: str) -> None:
    """The step that is named is the one it was in; it is known when the next one has been started."""
    made = list[int]()

    def spoil(step: int, trainer: Trainer) -> None:
        made.append(step)
        if step == 3:
            trainer.model.arena.shares()[0].value[...] = math.nan

    with (
        World(comm) as world,
        pytest.raises(RunError, match=r"step 4: the loss is nan; lower train\.lr") as caught,
    ):
        trained(world, graphs, after=spoil)
    assert caught.value.everywhere and made == [0, 1, 2, 3, 4], "step 5 was started, and not returned"


@pytest.mark.ranks(1)
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_norm_that_is_not_finite(comm: Any, monkeypatch: pytest.MonkeyPatch, graphs: str) -> None:
    """It is known when the next step has been started, as a loss is; the host waits for none in a step."""
    made, backward = list[int](), Trainer._backward

    def spoiled(self: Trainer, number: int) -> None:
        backward(self, number)
        assert isinstance(self.model.engine, Engine)

        def spoil() -> None:
            if len(made) == 4:
                self.model.arena.shares()[0].grad[...] = math.inf

        self.model.engine.device.between(spoil)

    monkeypatch.setattr(Trainer, "_backward", spoiled)
    with (
        World(comm) as world,
        pytest.raises(RunError, match=r"step 4: the gradient's norm is inf; lower train\.lr") as caught,
    ):
        trained(world, graphs, "train.clip_norm=0.5", after=lambda step, trainer: made.append(step))
    assert caught.value.everywhere and made == [0, 1, 2, 3, 4], "step 5 was started, and not returned"


def handing_on(world: World, device: Any) -> Nccl:
    """Return what stands for NCCL."""
    streams = LazyStreams(device)
    library = Library(world.comm, device, streams)
    world.also_close(library.close)
    return Nccl(device, streams, library)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("rule", ["clip", "lars"])
def test_norms_that_devices_sum(comm: Any, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """By NCCL nobody waits, and the sum is part of a graph; staged, the host waits once a step: for its message."""
    words = (*RULES[rule], "train.dtype=float64", "train.cut_optimizer=true")
    place = Room(f"bus{comm.rank} uuid", 1 << 26)
    monkeypatch.setattr(engines, "open_device", lambda rank, limit=None: (StreamDevice(), place))
    monkeypatch.setattr(engines, "find_devices", lambda: Found(nccl=22707))
    found = {}
    for transport, graphs in (("staged", "off"), ("nccl", "off"), ("nccl", "on")):
        with World(comm) as world:
            monkeypatch.setattr(engines, "open_nccl", lambda device, world=world: handing_on(world, device))
            told = [*words, f"comm.transport={transport}"]
            found[transport, graphs] = trained(world, graphs, *told, steps=5, plan="n2")
    assert same(found["nccl", "on"], found["nccl", "off"])
    assert len(found["nccl", "on"].device.captures) == 1
    for graphs in ("off", "on"):
        assert all(wait[0] == 0 and wait[1] <= 2 for wait in found["nccl", graphs].waits)
    staged, direct = found["staged", "off"], found["nccl", "off"]
    np.testing.assert_allclose(direct.losses, staged.losses, rtol=1e-12)
    assert staged.norms == pytest.approx(direct.norms, rel=1e-12) and len(set(direct.norms)) == 5
    everyone = comm.allgather(direct.norms)
    assert everyone[0] == everyone[1], "ranks clip by different norms"
    with World(comm) as world:
        plain = trained(world, "off", "train.dtype=float64", "train.cut_optimizer=true", "comm.transport=staged",
                        steps=5, plan="n2")  # fmt: skip
    more = np.subtract(staged.waits, plain.waits)[:, :2].tolist()
    assert more == [[1, 1]] * 5, "a message, and the norm for the record"


@pytest.mark.ranks(2)
def test_messages_by_the_host_are_no_part_of_a_graph(comm: Any) -> None:
    """Losses are read in the step, as messages wait there anyway."""
    with World(comm) as world:
        for graphs in ("on", "auto"):
            config = load_config(None, [*BASE, f"compute.graphs={graphs}"], "n2", None, "gpu")
            run = prepare(world, config, Console(world.rank, io.StringIO()))
            models = models_of_job(world, run.job, config.train, True, run.engine)
            if graphs == "on":
                with pytest.raises(InputError, match=r"take one rank.*comm\.transport"):
                    Trainer(world, models, run.job, config.train, 5, 5)
            else:
                trainer = Trainer(world, models, run.job, config.train, 5, 5)
                assert trainer._replay is None and trainer._lag == 0 and models[0].loss.late


@pytest.mark.ranks(1)
@pytest.mark.parametrize("choice", ["measured", "fixed"])
def test_cudnn_computes_between_the_parts_of_a_graph(
    comm: Any, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    """It sets a stream of its own accord, so it is called at every launch; shapes are chosen before the capture."""
    found, paper = {}, list[PaperCudnn]()
    for graphs in ("off", "on"):
        paper.append(PaperCudnn())
        monkeypatch.setattr(
            engines, "open_device", lambda rank, limit=None: (paper[-1].device, Room("here", 1 << 26))
        )
        monkeypatch.setattr(
            engines, "open_gpu_engine", partial(open_engine, load=paper[-1].load, stream=paper[-1].stream)
        )
        words = ("compute.conv=cudnn", f"compute.choice={choice}", "train.dtype=float32", *RULES["momentum"])
        with World(comm) as world:
            found[graphs] = trained(world, graphs, *words)
    assert same(found["on"], found["off"])
    assert paper[1].executed == paper[0].executed


@pytest.mark.ranks(1)
def test_graphs_are_of_devices(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"compute\.graphs.*compute\.device"):
        load_config(None, ["compute.graphs=on"], "1", None, "cpu")
    assert load_config().compute.graphs == "off", "until it has run on a GPU"

    def nothing(rank: int, limit: float | None = None) -> None:
        raise InputError("no GPU can be used")

    monkeypatch.setattr(engines, "open_device", nothing)
    said = io.StringIO()
    with World(comm) as world:
        run = prepare(world, load_config(None, ["compute.graphs=on"], "1", None, "auto"), Console(0, said))
        assert not isinstance(run.engine, Engine) and engines.GRAPHS_UNUSED in said.getvalue()


@pytest.mark.ranks(1)
def test_a_run_with_graphs(comm: Any, tmp_path: Path, devices: list[ShimDevice]) -> None:
    """Checkpoints between steps, resumed from one, evaluations: the record of a run without graphs."""
    words = [*BASE, *RULES["adamw"], "checkpoint.every_steps=2", "data.pad=0", "data.name=synthetic"]
    words += ["data.input_shape=[1, 8, 8]", "data.classes=10", "data.count=35", "data.test_count=14"]
    losses = {}
    for name, graphs, ends in (("whole", "off", (8,)), ("halves", "on", (4, 8))):
        for steps in ends:
            settings = [*words, f"train.steps={steps}", f"compute.graphs={graphs}", "train.schedule=constant"]
            config = load_config(None, settings, "1", str(tmp_path / name), "gpu")
            with World(comm) as world:
                console = Console(world.rank, io.StringIO())
                summary = train(prepare(world, config, console), open_start(world, config, "auto", console))
            assert isinstance(summary, Summary) and summary.steps == steps
            accuracy = summary.test_accuracy
        lines = (tmp_path / name / "steps.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines], accuracy
    assert losses["halves"] == losses["whole"] and len(losses["whole"][0]) == 8
    assert [len(device.captures) for device in devices] == [0, 1, 1]
