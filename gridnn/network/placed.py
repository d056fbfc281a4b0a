"""A network on its grids: every layer placed, every movement between layers an edge.

Consumers of one output that want it in the same layout share one edge: the branches of an inception block
gather their input once, and add their gradients before giving them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from gridnn.errors import InputError
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import Scheme
from gridnn.geometry.layout import Layout
from gridnn.network import spec as s
from gridnn.network.graph import INPUT, Network, Node
from gridnn.network.placement import Placement, place


@dataclass(frozen=True)
class PlacedLayer:
    """A node with its scheme and placement, and the edges (numbers) that bring its inputs."""

    node: Node
    scheme: Scheme
    placement: Placement
    edges: tuple[int, ...]

    @cached_property
    def settle(self) -> Exchange:
        """The exchange from the output as computed to the output at rest."""
        return Exchange(self.placement.raw, self.placement.out)

    @property
    def target(self) -> Layout:
        """Layout of the targets of a loss: that of its input, without the class dim for class numbers."""
        logits = self.placement.needs[0]
        if isinstance(self.node.spec, s.SoftmaxCrossEntropy):
            return Layout(self.scheme, (logits.dims[0], *logits.dims[2:]))
        return logits


@dataclass(frozen=True)
class Edge:
    """An output on its way to the layers that want it in one layout.

    `exchange` is None for the input of the network: every rank reads what it needs.
    """

    producer: str
    need: Layout
    users: tuple[str, ...]
    exchange: Exchange | None

    @property
    def owner(self) -> str:
        """The layer the traffic is counted for: the first that uses it."""
        return self.users[0]


@dataclass(frozen=True)
class PlacedNetwork:
    """A network, a batch size, and where everything is."""

    network: Network
    batch: int
    procs: int
    layers: tuple[PlacedLayer, ...]
    edges: tuple[Edge, ...]

    @property
    def target(self) -> Layout:
        """Layout of the targets of the network's loss."""
        return self.layers[-1].target


def place_network(network: Network, schemes: Mapping[str, Scheme], batch: int, procs: int) -> PlacedNetwork:
    """Place every layer of a network.

    Parameters
    ----------
    schemes
        A scheme for every layer name.
    batch
        Samples in one pass of the network (the global batch over accumulation steps).

    Raises
    ------
    InputError
        If a scheme is missing or uses ranks that do not exist, or cuts a batch smaller than its `n`; if layers
        that share weights have different ones.
    """
    shapes = {name: (batch, *shape) for name, shape in network.shapes.items()}
    outs: dict[str, Layout] = {}
    layers: list[PlacedLayer] = []
    edges: dict[tuple[str, Layout], tuple[int, list[str]]] = {}
    for node in network.nodes:
        scheme = schemes.get(node.name)
        if scheme is None:
            raise InputError(f"plan: layer {node.name} of network {network.name} has no scheme; add it")
        check_scheme(node.name, scheme, batch, procs)
        placement = place(node.spec, tuple(shapes[i] for i in node.inputs), shapes[node.name], scheme)
        if node.shared:
            if scheme != schemes[node.shared]:
                raise InputError(
                    f"plan: layers {node.shared} (grid {schemes[node.shared]}) and {node.name} (grid {scheme}) share "
                    "weights; give them one grid"
                )
            placement = replace(placement, parameters=())  # those of the layer it shares them with
        numbers = []
        for producer, need in zip(node.inputs, placement.needs, strict=True):
            number, users = edges.setdefault((producer, need), (len(edges), []))
            users.append(node.name)
            numbers.append(number)
        layers.append(PlacedLayer(node, scheme, placement, tuple(numbers)))
        outs[node.name] = placement.out
    exchanges: dict[tuple[Layout, Layout], Exchange] = {}  # equal movements share one, and what it knows
    made = []
    for (producer, need), (_, users) in edges.items():
        exchange = None
        if producer != INPUT:
            exchange = exchanges.setdefault((outs[producer], need), Exchange(outs[producer], need))
        made.append(Edge(producer, need, tuple(users), exchange))
    return PlacedNetwork(network, batch, procs, tuple(layers), tuple(made))


def check_scheme(name: str, scheme: Scheme, batch: int, procs: int) -> None:
    """Refuse a scheme that cannot be.

    Degrees above an extent are allowed except for the batch: the ranks beyond own empty blocks and wait,
    which the plan table shows (docs/decisions).

    Raises
    ------
    InputError
    """
    if scheme.first < 0 or scheme.ranks.stop > procs:
        raise InputError(
            f"plan: layer {name} wants grid {scheme} = {scheme.grid.size} processes from rank {scheme.first}, "
            f"but there are {procs}; start {scheme.ranks.stop} processes or choose a smaller grid"
        )
    if scheme.grid["n"] > batch:
        raise InputError(
            f"plan: layer {name} cuts the batch {scheme.grid['n']} ways (grid {scheme}), but a pass has only "
            f"{batch} samples; use n <= {batch}, a larger batch, or cut k, c, h, w"
        )
