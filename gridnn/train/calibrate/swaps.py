"""Messages that two ranks swap, each of half of what it has: bare ones of the host, and those that carry arrays.

             rank 0        rank 1
    own      | a0 | a1 |   | b0 | b1 |      a sample each, as n2 has them
    wanted   | a0 | b0 |   | a1 | b1 |      half of both, as k2 has them: a1 and b0 are swapped

Where ranks compute on devices a swap is that of their arrays, carried by the run's transport, until it has landed:

    device   | pack |                                | landed |        staged: both copies are in it
    host            --copy-->  send, receive  --copy-->

They are of the type that the device's engine stores activations in, for kernels pack them and transports carry them by
their type: of two bytes twice as many elements for as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gridnn.comm.mover import Route, start
from gridnn.comm.world import Array, World
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.traffic import Key
from gridnn.network.placement import rest

KEY = Key("calibrate", "backward", "", "")
Work = Callable[[], object]


@contextmanager
def swapping(world: World, peer: int | None, nbytes: int, device: Engine | None) -> Iterator[Work | None]:
    """Yield what swaps so many bytes with a peer: of the host, or of a device; None for a rank that looks on."""
    if peer is None:
        yield None
    elif device is None:
        yield partial(_swap, world, peer, *_buffers(nbytes))
    else:
        with _pair(world, peer) as pair:
            yield partial(_carry, pair, *_halves(pair, nbytes, device), device)


def ping_pong(world: World, peer: int | None, nbytes: int) -> Work | None:
    """Return what sends bytes of the host to a peer and back; None for a rank that looks on."""
    return None if peer is None else partial(_ping_pong, world, peer, *_buffers(nbytes))


def _buffers(nbytes: int) -> tuple[Array, Array]:
    return np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)


@contextmanager
def _pair(world: World, peer: int) -> Iterator[World]:
    """Yield a world of this rank and a peer, whose arrays and messages are those of `world`.  Collective of both."""
    with World(world.group(tuple(sorted((world.rank, peer))))) as pair:
        pair.memory, pair.transport = world.memory, world.transport
        pair.patience.on = world.patience.on
        yield pair


def _halves(pair: World, nbytes: int, device: Engine | None) -> tuple[Route, Array]:
    """Return a way by which each of two ranks gives `nbytes` of its array to the other, and that array.

    Halves of two samples for one sample's halves.
    """
    dtype = _stored(device)
    channels = 2 * nbytes // dtype.itemsize
    one, other = (rest((2, channels), Scheme(GridShape.of(**{axis: 2}))) for axis in "nk")
    array = np.zeros((1, channels), dtype)
    return Route(Exchange(one, other), pair.rank), array if device is None else device.take(array)


def _stored(device: Engine | None) -> np.dtype[Any]:
    """Return the type of arrays between layers."""
    return np.dtype(np.float32) if device is None else device.activations(np.float32)


def _carry(pair: World, path: Route, own: Array, device: Engine) -> None:
    """Swap as the mover does, without its book-keeping, until what came is on the device."""
    load, carrier = pair.transport.load(path, own, own.dtype), pair.carrier(own)
    carrier.wait(pair, carrier.swap(pair, path, load.rooms(), lambda: load.messages(own)))
    load.only()
    load.done()
    device.synchronize()


@contextmanager
def moving(world: World, peer: int | None, device: Engine | None) -> Iterator[Work | None]:
    """Yield a swap of 8 bytes by the mover, with all of its own Python; None for a rank that looks on."""
    if peer is None:
        yield None
        return
    with _pair(world, peer) as pair:
        path, array = _halves(pair, 8, device)

        def moved() -> None:
            start(pair, path, array, KEY, array.dtype).wait()
            if device is not None:
                device.synchronize()

        yield moved


def _swap(world: World, peer: int, out: Array, into: Array) -> None:
    coming = world.comm.Irecv(into, peer)
    going = world.comm.Isend(out, peer)
    coming.Wait()
    going.Wait()


def _ping_pong(world: World, peer: int, out: Array, into: Array) -> None:
    if world.rank < peer:
        world.comm.Send(out, peer)
        world.comm.Recv(into, peer)
    else:
        world.comm.Recv(into, peer)
        world.comm.Send(out, peer)
