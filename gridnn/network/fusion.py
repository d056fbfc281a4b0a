"""Which ReLU is part of the layer before it: known from the placed network alone.

    conv, linear, batch norm, add  ->  ReLU     on one scheme, the ReLU the only consumer

Layers act on it (the producer rectifies what it writes), memory predictions count on it (one array, not two).
"""

from __future__ import annotations

from gridnn.network import spec as s
from gridnn.network.placed import PlacedNetwork

HOSTS = (s.Conv, s.ConvTranspose, s.Linear, s.BatchNorm, s.Add)


def absorbed(placed: PlacedNetwork) -> dict[str, str]:
    """Return the layer that does its work for each ReLU that needs none of its own."""
    by_name, found = {layer.node.name: layer for layer in placed.layers}, dict[str, str]()
    for layer in placed.layers:
        spec = layer.node.spec
        if not isinstance(spec, s.Activation) or spec.name != "relu":
            continue
        edge = placed.edges[layer.edges[0]]
        host = by_name.get(edge.producer)
        alone = (
            edge.users == (layer.node.name,) and sum(e.producer == edge.producer for e in placed.edges) == 1
        )
        stays = edge.exchange is not None and edge.exchange.kind == "none"
        if (
            host is not None
            and isinstance(host.node.spec, HOSTS)
            and alone
            and stays
            and host.scheme == layer.scheme
        ):
            found[layer.node.name] = host.node.name
    return found
