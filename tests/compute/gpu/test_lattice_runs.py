"""Products of copied rows in graphs, beside cuDNN, and in a network on a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gridnn.comm.transport import Staged
from gridnn.comm.world import World
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import conv, lattice
from gridnn.compute.gpu.cudnn_engine import CudnnEngine
from gridnn.compute.gpu.engine import Engine
from gridnn.network.graph import Builder, Network
from tests.compute.gpu.test_conv_calls import NEEDS_CXX
from tests.compute.gpu.test_conv_lattice import CASES, Passes, kernels
from tests.support import shim
from tests.support.laws import check, uniform_schemes
from tests.support.shim.device import ShimDevice


@NEEDS_CXX
def test_it_is_captured() -> None:
    """Copies are in the graph, the product is between its parts, and a launch makes the bits of a call."""
    x, outputs, told = CASES[1]
    engine = Engine(ShimDevice())
    given = Passes(engine, x, outputs, told, np.float32)
    grad, dx = engine.memory.zeros(given.w.shape, np.float32), engine.memory.zeros(x, np.float32)
    y = engine.empty(given.dy.shape, np.float32)

    def step() -> None:
        conv.forward(engine, given.x, given.w, told, out=y)
        conv.backward_data(engine, given.dy, given.w, told, x, out=dx)
        conv.backward_weights(engine, given.x, given.dy, told, grad, add=False)

    step()
    wanted = [engine.give(a).tobytes() for a in (y, dx, grad)]
    graph = engine.device.capture(step)
    assert isinstance(engine.device, ShimDevice) and engine.device.captures[-1].cuts == 3
    for a in (y, dx, grad):
        a[...] = 5
    graph.launch()
    assert [engine.give(a).tobytes() for a in (y, dx, grad)] == wanted


@NEEDS_CXX
def test_cudnn_is_asked_before() -> None:
    """It reads strides itself: copied rows are what it is measured against, in place of own kernels."""
    asked = list[Any]()

    class Ways:
        def asked(self, engine: Engine, kind: str, arrays: Any, told: Window, relu: bool) -> str:
            return kind

        def run(self, engine: Engine, kind: str, own: Any, arrays: Any) -> None:
            asked.append(kind)
            own()

    ways: Any = Ways()
    x, outputs, told = CASES[0]
    engine = CudnnEngine(ShimDevice(), "float32", None, ways)
    Passes(engine, x, outputs, told, np.float32).hold_all()
    assert asked == ["forward", "backward_data", *["backward_weights"] * 2] and not kernels(engine)


def shortcuts() -> Network:
    """Two blocks whose shortcut has a stride, wide on any cut of space and of half the channels of the second."""
    net = Builder("shortcuts", (3, 7, 6))
    x = net.relu(net.conv(net.input, 64, 1))
    for out in (64, 128):
        x = net.relu(
            net.add(net.conv(x, out, 1, stride=2), net.conv(x, out, 2, stride=2, pad=((0, 1), (0, 1))))
        )
    return net.done(net.cross_entropy(net.linear(net.flatten(net.global_pool(x)), 5)))


@pytest.mark.ranks(1, 2, 3)
def test_serial_law(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks begin and end between points: the whole network on any grid is that of one processor."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    used, passes = set[str](), ("forward", "backward_data", "backward_weights")

    def spied(name: str) -> Callable[..., None]:
        function = getattr(lattice, name)

        def call(*words: Any) -> None:
            used.add(name)
            function(*words)

        return call

    for name in passes:
        monkeypatch.setattr(lattice, name, spied(name))
    with World(comm) as world:
        engine = Engine(ShimDevice())
        world.memory, world.transport = engine.memory, Staged(world.memory, engine)
        network = shortcuts()
        for axis in ("n", "h", "k") if comm.size > 1 else ("h",):
            schemes = uniform_schemes(network, f"{axis}{comm.size}")
            check(world, network, schemes, 3, dtype="float32", tolerance=2e-5, engine=engine)
        found = set().union(*world.comm.allgather(used))
    assert found == set(passes)
