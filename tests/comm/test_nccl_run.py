"""How a run comes to NCCL, and what is said where it hangs or fails."""

from __future__ import annotations

import io
import json
import re
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gridnn.comm import trial
from gridnn.comm.clock import Clock
from gridnn.comm.collectives import finish, start_sum
from gridnn.comm.nccl import Nccl, open_nccl
from gridnn.comm.trail import Movement, Trail, of_device, place_of
from gridnn.comm.transport import Direct, Staged
from gridnn.comm.watchdog import Watchdog
from gridnn.comm.world import World
from gridnn.compute.gpu.device import CupyDevice
from gridnn.compute.gpu.found import Found
from gridnn.compute.gpu.room import Room
from gridnn.compute.gpu.streams import URGENT, USUAL, CupyStreams
from gridnn.errors import InputError, RunError
from gridnn.geometry.traffic import Key
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.train import engine as engines
from gridnn.train.config import load_config
from gridnn.train.console import Console
from gridnn.train.resume import open_start
from gridnn.train.run import prepare, train
from tests.support import shim
from tests.support.launch import run_ranks
from tests.support.lazy import LazyStreams, StreamDevice
from tests.support.nccl import Library, on_device
from tests.support.nccl_calls import REDUCE, NcclError

needs_kernels = pytest.mark.skipif(
    shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU"
)
KEY = Key("fc7", "backward", "allreduce", "n")


# Streams of CuPy ---------------------------------------------------------------------------------


class PaperCuda:
    """CuPy's streams and events, of paper: what was asked of them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.current = self.Stream(self.log, ptr=0)

    class Stream:
        def __init__(self, log: list[Any], ptr: int) -> None:
            self.log, self.ptr = log, ptr

        def record(self, event: Any) -> Any:
            self.log.append(("record", self.ptr))
            return event

        def wait_event(self, event: Any) -> None:
            self.log.append(("wait", self.ptr))

    def made(self, non_blocking: bool, priority: int) -> Any:
        self.log.append(("stream", non_blocking, priority))
        return self.Stream(self.log, ptr=64 + len(self.log))

    def load(self, name: str) -> Any:
        assert name == "cupy"
        cuda = SimpleNamespace(
            Stream=self.made, get_current_stream=lambda: self.current,
            Event=lambda disable_timing: SimpleNamespace(done=False, timing=not disable_timing),
            Device=lambda number: SimpleNamespace(use=lambda: self.log.append(("use", number))),
        )  # fmt: skip
        return SimpleNamespace(cuda=cuda)


def test_streams_of_cupy() -> None:
    paper = PaperCuda()
    streams = CupyStreams(3, paper.load)
    halos, sums = streams.new(urgent=True), streams.new(urgent=False)
    assert paper.log == [("stream", True, URGENT), ("stream", True, USUAL)] and URGENT < USUAL
    event = streams.compute().record()
    halos.wait(event)
    streams.bind()
    assert paper.log[2:] == [("record", 0), ("wait", halos.pointer), ("use", 3)]
    assert not event.done and halos.pointer != sums.pointer and streams.compute().pointer == 0


# Where a rank is ---------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.ranks(2)
def test_a_device_that_hangs_says_where(comm: Any) -> None:
    """The host of rank 0 went on and waits in no movement; its device waits for rank 1, which never comes."""
    with World(comm) as world:
        engine = on_device(world)
        by: Nccl = world.transport._carrier  # type: ignore[attr-defined]
        by.links.group(world, "sums", (0, 1))
        array, parts = engine.take(np.ones(4)), [(KEY, 4)]
        watchdog = Watchdog(world, 1.0, lambda text: None)
        assert world.transport.behind() is None and watchdog._place().inside is None
        if world.rank == 0:
            request = start_sum(world, (0, 1), array, parts)
            for _ in range(100):  # of its host, which its device is far behind
                world.trail.enter("halo", (0, 1), Key("conv1", "forward", "halo", "h"))
            place = watchdog._place()
            wanted = Movement("allreduce", (0, 1), 1, (("fc7",), "backward"))
            assert (place.inside, place.recent[-1], place.entered((0, 1))) == (wanted, wanted, 1)
            assert "rank 0 in all-reduce of fc7 backward: gone" in watchdog._broken("gone")
        comm.Barrier()
        if world.rank == 1:
            request = start_sum(world, (0, 1), array, parts)
        finish(world, request, "allreduce")
        assert world.transport.behind() is None and (engine.give(array) == 2).all()


def test_a_host_that_waits_is_where_it_waits() -> None:
    """What the device is behind with does not hide it."""
    clock, trail = Clock(), Trail()
    trail.enter("halo", (0, 1), KEY)
    behind = trail.last()
    trail.enter("allreduce", (0, 1), KEY)
    with clock.phase("allreduce", (("fc7",), "backward")):
        place = place_of(0, clock, trail, 0)
    assert of_device(place, trail, behind) is place
    assert of_device(place._replace(phase=""), trail, None).inside is None
    assert [m.kind for m in trail.recent(behind)] == ["halo"] and len(trail.recent()) == 2


@needs_kernels
@pytest.mark.ranks(2)
def test_what_the_library_finds_out_is_told(comm: Any) -> None:
    """As CuPy tells it: in words, or by the number of an error that its table does not have."""
    with World(comm) as world:
        on_device(world)
        assert world.transport.fault() == ""
        library: Library = world.transport._carrier.links.library  # type: ignore[attr-defined]
        for wrong, words in (
            (
                NcclError("NCCL_ERROR_REMOTE_ERROR: remote process exited"),
                "REMOTE_ERROR: remote process exited",
            ),
            (KeyError(8), "error 8: it took too long"),
            (KeyError(99), "error 99: this CuPy has no words for it"),
        ):
            library.broken = wrong
            assert words in world.transport.fault()
        library.broken = None


BROKEN = """
import time
from gridnn.comm.watchdog import Watchdog
from gridnn.comm.world import World, world_comm
world = World(world_comm())
with Watchdog(world, 20.0, lambda text: print(text, flush=True)):
    world.transport.fault = lambda: "NCCL failed (gone)"
    time.sleep(30)
"""


def test_a_run_whose_messages_fail_is_ended(tmp_path: Path) -> None:
    """At once, though its host waits for the device."""
    (tmp_path / "broken.py").write_text(BROKEN)
    done = run_ranks(1, [str(tmp_path / "broken.py")], timeout_s=25)
    assert done.returncode == 3 and "rank 0: NCCL failed (gone), all ranks are stopped" in done.stdout, (
        done.stdout
    )


@needs_kernels
@pytest.mark.ranks(2)
@pytest.mark.parametrize("orderly", [True, False])
def test_the_end_of_a_world(comm: Any, monkeypatch: pytest.MonkeyPatch, orderly: bool) -> None:
    """After an error communicators are let go of by force, and so where something is still on its way."""
    monkeypatch.setattr("gridnn.comm.links.QUIET_S", 0.1)
    world = World(comm)
    on_device(world)
    library: Library = world.transport._carrier.links.library  # type: ignore[attr-defined]
    if orderly:
        with world:
            pass
    else:
        with pytest.raises(RunError, match="something"), world:
            raise RunError("something")
    assert [c.closed for c in library.communicators] == ["destroyed" if orderly else "aborted"]


@needs_kernels
@pytest.mark.ranks(2)
def test_an_end_by_force_waits_for_nobody(comm: Any) -> None:
    """Each communicator that ends gives memory back, and waits for all kernels of the device: all end together."""
    world = World(comm)
    engine = on_device(world)
    by: Nccl = world.transport._carrier  # type: ignore[attr-defined]
    library: Library = by.links.library
    by.links.group(world, "sums", (0, 1))
    with pytest.raises(RunError, match="something"), world:
        array = engine.take(np.ones(4))
        started = by.start_sum(world, (0, 1), array) if world.rank == 0 else None  # rank 1 never does
        raise RunError("something")
    assert [c.closed for c in library.communicators] == ["aborted"] * 2
    assert started is None or not started.done
    if started is not None:  # one after the other would not
        library.communicators[1].closed = ""
        with pytest.raises(AssertionError, match="waits for another's kernels"):
            library.communicators[0].abort()


# How a run comes to it ---------------------------------------------------------------------------


def carrier_of(comm: Any) -> tuple[StreamDevice, Nccl, Library]:
    """Return a device with a carrier that nobody has tried."""
    device = StreamDevice()
    streams = LazyStreams(device)
    library = Library(comm, device, streams)
    return device, Nccl(device, streams, library), library


@needs_kernels
@pytest.mark.ranks(3)
def test_a_trial(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says on all ranks alike what is wrong: nothing, a wrong sum, no identity, an error or no answer of one."""
    device, by, library = carrier_of(comm)
    with World(comm) as world:
        assert trial.tried(world, device, by) == ""
        assert set(library.calls) == {"allReduce"} and device.waits == 1
    for change, words in (
        ("sum", f"rank 0: a sum of 1 to {comm.size} was {comm.size}"),
        ("identity", "rank 0: no network"),
        ("error", "rank 1: .*no shared memory"),
        ("hangs", r"rank \d: no answer within 0.4 s"),
    ):
        device, by, library = carrier_of(comm)
        with World(comm) as world, monkeypatch.context() as changed:
            if change == "sum":
                changed.setitem(REDUCE, 0, np.maximum)
            elif change == "identity":
                changed.setattr(library, "get_unique_id", lambda: fail("no network"))
            elif comm.rank == 1:
                act = {"error": lambda: fail("no shared memory"), "hangs": lambda: time.sleep(0.6)}[change]
                changed.setattr(library, "NcclCommunicator", partial(then, library.NcclCommunicator, act))
            found = trial.tried(world, device, by, 0.4)
            assert len(set(comm.allgather(found))) == 1
            assert re.match(words, found), found
            if change == "hangs":
                time.sleep(0.4)  # what hung comes back, into a world that is still there


def then(make: Any, act: Any, *asked: Any) -> Any:
    """Make a communicator, and do something."""
    made = make(*asked)
    act()
    return made


def fail(words: str) -> Any:
    raise RuntimeError(words)


def opened(comm: Any) -> Any:
    """What stands for `open_device` where ranks have a device each."""
    return lambda rank, limit=None: (StreamDevice(), Room(f"bus{rank} uuid", 1 << 26))


@needs_kernels
@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("asked", "works", "kind"),
    [("auto", True, Direct), ("nccl", True, Direct), ("auto", False, Staged), ("staged", True, Staged)],
)
def test_what_is_asked_for(
    comm: Any, monkeypatch: pytest.MonkeyPatch, asked: str, works: bool, kind: type[Any]
) -> None:
    monkeypatch.setattr(engines, "open_device", opened(comm))
    monkeypatch.setattr(engines, "find_devices", lambda: Found(nccl=22707))
    with World(comm) as world:
        world.also_close(lambda orderly: None)
        monkeypatch.setattr(engines, "open_nccl", lambda device: standing(world, device))
        if not works:
            monkeypatch.setattr(engines, "tried", lambda *asked: "rank 1: no route")
        config = load_config(None, ["compute.device=gpu", f"comm.transport={asked}"])
        engine = engines.engine_of(world, config, 1, None, {"MPI_LOCALRANKID": str(comm.rank)})
        said = engines.words(world, engine, config.compute, 1)[0]
        assert type(world.transport) is kind and world.memory is engine.memory, said
        if kind is Direct:
            assert (
                "transport nccl: " + ("it was" if asked == "nccl" else "every rank has a GPU of its own")
                in said
            )
        if not works:
            assert (
                "transport staged: NCCL is here and does not work between these ranks (rank 1: no route)"
                in said
            )


@needs_kernels
@pytest.mark.ranks(2)
def test_asked_for_it_must_work(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "open_device", opened(comm))
    config = load_config(None, ["compute.device=gpu", "comm.transport=nccl"])
    environment = {"MPI_LOCALRANKID": str(comm.rank)}
    with (
        World(comm) as world,
        pytest.raises(InputError, match=r"nccl cannot be had: ranks 0, 1 have none that CuPy"),
    ):
        engines.engine_of(world, config, 1, None, environment)
    monkeypatch.setattr(engines, "find_devices", lambda: Found(nccl=22707))
    monkeypatch.setattr(engines, "tried", lambda *asked: "rank 1: no route")
    with World(comm) as world:
        monkeypatch.setattr(engines, "open_nccl", lambda device: standing(world, device))
        with pytest.raises(
            InputError, match=r"does not work between these ranks \(rank 1: no route\)"
        ) as caught:
            engines.engine_of(world, config, 1, None, environment)
    assert caught.value.everywhere


def test_nccl_that_cannot_be_loaded() -> None:
    device = object.__new__(CupyDevice)
    device.number = 0

    def load(name: str) -> Any:
        if name == "cupy":
            return SimpleNamespace(cuda=None)
        raise ImportError("libnccl.so.2 is not there")

    with pytest.raises(RunError, match=r"NCCL failed while it was loaded: libnccl\.so\.2 is not there"):
        open_nccl(device, load)


def standing(world: World, device: Any) -> Nccl:
    """What stands for `open_nccl` here."""
    streams = LazyStreams(device)
    library = Library(world.comm, device, streams)
    world.also_close(library.close)
    return Nccl(device, streams, library)


def little(input_shape: tuple[int, ...], classes: int) -> Network:
    """Convolution with halos, batch norm, a pool and a fully connected layer."""
    net = Builder("little", input_shape)
    x = net.relu(net.batch_norm(net.conv(net.input, 5, 3, pad=1, bias=False)))
    return net.done(net.cross_entropy(net.linear(net.flatten(net.max_pool(x, 3, 2, 1)), classes)))


@needs_kernels
@pytest.mark.ranks(2)
def test_a_run(comm: Any, shared_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss by loss the curve of the processor, with evaluation, checkpoints and a cut optimizer; as a graph, too."""
    monkeypatch.setitem(zoo._ZOO, "little", little)
    monkeypatch.setattr(engines, "open_device", opened(comm))
    monkeypatch.setattr(engines, "find_devices", lambda: Found(nccl=22707))
    words = [
        "model.name=little", "data.pad=1", "train.batch=8", "train.dtype=float64", "train.lr=0.05",
        "train.optimizer=adamw", "train.warmup_steps=0", "train.schedule=constant", "train.cut_optimizer=true",
        "train.steps=5", "checkpoint.every_steps=4",
    ]  # fmt: skip
    curves = []
    for device, graphs in (("cpu", "off"), ("gpu", "off"), ("gpu", "on")):
        with World(comm) as world:
            monkeypatch.setattr(engines, "open_nccl", lambda device, world=world: standing(world, device))
            folder = shared_path / f"{device} {graphs}"
            given = [*words, *([f"compute.graphs={graphs}"] if device == "gpu" else [])]
            given += ["train.eval=false"] if graphs == "on" else []
            config = load_config(None, given, "h2", str(folder), device)
            console = Console(world.rank, io.StringIO())
            ready = prepare(world, config, console)
            summary: Any = train(ready, open_start(world, config, "auto", console))
            assert isinstance(world.transport, Direct) is (device == "gpu")
            assert summary.predicted_bytes == summary.counted_bytes
            if device == "gpu":
                shim_device: Any = ready.engine.device  # type: ignore[union-attr]
                assert len(shim_device.captures) == (graphs == "on")
            lines = (folder / "steps.jsonl").read_text().splitlines() if world.rank == 0 else []
            curves.append(world.comm.bcast([json.loads(line)["loss"] for line in lines]))
    assert len(curves[0]) == 5 and curves[2] == curves[1]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-9)
