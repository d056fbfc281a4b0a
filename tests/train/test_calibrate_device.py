"""Calibration of devices: what is timed has been done, links carry their arrays, and the planner reads what is written.

The device is the tests' own, on the CPU: the numbers are those of fibers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm import mover
from gridnn.comm.collectives import start_sum
from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine, Precision
from gridnn.compute.gpu.room import Room
from gridnn.cost.machine import COLLECTIVES, load_machine
from gridnn.geometry.traffic import Widths
from gridnn.network import spec as s
from gridnn.network.graph import Builder, Network
from gridnn.plan.problem import Job
from gridnn.plan.search import search
from gridnn.train import engine as engines
from gridnn.train.calibrate import blocks, layers, links, overlap, run, swaps
from tests.support import shim
from tests.support.shim.device import DeviceArray, ShimDevice


def tiny(input_shape: tuple[int, ...] = (3, 6, 6), classes: int = 4) -> Network:
    """Some of each kind of kernel; fibers are slow."""
    net = Builder("tiny", input_shape)
    x = net.relu(net.batch_norm(net.conv(net.input, 4, 3, pad=1, bias=False)))
    return net.done(net.cross_entropy(net.linear(net.flatten(net.max_pool(x, 2, 2)), classes)))


PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")
LOSSES = [
    blocks.Block(s.SoftmaxCrossEntropy(), ((2, 4),)),
    blocks.Block(s.MeanSquaredError(), ((2, 3, 4, 4),)),
]


def opened(device: ShimDevice, precision: Precision) -> Engine:
    """Return an engine, where arrays can be stored so."""
    if precision == "bf16":
        pytest.importorskip(
            "ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16"
        )
    return Engine(device, precision)


class Waiting(ShimDevice):
    """A device that knows whether all that was started has been waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.waited = 0, 0

    def launch(self, *words: Any, **more: Any) -> None:
        super().launch(*words, **more)
        self.open += 1

    def synchronize(self) -> None:
        super().synchronize()
        self.open, self.waited = 0, self.waited + self.open


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    made = Waiting()
    monkeypatch.setattr(engines, "open_device", lambda rank, limit: (made, Room("here", 1 << 26)))
    return made


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pass_is_timed_until_the_device_is_done(
    comm: Any, device: Waiting, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Wherever the clock is read nothing is under way; the numbers are on the device, stored as in a run."""
    engine, read, clock = opened(device, precision), list[int](), layers.now_s

    def watched(engine: Any) -> float:
        seconds = clock(engine)
        read.append(device.open)
        return seconds

    passes = layers._passes

    def looked(layer: Any, inputs: Any, dy: Any) -> layers.Times:
        stored = engine.activations(np.float32)
        assert {layer.dtype, dy.dtype, *(x.dtype for x in inputs)} == {stored}
        for parameter in layer.parameters.values():
            factor = np.asarray(parameter.factor.view(np.ndarray), np.float32)
            assert np.isfinite(factor).all(), "multiplied by a copy that nobody made"
        return passes(layer, inputs, dy)

    monkeypatch.setattr(layers, "now_s", watched)
    monkeypatch.setattr(layers, "_passes", looked)
    with World(comm) as world:
        world.memory, world.transport = engine.memory, Staged(world.memory, engine)
        todo = [*blocks.tiny_blocks(), *LOSSES]
        found = list(layers.measure_blocks(world, engine, todo, 60.0, lambda text: None))
    assert [block for block, _ in found] == todo
    assert all(times.forward_s > 0 and times.data_s > 0 for _, times in found)
    assert read and not any(read) and device.waited > 0
    numbers = layers._numbers(engine, (2, 3, 4, 4))
    assert isinstance(numbers, DeviceArray) and numbers.dtype == engine.activations(np.float32)
    assert numbers.dtype.itemsize == (2 if precision == "bf16" else 4)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("transport", "precision"), [(Staged, "float32"), (Aware, "float32"), (Staged, "bf16")]
)
def test_links_of_a_device(
    comm: Any, device: Waiting, transport: type[Staged | Aware], precision: Precision
) -> None:
    """Swaps carry arrays of the device there and back: both halves arrive, and are what the peer had."""
    engine = opened(device, precision)
    width = engine.activations(np.float32).itemsize
    with World(comm) as world:
        world.memory, world.transport = engine.memory, transport(world.memory, engine)
        nodes, waits = links.find_nodes(world, None), device.waits
        messages = list(links.measure_messages(world, nodes, True, lambda text: None, engine))
        sums = list(links.measure_collectives(world, nodes, True, lambda text: None, engine))
        assert len({str(all_) for all_ in comm.allgather((messages, sums))}) == 1
        assert device.waits > waits and device.open == 0
        assert {(m.how, m.nbytes) for m in messages if m.how == "swap"} == {
            ("swap", n) for n in links.QUICK_SIZES
        }
        assert {c.kind for c in sums} == set(COLLECTIVES) and all(m.seconds > 0 for m in messages)
        with swaps._pair(world, 1 - comm.rank) as pair:
            for nbytes in (8, 4096):
                path, own = swaps._halves(pair, nbytes, engine)
                assert isinstance(own, DeviceArray) and own.shape == (1, 2 * nbytes // width)
                own[...] = np.float32(comm.rank + 1.0)
                before = pair.ledger.received_bytes
                got = start_swap(pair, path, own)
                assert (got == np.array([[1.0], [2.0]])).all() and got.shape == (2, nbytes // width)
                assert pair.ledger.received_bytes - before == nbytes, (
                    "as many bytes as the message is said to have"
                )


def start_swap(pair: World, path: mover.Route, own: Any) -> Any:
    """What the mover makes of a swap, on the host."""
    got = mover.start(pair, path, own, swaps.KEY, own.dtype).wait()
    return np.array(np.asarray(got).view(np.ndarray), np.float32)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_sums_beside_a_devices_products(
    comm: Any, device: Waiting, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Products multiply what layers store; sums are of gradients, float32 in every precision."""
    monkeypatch.setattr(overlap, "MOST_SIDE", overlap.SIDE)
    monkeypatch.setattr(overlap, "BUCKET", 1 << 16)
    engine, factors, summed = opened(device, precision), set[Any](), set[Any]()
    multiply = device.matmul

    def multiplied(a: Any, b: Any, out: Any) -> None:
        factors.add(a.dtype)
        multiply(a, b, out)

    def begun(world: World, ranks: tuple[int, ...], array: Any, keys: Any) -> Any:
        summed.add(array.dtype)
        return start_sum(world, ranks, array, keys)

    monkeypatch.setattr(device, "matmul", multiplied)
    monkeypatch.setattr(overlap, "start_sum", begun)
    with World(comm) as world:
        world.memory, world.transport = engine.memory, Staged(world.memory, engine)
        found = overlap.measure_overlap(world, True, lambda text: None, engine)
        assert len(set(comm.allgather(found))) == 1
    assert 0 <= found.share <= 1 and min(found[:3]) > 0
    assert factors == {engine.activations(np.float32)} and summed == {np.dtype(np.float32)}


@pytest.mark.ranks(1, 2)
def test_a_machine_file_of_devices(
    comm: Any, shared_path: Path, device: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured on a device says so, and the planner reads it."""
    calibrated(comm, shared_path, device, monkeypatch, "float32")


@pytest.mark.ranks(1)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_machine_file_of_a_precision(
    comm: Any, shared_path: Path, device: Waiting, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    calibrated(comm, shared_path, device, monkeypatch, precision)


def calibrated(
    comm: Any, shared_path: Path, device: Waiting, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Calibrate: the file says in what, the arrays are those of a run, and the planner reads it."""
    opened(device, precision)  # skips where it cannot be
    made, numbers = set[Any](), layers._numbers

    def watched(engine: Any, shape: tuple[int, ...]) -> Any:
        made.add((engine.precision, numbers(engine, (1, 1)).dtype.name))
        return numbers(engine, shape)

    monkeypatch.setattr(layers, "_numbers", watched)
    monkeypatch.setattr(run, "QUICK_S", 0.05)
    monkeypatch.setattr(run, "cache_folder", lambda: shared_path)
    monkeypatch.setattr(
        blocks, "jobs_of", lambda *asked: [(tiny(), 4)]
    )  # the usual picture takes fibers long
    monkeypatch.setattr(overlap, "BUCKET", 1 << 16)
    path, said = shared_path / "gpus.toml", list[str]()
    words = ["-o", str(path), "--quick", "--device", "gpu", "--network", "tiny", "--batch", "4"]
    words += ["--precision", precision] * (precision != "float32")
    with World(comm) as world:
        run.calibrate(world, run._parse(words, False), said.append, {"MPI_LOCALRANKID": str(comm.rank)})
        comm.Barrier()
    what = {"float32": "", "tf32": ", wide convolutions in TF32", "bf16": ", arrays between layers in BF16"}[
        precision
    ]
    assert said[0].startswith(f"device: fibers (forward){what}; transport staged: MPI takes no device memory")
    assert made == {(precision, "bfloat16" if precision == "bf16" else "float32")}
    assert sum(f"families in {precision}" in line for line in said) == 1
    assert any("elements, 2 bytes" in line for line in said) == (precision == "bf16")
    machine = load_machine(str(path))
    assert "device: fibers" in machine.source and machine.memory_bytes == (1 << 26) // comm.size
    assert f"; {precision}; " in machine.source
    assert machine.profile is not None and machine.profile.precision == precision
    width = 2 if precision == "bf16" else 4
    assert machine.element_bytes == machine.profile.element_bytes == width
    assert f"touch_s_per_element = {machine.touch_s_per_element!r}" in path.read_text(), "as it was measured"
    assert not machine.mismatch(precision) and f"measured in {precision}" in machine.mismatch("bfloat16")
    families = {block.family for block in blocks.blocks_of([(tiny(), 4)], comm.size, 1 << 26)}
    assert set(machine.profile.families) == families
    narrow = Job(tiny(), machine.at(Widths(width, 4)), comm.size, 4, activation_bytes=width)
    assert narrow.machine.touch_s_per_element == machine.touch_s_per_element * 4 / width, "of a parameter"
    found = search(narrow)
    assert found.step_s > 0 and len(found.schemes) == len(tiny().nodes)
