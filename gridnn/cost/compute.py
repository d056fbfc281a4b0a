"""The arithmetic of a layer on one rank: operations and elements touched, from its boxes."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from gridnn.geometry.interval import volume
from gridnn.network import spec as s
from gridnn.network.placed import PlacedLayer


class Work(NamedTuple):
    """Floating-point operations of matrix products, and elements read or written by the rest."""

    product_flops: int
    touched: int


def forward_work(layer: PlacedLayer, rank: int) -> Work:
    """Return the work of one forward pass of one layer on one rank.

    A multiply-add is two operations; the backward pass of a weighted layer is two more such products
    (Gholami et al. 2018, section 2: three products a layer), that of any other about the same again.
    """
    spec, place = layer.node.spec, layer.placement
    out = volume(place.raw.box(rank))
    if isinstance(spec, s.Conv | s.Linear):
        weight = place.parameters[0].layout.block_shape(rank)
        return Work(2 * out * prod(weight[1:]), out)
    if isinstance(spec, s.ConvTranspose):
        weight = place.parameters[0].layout.block_shape(rank)
        return Work(2 * volume(place.needs[0].box(rank)) * prod(weight[1:]), out)
    taps = prod(w.kernel for w in spec.windows) if isinstance(spec, s.Pool) else 1
    return Work(0, taps * out + sum(volume(need.box(rank)) for need in place.needs))
