"""Seconds of everything one rank moves in a step, by what the ledger counts it under.

| part       | what                              | seconds of                                                |
|------------|-----------------------------------|-----------------------------------------------------------|
| edge       | an output on its way to its users | its collective; messages and bytes by level, in or out    |
| settle     | terms of a sum on their way to    | the same                                                  |
|            | rest, movements inside a layer    |                                                           |
| statistics | sums inside a layer               | all-reduces of equal size that make up the bytes counted  |
| gradients  | the sum of a bucket               | the bucket's all-reduce, shared out to layers by size     |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from gridnn.cost.collectives import allgather_s, allreduce_s, exchange_s, members, reduce_scatter_s
from gridnn.cost.machine import Machine
from gridnn.geometry.exchange import Exchange, Piece
from gridnn.geometry.grid import Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Key, Volume, Widths, widths_of
from gridnn.network.buckets import plan_buckets
from gridnn.network.placed import PlacedNetwork

Part = Literal["edge", "settle", "statistics", "gradients"]
COLLECTIVE_S = {"allreduce": allreduce_s, "allgather": allgather_s, "reduce_scatter": reduce_scatter_s}


class Moved(NamedTuple):
    """Seconds of a step, and of what; where two parts are counted under one key, the first."""

    part: Part
    seconds: float


class Movements:
    """Prices the movements of a placed network; what ranks and layers have in common is kept."""

    def __init__(
        self, placed: PlacedNetwork, machine: Machine, itemsize: int | Widths, passes: int, bucket_bytes: int,
        cut_optimizer: bool,
    ) -> None:  # fmt: skip
        self.placed, self.machine, self.widths, self.passes = placed, machine, widths_of(itemsize), passes
        self.bucket_bytes, self.cut_optimizer = bucket_bytes, cut_optimizer
        self.schemes = {layer.node.name: layer.scheme for layer in placed.layers}
        self._members: dict[tuple[Scheme, str, int], tuple[int, ...]] = {}
        self._collective: dict[tuple[str, tuple[int, ...], float], float] = {}
        self._exchange: dict[tuple[int, int], float] = {}
        self._exchanges = list(self._list_exchanges())

    def seconds(self, rank: int, counts: Mapping[Key, Volume]) -> dict[Key, Moved]:
        """Return the seconds of a step of a rank by key.

        Parameters
        ----------
        counts
            The rank's predicted traffic of the step.
        """
        found: dict[Key, Moved] = {}
        for layer, direction, part, times, exchange in self._exchanges:
            if key_s := self._exchange_seconds(exchange, rank):
                key = Key(layer, direction, exchange.kind, " ".join(exchange.axes))
                _add(found, key, part, self.passes * times * key_s)
        sums = dict(self._gradients(rank))
        for key, count in counts.items():
            if key.collective == "allreduce" and key not in sums and count.messages:
                _add(found, key, "statistics", self._statistics(key, rank, count))
        for key, key_s in sums.items():
            _add(found, key, "gradients", key_s)
        return found

    def _list_exchanges(self) -> Iterator[tuple[str, str, Part, int, Exchange]]:
        """Yield the exchanges of a pass that move anything: layer, direction, part, times."""
        for edge in self.placed.edges:
            if edge.exchange is not None and edge.exchange.kind != "none":
                yield edge.owner, "forward", "edge", 1, edge.exchange
                yield edge.owner, "backward", "edge", 1, edge.exchange.transpose()
        for layer in self.placed.layers:
            inside = [(1, layer.settle), *((i.times, i.exchange) for i in layer.placement.inner)]
            for times, exchange in inside:
                if exchange.kind != "none":
                    yield layer.node.name, "forward", "settle", times, exchange
                    yield layer.node.name, "backward", "settle", times, exchange.transpose()

    def _exchange_seconds(self, exchange: Exchange, rank: int) -> float:
        at = (id(exchange), rank)  # alive as long as the placed network is
        if at not in self._exchange:
            self._exchange[at] = self._exchange_new(exchange, rank)
        return self._exchange[at]

    def _exchange_new(self, exchange: Exchange, rank: int) -> float:
        if exchange.kind in COLLECTIVE_S:
            group = exchange.group(rank)
            full = exchange.target if exchange.kind == "allgather" else exchange.source
            nbytes = volume(full.box(rank)) * self.widths.moved(exchange.kind)
            if not group:
                return 0.0
            return self._collective_seconds(exchange.kind, members(self.machine, group), nbytes)
        # One that sends to many and receives little is as slow as one that receives.
        return max(
            self._pieces_seconds(exchange.receives(rank), rank),
            self._pieces_seconds(exchange.sends(rank), rank),
        )

    def _pieces_seconds(self, pieces: list[Piece], rank: int) -> float:
        messages = [0] * len(self.machine.levels)
        nbytes = list(messages)
        for peer, box in pieces:
            if peer != rank:
                level = sum(rank // unit != peer // unit for unit in self.machine.units)
                messages[level] += 1
                nbytes[level] += volume(box) * self.widths.activation
        return float(exchange_s(self.machine, messages, nbytes, self.placed.procs))

    def _statistics(self, key: Key, rank: int, count: Volume) -> float:
        group = self._group(self.schemes[key.layer], key.axes, rank)
        # An all-reduce of n bytes is received as 2 (p - 1) / p of them.
        nbytes = count.received_bytes / count.messages * group[-1] / (2 * (group[-1] - 1))
        return count.messages * self._collective_seconds("allreduce", group, nbytes)

    def _gradients(self, rank: int) -> Iterator[tuple[Key, float]]:
        """Yield the seconds of gradient sums, each key once."""
        found: dict[Key, float] = {}
        kinds = [("backward", "allreduce")]
        if self.cut_optimizer:
            kinds = [("backward", "reduce_scatter"), ("update", "allgather")]
        width = self.widths.parameter
        for bucket in plan_buckets(self.placed, rank, self.bucket_bytes, width):
            if not bucket.owed or len(bucket.replicas) < 2 or not bucket.size:
                continue
            group = members(self.machine, bucket.replicas)
            for direction, kind in kinds:
                bucket_s = self._collective_seconds(kind, group, bucket.size * width)
                for entry in bucket.entries:
                    key = Key(entry.layer, direction, kind, entry.axes)
                    found[key] = found.get(key, 0.0) + bucket_s * entry.size / bucket.size
        yield from found.items()

    def _group(self, scheme: Scheme, axes: str, rank: int) -> tuple[int, ...]:
        at = (scheme, axes, rank)
        if at not in self._members:
            self._members[at] = members(self.machine, scheme.group(rank, axes.split()))
        return self._members[at]

    def _collective_seconds(self, kind: str, group: tuple[int, ...], nbytes: float) -> float:
        at = (kind, group, nbytes)
        if at not in self._collective:
            self._collective[at] = float(COLLECTIVE_S[kind](self.machine, group, nbytes, self.placed.procs))
        return self._collective[at]


def _add(found: dict[Key, Moved], key: Key, part: Part, seconds: float) -> None:
    old = found.get(key, Moved(part, 0.0))
    found[key] = Moved(old.part, old.seconds + seconds)
