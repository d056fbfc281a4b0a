"""Devices that hand messages on themselves: what arrives, who waits for whom, and what must not be forgotten.

NCCL is that of the tests (`tests/support/nccl.py`): what the real one does with the same calls it cannot tell.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from gridnn.comm import collectives
from gridnn.comm.links import Launched, Links
from gridnn.comm.mover import Route, start
from gridnn.comm.nccl import Nccl
from gridnn.comm.transport import Direct
from gridnn.comm.world import Array, World
from gridnn.errors import RunError
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.layout import Layout
from gridnn.geometry.traffic import Key
from gridnn.network.placement import rest
from tests.comm.test_transport import KEY, given, layouts
from tests.support import shim
from tests.support.lazy import Careless, LazyStream
from tests.support.nccl import Library, on_device
from tests.support.nccl_calls import NcclError

pytestmark = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
SIZES = (1, 2, 7, 64)


def carrier(world: World) -> Nccl:
    """Return who carries the messages of a world."""
    assert isinstance(world.transport, Direct)
    return world.transport._carrier


def library(world: World) -> Library:
    """Return its library."""
    found: Library = carrier(world).links.library
    return found


def swapped(world: World, path: Route, array: Array) -> Array:
    """Return what the rank gets, on the host, of an array that is handed over where the world's arrays are."""
    if not isinstance(world.transport, Direct):
        return start(world, path, array.copy("K"), KEY, array.dtype).wait()
    engine = world.transport.engine
    return engine.give(start(world, path, engine.take(array), KEY, array.dtype).wait())


@pytest.mark.ranks(2, 4)
@pytest.mark.parametrize("name", ["halo", "repartition", "one"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_of_the_host(comm: Any, name: str, dtype: str) -> None:
    """And its bytes; no host waits for a device, and none of its memory is read there."""
    exchange = Exchange(*layouts(comm.size)[name])
    for there in (exchange, exchange.transpose()):
        found, counted = [], []
        for direct in (False, True):
            with World(comm) as world:
                device = on_device(world).device if direct else None
                path, array = Route(there, world.rank), given(there.source, world.rank, 0, dtype)
                found.append(swapped(world, path, array))
                counted.append(world.ledger.received_bytes)
                if device is not None:  # the one wait is that of who looks
                    assert device.waits == 1 and set(library(world).calls) <= {"send", "recv"}
        np.testing.assert_array_equal(found[1], found[0])
        assert counted[0] == counted[1]


def gathers(ranks: int, rows: int) -> Exchange:
    """Rows that one rank each has, to all on all: equal parts if there are as many for each."""
    shape = (rows, 3)
    by_rows, whole = Scheme(GridShape.parse(f"n{ranks}")), Scheme(GridShape.parse(f"k{ranks}"))
    everything = Layout(whole, tuple(rest(shape, Scheme(GridShape.parse("n1"))).dims))
    return Exchange(rest(shape, by_rows), everything)


@pytest.mark.ranks(2, 3)
def test_collectives_of_equal_and_unequal_parts(comm: Any) -> None:
    """Of exchanges: an all-gather, and its adjoint; the parts of the host, and as many bytes."""
    for rows, equal in ((comm.size * 2, True), (comm.size * 2 + 1, False)):
        exchange = gathers(comm.size, rows)
        assert (exchange.kind, exchange.transpose().kind) == ("allgather", "reduce_scatter")
        for there, calls in (
            (exchange, {"allGather"} if equal else {"broadcast"}),
            (exchange.transpose(), {"reduceScatter"} if equal else {"reduce"}),
        ):
            found, counted = [], []
            for direct in (False, True):
                with World(comm) as world:
                    if direct:
                        on_device(world)
                    box = there.source.box(world.rank)
                    array = np.random.default_rng(world.rank).standard_normal([i.size for i in box])
                    found.append(swapped(world, Route(there, world.rank), array))
                    counted.append(world.ledger.received_bytes)
                    assert not direct or set(library(world).calls) == calls
            np.testing.assert_allclose(found[1], found[0], rtol=1e-14)
            assert counted[0] == counted[1] > 0


@pytest.mark.ranks(2, 3)
def test_sums_and_shares(comm: Any) -> None:
    """Of gradients and statistics, whatever their length; the ledger is that of the host."""
    everyone, key = tuple(range(comm.size)), Key("layer", "backward", "any", "n")
    for size in SIZES:
        mine = np.random.default_rng(comm.rank).standard_normal(size)
        total = np.sum([np.random.default_rng(r).standard_normal(size) for r in everyone], axis=0)
        counted = []
        for direct in (False, True):
            with World(comm) as world:
                engine = on_device(world) if direct else None
                take, give = (engine.take, engine.give) if engine else (np.copy, np.asarray)
                parts = [(key, size)]
                array = take(mine)
                collectives.finish(world, collectives.start_sum(world, everyone, array, parts), "allreduce")
                np.testing.assert_allclose(give(array), total, rtol=1e-12)
                request, share = collectives.start_reduce_scatter(world, everyone, take(mine), parts)
                collectives.finish(world, request, "reduce_scatter")
                whole = take(np.zeros(size))
                at = sum(size // comm.size + (r < size % comm.size) for r in range(comm.rank))
                own = whole[at : at + share.size]
                own[...] = share
                collectives.all_gather_shares(world, everyone, whole, parts)
                np.testing.assert_allclose(give(whole), total, rtol=1e-12)
                top = collectives.all_reduce(world, everyone, take(mine), key, "max")
                assert give(top).max() == max(
                    np.random.default_rng(r).standard_normal(size).max() for r in everyone
                )
                counted.append(world.ledger)
        assert not counted[0].differences(counted[1])


@pytest.mark.ranks(2)
def test_numbers_of_the_host_go_by_mpi(comm: Any) -> None:
    with World(comm) as world:
        on_device(world)
        found = collectives.all_reduce(world, (0, 1), np.array([1.0 + comm.rank]), KEY)
        assert found == [3.0] and not library(world).calls


@pytest.mark.ranks(2)
def test_a_sum_does_not_hold_up_a_halo(comm: Any) -> None:
    """Each has a stream; that of halos goes first."""
    exchange = Exchange(*layouts(2)["halo"])
    with World(comm) as world:
        engine = on_device(world)
        gradient = engine.take(np.full(9, 1.0 + comm.rank))
        request = collectives.start_sum(world, (0, 1), gradient, [(KEY, 9)])
        start(
            world,
            Route(exchange, world.rank),
            engine.take(given(exchange.source, world.rank)),
            KEY,
            "float64",
        ).wait()
        made = list(library(world).streams.made.values())
        assert [(stream.urgent, stream.left) for stream in made] == [(True, 0), (False, 1)]
        assert (engine.give(gradient) == 1.0 + comm.rank).all(), "not summed before it is awaited"
        collectives.finish(world, request, "allreduce")
        assert (engine.give(gradient) == 3.0).all() and engine.device.waits == 2


def moved(world: World, lane: str, call: str, array: Array) -> Launched:
    """Send an array to the other one of two ranks, or receive it."""
    place, peer = world.transport.engine.device.address(array), 1 - world.rank  # type: ignore[attr-defined]

    def calls(group: Any, stream: int) -> None:
        getattr(group.communicator, call)(place, array.nbytes, 1, peer, stream)

    return carrier(world).links.launch(world, lane, (0, 1), calls, [array])


@pytest.mark.ranks(2)
def test_hosts_that_wait_for_each_other(comm: Any) -> None:
    """Both receive before they send: devices get through, for these are two streams, but hosts meet to connect."""
    coming, going = ("forward", "backward") if comm.rank else ("backward", "forward")
    for connects in (False, True):
        world = World(comm)
        engine = on_device(world, ordered=False, connects=connects)
        library(world).limit_s = 0.3
        room, mine = (engine.take(np.full(8, 1.0 + comm.rank)) for _ in range(2))
        for lane in ("forward", "backward"):
            carrier(world).links.group(world, lane, (0, 1))
        if connects:
            with pytest.raises(AssertionError, match="a host waits for ever for another one"):
                moved(world, coming, "recv", room)
        else:
            for launched in (moved(world, coming, "recv", room), moved(world, going, "send", mine)):
                launched.Wait()
            assert (engine.give(room) == 2.0 - comm.rank).all()
            world.close()


# What must not be forgotten ----------------------------------------------------------------------


def halo(world: World, engine: Any, times: int = 1) -> list[Array]:
    exchange = Exchange(*layouts(world.size)["halo"])
    path = Route(exchange, world.rank)
    arrays = [engine.take(given(exchange.source, world.rank, i)) for i in range(times)]
    return [start(world, path, array, KEY, "float64").wait() for array in arrays]


@pytest.mark.ranks(2)
def test_who_computes_without_waiting_reads_what_was_there_before(comm: Any) -> None:
    """`Launched.Wait` forgotten: what is unpacked is no number yet."""
    world = World(comm)
    engine = on_device(world)
    streams: Any = carrier(world).links.streams
    (right,) = [engine.give(found) for found in halo(world, engine)]
    waiting, streams._compute = streams._compute, Careless(engine.device)
    (wrong,) = halo(world, engine)
    assert np.isfinite(right).all() and np.isnan(engine.give(wrong)).any()
    streams._compute = waiting
    with pytest.raises(AssertionError, match=r"let go of|nobody|nobody waited|was written"):
        world.close()


@pytest.mark.ranks(2)
def test_messages_that_do_not_wait_for_what_computes(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(comm)
    engine = on_device(world)
    monkeypatch.setattr(LazyStream, "wait", lambda stream, event: None)
    with pytest.raises(AssertionError, match="begin before what they read is computed"):
        halo(world, engine)


@pytest.mark.ranks(2)
def test_memory_that_is_let_go_of_too_early(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A movement keeps its arrays until what computes waits for it: one that does not is noticed."""
    keeps = Launched.__init__
    for careful in (True, False):
        world = World(comm)
        engine = on_device(world)
        if not careful:
            monkeypatch.setattr(
                Launched, "__init__", lambda self, between, streams, kept: keeps(self, between, streams, ())
            )
        everyone = (0, 1)
        array = engine.take(np.ones(8))
        launched = carrier(world).start_sum(world, everyone, array)
        del array
        gc.collect()
        if careful:
            launched.Wait()
            world.close()
        else:
            with pytest.raises(AssertionError, match="memory was let go of"):
                launched.Wait()


@pytest.mark.ranks(2)
def test_what_is_written_before_messages_are_through(comm: Any) -> None:
    world = World(comm)
    engine = on_device(world)
    array = engine.take(np.ones(8))
    launched = carrier(world).start_sum(world, (0, 1), array)
    array[...] = 2.0
    with pytest.raises(AssertionError, match="memory was written while messages were made of it"):
        launched.Wait()


# What ranks must do alike ------------------------------------------------------------------------


@pytest.mark.ranks(2)
@pytest.mark.parametrize("what", ["count", "dtype", "order", "kind"])
def test_ranks_that_do_not_do_the_same(comm: Any, what: str) -> None:
    """The tests' library finds out what would hang, or bring wrong numbers."""
    world = World(comm)
    engine = on_device(world)
    by, odd = carrier(world), world.rank == 1
    size = 9 if what == "count" and odd else 8
    array = engine.take(np.ones(size, "float32" if what == "dtype" and odd else "float64"))
    other = engine.take(np.ones(4))
    if what == "order":
        first, then = (by.start_sum, by.start_first) if odd else (by.start_first, by.start_sum)
        started = [first(world, (0, 1), array), then(world, (0, 1), other)]
        started = started[::-1] if odd else started
    elif what == "kind" and odd:
        started = [by._gather(world, (0, 1), other, array, [4, 4])]
    else:
        started = [by.start_first(world, (0, 1), array)]
    with pytest.raises(NcclError, match="made the call"):
        started[0].Wait()


@pytest.mark.ranks(2)
def test_what_the_library_refuses(comm: Any) -> None:
    with World(comm) as world:
        engine = on_device(world)
        links: Links = carrier(world).links
        group = links.group(world, "", (0, 1))
        array = engine.take(np.ones(8))
        group.stream.wait(links.streams.compute().record())
        place, peer = engine.device.address(array), 1 - world.rank
        with pytest.raises(NcclError, match="outside of a group"):
            group.communicator.send(place, 64, 1, peer, group.stream.pointer)
        with pytest.raises(RuntimeError, match="no array of the device"):
            group.communicator.allReduce(place, place, 9, 8, 0, group.stream.pointer)
        with pytest.raises(TypeError, match="no address on the device"):
            carrier(world).start_sum(world, (0, 1), np.ones(3))
        with pytest.raises(RunError, match=r"float32 or float64, not of int64: convert it"):
            carrier(world).start_sum(world, (0, 1), engine.take(np.ones(3, np.int64)))
        with pytest.raises(RunError, match=r"NCCL failed while messages.*invalid.*NCCL_DEBUG=WARN.*staged"):
            links.launch(world, "", (0, 1), lambda g, s: g.communicator.allReduce(1, 1, 9, 8, 0, s), ())
        carrier(world).start_first(world, (0, 1), array).Wait()  # its group is not open any more
        assert (engine.give(array) == 2).all()
        with pytest.raises(AssertionError, match="has gaps"):
            carrier(world).start_sum(world, (0, 1), array[::2])
