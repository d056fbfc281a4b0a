"""Messages of arrays on a device: what an exchange costs in launches, copies and waits, and buffers that are kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from gridnn.comm.collectives import all_gather_shares, all_reduce, start_reduce_scatter, start_sum
from gridnn.comm.mover import Route, start
from gridnn.comm.shard import scatter
from gridnn.comm.transport import Aware, Host, OnDevice, Staged
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.memory import logical
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import Interval
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
    world.also_close(world.transport.close)
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
    ("transport", "waits", "copies"), [(Staged, 1, ["to host", "to device"]), (Aware, 1, [])]
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
        def buffer(self, elements: int, dtype: Any, at_once: bool) -> Array:
            found = super().buffer(elements, dtype, at_once)
            if at_once:  # of arrivals
                self.release([found])
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
        def landed(self, message: Array) -> Array:
            found: Array = self.engine.take(message)
            return found

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


# Collectives -------------------------------------------------------------------------------------


def summed(world: World, take: Callable[[Array], Array], sizes: tuple[int, ...], seed: int) -> list[Array]:
    """Return what sums of several arrays bring, all under way at once, then one that is waited for, then shares."""
    everyone, rng = tuple(range(world.size)), np.random.default_rng(100 * seed + world.rank)
    arrays = [take(rng.standard_normal(size)) for size in sizes]
    started = [start_sum(world, everyone, a, [(KEY, a.size)]) for a in arrays]
    cut = [start_reduce_scatter(world, everyone, take(rng.standard_normal(n)), [(KEY, n)]) for n in sizes[:2]]
    for request in (*started, *(request for request, _ in cut)):
        assert request is not None
        request.Wait()
    most = all_reduce(world, everyone, take(rng.standard_normal((2, 3))), KEY, "max")
    whole = take(rng.standard_normal(sizes[0]))
    all_gather_shares(world, everyone, whole, [(KEY, whole.size)])
    return [*arrays, *(share for _, share in cut), most, whole]


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("transport", [Staged, Aware])
def test_what_collectives_cost(comm: Any, transport: type[OnDevice]) -> None:
    """The bits of the host, a wait each, and from the second step on nothing is pinned."""
    sizes, collectives = (700, 701, 90), 7
    staged = collectives if transport is Staged else 0
    with World(comm) as world:
        wanted = [summed(world, np.copy, sizes, turn) for turn in range(4)]
    with World(comm) as world:
        device = on_device(world, transport)
        engine, kept = world.transport.engine, list[int]()  # type: ignore[attr-defined]
        for turn in range(4):
            device.waits, device.copies = 0, []
            found = summed(world, engine.take, sizes, turn)
            assert device.waits == collectives
            assert device.copies.count("to host") == staged
            assert device.copies.count("to device") == staged + collectives, "the test takes as many"
            device.look()
            kept.append(len(device.kept_buffers))
            for array, other in zip(found, wanted[turn], strict=True):
                np.testing.assert_array_equal(engine.give(array), other)
        assert kept[1:] == kept[:1] * 3 and (kept[0] > 0) == (transport is Staged)
        if isinstance(world.transport, Staged):
            assert world.transport.staging.lent == 0


@pytest.mark.ranks(3)
def test_only_its_own_share_leaves_a_device(comm: Any) -> None:
    """A rank that owns nothing of an array does not wait; what it gets is not received over what its device reads."""
    with World(comm) as world:
        device = on_device(world, Staged)
        engine, everyone = world.transport.engine, (0, 1, 2)  # type: ignore[attr-defined]
        for size, idle in ((2, world.rank == 2), (7, False)):
            blocks = [Interval(0, size).block(3, rank) for rank in everyone]
            assert [block.size > 0 for block in blocks] == [True, True, size > 2]
            owners = np.repeat(everyone, [block.size for block in blocks])
            for turn in range(4):
                whole = engine.take(np.full(size, 10.0 * turn + world.rank))
                device.waits, device.copies = 0, []
                all_gather_shares(world, everyone, whole, [(KEY, size)])
                assert device.waits == (int(turn == 2) if idle else 1), "both its buffers are read"
                assert device.copies == ["to host"] * (not idle) + ["to device"]
                np.testing.assert_array_equal(whole.view(np.ndarray), 10.0 * turn + owners)
        device.look()


@pytest.mark.ranks(2)
def test_a_world_lets_go_of_it(comm: Any) -> None:
    with World(comm) as world:
        device = on_device(world, Staged)
        transport, engine = world.transport, world.transport.engine  # type: ignore[attr-defined]
        summed(world, engine.take, (700,), 0)
        assert isinstance(transport, Staged) and transport.staging.nbytes > 0 and device.kept_buffers
        transport.close(orderly=False)
        assert transport.staging.nbytes > 0, "MPI may still write into it"
    assert transport.staging.nbytes == 0
    host = Host(engine.memory)
    host.release([np.zeros(3)])
    host.close(orderly=True)
