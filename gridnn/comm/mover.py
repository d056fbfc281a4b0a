"""Movers: the exchanges of geometry carried out between ranks.

`start` packs, posts and returns at once; `Pending.wait` completes and unpacks.  A mover and its transpose are
the same code on an exchange and its transpose.  A halo needs no second array: going out, the rank's own block lies
in the middle of a margin buffer already and only margins are filled; coming back, it is added to where it lies.

    forward    | margin |     own block     | margin |      margins are received
    backward   | given  |  own, added to    | given  |      margins are sent, their sums land in the block

Where there is no margin buffer, and who reads it can (`Route.apart`), not even the halo is copied: the own block stays
where it was written, each message where it was received, and both are handed on as `Parts`.

All ranks start all exchanges in the same order, so messages between two ranks match in the order they were posted.

Terms of sums are added up in `wide_of` their type: a reduce-scatter sends them so, everything else as it is stored.
Memory order: boxes are packed channels innermost, one message a peer; collectives over one contiguous buffer.
How messages are made of boxes and boxes of messages, each alone or all together, is the transport's (`Load`); who takes
them from rank to rank, and waits, is the carrier's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.clock import Where
from gridnn.comm.load import Load
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.memory import innermost, shaped
from gridnn.compute.gpu.view import Ints, Parts
from gridnn.compute.storage import wide_of
from gridnn.geometry.exchange import Exchange, Piece
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices, overlap, volume
from gridnn.geometry.traffic import Key


class Route:
    """What one rank does in one exchange: integers only, made once.

    Parameters
    ----------
    lane
        Of the trail: a direction between stages, else nothing.

    Attributes
    ----------
    sides : tuple or None
        Of a halo whose messages lie around the own block, one a side: on which side each does; else None.
    apart : bool
        Whether what arrives is handed on as `Parts`; set where all who read it take them.
    """

    def __init__(self, exchange: Exchange, rank: int, lane: str = "") -> None:
        self.lane = lane
        self.kind = exchange.kind
        self.group = exchange.group(rank)
        self.source: Box = exchange.source.box(rank)
        self.target: Box = exchange.target.box(rank)
        receives = exchange.receives(rank)
        self.departures: list[Piece] = [piece for piece in exchange.sends(rank) if piece[0] != rank]
        self.arrivals: list[Piece] = sorted((p for p in receives if p[0] != rank), key=lambda piece: piece[1])
        self.mine: Box | None = next((box for peer, box in receives if peer == rank), None)
        self.adds = not exchange.source.at_rest
        self.same = self.source == self.target
        self.stays = self.same and self.kind == "none"  # nothing to do
        self.shape = extents_of(self.source)
        self.within = bool(self.group) and overlap(self.source, self.target) == self.target
        self.around = (
            bool(self.group) and overlap(self.source, self.target) == self.source and volume(self.source) > 0
        )
        self.collective = bool(self.group) and self.kind in ("allgather", "reduce_scatter")
        if self.collective:  # every member has a place, if an empty one; the own piece is moved as all others
            self.sources = [exchange.source.box(r) for r in self.group]
            self.targets = [exchange.target.box(r) for r in self.group]
            self.mine = None
        # Arrivals added before the own piece: sums are in the order of boxes, the same on every run.
        self.before = sum(box <= self.mine for _, box in self.arrivals) if self.mine else 0
        self.sides = self._sides()
        self.apart = False

    def _sides(self) -> tuple[Ints, ...] | None:
        """Return where arrivals lie: -1 before the own block, 0 beside, 1 behind it in each spatial dim."""
        mine = self.mine
        if self.kind != "halo" or self.adds or not self.arrivals or mine is None or not volume(mine):
            return None
        sides = tuple(
            tuple((b.start >= m.stop) - (b.stop <= m.start) for b, m in zip(box[2:], mine[2:], strict=True))
            for _, box in self.arrivals
        )
        for side, (_, box) in zip(sides, self.arrivals, strict=True):
            # All of a side: a halo as wide as two neighbours' blocks comes in two messages, which are no one array.
            spaces = zip(side, mine[2:], self.target[2:], strict=True)
            whole = ((Interval(t.start, m.start), m, Interval(m.stop, t.stop))[s + 1] for s, m, t in spaces)
            if box != (*mine[:2], *whole):
                return None
        return sides


class Pending:
    """An exchange on its way.

    Attributes
    ----------
    own : array
        What the rank gave, in the source layout; an overlapping computation may read it before `wait`.
    where
        Whose it is, for the clock.
    """

    def __init__(
        self, world: World, path: Route, own: Array, dtype: DTypeLike, margin: Array | None, where: Where
    ) -> None:
        self.world, self.path, self.own, self.dtype, self.margin = world, path, own, dtype, margin
        self.where = where
        transport = world.transport
        self.load = Load(transport, path, dtype) if path.collective else transport.load(path, own, dtype)
        self.carrier = world.carrier(own)
        self.requests: list[Any] = []  # what the carrier waits for
        self.result: Any = None

    @classmethod
    def arrived_already(cls, world: World, array: Array) -> Pending:
        """Return an exchange that needed no message: what the rank read is what it wants."""
        pending = cls.__new__(cls)
        pending.world, pending.own, pending.result, pending.requests = world, array, array, []
        return pending

    @property
    def partial(self) -> bool:
        """True while something is on its way to this rank and the rank holds a part already."""
        return self.result is None and self.path.kind == "halo" and bool(self.requests) and self.own.size > 0

    def gone(self) -> bool:
        """Return whether its messages are through; for an exchange that nobody here needs the result of."""
        if self.result is None and self.requests and not self.carrier.done(self.requests):
            return False
        self.wait()
        return True

    def wait(self) -> Array:
        """Complete the exchange and return the array in the target layout, as `Parts` where the route is `apart`."""
        if self.result is None:
            kind = self.path.kind
            if self.requests:
                with self.world.clock.phase(f"{kind} wait", self.where):
                    self.carrier.wait(self.world, self.requests)
            with self.world.clock.phase("compute" if kind == "none" else kind, self.where):
                self.result = self._parts() if self.path.apart else self._rounded(self._unpack())
            self.requests = []
            self.load.done()
        found: Array = self.result
        return found

    def _parts(self) -> Parts:
        """Return the own block and what arrived around it, each where it lies."""
        path, load, mine = self.path, self.load, self.path.mine
        assert path.sides is not None and mine is not None and self.margin is None
        own = self.own if mine == path.source else self.own[local_slices(mine, path.source)]
        return Parts(own, dict(zip(path.sides, load.each(), strict=True)))

    def _unpack(self) -> Array:
        path, load, mine = self.path, self.load, self.path.mine
        arrived = [box for box, _ in load.arrived]
        if mine is None and arrived == [path.target]:
            return load.only()
        if mine == path.target and not arrived:
            return self.own[local_slices(mine, path.source)]
        if self.margin is not None:
            load.put(self.margin)
            return self.margin
        if path.kind == "halo" and path.adds and path.within:
            own = self.own[local_slices(path.target, path.source)]
            load.add(own)
            return own
        shape, wide = extents_of(path.target), wide_of(self.dtype)
        out: Array = self.world.memory.zeros(shape, wide if path.adds else self.dtype)
        if not path.adds:
            load.put(out)
            if mine is not None:
                out[local_slices(mine, path.target)] = self.own[local_slices(mine, path.source)]
            return out
        load.add(out, 0, path.before)
        if mine is not None:
            out[local_slices(mine, path.target)] += self._widened(self.own[local_slices(mine, path.source)])
        load.add(out, path.before)
        return out

    def _widened(self, own: Array) -> Array:
        """Return values of the rank's own as they are added up."""
        return _in_type(self.world, own, wide_of(own.dtype))

    def _rounded(self, result: Array) -> Array:
        """Return a result in the type of what was given: sums are of a wider one where that is stored only."""
        return _in_type(self.world, result, self.dtype) if wide_of(self.dtype) != self.dtype else result


def start(
    world: World, path: Route, array: Array, key: Key, dtype: DTypeLike, margin: Array | None = None
) -> Pending:
    """Start to take `array` (the rank's source box) to the target layout.

    Parameters
    ----------
    array
        Of the shape of the rank's source box, empty on ranks outside the source's scheme.
        The transpose of a halo adds to it: it must be the caller's to give.
    key
        What the traffic is counted under.
    margin
        An array of the rank's target box in which `array` lies at its place already.
    """
    assert array.shape == path.shape, f"{key}: array {array.shape}, box {path.shape}"
    if path.stays:
        return Pending.arrived_already(world, array)
    pending = Pending(world, path, array, dtype, margin, ((key.layer,), key.direction))
    if path.group:
        world.trail.enter(path.kind, path.group, key, path.lane)
        with world.clock.phase(path.kind, pending.where):
            {"allgather": _gather, "reduce_scatter": _scatter}.get(path.kind, _point_to_point)(
                world, pending, key
            )
    return pending


def _point_to_point(world: World, pending: Pending, key: Key) -> None:
    path, load = pending.path, pending.load
    rooms = load.rooms()
    pending.requests += pending.carrier.swap(world, path, rooms, lambda: load.messages(pending.own))
    world.ledger.add(key, len(rooms), sum(room.nbytes for room in rooms))


def _gather(world: World, pending: Pending, key: Key) -> None:
    path = pending.path
    counts = [volume(box) for box in path.sources]
    buffer = world.transport.room((sum(counts),), pending.dtype, at_once=not pending.own.size)
    (own,) = world.transport.ready([pending.own])
    pending.requests += pending.carrier.all_gather(world, path.group, own, buffer, counts)
    world.ledger.add(key, 1, buffer.nbytes - own.nbytes)
    pending.load.sent.append(own)
    starts = np.cumsum([0, *counts])
    for box, first, count in zip(path.sources, starts, counts, strict=False):
        if count:
            pending.load.arrived.append((box, shaped(buffer[first : first + count], extents_of(box))))


def _scatter(world: World, pending: Pending, key: Key) -> None:
    path = pending.path
    counts = [volume(box) for box in path.targets]
    kind = wide_of(pending.dtype)  # of terms and of their sum, which is rounded when all is added
    packed = world.memory.empty((sum(counts),), kind)
    at = 0
    for box, count in zip(path.targets, counts, strict=True):
        shaped(packed[at : at + count], extents_of(box))[...] = pending.own[local_slices(box, path.source)]
        at += count
    buffer = world.transport.room(extents_of(path.target), kind, at_once=not packed.size)
    (message,) = world.transport.ready([packed])
    pending.requests += pending.carrier.reduce_scatter(world, path.group, message, innermost(buffer), counts)
    world.ledger.add(key, 1, (len(path.group) - 1) * buffer.nbytes)
    pending.load.sent.append(message)
    pending.load.arrived.append((path.target, buffer))


def _in_type(world: World, array: Array, dtype: DTypeLike) -> Array:
    """Return an array, or a copy of it, in a dtype."""
    if array.dtype == dtype:
        return array
    copy: Array = world.memory.empty(array.shape, dtype)
    copy[...] = array
    return copy
