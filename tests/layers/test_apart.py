"""Halos on a device without a margin buffer: read where they are received, and no byte copied from array to array.

own block     where its layer wrote it                    a halo      the message, as it landed
     `------------------ convolutions read both, to the bits of one array ------------------'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gridnn.comm.mover import Route
from gridnn.comm.transport import Aware, Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.view import Parts
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.layers.conv import Convolution
from gridnn.layers.model import Model
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from tests.layers.test_device import BATCH, on_device
from tests.support.laws import check, data, run, uniform_schemes
from tests.support.shim.device import DeviceArray, ShimDevice


def readers(name: str) -> Network:
    """Return layers with different windows that read one producer, each through a halo of its own."""
    net = Builder(name, (3, 13, 9))
    x = net.conv(net.input, 6, 3, pad=1, name="first")
    if name == "strides":
        found = [net.conv(x, 5, 5, stride=2, pad=2), net.conv(x, 5, 3, stride=2, pad=1)]
    elif name == "groups":  # a block of half the outputs begins or ends inside a group
        found = [net.conv(x, 12, k, pad=k // 2, groups=3) for k in (5, 3)]
    elif name == "wide":  # on three ranks the larger halos are of two neighbours on a side
        found = [net.conv(x, 5, (k, 3), pad=(k // 2, 1)) for k in (3, 11, 13)]
    else:
        found = [net.conv(x, 5, 5, pad=2), net.conv(x, 5, 3, pad=1)]
        if name == "transposed":
            found.append(net.conv_transpose(x, 5, (3, 5), pad=(1, 2)))
    return net.done(net.cross_entropy(net.add(*found)))


def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have halos without a margin buffer copied together with the own block, as on a processor."""
    monkeypatch.setattr("gridnn.layers.fuse.reads_parts", lambda engine: False)


GRIDS = {2: "h2", 3: "h3", 4: "h2 w2"}


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize(
    ("name", "transport"),
    [("windows", Aware), ("strides", Staged), ("groups", Staged), ("wide", Staged), ("transposed", Aware)],
)
def test_halos_that_are_read_where_they_are(
    comm: Any, name: str, transport: type[Staged | Aware], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laws 1 and 4, and all the bits of what is copied together; a sum by regions has another order."""
    network = readers(name)
    with World(comm) as world:
        engine = on_device(world, "reverse", transport)
        grid = "k2 h2" if name == "groups" and comm.size == 4 else GRIDS[comm.size]
        schemes = uniform_schemes(network, grid)
        apart = check(world, network, schemes, BATCH, engine=engine)
        together(monkeypatch)
        whole = check(world, network, schemes, BATCH, engine=engine, overlap=name != "windows")
        assert apart.ledger == whole.ledger
        if name != "transposed":
            same(apart, whole)


def test_which_halos_are_read_where_they_are() -> None:
    """Those that are one message a side; one of two neighbours on a side is put together first."""
    network = readers("wide")
    placed = place_network(network, uniform_schemes(network, "h3"), BATCH, 3)
    halos = [e.exchange for e in placed.edges if e.exchange is not None and e.exchange.kind == "halo"]
    above, below = (-1, 0), (1, 0)
    assert [[Route(halo, rank).sides for rank in range(3)] for halo in halos] == [
        [(below,), (above, below), (above,)],
        *[[None, (above, below), None]] * 2,
    ]


@pytest.mark.ranks(4)
def test_bfloat16_halos_that_are_read_where_they_are(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
    network = readers("windows")
    with World(comm) as world:
        engine, schemes = on_device(world, precision="bf16"), uniform_schemes(network, "h2 w2")
        apart = run(world, network, schemes, 2, dtype="float32", engine=engine)
        together(monkeypatch)
        whole = run(world, network, schemes, 2, dtype="float32", engine=engine)
        same(apart, whole)
        assert apart.ledger == whole.ledger and not apart.predicted.differences(apart.ledger)


def same(one: Any, other: Any) -> None:
    """Hold two runs to each other's bits."""
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.output, other.output)
    for part in ("gradients", "values"):
        for name, array in getattr(one, part).items():
            np.testing.assert_array_equal(array, getattr(other, part)[name], err_msg=name)


class Counting(ShimDevice):
    """A device that counts what is copied on it, from array to array, and from messages into arrays.

    Attributes
    ----------
    unpacked, copied : int
        Bytes; of activations, which labels are not.
    """

    unpacked = copied = 0

    def launch(self, file: str, kernel: str, grid: Any, block: Any, arguments: Sequence[Any], *more: Any,
               **words: Any) -> None:  # fmt: skip
        if (file, kernel) == ("halo", "unpack"):
            self.unpacked += arguments[-1].nbytes
        super().launch(file, kernel, grid, block, arguments, *more, **words)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count assignments of arrays from now on."""
        put = DeviceArray.__setitem__

        def counted(array: DeviceArray, where: Any, value: Any) -> None:
            if isinstance(value, DeviceArray) and value.dtype.kind == "f":
                self.copied += array[where].nbytes
            put(array, where, value)

        monkeypatch.setattr(DeviceArray, "__setitem__", counted)


def trained(
    world: World, network: Network, schemes: dict[str, Scheme], monkeypatch: pytest.MonkeyPatch
) -> tuple[Model, Counting]:
    """Take a step; return the model, and its device when it has counted the forward."""
    device = Counting()
    engine = on_device(world, device=device)
    model = Model(world, place_network(network, schemes, BATCH, world.size), "float64", engine=engine)
    model.arena.initialise(3)
    x, target = (
        np.ascontiguousarray(a[tuple(slice(*i) for i in box)])
        for a, box in zip(data(network, BATCH), (model.input_box, model.target_box), strict=True)
    )
    with monkeypatch.context() as patch:
        device.watch(patch)
        model.arena.begin()
        model.forward(x, target)
    return model, device


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("name", ["windows", "transposed"])
def test_nothing_is_copied_for_a_halo_that_is_read_where_it_is(
    comm: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = readers(name)
    schemes = uniform_schemes(network, GRIDS[comm.size])
    with World(comm) as world:
        model, device = trained(world, network, schemes, monkeypatch)
        halos = [path for path in model.paths if path is not None and path.kind == "halo"]
        assert len(halos) > 1  # readers that need the same share an edge
        assert [path.apart for path in halos] == [False, *[True] * (len(halos) - 1)]
        # Only messages into the margin buffer, which the producer wrote into.
        assert device.unpacked == sum(8 * volume(box) for _, box in halos[0].arrivals) > 0
        assert device.copied == 0
        kept = [layer._x for layer in model.layers if hasattr(layer, "_x")]
        assert sum(isinstance(x, Parts) for x in kept) == (2 if name == "transposed" else 1)
        model.backward()
        model.arena.await_sums()
        together(monkeypatch)
        model, device = trained(world, network, schemes, monkeypatch)
        halos = [path for path in model.paths if path is not None and path.kind == "halo"]
        assert device.unpacked == sum(8 * volume(box) for path in halos for _, box in path.arrivals)
        assert device.copied == sum(8 * volume(path.source) for path in halos[1:])


@pytest.mark.ranks(3)
def test_the_margin_buffer_is_for_who_cannot_do_without(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks at an end have two halos of two neighbours on a side: one is put into margins, one is copied."""
    network = readers("wide")
    with World(comm) as world:
        model, device = trained(world, network, uniform_schemes(network, "h3"), monkeypatch)
        halos = [path for path in model.paths if path is not None and path.kind == "halo"]
        middle = world.rank == 1
        assert [path.apart for path in halos] == ([False, True, True] if middle else [True, False, False])
        assert device.copied == (0 if middle else 8 * volume(halos[2].source))


@pytest.mark.ranks(3)
def test_a_relu_that_passes_on_what_arrives_writes_no_margin(
    comm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands on another grid than its producer: what reads it through a halo reads what arrived, and no copy."""
    net = Builder("passing", (3, 13, 9))
    x = net.conv(net.relu(net.conv(net.input, 6, 1, name="first")), 5, 3, pad=1, name="second")
    network = net.done(net.cross_entropy(x))
    schemes = uniform_schemes(network, "h3") | {"first": Scheme(GridShape.parse("w3"))}
    with World(comm) as world:
        check(world, network, schemes, BATCH, engine=on_device(world))
        model, device = trained(world, network, schemes, monkeypatch)
        second = next(layer for layer in model.layers if layer.name == "second")
        assert isinstance(second, Convolution)
        kept: Any = second._x
        assert isinstance(kept, Parts)
        (path,) = (path for path in model.paths if path is not None and path.kind == "halo")
        arrived = sum(8 * volume(box) for p in model.paths if p and p is not path for _, box in p.arrivals)
        assert device.unpacked == arrived, "what came to the ReLU was put together, and nothing since"
