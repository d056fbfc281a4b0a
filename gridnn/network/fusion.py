"""Which ReLU is part of the layer before it: known from the placed network alone.

    conv, linear, batch norm, add  ->  ReLU     the ReLU the only consumer

| both stand         | forward: rectifies              | backward: masks dY by Y > 0            |
|--------------------|---------------------------------|----------------------------------------|
| on one scheme      | the layer before it             | the layer before it: *absorbed*        |
| on two             | the layer before it             | the ReLU, before dY moves              |

Layers act on it, prices and memory predictions count on it (one array, not two).
"""

from __future__ import annotations

from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.placed import PlacedNetwork

HOSTS = (s.Conv, s.ConvTranspose, s.Linear, s.BatchNorm, s.Add)


def absorbable(network: Network) -> dict[str, str]:
    """Return the layer that rectifies for each ReLU that is the only one to read that layer."""
    users: dict[str, int] = {}
    for node in network.nodes:
        for name in node.inputs:
            users[name] = users.get(name, 0) + 1
    specs = {node.name: node.spec for node in network.nodes}
    return {
        node.name: node.inputs[0]
        for node in network.nodes
        if isinstance(node.spec, s.Activation) and node.spec.name == "relu"
        and isinstance(specs.get(node.inputs[0]), HOSTS) and users[node.inputs[0]] == 1
    }  # fmt: skip


def absorbed(placed: PlacedNetwork) -> dict[str, str]:
    """Return the layer that does all the work of each ReLU that needs none of its own."""
    by_name, found = {layer.node.name: layer for layer in placed.layers}, dict[str, str]()
    for name, host in absorbable(placed.network).items():
        exchange = placed.edges[by_name[name].edges[0]].exchange
        stays = exchange is not None and exchange.kind == "none"
        if stays and by_name[host].scheme == by_name[name].scheme:
            found[name] = host
    return found


def passing(placed: PlacedNetwork) -> frozenset[str]:
    """Return the ReLUs that pass on what arrives rectified; others write it into the margin of a halo behind them."""
    haloed = {
        edge.producer for edge in placed.edges if edge.exchange is not None and edge.exchange.kind == "halo"
    }
    return frozenset(absorbed(placed).keys() | (absorbable(placed.network).keys() - haloed))
