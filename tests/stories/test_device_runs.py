"""Runs whose arrays are all on a device: the curve of the processor, and checkpoints that go from one to the other.

The device is the tests' own: kernels run by fibers on the CPU.  What CuPy does with the same calls it cannot tell.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.room import MemoryShortError, Room, limit_of, no_room
from gridnn.errors import InputError, RunError
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train import engine as engines
from gridnn.train import launch, memory, need
from gridnn.train.choose import choose
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.data import open_data
from gridnn.train.leave import Signals
from gridnn.train.record import Summary
from gridnn.train.resume import open_start
from gridnn.train.run import prepare, train
from tests.support import shim
from tests.support.launch import run_ranks
from tests.support.shim.device import DeviceArray, ShimDevice

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


TOTAL = 1 << 26
"""Bytes of the device here."""


class Small(ShimDevice):
    """A device that has no more than its room."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room

    def _counted(self, memory: Any) -> DeviceArray:
        if self.used_bytes + memory.nbytes > (self.room.limit_bytes or self.room.total_bytes):
            raise no_room(memory.nbytes, self.used_bytes, self.room, self.name)
        return super()._counted(memory)


def opened(rank: int, limit: float | None = None) -> tuple[ShimDevice, Room]:
    """What stands for `open_device` here."""
    room = Room("here", TOTAL, limit_of(limit, TOTAL))
    return Small(room), room


@pytest.fixture(autouse=True)
def in_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    monkeypatch.setitem(zoo._ZOO, "little", little)
    monkeypatch.setattr(engines, "open_device", opened)


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


def start(world: World, *words: str) -> tuple[int | None, str]:
    """Run the words of a command line; return the code and what rank 0 said."""
    said, signals = io.StringIO(), Signals()
    code = launch._job(world, Console(world.rank, said), words, signals)
    return code, world.comm.bcast(said.getvalue())


def job(folder: Path, *settings: str) -> list[str]:
    """Words of a run on a device."""
    default = str(Path(launch.__file__).with_name("default.toml"))
    return [default, "--device", "gpu", "--run-dir", str(folder), "--set", *BASE, "train.steps=2", *settings]


@pytest.mark.ranks(1)
@pytest.mark.parametrize("limited", [True, False])
def test_memory_that_ends_in_a_layer(
    comm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    """By the limit, where less was predicted than is used, or by what the device has: the layer and all numbers."""
    settings = ["train.accumulate=2", "train.eval=false", "checkpoint.keep=0"]
    with World(comm) as world:
        code, said = start(world, *job(tmp_path / "all", *settings))
        assert code == 0 and "memory:" not in said, "no limit, nothing to hold it to"
        most = json.loads((tmp_path / "all/summary.json").read_text())["memory_bytes"]
    if limited:
        monkeypatch.setattr(memory, "check_fits", lambda run, keep: None)
        settings.append(f"compute.memory_limit={(most - 8) / TOTAL}")
    else:
        monkeypatch.setattr(sys.modules[__name__], "TOTAL", most - 8)
    with World(comm) as world, pytest.raises(RunError) as caught:
        start(world, *job(tmp_path / "less", *settings))
    of = r"\(compute.memory_limit\)" if limited else r"of the device, which other processes may use, too"
    found = re.search(
        rf"^fibers .* has no memory left \(layer (\w+), (forward|backward|weights)\): (.*) were asked for, .*"
        rf'have (.*) of (.*) {of}\..*plan "1" .* were predicted.*split the batch',
        str(caught.value),
    )
    assert found, str(caught.value)
    assert found[1] in {node.name for node in little((1, 8, 8), 10).nodes}
    assert isinstance(caught.value.__cause__, MemoryShortError) and caught.value.exit_code == 3


@pytest.mark.ranks(2)
def test_a_plan_that_does_not_fit(comm: Any, shared_path: Path) -> None:
    """It is refused before the first step, with one that fits; that one is taken and runs."""
    settings = ["model.name=mlp", "data.pad=0", "checkpoint.keep=0", "train.eval=false"]
    keep, config = shared_path / "fits.json", load_config(None, [*BASE, *settings], "n2")
    placed = choose(config, open_data("digits", "train", config.data.options), 2).placed
    share = 0.8 * max(need.predicted(placed, rank, config).total_bytes for rank in range(2)) / TOTAL
    settings.append(f"compute.memory_limit={share}")
    with World(comm) as world, pytest.raises(InputError) as caught:
        start(world, *job(shared_path / "n", *settings), "--plan", "n2", "--write-plan", str(keep))
    told = str(caught.value)
    assert caught.value.everywhere and len(set(comm.allgather(told))) == 1
    assert re.search(
        r'plan "n2" is predicted to need .* \(parameters and gradients .*\) on rank \d, worst in', told
    ), told
    wanted = (
        rf"= {share:g} leaves a rank .*; take the plan that is written to .*--plan {re.escape(str(keep))}$"
    )
    assert re.search(wanted, told), told
    with World(comm) as world:
        code, said = start(world, *job(shared_path / "fits", *settings), "--plan", str(keep))
        assert code == 0
    assert re.search(r"memory: .* predicted for rank \d, .* for each \(compute.memory_limit = ", said), said
    settings[-1] = f"compute.memory_limit={share / 100}"
    with (
        World(comm) as world,
        pytest.raises(InputError, match=r"no plan was found: the least of \d+ that"),
    ):
        start(world, *job(shared_path / "no", *settings), "--plan", "n2")


PAPER = """\
import os, sys
from types import SimpleNamespace
__version__ = "14"

def use(number):
    with open(os.environ["PAPER"], "a") as log:
        print(os.environ["MPI_LOCALRANKID"], number, "mpi4py.MPI" in sys.modules, file=log)
    if "mpi4py.MPI" in sys.modules:
        raise RuntimeError("it is of paper")

class Runtime:
    driverGetVersion = runtimeGetVersion = staticmethod(lambda: 13000)
    getDeviceCount = staticmethod(lambda: 2)
    deviceGetPCIBusId = staticmethod(lambda number: f"bus {number}")
    getDeviceProperties = staticmethod(lambda number: dict(name=b"Paper", totalGlobalMem=1 << 30, major=9, minor=0))

class Filled:
    def fill(self, value):
        assert value, "a fill with zero is no kernel"

class RawModule:
    def __init__(self, code, options):
        assert "__global__" in code and all(option.startswith("-") for option in options)

    def get_function(self, name):
        return lambda grid, block, arguments: None

empty = lambda elements, dtype: Filled()
cuda = SimpleNamespace(
    runtime=Runtime, Device=lambda number: SimpleNamespace(use=lambda: use(number), mem_info=(1 << 29, 1 << 30)),
    get_cublas_handle=lambda: 1, get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
)
"""


def with_paper(folder: Path) -> dict[str, str]:
    """An environment in which CuPy is of paper, and notes who takes which device when."""
    (folder / "cupy").mkdir()
    (folder / "cupy/__init__.py").write_text(PAPER)
    paths = os.pathsep.join((str(folder), str(Path(launch.__file__).parents[2])))
    return {"PYTHONPATH": paths, "PAPER": str(folder / "log"), "XDG_CACHE_HOME": str(folder / "cache")}


@pytest.mark.parametrize("program", ["train", "calibrate", "doctor"])
def test_a_device_is_taken_before_mpi_starts(tmp_path: Path, program: str) -> None:
    """As the launcher numbers ranks; what is wrong with it is told once, when all ranks can hear it."""
    words = {
        "train": ["-m", "gridnn.train", "--device", "gpu", "--dry-run"],
        "calibrate": ["-m", "gridnn.cli", "calibrate", "-o", "m.toml", "--quick", "--device", "gpu"],
        "doctor": ["-m", "gridnn.cli", "doctor", "--json", "--device", "gpu"],
    }[program]
    done = run_ranks(3, words, cwd=tmp_path, extra_env=with_paper(tmp_path), timeout_s=60)
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert {(int(rank), int(number)) for rank, number, mpi in log if mpi == "False"} == {
        (0, 0),
        (1, 1),
        (2, 0),
    }
    if program == "doctor":
        assert done.returncode == 1, done.stderr
        found = json.loads(done.stdout)
        wrong = [f"device {number} cannot be used: it is of paper" for number in (0, 1, 0)]
        assert [rank["gpu"]["failed"].split(";")[0] for rank in found["ranks"]] == wrong
        assert found["problems"] == [
            "device gpu needs a GPU on every rank, and no rank has a GPU; use device auto"
        ]
        return
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: device 0 cannot be used: it is of paper; take another") == 1, done.stderr


def test_no_device_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('not here')")
    paths = os.pathsep.join((str(tmp_path), str(Path(launch.__file__).parents[2])))
    env = {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path)}
    done = run_ranks(2, ["-m", "gridnn.train", "--device", "gpu", "--dry-run"], cwd=tmp_path, extra_env=env)
    assert (done.returncode, done.stderr.count("error")) == (2, 1), done.stderr
    assert "no GPU can be used: CuPy cannot be imported (not here); pip install" in done.stderr
