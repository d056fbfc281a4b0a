"""Convolution of an engine whose precision is "tf32": which kernels compute it, and how far from float64 that is."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import numpy as np
import pytest

from gridnn.comm.transport import Staged
from gridnn.comm.world import World
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import conv
from gridnn.compute.gpu.engine import Engine, Precision
from gridnn.compute.gpu.provider import EXACT, NARROW, REACH, TENSOR, provider_of
from gridnn.compute.gpu.view import Parts
from gridnn.errors import InputError
from gridnn.network.graph import Builder, Network
from tests.compute.gpu.test_conv import Arrays, Case, Ints, drawn, split
from tests.compute.gpu.test_conv_calls import ONE, laid
from tests.compute.gpu.test_conv_tensor import TF32, hold
from tests.support import shim
from tests.support.laws import check, random_schemes, uniform_schemes
from tests.support.shim.device import ShimDevice

NEEDS_CXX = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
SAME = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
WIDE = [
    Case((2, 18, 7, 6), 17, 1, SAME, ((2, 5), (0, 6))),
    Case((1, 40, 6, 5), 72, 2, Window((3, 2), (2, 1), (1, 2), (2, 1), (0, 2)), ((0, 4), (2, 5))),
    Case((1, 16, 5, 4), 68, 1, SAME, ((1, 3), (1, 4))),
    # With channels filled up to 20 and 24 the gradient by w has columns in a tile more, a wide one and a narrow one.
    Case((2, 17, 21), 20, 1, Window((7,), (2,), (1,), (1,), (1,)), ((6, 13),)),
    Case((1, 21, 9), 16, 1, Window((3,), (1,), (2,), (2,), (2,)), ((2, 7),)),
]
SLIM = [
    Case((2, 3, 6, 5), 32, 1, SAME, ((0, 6), (0, 5))),
    Case((2, 32, 6, 5), 12, 1, SAME, ((0, 6), (0, 5))),
    Case((1, 32, 5, 4), 32, 32, SAME, ((0, 5), (0, 4))),
]
TOLERANCES: dict[Precision, float] = {"float32": 2e-5, "tf32": 2e-3}
"""Of the serial law in float32, by precision: TF32 is wrong by 2^-11 of a factor, and signs near zero may change."""


class Passes:
    """The three passes of a case on an engine, in that order, on the host."""

    def __init__(self, engine: Engine, case: Case, dtype: Any = np.float32, how: str = "dense") -> None:
        x, w, _, dy = drawn(case, dtype)
        self.device, window = engine.device, case.window
        words: dict[str, Any] = {"groups": case.groups}
        assert isinstance(self.device, ShimDevice)
        self.x, self.w, self.dy = x, w, dy
        self.bias = np.linspace(-1, 1, case.outputs).astype(dtype)
        there: Any = laid(engine, x, "dense" if how == "parts" else how)
        if how == "parts":
            parts = split(x, case.own)
            there = Parts(engine.take(parts.own), {side: engine.take(h) for side, h in parts.halos.items()})
        back, weights = laid(engine, dy, "dense" if how == "parts" else how), engine.take(w)
        dw = engine.memory.zeros(w.shape, dtype)
        self.y = engine.give(conv.forward(
            engine, there, weights, window, bias=engine.take(self.bias), relu=True, **words
        ))  # fmt: skip
        self.dx = engine.give(conv.backward_data(engine, back, weights, window, x.shape, **words))
        conv.backward_weights(engine, there, back, window, dw, **words)
        self.dw = engine.give(dw)

    @property
    def files(self) -> set[str]:
        assert isinstance(self.device, ShimDevice)
        return {file for file, _ in self.device.launches}

    @property
    def bits(self) -> bytes:
        return b"".join(np.ascontiguousarray(a).tobytes() for a in (self.y, self.dx, self.dw))


def held(found: Passes, case: Case) -> None:
    """Hold the passes to float64, within what TF32 and the order of sums may be wrong by."""
    words: dict[str, Any] = {**case.window.keywords, "groups": case.groups}
    signed = [a.astype(np.float64) for a in (found.x, found.w, found.dy)]
    bias = found.bias.astype(np.float64).reshape(-1, *[1] * (found.x.ndim - 2))

    def of(x: Arrays, w: Arrays, dy: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        return (
            reference.forward(x, w, **words), reference.backward_data(dy, w, x.shape, **words),
            reference.backward_weights(x, dy, w.shape, **words),
        )  # fmt: skip

    (y, dx, dw), (y_size, dx_size, dw_size) = of(*signed), of(*map(np.abs, signed))
    taps = prod(case.window.kernel)
    hold(found.y, np.maximum(y + bias, 0), y_size + np.abs(bias), prod(found.w.shape[1:]) + 1, TF32)
    hold(found.dx, dx, dx_size, case.outputs // case.groups * taps, TF32)
    hold(found.dw, dw, dw_size, case.x[0] * prod(found.dy.shape[2:]) + 1, TF32)


@NEEDS_CXX
@pytest.mark.parametrize("case", WIDE, ids=str)
@pytest.mark.parametrize("how", ["dense", "margins", "parts"])
def test_wide_groups_are_computed_on_tensor_cores(case: Case, how: str) -> None:
    found = Passes(Engine(ShimDevice(), "tf32"), case, how=how)
    held(found, case)
    assert found.files >= {"conv_tensor"} and "conv" not in found.files
    exact = Passes(Engine(ShimDevice()), case, how=how)
    assert "conv_tensor" not in exact.files
    for name in ("y", "dx", "dw"):  # rounded, or nothing was chosen
        assert not np.array_equal(getattr(found, name), getattr(exact, name))


@NEEDS_CXX
@pytest.mark.parametrize("case", SLIM, ids=str)
def test_narrow_and_depthwise_groups_keep_their_kernels(case: Case) -> None:
    found, exact = Passes(Engine(ShimDevice(), "tf32"), case), Passes(Engine(ShimDevice()), case)
    assert "conv_tensor" not in found.files and found.bits == exact.bits


@NEEDS_CXX
def test_float64_keeps_its_kernels() -> None:
    found = Passes(Engine(ShimDevice(), "tf32"), WIDE[0], np.float64)
    assert "conv_tensor" not in found.files
    assert found.bits == Passes(Engine(ShimDevice()), WIDE[0], np.float64).bits


@NEEDS_CXX
def test_matrix_products_are_left_to_cublas() -> None:
    case = Case((2, 24, 3, 4), 20, 1, ONE, ((0, 3), (0, 4)))
    found = Passes(Engine(ShimDevice(), "tf32"), case)
    assert not found.files & {"conv", "conv_tensor"}
    assert found.bits == Passes(Engine(ShimDevice()), case).bits
    gaps = Passes(Engine(ShimDevice(), "tf32"), case, how="margins")  # no product: kernels read them
    assert "conv_tensor" in gaps.files
    held(gaps, case)


@NEEDS_CXX
def test_tiles_follow_the_columns_of_each_pass() -> None:
    """40 outputs, 16 channels: forward and the gradient by x are narrow, 9 x 16 columns of that by w are not."""
    engine = Engine(ShimDevice(), "tf32")
    found = Passes(engine, Case((1, 16, 6, 5), 40, 1, SAME, ()))
    assert isinstance(engine.device, ShimDevice)
    compiled = {(file, defines) for file, _, defines in engine.device.compiled if file.startswith("conv")}
    assert compiled == {("conv_tensor", NARROW.defines), ("conv_tensor", ())}
    held(found, Case((1, 16, 6, 5), 40, 1, SAME, ()))


@NEEDS_CXX
@pytest.mark.parametrize("columns", [16 * 9, 16 * 2])
def test_chunks_in_every_order(columns: int) -> None:
    """Some hundred positions a chunk, in wide tiles and in narrow ones: the same bits whoever is first."""
    window = SAME if columns == 16 * 9 else Window((1, 2), (1, 1), (1, 1), (0, 1), (0, 0))
    case, seen = Case((3, 16, 17, 13), 18, 1, window, ()), set()
    for order in shim.ORDERS:
        found = Passes(Engine(ShimDevice(order), "tf32"), case)
        assert isinstance(found.device, ShimDevice)
        assert ("conv_tensor", "fold") in found.device.launches
        held(found, case)
        seen.add(found.bits)
    assert len(seen) == 1


def test_choice_by_shape() -> None:
    def chosen(
        w: Ints = (64, 64, 3, 3), groups: int = 1, positions: int = 10**6, columns: int = 64,
        precision: Precision = "tf32", dtype: Any = np.float32,
    ) -> Any:  # fmt: skip
        return provider_of(precision, dtype, w, groups, positions, columns)

    assert chosen() is NARROW and chosen(columns=65) is TENSOR and chosen(columns=1000) is TENSOR
    assert chosen(precision="float32") is EXACT and chosen(dtype=np.float64) is EXACT
    assert chosen((16, 16, 3, 3)) is NARROW
    assert chosen((16, 15, 3, 3)) is chosen((15, 16, 3, 3)) is chosen((64, 1, 3, 3), 64) is EXACT
    assert chosen((64, 32, 3, 3), 4) is NARROW  # of 4 groups with 16 outputs each; of 5 they have 12
    assert chosen((60, 32, 3, 3), 5) is EXACT
    assert chosen(positions=REACH - 1) is NARROW and chosen(positions=REACH) is EXACT
    taps = REACH // 32  # 31 channels or outputs are moved as 32
    for w in ((31, 16), (16, 31)):
        assert chosen((*w, taps - 1)) is NARROW and chosen((*w, taps)) is EXACT


def test_a_device_without_tensor_cores_is_refused() -> None:
    with pytest.raises(
        InputError, match=r'"tf32" needs.*8\.0 or later; fibers \(forward\) has 7\.5\. .*"float32"'
    ):
        Engine(ShimDevice(capability=(7, 5)), "tf32")
    assert Engine(ShimDevice(capability=(7, 5))).name == "fibers (forward)"
    for capability in ((8, 0), (8, 6), (10, 0)):
        assert "TF32" in Engine(ShimDevice(capability=capability), "tf32").name


def wide() -> Network:
    """Convolutions of which some suit tensor cores on any grid, some on a few, some on none."""
    net = Builder("wide", (3, 7, 5))
    x = net.relu(net.conv(net.input, 32, 3, pad=1))
    x = net.relu(net.conv(x, 48, 3, stride=2, pad=1))
    x = net.conv(net.relu(net.conv(x, 36, 3, pad=1, groups=2)), 33, (1, 2), pad=((0, 0), (1, 0)))
    return net.done(net.cross_entropy(net.linear(net.flatten(net.global_pool(x)), 7)))


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("precision", TOLERANCES)
def test_serial_law(comm: Any, precision: Precision, sample_seed: int) -> None:
    """The whole network on any grid is that of one processor in float32, as near as the format lets it."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    network, rng = wide(), random.Random(f"precision {sample_seed} {comm.size}")
    with World(comm) as world:
        engine = Engine(ShimDevice(), precision)
        world.memory, world.transport = engine.memory, Staged(world.memory, engine)
        some = [uniform_schemes(network, f"{axis}{comm.size}") for axis in ("h", "k")]
        for schemes in [*some, random_schemes(network, comm.size, 3, rng)][: 3 if comm.size > 1 else 1]:
            check(world, network, schemes, 3, dtype="float32", tolerance=TOLERANCES[precision], engine=engine)
        assert isinstance(engine.device, ShimDevice)
        used = world.comm.allgather(any(file == "conv_tensor" for file, _ in engine.device.launches))
    assert any(used) == (precision == "tf32")
