"""Laws 1 and 4 where arrays between layers are bfloat16, on a device: near float32, near one rank, bytes as predicted.

Two runs that round differently are held to each other by the norm of their difference, in parts of that of what is
wanted.  Of L layers each rounds its weights, its output and the gradients of both once; a rounding is wrong by `UNIT`:

    output, loss      roundings fall either way and add up as a walk of R steps: sqrt(R) UNIT
    gradients and     in the worst way, R UNIT: where rounding makes two elements of a window equal, or moves one across
    weights           zero, a whole gradient goes elsewhere; in parts of those of their layer together, as the gradient
                      by a bias before a batch norm is nothing but rounding

    against           R
    float32           4 L
    one rank          10 L: both are wrong by 4 L, and terms of sums over ranks are rounded before they are added,
                      forward and backward; the squares of c terms add up to that of their sum, so they count as one
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.storage import UNIT
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from tests.support import shim
from tests.support.laws import Outcome, data, random_schemes, reference, run, uniform_schemes
from tests.support.nets import NETS, build
from tests.support.shim.device import ShimDevice

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
BATCH = 5
EACH = ["conv5-stride2", "conv3d", "transposed", "max-pool", "average-pool-real", "global-max", "batch-norm", "gelu",
        "dropout", "upsample-linear", "squares"]  # fmt: skip
SOME = [
    "conv3",
    "conv-groups",
    "residual",
    "inception",
    "unet",
    "linear-chain",
    "global-average",
    "layer-norm",
]
"""Networks with every kind of layer; these on two ranks, too, the others only in the sweep."""


def narrow(world: World, order: str = "forward", transport: type[Staged | Aware] = Staged) -> Engine:
    """Return an engine of bfloat16, on whose device the world's arrays are from now on."""
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    engine = Engine(ShimDevice(order), "bf16")
    world.memory, world.transport = engine.memory, transport(world.memory, engine)
    return engine


@lru_cache(maxsize=64)
def alone(name: str) -> Outcome:
    """Return what one rank gets."""
    from mpi4py import MPI

    network = build(name)
    with World(MPI.COMM_SELF) as world:
        engine = narrow(world)
        schemes = {node.name: Scheme(GridShape()) for node in network.nodes}
        outcome = run(world, network, schemes, BATCH, dtype="float32", engine=engine)
        used = {dtype for _, dtype, _ in engine.device.compiled}  # type: ignore[attr-defined]
    assert "E" in used and outcome.ledger.messages == 0
    return outcome


def norm(*arrays: Any) -> float:
    """Return the norm of arrays together."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))


def hold(got: Outcome, wanted: Outcome, roundings: int, what: str) -> None:
    """Hold a run to another: losses, output, gradients, parameters, running statistics."""
    walk, worst = roundings**0.5 * UNIT, roundings * UNIT
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=walk, err_msg=what)
    assert norm(got.output - wanted.output) <= walk * norm(wanted.output), f"output {what}"
    for part in ("gradients", "values"):
        found, known = getattr(got, part), getattr(wanted, part)
        for name, array in found.items():
            assert array.dtype == np.float32 == known[name].dtype
            layer = name.rpartition(".")[0]
            size = norm(*(other for at, other in known.items() if at.rpartition(".")[0] == layer))
            assert norm(array - known[name]) <= worst * size, f"{part} {name} {what}"
    for name, array in got.running.items():
        np.testing.assert_allclose(
            array, wanted.running[name], rtol=walk, atol=walk, err_msg=f"{name} {what}"
        )


def near_float32(name: str) -> None:
    got, network = alone(name), build(name)
    hold(got, reference(network, BATCH, "float32"), 4 * len(network.nodes), name)
    assert any((g.view(np.uint32) & 0xFFFF).any() for g in got.gradients.values()), "gradients are rounded"


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", EACH)
def test_one_rank_is_near_float32(comm: Any, name: str) -> None:
    near_float32(name)


@pytest.mark.sweep
@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", sorted(NETS.keys() - {*EACH, *SOME}))
def test_every_kind_is_near_float32(comm: Any, name: str) -> None:
    near_float32(name)


def held(world: World, name: str, schemes: Any, engine: Engine, **options: Any) -> None:
    """Hold a network on its schemes to one rank, and what it moves to what is predicted."""
    network, where = build(name), f"{name} {[str(scheme) for scheme in schemes.values()]}"
    got = run(world, network, schemes, BATCH, dtype="float32", engine=engine, **options)
    differences = got.predicted.differences(got.ledger)
    assert not differences, f"{differences} {where}"
    if not options:
        hold(got, alone(name), 10 * len(network.nodes), where)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("name", SOME)
def test_ranks_are_near_one(comm: Any, name: str, sample_seed: int) -> None:
    """And move what is predicted: values in two bytes, terms of sums and gradients in four."""
    network, rng = build(name), random.Random(f"bf16 {sample_seed} {name} {comm.size}")
    near_float32(name)
    with World(comm) as world:
        engine = narrow(world, "reverse")
        for axis in "nhkc":
            held(world, name, uniform_schemes(network, f"{axis}{comm.size}"), engine)
        schemes = random_schemes(network, comm.size, BATCH, rng)
        held(world, name, schemes, engine)
        held(world, name, schemes, engine, cut_optimizer=True)


@pytest.mark.sweep
@pytest.mark.ranks(3, 4)
@pytest.mark.parametrize("name", sorted(NETS.keys() - {"conv-wide"}))  # it takes fibers minutes
def test_every_kind_on_four_ranks(comm: Any, name: str, sample_seed: int) -> None:
    network, rng = build(name), random.Random(f"bf16 {sample_seed} {name}")
    with World(comm) as world:
        engine = narrow(world)
        for grid in ("n2 h2", "k2 c2", "k4", "c4") if comm.size == 4 else ("h3", "k3", "c3"):
            held(world, name, uniform_schemes(network, grid), engine)
        for _ in range(4):
            held(world, name, random_schemes(network, comm.size, BATCH, rng), engine)


@pytest.mark.ranks(2)
def test_messages_of_a_device(comm: Any) -> None:
    """An MPI that reads a device's memory gets words of two bytes there, too."""
    network = build("residual")
    with World(comm) as world:
        engine = narrow(world, transport=Aware)
        for grid in ("h2", "k2", "c2"):
            held(world, "residual", uniform_schemes(network, grid), engine)


@pytest.mark.ranks(1)
def test_weights_are_copied_once_a_change(comm: Any) -> None:
    """By all passes of a step together, and whoever changes them: the update, other weights, the first ones."""
    network = build("linear-chain")
    with World(comm) as world:
        engine = narrow(world)
        schemes = uniform_schemes(network, "n1")
        model = Model(world, place_network(network, schemes, BATCH, 1), "float32", engine=engine)
        x, target = (array.astype(np.float32) for array in data(network, BATCH))
        arena, weight = model.arena, model.arena.parameters["first"]["weight"]
        arena.initialise(3)

        def passed() -> None:
            arena.begin()
            model.forward(x, target)
            model.backward()

        def copied() -> bool:
            value, factor = (array.view(np.ndarray) for array in (weight.value, weight.factor))
            return bool((factor == value.astype(factor.dtype)).all())

        def changed() -> None:
            with arena.using([2 * value for value in arena.copied()]):
                passed()
                assert copied()

        for change in (lambda: None, arena.publish, changed, lambda: arena.initialise(4)):
            change()
            passed()
            assert weight.factor.dtype == "bfloat16" and weight.grad.dtype == np.float32 and copied()
            weight.value[...] = 3.0  # nobody was told
            passed()
            assert not copied()
            weight.value[...] = 1.0
        assert arena.nbytes == sum(p.value.size for of in arena.parameters.values() for p in of.values()) * (
            4 + 4 + 2
        )


def wide() -> Network:
    """Convolutions that tensor cores take, whole or by halves of the picture; by halves of channels they do not."""
    net = Builder("wide", (3, 6, 4))
    x = net.relu(net.conv(net.input, 16, 3, pad=1))
    x = net.relu(net.batch_norm(net.conv(x, 24, 3, pad=1, bias=False)))
    return net.done(net.cross_entropy(net.linear(net.global_pool(net.conv(x, 16, 1)), 5)))


@pytest.mark.ranks(1, 2)
def test_wide_convolutions(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "bfloat16-wide", lambda name: wide())
    with World(comm) as world:
        engine = narrow(world)
        for axis in "hk" if comm.size > 1 else "n":
            held(world, "bfloat16-wide", uniform_schemes(wide(), f"{axis}{comm.size}"), engine)
        assert isinstance(engine.device, ShimDevice)
        assert ("conv_tensor", "E", ()) in engine.device.compiled
    if comm.size == 1:
        near_float32("bfloat16-wide")
