"""The arena: a rank's parameters and gradients in flat buckets, and the sums of the gradients.

A bucket's sum, or that of a part of it (`network.buckets.cut`), starts as soon as backward has finished the last layer
in it, and is awaited at the update.  With the optimizer's state cut (ZeRO stage 1, Rajbhandari et al. 2020) the sum of
all of it is a reduce-scatter: each replica updates its balanced share, and an all-gather gives all the new values.

Where activations are of a narrower type than parameters, products multiply by a copy of the values in that type, made
once after each change of them (`round`); gradients, their sums and the update know the values only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.clock import Where
from gridnn.comm.collectives import (
    Awaited,
    all_gather_shares,
    finish,
    inside,
    start_reduce_scatter,
    start_sum,
    where_of,
)
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.memory import shaped
from gridnn.compute.interface import Engine
from gridnn.compute.random import initial
from gridnn.geometry.interval import Interval
from gridnn.geometry.traffic import Key
from gridnn.layers.base import Parameter
from gridnn.network.buckets import Bucket, Entry, cut, plan_buckets
from gridnn.network.placed import PlacedNetwork


class Share(NamedTuple):
    """A part of a parameter that this rank updates: 1-D views of value and gradient."""

    entry: Entry
    value: Array
    grad: Array


@dataclass
class _Live:
    """A bucket with its arrays and the state of its sum."""

    plan: Bucket
    value: Array
    grad: Array
    kind: str  # of its sum
    keys: list[tuple[Key, int]]
    parts: dict[str, Interval]  # what may be summed behind a layer
    requests: list[tuple[Awaited, Where]] = field(default_factory=list)
    share: Array | None = None
    copy: Array | None = None  # of `value`, in the type of activations


class Arena:
    """Parameters of one rank."""

    def __init__(
        self, world: World, placed: PlacedNetwork, dtype: DTypeLike, bucket_bytes: int, cut_optimizer: bool,
        overlap: bool = True, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        self.world, self.cut, self.overlap = world, cut_optimizer, overlap
        self._take: Callable[[Array], Array] = (lambda array: array) if engine is None else engine.take
        self.engine = engine
        dtype = np.dtype(dtype)
        narrow = dtype if engine is None else engine.activations(dtype)
        self._changed = narrow != dtype
        self.parameters: dict[str, dict[str, Parameter]] = {layer.node.name: {} for layer in placed.layers}
        self._live: list[_Live] = []
        for plan in plan_buckets(placed, world.rank, bucket_bytes, dtype.itemsize):
            kind = "reduce_scatter" if cut_optimizer else "allreduce"
            keys = [(Key(e.layer, "backward", kind, e.axes), e.size) for e in plan.entries]
            least = plan.size if cut_optimizer else world.sums.piece_bytes // dtype.itemsize
            value, grad = (self._take(np.zeros(plan.size, dtype)) for _ in range(2))
            live = _Live(plan, value, grad, kind, keys, {p.layer: p.interval for p in cut(plan, least)})
            if engine is not None and narrow != dtype:
                live.copy = engine.empty((plan.size,), narrow)
            self._live.append(live)
            at = 0
            for entry in plan.entries:
                part, shape = slice(at, at + entry.size), entry.parameter.layout.block_shape(world.rank)
                self.parameters[entry.layer][entry.parameter.name] = Parameter(
                    entry.name,
                    entry.parameter,
                    shaped(live.value[part], shape),
                    shaped(live.grad[part], shape),
                    copy=None if live.copy is None else shaped(live.copy[part], shape),
                )
                at += entry.size

        self._behind: dict[str, list[_Live]] = {}  # a layer -> the buckets of which a sum starts behind it
        for live in self._live:
            for layer in live.parts if live.plan.owed else ():
                self._behind.setdefault(layer, []).append(live)
        for layer, found in self._behind.items():  # in one order on all ranks, wherever their buckets begin
            found.sort(key=lambda live: min(e.name for e in live.plan.entries if e.layer == layer))
        every = [p for found in self.parameters.values() for p in found.values()]
        # Weights are large: a step's first gradient replaces the last one.  All others are cleared and added to.
        self._replaced = [p for p in every if p.spec.name == "weight"]
        self._cleared = [p for p in every if p.spec.name != "weight"]

    def initialise(self, seed: int) -> None:
        """Give every parameter its first value, drawn by global index: the same on every grid."""
        for live in self._live:
            for entry in live.plan.entries:
                spec, block = entry.parameter, self.parameters[entry.layer][entry.parameter.name].value
                box = spec.layout.box(self.world.rank)
                first = initial(
                    spec.start, seed, entry.name, spec.shape, box, spec.fan_in, spec.fan_in, block.dtype
                )
                block[...] = self._take(first)
        self._changed = True

    def changed(self) -> None:
        """Note that the values are others now, or may be: a graph of the device has made an update."""
        self._changed = True

    def round(self) -> None:
        """Copy the values into the type of activations, where that is another, unless they are what they were."""
        if self._changed:
            for live in self._live:
                if live.copy is not None:
                    live.copy[...] = live.value
        self._changed = False

    def copied(self) -> list[Array]:
        """Return a copy of all values."""
        copies = [self.world.memory.empty(live.value.shape, live.value.dtype) for live in self._live]
        for copy, live in zip(copies, self._live, strict=True):
            copy[...] = live.value
        return copies

    @contextmanager
    def using(self, values: list[Array] | None) -> Iterator[None]:
        """Compute with other values (of `copied`) inside, without moving any; None leaves those that are there."""
        if values is None:
            yield
            return
        before = [live.value for live in self._live]
        self._bind(values)
        try:
            yield
        finally:
            self._bind(before)

    def _bind(self, values: Sequence[Array]) -> None:
        for live, value in zip(self._live, values, strict=True):
            live.value, at = value, 0
            for entry in live.plan.entries:
                parameter = self.parameters[entry.layer][entry.parameter.name]
                parameter.value = shaped(value[at : at + entry.size], parameter.grad.shape)
                at += entry.size
        self._changed = True

    @property
    def nbytes(self) -> int:
        """Bytes of values, their copies and gradients."""
        copies = sum(live.copy.nbytes for live in self._live if live.copy is not None)
        return copies + sum(live.value.nbytes + live.grad.nbytes for live in self._live)

    def begin(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._cleared:
            parameter.grad[...] = 0
        for parameter in self._replaced:
            parameter.fresh = True
        for live in self._live:
            live.requests, live.share = [], None

    def finished(self, layer: str) -> None:
        """Start the sums that only waited for `layer`, the last one in them; move those on their way."""
        if self.overlap:
            for live in self._behind.get(layer, ()):
                self._start(live, live.parts[layer])
        self.world.sums.drive()

    def _start(self, live: _Live, part: Interval) -> None:
        replicas = live.plan.replicas
        if self.cut:
            request, live.share = start_reduce_scatter(self.world, replicas, live.grad, live.keys)
        else:
            request = start_sum(self.world, replicas, live.grad, live.keys, part)
        if request is not None:
            live.requests.append((request, where_of(inside(live.keys, part))))

    def await_sums(self) -> None:
        """Wait until every gradient is whole (or this rank's share of it)."""
        self.world.progress.rest()
        for live in self._live:
            if live.plan.owed and not self.overlap:
                self._start(live, Interval(0, live.plan.size))
            for request, where in live.requests:
                finish(self.world, request, live.kind, where)
            live.requests = []
            if live.share is not None and live.share is not live.grad:
                live.grad[slice(*self._own(live))] = live.share

    def shares(self) -> list[Share]:
        """Return what this rank updates: everything, or with the state cut its share of the owed buckets."""
        return [
            s
            for live in self._live
            for s in self._within(
                live, self._own(live) if self._is_cut(live) else Interval(0, live.plan.size)
            )
        ]

    def counted_once(self) -> list[Share]:
        """Return shares that over all ranks hold every parameter element exactly once: norms are sums of these."""
        return [s for live in self._live for s in self._within(live, self._own(live))]

    def publish(self) -> None:
        """After the update, give the replicas each other's shares."""
        self._changed = True
        for live in self._live:
            if self._is_cut(live):
                parts = [(Key(e.layer, "update", "allgather", e.axes), e.size) for e in live.plan.entries]
                all_gather_shares(self.world, live.plan.replicas, live.value, parts)

    def _is_cut(self, live: _Live) -> bool:
        return self.cut and live.plan.owed

    def _own(self, live: _Live) -> Interval:
        replicas = live.plan.replicas
        return Interval(0, live.plan.size).block(len(replicas), replicas.index(self.world.rank))

    def _within(self, live: _Live, own: Interval) -> list[Share]:
        found, at = [], 0
        for entry in live.plan.entries:
            part = own & Interval(at, at + entry.size)
            if part.size:
                found.append(Share(entry, live.value[slice(*part)], live.grad[slice(*part)]))
            at += entry.size
        return found
