"""Memory that is short: before a run and in a step, one error names the layer and a plan that fits; with stages, too.

The device is the tests' own, with as much memory as a test says, and what is free on it is what CuPy would be asked.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.compute.gpu.room import MemoryShortError, Room, free_bytes
from gridnn.errors import InputError, RunError
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train import engine as engines
from gridnn.train import fitting, launch, memory, need
from gridnn.train.choose import Job, choose
from gridnn.train.config import load_config
from gridnn.train.console import bytes_text
from gridnn.train.data import open_data
from gridnn.train.sections import Config
from tests.stories import test_device_runs as runs
from tests.stories.test_device_runs import job, start
from tests.support import shim
from tests.support.launch import run_ranks

BASE = (
    "model.name=wide", "data.pad=0", "train.batch=16", "train.steps=1", "train.eval=false", "checkpoint.keep=0",
    "train.dtype=float32",
)  # fmt: skip


def wide(input_shape: tuple[int, ...], classes: int) -> Network:
    """Weights in one layer, the first, and activations in no layer that matter."""
    net = Builder("wide", input_shape)
    x = net.relu(net.linear(net.flatten(net.input), 4096))
    return net.done(net.cross_entropy(net.linear(net.relu(net.linear(x, 64)), classes)))


@pytest.fixture(autouse=True)
def on_shim(monkeypatch: pytest.MonkeyPatch) -> None:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    monkeypatch.setitem(zoo._ZOO, "wide", wide)
    monkeypatch.setitem(zoo._ZOO, "little", runs.little)
    monkeypatch.setattr(engines, "open_device", runs.opened)


def chosen(ranks: int, plan: str, *settings: str) -> tuple[Config, Job]:
    """Return what a run would be."""
    config = load_config(None, [*BASE, *settings], plan)
    return config, choose(config, open_data("digits", "train", config.data.options), ranks)


def most(config: Config, made: Job, ranks: int) -> int:
    """Return what the rank that needs most is predicted to need."""
    return max(
        need.in_stages(made.placed, made.stages, made.schedule, rank, config).total_bytes
        for rank in range(ranks)
    )


def test_what_is_free_is_asked_of_cupy() -> None:
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (7, 9))))
    modules: dict[str, Any] = {"cupy": cupy}
    assert free_bytes(modules.__getitem__) == 7

    def fails() -> tuple[int, int]:
        raise RuntimeError("cudaErrorNoDevice")

    cupy.cuda.runtime.memGetInfo = fails
    assert free_bytes(modules.__getitem__) is None
    modules.clear()
    assert free_bytes(modules.__getitem__) is None


@pytest.mark.ranks(1, 2)
def test_what_is_free_is_held_to_the_prediction(
    comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was given: ranks share what nobody has.  Far below it a line, close to it a warning, above an error."""
    config, made = chosen(comm.size, f"n{comm.size}")
    each = most(config, made, comm.size)
    words = [*job(shared_path / "run", *BASE), "--plan", f"n{comm.size}", "--dry-run"]
    there = [0]
    monkeypatch.setattr(memory, "free_bytes", lambda: there[0])
    among = "" if comm.size == 1 else f" that {comm.size} ranks share"
    for free, begins in (
        ((each + (40 << 20)) * comm.size, "memory: "),
        (each * comm.size, "WARNING: memory: "),
    ):
        there[0] = free
        with World(comm) as world:
            code, said = start(world, *words)
        line = next(line for line in said.splitlines() if "predicted for rank" in line)
        assert code == 0 and line.startswith(begins), said
        assert rf"for each (what is free on its device{among}); worst in layer" in line
        assert ("That is close: messages, workspaces and batches are not predicted" in line) is (
            begins[0] == "W"
        )
    there[0] = int(0.8 * each) * comm.size
    with World(comm) as world, pytest.raises(InputError) as caught:
        start(world, *words)
    told = str(caught.value)
    assert caught.value.everywhere and len(set(comm.allgather(told))) == 1 and caught.value.exit_code == 2
    wanted = (
        rf"on rank \d, worst in layer \w+, \w+: layer linear1 has .* of it; what is free on its device{among}"
    )
    assert re.search(wanted, told), told
    if comm.size == 1:  # weights are all there is, and nobody to share them with
        assert "no plan was found: the least of" in told
        return
    assert re.search(r'take the plan .*: --plan ("[^"]+"|FILE)$', told), told
    kept = shared_path / "fits.json"
    with World(comm) as world, pytest.raises(InputError, match=re.escape(f"--plan {kept}")):
        start(world, *words, "--write-plan", str(kept))
    words[words.index("--plan") + 1] = str(kept)
    with World(comm) as world:
        code, said = start(world, *words)
    assert code == 0 and "memory: " in said


@pytest.mark.ranks(2)
@pytest.mark.parametrize("schedule", ["1f1b", "delayed", "local"])
def test_stages_that_do_not_fit(comm: Any, shared_path: Path, schedule: str) -> None:
    """Where weights are in one stage: an exact plan may have none; one that is late is another whose stages fit."""
    settings = ["model.name=wide", "plan.stages=['linear2']", f"plan.schedule={schedule}"]
    words = [*settings, "train.accumulate=2", f"plan.heads={'linear' if schedule == 'local' else 'none'}"]
    config, made = chosen(2, "auto", *words)
    assert made.stages is not None and made.stages.count == 2
    assert fitting.needed_by(made.plan, made, config) == most(config, made, 2)
    limit = int(0.9 * most(config, made, 2))
    kept, run = shared_path / "fits.json", job(shared_path / "run", *BASE, *words)
    with World(comm) as world, pytest.raises(InputError) as caught:
        start(world, *run, f"compute.memory_limit={limit}", "--write-plan", str(kept))
    told = str(caught.value)
    assert caught.value.everywhere and len(set(comm.allgather(told))) == 1
    assert re.search(
        rf'"2 stages \({schedule}\).* on rank 0, worst in layer \w+, \w+: layer \w+ has', told
    ), told
    looked = fitting.look_for(made, config, limit)
    if looked.fits is None:
        assert "no plan was found: the least" in told and not kept.exists()
        return
    plan = looked.fits.plan
    assert fitting.needed_by(plan, made, config) == looked.fits.needed <= limit
    assert schedule == "1f1b" or plan.schedule == schedule, "another one learns something else"
    assert re.search(re.escape(f"--plan {kept}") + "$", told), told
    with World(comm) as world:
        code, said = start(world, *run, f"compute.memory_limit={limit}", "--plan", str(kept))
    assert code == 0 and f"for each (compute.memory_limit = {limit:g})" in said


@pytest.mark.ranks(1)
def test_a_step_without_room_names_a_plan(comm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one rank that is more passes; typed as it is told, the run then needs less than what was there."""
    words = ["model.name=act", "train.batch=512"]
    monkeypatch.setitem(zoo._ZOO, "act", activations)
    with World(comm) as world:
        code, _ = start(world, *job(tmp_path / "all", *BASE, *words), "--plan", "1")
    used = json.loads((tmp_path / "all/summary.json").read_text())["memory_bytes"]
    assert code == 0
    monkeypatch.setattr(runs, "TOTAL", used - 8)
    with World(comm) as world, pytest.raises(RunError) as caught:
        start(world, *job(tmp_path / "less", *BASE, *words), "--plan", "1")
    told = str(caught.value)
    assert caught.value.exit_code == 3 and isinstance(caught.value.__cause__, MemoryShortError)
    found = re.search(
        r'no memory left \(layer \w+, \w+\).*Within .* fits the plan "1", which is predicted to need .*: '
        r'--plan "1" --set (train\.accumulate=\d+)$',
        told,
    )
    assert found, told
    with World(comm) as world:
        code, _ = start(world, *job(tmp_path / "fits", *BASE, *words, found[1]), "--plan", "1")
    assert code == 0


def activations(input_shape: tuple[int, ...], classes: int) -> Network:
    """Few weights and large activations."""
    net = Builder("act", input_shape)
    x = net.relu(net.conv(net.input, 8, 3, pad=1))
    return net.done(net.cross_entropy(net.linear(net.flatten(net.global_pool(x)), classes)))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("limit", [None, 5 << 20])
def test_another_plan_is_named_by_what_makes_it(
    comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Grids that differ go by a file; typed as it is told, a run finds the very plan that was meant, and takes it."""
    config, made = chosen(2, "n2")
    used = most(config, made, 2)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with World(comm) as world:
        run: Any = SimpleNamespace(job=made, config=config, world=world, engine=None)
        room = Room("here", runs.TOTAL, limit)
        told = str(memory.short(run, MemoryShortError("", used // 4, used, room, "device 0")))
    within = min(min(used + 1000, limit or used + 1000) - used // 4, int(memory.LESS * used))
    looked = fitting.look_for(made, config, within)
    assert looked.fits is not None and looked.fits.needed <= within < used
    found = re.search(r"grids that --set (\S+) --write-plan FILE writes, .*: --plan FILE$", told)
    assert found and found[1] == f"compute.memory_limit={within}", told
    of = f"{bytes_text(limit)} (compute.memory_limit)" if limit else "which other processes may use"
    assert of in told and "(1000 B are free there)" in told
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    kept, words = shared_path / "fits.json", job(shared_path / "run", *BASE)
    with World(comm) as world, pytest.raises(InputError, match=re.escape(f"--plan {kept}")):
        start(world, *words, found[1], "--plan", "n2", "--write-plan", str(kept))
    schemes = {name: str(scheme) for name, scheme in looked.fits.plan.schemes.items()}
    assert json.loads(kept.read_text())["layers"] == schemes
    with World(comm) as world:
        code, _ = start(world, *words, found[1], "--plan", str(kept))
    assert code == 0


def test_searches_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found late is not waited for; what was seen until then is told; a bug is not hidden."""
    config, made = chosen(2, "n2")
    late = 30.0

    def ways(job: Job, config: Config, limit: int, seen: list[fitting.Seen]) -> Any:
        seen.append(fitting.Seen(made.plan, 100))
        yield
        if late == 0:
            raise ZeroDivisionError
        time.sleep(late)
        seen.append(fitting.Seen(made.plan, 1))
        yield

    monkeypatch.setattr(fitting, "_plans", ways)
    started_s = time.monotonic()
    looked = fitting.look_for(made, config, 1, 0.2)
    assert time.monotonic() - started_s < 5
    assert looked == fitting.Looked(None, fitting.Seen(made.plan, 100), 1, False)
    assert memory._least(looked).startswith(
        "no plan was found in time: the least looked at, n2, is predicted"
    )
    late = 0.0
    with pytest.raises(ZeroDivisionError):
        fitting.look_for(made, config, 1, 5)


def alone(argv: Sequence[str]) -> int:
    """Be a rank of a run in which the device of rank 1 (of rank 0, if it is alone) has no room in a step."""
    zoo._ZOO["act"] = activations
    hang, words = argv[0] == "hang", argv[1:]

    def opened(rank: int, limit: float | None = None) -> tuple[Any, Room]:
        from mpi4py import MPI

        mine = MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1
        room = Room(f"device {rank}", (1 << 20) if mine else (1 << 30))
        return runs.Small(room), room

    vars(engines)["open_device"] = opened
    if hang:
        fitting.SEARCH_S = 0.5
        fitting._plans = lambda *_: iter(lambda: time.sleep(1000), 1)
    return launch.main(words)


@pytest.mark.parametrize(("ranks", "how"), [(1, "hang"), (2, "hang"), (2, "search")])
def test_one_message_names_rank_layer_and_plan(tmp_path: Path, ranks: int, how: str) -> None:
    """Others wait meanwhile in a movement, and are ended; a search that takes too long is left behind."""
    words = [*job(Path("run"), *BASE, "model.name=act", f"train.batch={512 * ranks}"), "--plan", f"n{ranks}"]
    done = run_ranks(ranks, ["-m", "tests.train.test_memory", how, *words], cwd=tmp_path, timeout_s=60)
    assert done.returncode == 3, done.stderr
    said = [line for line in done.stderr.splitlines() if "no memory left" in line]
    where = "error: " if ranks == 1 else "error on rank 1: "
    assert len(said) == 1 and said[0].startswith(where), done.stderr
    assert re.search(r"has no memory left \(layer (conv|relu|linear)\w*, (forward|backward)\)", said[0]), said
    if how == "hang":
        assert "no plan was found in time; split the batch" in said[0], said
    else:
        assert re.search(
            r"Within .* fits the plan .* which is predicted to need .*: --plan (\"[^\"]+\"|FILE)", said[0]
        ), said
    assert "stuck" not in done.stderr and "Traceback" not in done.stderr, done.stderr


if __name__ == "__main__":
    sys.exit(alone(sys.argv[1:]))
