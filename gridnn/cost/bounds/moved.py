"""What a plan moves for one weighted layer: received bytes of a rank in a step, by the array they are of.

| array | forward                                  | backward                            | counted in a run under     |
|-------|------------------------------------------|-------------------------------------|----------------------------|
| x     | its input comes to where it is wanted    | dX back, terms added up             | the first that wants it so |
| y     | terms of its output to their owner       | dY to all that made terms           | the layer                  |
| w     |                                          | the all-reduce of dW, bias included | the layer                  |

A layer is looked at as if alone: an input that several layers want in one layout moves once in a run and counts for
each of them here; an all-reduce is shared out to ranks evenly, as 2 (p - 1) / p of the block, where a run has buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product as combinations
from math import ceil, isqrt, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.bounds.conv import WEIGHTED
from gridnn.geometry.grid import AXES, GridShape
from gridnn.geometry.interval import Interval, volume
from gridnn.geometry.layout import Layout
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer, PlacedNetwork

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ALL_RANKS = 64
"""Jobs up to this size are looked at on every rank; above, a layer's ranks at the ends of its axes."""


class Moved(NamedTuple):
    """Bytes a rank receives for a layer in a step."""

    x: float
    y: float
    w: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.x + self.y + self.w


def busiest(placed: PlacedNetwork, layer: PlacedLayer, itemsize: int, passes: int) -> Moved:
    """Return what the rank that receives most for a layer in a step receives, of the ranks looked at."""
    ranks = list(range(placed.procs) if placed.procs <= ALL_RANKS else corners(layer))
    moved = moved_bytes(placed, layer, ranks, itemsize, passes)
    x, y, w = moved[:, moved.sum(axis=0).argmax()]
    return Moved(float(x), float(y), float(w))


def moved_bytes(
    placed: PlacedNetwork, layer: PlacedLayer, ranks: Sequence[int], itemsize: int, passes: int
) -> Floats:
    """Return what ranks receive for a layer in a step: rows x, y and w, a column a rank."""
    edge = placed.edges[layer.edges[0]].exchange
    moved = np.zeros((3, len(ranks)))
    for row, exchange in enumerate((edge, layer.settle)):
        if exchange is not None:
            there = elements(exchange.source, exchange.target, ranks)
            moved[row] = passes * (there + elements(exchange.target, exchange.source, ranks))
    for parameter in layer.placement.parameters:
        copies = parameter.layout.copies
        blocks = np.array([volume(parameter.layout.box(rank)) for rank in ranks])
        moved[2] += 2 * (copies - 1) / copies * blocks
    found: Floats = moved * itemsize
    return found


def elements(source: Layout, target: Layout, ranks: Sequence[int]) -> Floats:
    """Return how many elements each of some ranks receives from others in an exchange; see `cost.traffic.received`."""
    wanted = np.array([target.box(rank) for rank in ranks])  # (ranks, dims, 2)
    own = np.array([source.box(rank) for rank in ranks])
    found = np.full(len(ranks), float(source.copies))
    for at, dim in enumerate(source.dims):
        found *= _shared(_array(dim.intervals)[None], wanted[:, None, at]).sum(axis=1)
    missing: Floats = found - _shared(own, wanted).prod(axis=1)
    return missing


@lru_cache(maxsize=64)
def _array(intervals: tuple[Interval, ...]) -> Ints:
    """Return intervals (blocks, 2); layers of a network have many in common."""
    return np.array(intervals)


def _shared(a: Ints, b: Ints) -> Ints:
    """Return the sizes of intersections of intervals, the last axis being start and stop."""
    low, high = np.maximum(a[..., 0], b[..., 0]), np.minimum(a[..., 1], b[..., 1])
    size: Ints = np.maximum(high - low, 0)
    return size


def working(layer: PlacedLayer) -> int:
    """Return how many ranks of a layer have multiplications to make: a degree above its extent leaves ranks idle."""
    raw, need = layer.placement.raw, layer.placement.needs[0]
    blocks = prod(sum(i.size > 0 for i in dim.intervals) for dim in raw.dims)
    if raw.uncut:  # c cuts the sums
        blocks *= sum(i.size > 0 for i in need.dims[1].intervals)
    return blocks


def corners(layer: PlacedLayer) -> Iterator[int]:
    """Yield the ranks of a layer at the first, second and last place of every axis.

    The first blocks are the longest, and one that has neighbours on both sides has the largest halo.
    """
    sizes = layer.scheme.grid.sizes
    for coords in combinations(*(sorted({0, min(1, size - 1), size - 1}) for size in sizes)):
        yield layer.scheme.first + layer.scheme.grid.rank(coords)


def best_grid(
    layer: PlacedLayer, procs: int, itemsize: int, passes: int, *, first: bool = False
) -> tuple[GridShape, float] | None:
    """Return the grid of n, k and c that moves least for a layer alone, and the bytes of its largest block.

    What a rank owns of the input is taken to lie inside what it wants, so no plan moves less on that grid.  None if no
    such grid has so many processes; a grouped convolution is cut in whole groups only.
    """
    spec = layer.node.spec
    assert isinstance(spec, WEIGHTED)
    batch, c, *x_space = layer.placement.needs[0].shape
    _, k, *y_space = layer.placement.raw.shape
    kernel = () if isinstance(spec, s.Linear) else tuple(w.kernel for w in spec.windows)
    groups = spec.groups if isinstance(spec, s.Conv) else 1
    found: list[tuple[float, GridShape]] = []
    for pn, pk, pc in _threes(procs):
        whole_groups = pc == 1 and groups % pk == 0
        if pn > batch or pk > k or pc > c or (groups > 1 and not whole_groups):
            continue
        samples, into, out = passes * ceil(batch / pn), ceil(c / pc), ceil(k / pk)
        # Whole groups on a rank read their own part of X.
        x = 0.0 if first or groups > 1 else 2 * (1 - 1 / pk) * samples * into * prod(x_space)
        y = 2 * (1 - 1 / pc) * samples * out * prod(y_space)
        w = 2 * (1 - 1 / pn) * out * (into // groups * prod(kernel) + spec.bias / pc)
        found.append(((x + y + w) * itemsize, GridShape((pn, pk, pc, 1, 1, 1))))
    if not found:
        return None
    moved, grid = min(found, key=lambda pair: (pair[0], [-pair[1][axis] for axis in AXES]))
    return grid, moved


@lru_cache(maxsize=16)
def _threes(procs: int) -> tuple[tuple[int, int, int], ...]:
    """Return the ways to write a number as a product of three."""
    small = [d for d in range(1, isqrt(procs) + 1) if procs % d == 0]
    divisors = sorted({*small, *(procs // d for d in small)})
    return tuple((a, b, procs // a // b) for a in divisors for b in divisors if procs // a % b == 0)
