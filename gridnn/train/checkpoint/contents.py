"""What a checkpoint holds, and which rank writes which elements of it: integers, the same on every rank.

Ranks that have the same block share the work of writing it: each writes its balanced run of the block's memory, the
same run as in its bucket's gradient sum (`layers.arena`), so that a cut optimizer state lies where it is written.

    conv1.weight (8, 3, 3, 3) on grid "k2 n2"            memory of a block: K, R, S, C (docs/decisions/0020)

        k=0: block 0:4      n=0 writes elements [0, 54)      one box:  (0:2, 0:3, 0:3, 0:3)
                            n=1 writes elements [54, 108)              (2:4, 0:3, 0:3, 0:3)
        k=1: block 4:8      ...

Over all ranks every element of every array is in exactly one box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gridnn.geometry.flat import flat_boxes
from gridnn.geometry.interval import Box, Interval, extents_of, volume
from gridnn.network import spec as s
from gridnn.network.buckets import plan_buckets
from gridnn.network.placed import PlacedLayer, PlacedNetwork

STATISTICS = ("mean", "variance")
STATISTICS_WORD = "statistics/"
STATISTICS_DTYPE = "float64"


class Part(NamedTuple):
    """A run of the memory of a rank's block of an array.

    Attributes
    ----------
    name
        Of the array in the checkpoint, such as ``"weights/conv1.weight"``.
    box
        The rank's block, in global indices.
    run
        Elements of the block's memory, channels innermost.
    """

    name: str
    dtype: str
    box: Box
    run: Interval

    @property
    def moves_in_forward(self) -> bool:
        """Whether a forward pass changes it; weights and optimizer state are changed by an update only."""
        return self.name.startswith(STATISTICS_WORD)

    def boxes(self) -> list[Box]:
        """Return the boxes of the run, in global indices, in the order of memory, each one piece of it."""
        return run_boxes(self.box, self.run)


def memory_order(dims: int) -> tuple[int, ...]:
    """Return the dims of an array (N, C, *S) in the order of its memory; the last changes fastest."""
    return (0, *range(2, dims), 1) if dims > 2 else tuple(range(dims))


def run_boxes(block: Box, run: Interval) -> list[Box]:
    """Return the boxes of a run of a block's memory, in global indices."""
    order = memory_order(len(block))
    back = [order.index(d) for d in range(len(block))]
    found = flat_boxes([block[d].size for d in order], run)
    return [tuple(box[at].shift(block[d].start) for d, at in enumerate(back)) for box in found]


@dataclass(frozen=True)
class Contents:
    """The arrays of a run, and how they are cut over its ranks.

    Attributes
    ----------
    dtype
        Of weights and optimizer state; running statistics are float64.
    kinds
        State arrays that the optimizer keeps of every parameter, such as ``("m", "v")``.
    bucket_bytes
        Of the run's gradient sums: they say where a block is cut.
    """

    placed: PlacedNetwork
    dtype: str
    kinds: tuple[str, ...]
    bucket_bytes: int

    def parts(self, rank: int) -> list[Part]:
        """Return what a rank writes: statistics, weights, then the optimizer's state; no run is empty."""
        owned = list(self._owned(rank))
        words = ("weights", *(f"optimizer/{kind}" for kind in self.kinds))
        return [
            *self._statistics(rank),
            *(Part(f"{word}/{name}", self.dtype, box, run) for word in words for name, box, run in owned),
        ]

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return global shape and type of every array."""
        found = {}
        for layer in norms(self.placed):
            for what in STATISTICS:
                found[f"{STATISTICS_WORD}{layer.node.name}.{what}"] = (
                    layer.placement.parameters[0].shape, STATISTICS_DTYPE
                )  # fmt: skip
        for word in ("weights", *(f"optimizer/{kind}" for kind in self.kinds)):
            for layer in self.placed.layers:
                for p in layer.placement.parameters:
                    found[f"{word}/{layer.node.name}.{p.name}"] = (p.shape, self.dtype)
        return found

    def _owned(self, rank: int) -> Iterator[tuple[str, Box, Interval]]:
        """Yield every parameter a rank writes of: name, block, and its run of the block."""
        for bucket in plan_buckets(self.placed, rank, self.bucket_bytes, np.dtype(self.dtype).itemsize):
            at, own = 0, _balanced(bucket.size, bucket.replicas, rank)
            for entry in bucket.entries:
                run = (own & Interval(at, at + entry.size)).shift(-at)
                if run.size:
                    yield entry.name, entry.parameter.layout.box(rank), run
                at += entry.size

    def _statistics(self, rank: int) -> Iterator[Part]:
        for layer in norms(self.placed):
            if rank in layer.scheme.ranks:
                layout = layer.placement.parameters[0].layout
                box = layout.box(rank)
                run = _balanced(volume(box), _replicas(layer, rank), rank)
                if run.size:
                    for what in STATISTICS:
                        yield Part(f"{STATISTICS_WORD}{layer.node.name}.{what}", STATISTICS_DTYPE, box, run)


def norms(placed: PlacedNetwork) -> tuple[PlacedLayer, ...]:
    """Return the layers that keep running statistics, which lie as their first parameter does."""
    return tuple(layer for layer in placed.layers if isinstance(layer.node.spec, s.BatchNorm))


def _replicas(layer: PlacedLayer, rank: int) -> tuple[int, ...]:
    return layer.scheme.group(rank, layer.placement.parameters[0].layout.uncut)


def _balanced(size: int, replicas: tuple[int, ...], rank: int) -> Interval:
    return Interval(0, size).block(len(replicas), replicas.index(rank))


def stored_extents(box: Box) -> tuple[int, ...]:
    """Return the extents under which a box is stored: those of its memory."""
    extents = extents_of(box)
    return tuple(extents[d] for d in memory_order(len(box)))
