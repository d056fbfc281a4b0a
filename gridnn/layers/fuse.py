"""Fusion: a ReLU that only undoes a trip through memory becomes the last touch of the layer before it.

    conv, linear, batch norm, add  ->  ReLU     on one scheme, the ReLU the only consumer

    forward    the producer rectifies what it writes; the ReLU passes it on
    backward   the ReLU passes dY on; the producer reads it masked by Y > 0

Every number stays what it was: the same operations on the same elements, without a second pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.layers.base import Layer
from gridnn.layers.norm import BatchNormalisation
from gridnn.layers.pointwise import ActivationLayer, Addition
from gridnn.layers.weighted import Weighted
from gridnn.network.placed import PlacedNetwork

HOSTS = (Weighted, BatchNormalisation, Addition)


def fuse(placed: PlacedNetwork, layers: Sequence[Layer]) -> None:
    """Let the layers that can take over the ReLU behind them do so."""
    by_name = {layer.name: layer for layer in layers}
    for layer in layers:
        if not isinstance(layer, ActivationLayer) or not layer.is_relu:
            continue
        (edge,) = [placed.edges[e] for e in layer.placed.edges]
        host = by_name.get(edge.producer)
        alone = sum(e.producer == edge.producer for e in placed.edges) == 1 and edge.users == (layer.name,)
        moved = edge.exchange is None or edge.exchange.kind != "none"
        if isinstance(host, HOSTS) and alone and not moved and host.scheme == layer.scheme:
            host.rectified = layer.absorbed = True
