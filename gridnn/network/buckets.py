"""Buckets: a rank's parameters side by side in flat buffers, so that few large sums replace many small ones.

Parameters come in the order in which backward finishes them, last layer first; those whose blocks are shared
by the same ranks stand together until a bucket is full:

    replicas {0,2} owed    [ fc.bias fc.weight conv3.bias ... ] [ conv2.weight ... ]
    replicas {0,1,2,3}     [ conv1.weight conv1.bias ]

Where links are slow a bucket's sum goes in parts, each as soon as backward has finished its layers:

    [ fc.bias fc.weight | conv3.bias conv3.weight ]
                        ^ starts behind fc, while conv3 is computed
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from gridnn.geometry.interval import Interval, volume
from gridnn.network.placed import PlacedNetwork
from gridnn.network.placement import Parameter


@dataclass(frozen=True)
class Entry:
    """A parameter in a bucket."""

    layer: str
    parameter: Parameter
    size: int

    @property
    def name(self) -> str:
        """Name of the parameter in the network."""
        return f"{self.layer}.{self.parameter.name}"

    @property
    def axes(self) -> str:
        """Grid axes along which the block is the same."""
        return " ".join(self.parameter.layout.uncut)


@dataclass
class Bucket:
    """Parameters whose blocks the same ranks share; `owed` says that their gradients are terms of a sum."""

    replicas: tuple[int, ...]
    owed: bool
    entries: list[Entry] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Elements."""
        return sum(e.size for e in self.entries)


class Part(NamedTuple):
    """A part of a bucket that is summed apart.

    Attributes
    ----------
    layer
        Behind whose backward pass its sum may start.
    """

    layer: str
    interval: Interval


def plan_buckets(placed: PlacedNetwork, rank: int, bucket_bytes: int, itemsize: int) -> list[Bucket]:
    """Return the buckets of one rank."""
    buckets: list[Bucket] = []
    filling: dict[tuple[tuple[int, ...], bool], Bucket] = {}
    for layer in reversed(placed.layers):
        if rank not in layer.scheme.ranks:
            continue
        for parameter in reversed(layer.placement.parameters):
            replicas = layer.scheme.group(rank, parameter.layout.uncut)
            key = (replicas, parameter.owed)
            bucket = filling.get(key)
            if bucket is None or bucket.size * itemsize >= bucket_bytes:
                bucket = filling[key] = Bucket(*key)
                buckets.append(bucket)
            bucket.entries.append(Entry(layer.node.name, parameter, volume(parameter.layout.box(rank))))
    return buckets


def cut(bucket: Bucket, least: int) -> list[Part]:
    """Return the parts of a bucket, which end with layers; each has at least so many elements, but for the last."""
    parts: list[Part] = []
    start = stop = 0
    for layer, entries in groupby(bucket.entries, key=lambda entry: entry.layer):
        stop += sum(entry.size for entry in entries)
        if stop - start >= max(1, least) or stop == bucket.size > start:
            parts.append(Part(layer, Interval(start, stop)))
            start = stop
    return parts
