"""Messages of arrays on a device: what an exchange costs in launches, copies and waits, and buffers that are kept."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from gridnn.comm.load import Kept, Spare
from gridnn.comm.mover import Route, start
from gridnn.comm.shard import scatter
from gridnn.comm.transport import Aware, OnDevice, Staged
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.memory import logical
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.layout import Layout, cut, windows
from gridnn.geometry.traffic import Key
from gridnn.geometry.window import Window
from gridnn.network.placement import rest
from tests.support import shim
from tests.support.shim.device import DeviceArray, ShimDevice

KEY = Key("layer", "forward", "any", "")
SHAPE = (3, 6, 7, 6)  # N C H W


class Watched(ShimDevice):
    """A device that counts copies, and looks whether what it still copies from is written: a copy ends with a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.copies, self.kept_buffers = list[str](), list[Array]()
        self._under_way: list[tuple[Array, Array]] = []

    def from_host(self, array: Any) -> DeviceArray:
        self.copies.append("to device")
        self._under_way += [
            (array, array.copy()) for kept in self.kept_buffers if np.shares_memory(array, kept)
        ]
        return super().from_host(array)

    def to_host(self, array: Any, out: Any = None) -> Any:
        self.copies.append("to host")
        self.look()
        return super().to_host(array, out)

    def pinned(self, nbytes: int) -> Any:
        self.kept_buffers.append(super().pinned(nbytes))
        return self.kept_buffers[-1]

    def synchronize(self) -> None:
        self.look()
        super().synchronize()

    def look(self) -> None:
        for source, content in self._under_way:
            assert np.array_equal(source, content), "written while the device copied from it"
        self._under_way = []


def on_device(world: World, transport: type[OnDevice]) -> Watched:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    device = Watched()
    engine = Engine(device)
    world.memory, world.transport = engine.memory, transport(world.memory, engine)
    return device


def layouts(ranks: int) -> dict[str, tuple[Layout, Layout]]:
    """Return sources and targets: halos with corners; all to all, back with the own term between others; one rank."""
    grid = GridShape.parse("h2 w2" if ranks == 4 else f"h{ranks}")
    scheme = Scheme(grid)
    by_rows, by_channels = Scheme(GridShape.parse(f"h{ranks}")), Scheme(GridShape.parse(f"c{ranks}"))
    return {
        "halo": (rest(SHAPE, scheme), haloed(scheme)),
        "repartition": (rest(SHAPE, by_channels), haloed(by_rows)),
        "one": (rest(SHAPE, Scheme(GridShape.parse("n1"), 1)), rest(SHAPE, Scheme(GridShape.parse("n1")))),
    }


def haloed(scheme: Scheme) -> Layout:
    """Return blocks that a window of 3 x 3 reads."""
    dims, window = rest(SHAPE, scheme).dims, Window(3, 1, 1, 1)
    rows, columns = (
        windows(cut(SHAPE[d], scheme.grid, (a,)), window, SHAPE[d]) for d, a in ((2, "h"), (3, "w"))
    )
    return Layout(scheme, (*dims[:2], rows, columns))


def given(layout: Layout, rank: int, seed: int = 0, dtype: str = "float64") -> Array:
    """Return an array of a rank's box, channels innermost, that differs from the same box on other ranks."""
    x = np.random.default_rng(seed).standard_normal(SHAPE)
    found: Array = scatter(x, layout, rank).array * (rank + 1.5)
    return logical(np.ascontiguousarray(found.transpose(0, 2, 3, 1))).astype(dtype)


def moved(world: World, path: Route, array: Array) -> Array:
    """Return what the rank gets, on the host, of an array that is handed over where the world's arrays are."""
    if isinstance(world.transport, OnDevice):
        engine = world.transport.engine
        return engine.give(start(world, path, engine.take(array), KEY, array.dtype).wait())
    return start(world, path, array.copy("K"), KEY, array.dtype).wait()


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("transport", [Staged, Aware])
@pytest.mark.parametrize("name", ["halo", "repartition", "one"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_of_the_host(comm: Any, transport: type[OnDevice], name: str, dtype: str) -> None:
    exchange = Exchange(*layouts(comm.size)[name])
    for there in (exchange, exchange.transpose()):
        found = []
        for device in (False, True):
            with World(comm) as world:
                if device:
                    on_device(world, transport)
                path = Route(there, world.rank)
                found += [[moved(world, path, given(there.source, world.rank, i, dtype)) for i in range(3)]]
        for one, other in zip(*found, strict=True):
            assert one.dtype == other.dtype == dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("name", ["halo", "repartition"])
@pytest.mark.parametrize(
    ("transport", "waits", "copies"), [(Staged, 1, ["to host", "to device"]), (Aware, 2, [])]
)
def test_what_an_exchange_costs(
    comm: Any, transport: type[OnDevice], waits: int, copies: list[str], name: str
) -> None:  # fmt: skip
    """One launch, one copy and one wait, however many neighbours: three of each rank's, with four ranks."""
    exchange = Exchange(*layouts(comm.size)[name])
    with World(comm) as world:
        device = on_device(world, transport)
        engine = world.transport.engine  # type: ignore[attr-defined]
        for there, kernels in (
            (exchange, ("pack", "unpack")),
            (exchange.transpose(), ("pack", "accumulate")),
        ):
            path = Route(there, world.rank)
            assert len(path.arrivals) == len(path.departures) == comm.size - 1
            sums = 1 + (path.mine is not None and 0 < path.before < len(path.arrivals) and not path.within)
            for turn in range(5):
                array = engine.take(given(there.source, world.rank))
                device.launches, device.waits, device.copies = [], 0, []
                buffers = len(device.kept_buffers)
                start(world, path, array, KEY, "float64").wait()
                if turn > 1:  # pieces are described at the first, buffers asked for at the first two
                    expected = [kernels[0], *[kernels[1]] * (sums if kernels[1] == "accumulate" else 1)]
                    assert [kernel for _, kernel in device.launches] == expected
                    assert (device.waits, device.copies) == (waits, copies)
                    assert len(device.kept_buffers) == buffers


@pytest.mark.ranks(2, 3)
def test_an_exchange_that_overtakes_another_of_its_path(comm: Any) -> None:
    """Both have buffers of their own; a transport that lends one twice is noticed."""

    class Hasty(Staged):
        def buffer(self, kept: Kept, dtype: Any) -> Array:
            found = super().buffer(kept, dtype)
            self.give_back(kept.spare[1], found)
            return found

    exchange = Exchange(*layouts(comm.size)["repartition"])
    for transport in (Staged, Hasty):
        with World(comm) as world:
            on_device(world, transport)
            engine, path = world.transport.engine, Route(exchange, world.rank)  # type: ignore[attr-defined]
            wanted = [moved(world, path, given(exchange.source, world.rank, i)) for i in range(2)]
            started = [
                start(world, path, engine.take(given(exchange.source, world.rank, i)), KEY, "float64")
                for i in range(2)
            ]
            for pending in started:  # all messages are there before the first is looked at
                MPI.Request.Waitall(pending.requests)
            same = [np.array_equal(engine.give(p.wait()), w) for p, w in zip(started, wanted, strict=True)]
            assert same == ([True, True] if transport is Staged else [False, True])


@pytest.mark.ranks(2)
def test_what_the_device_still_reads_is_not_received_into(comm: Any) -> None:
    """A rank that only receives waits for its device when it takes a buffer again; one that does not is noticed."""

    class Careless(Staged):
        def give_back(self, spare: Spare, buffer: Array) -> None:
            spare.append((buffer, -1))

    exchange = Exchange(*layouts(2)["one"])
    for transport in (Staged, Careless):
        with World(comm) as world:
            device, path = on_device(world, transport), Route(exchange, world.rank)
            engine = world.transport.engine  # type: ignore[attr-defined]
            arrays = [engine.take(given(exchange.source, world.rank, i)) for i in range(3)]
            for array in arrays:
                start(world, path, array, KEY, "float64").wait()
            if world.rank == 0 and transport is Careless:
                with pytest.raises(AssertionError, match="written while"):
                    device.look()
            else:
                device.look()


@pytest.mark.ranks(2)
def test_what_kernels_do_not_pack_goes_apart(comm: Any) -> None:
    exchange = Exchange(*layouts(2)["halo"])
    with World(comm) as world:
        device, path = on_device(world, Staged), Route(exchange, world.rank)
        engine = world.transport.engine  # type: ignore[attr-defined]
        whole = np.arange(np.prod(SHAPE)).reshape(SHAPE)
        own = engine.take(scatter(whole, exchange.source, world.rank).array)
        found = engine.give(start(world, path, own, KEY, whole.dtype).wait())
        np.testing.assert_array_equal(found, scatter(whole, exchange.target, world.rank).array)
        assert not device.launches


@pytest.mark.ranks(2)
def test_what_is_kept_goes_with_its_path(comm: Any) -> None:
    exchange = Exchange(*layouts(2)["halo"])
    with World(comm) as world:
        on_device(world, Staged)
        path = Route(exchange, world.rank)
        moved(world, path, given(exchange.source, world.rank))
        assert isinstance(world.transport, Staged) and len(world.transport._kept) == 1
        del path
        gc.collect()
        assert not world.transport._kept
