"""What the passes do at each layer, looked up once: the stops of a rank, and what crosses to and from its stage.

    stage 0    stop stop stop --leave--.                      .--> returning
                                       |  crosses             |
    stage 1               arrivals <---'    stop stop stop --give

Messages between two ranks match in the order they are sent: `arrivals` are in the order in which producers compute,
`returning` in the order in which the stages behind finish their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gridnn.comm.clock import Where
from gridnn.comm.mover import Route
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.traffic import Key
from gridnn.layers.base import Layer
from gridnn.network.placed import Edge, PlacedNetwork
from gridnn.network.stages import Stages, crossing, stage_at


class Way(NamedTuple):
    """An edge, what this rank does on it in one direction, and what that is counted under."""

    edge: int
    route: Route
    key: Key


class Stop(NamedTuple):
    """What the passes do at a layer."""

    layer: Layer
    works: bool  # on this rank
    inputs: tuple[int, ...]  # edges
    leaves: tuple[Way, ...]  # edges its output takes
    gives: tuple[Way | None, ...]  # the way back of each input
    last: tuple[int, ...]  # edges that nobody of the stage reads after it
    margin: int | None  # edge into whose margin buffer its output is written
    computes: tuple[Where, Where, Where]  # what the clock is told: forward, backward, weights


class Itinerary:
    """The stops of one rank.

    Parameters
    ----------
    stages
        Of the network; None: one, of all ranks.
    detached
        No gradient goes from a stage to the one before.

    Attributes
    ----------
    stage
        This rank's; -1 if it has no part in any.
    """

    def __init__(
        self, rank: int, placed: PlacedNetwork, paths: Sequence[Route | None], stages: Stages | None, detached: bool
    ) -> None:  # fmt: skip
        self.rank, self.placed, self.paths, self.detached = rank, placed, paths, detached
        self.stage, self._crossing = stage_at(rank, placed, stages), crossing(placed, stages)
        self._of = stages.of if stages else dict.fromkeys((la.node.name for la in placed.layers), 0)
        self._at = {layer.node.name: i for i, layer in enumerate(placed.layers)}

    def stops(self, layers: Sequence[Layer], margins: Mapping[str, int]) -> list[Stop]:
        """Return what the passes do at each layer of the stage, in the order of forward."""
        edges, mine = self.placed.edges, [la for la in layers if self._of[la.name] == self.stage]
        backs = [self._back(e) if self.returns(e) else None for e in range(len(edges))]
        last: dict[int, str] = {e: layer.name for layer in mine for e in layer.placed.edges}
        return [
            Stop(
                layer, self.rank in layer.scheme.ranks, layer.placed.edges,
                tuple(self._there(e) for e, edge in enumerate(edges) if edge.producer == layer.name),
                tuple(backs[e] for e in layer.placed.edges),
                tuple(dict.fromkeys(e for e in layer.placed.edges if last[e] == layer.name)),
                margins.get(layer.name), _computes(layer, self.rank in layer.scheme.ranks),
            )
            for layer in mine
        ]  # fmt: skip

    def arrivals(self) -> list[Way]:
        """Return the edges from other stages to this one, in the order in which they are sent."""
        coming = [e for e in self._crossing if self._of[self._edge(e).owner] == self.stage]
        return [self._there(e) for e in sorted(coming, key=lambda e: (self._at[self._edge(e).producer], e))]

    def returning(self) -> list[Way]:
        """Return the edges on which gradients come back from other stages, in the order in which they are sent."""
        coming = [
            e for e in self._crossing if self._of[self._edge(e).producer] == self.stage and self.returns(e)
        ]
        return [self._back(e) for e in sorted(coming, key=self._when_given)]

    def returns(self, e: int) -> bool:
        """Return whether a gradient comes back on an edge."""
        return self._edge(e).exchange is not None and not (self.detached and e in self._crossing)

    def _when_given(self, e: int) -> tuple[int, int]:
        """Return when the gradient of an edge is whole: its first user is the last to go backward."""
        owner = self._at[self._edge(e).owner]
        return -owner, max(i for i, each in enumerate(self.placed.layers[owner].edges) if each == e)

    def _edge(self, e: int) -> Edge:
        return self.placed.edges[e]

    def _there(self, e: int) -> Way:
        edge, path = self._edge(e), self.paths[e]
        assert path is not None and edge.exchange is not None
        path.lane = "forward" if e in self._crossing else ""
        return Way(e, path, _key(edge, "forward", edge.exchange))

    def _back(self, e: int) -> Way:
        edge = self._edge(e)
        assert edge.exchange is not None
        transposed = edge.exchange.transpose()
        lane = "backward" if e in self._crossing else ""
        return Way(e, Route(transposed, self.rank, lane), _key(edge, "backward", transposed))


def _key(edge: Edge, direction: str, exchange: Exchange) -> Key:
    return Key(edge.owner, direction, exchange.kind, " ".join(exchange.axes))


def _computes(layer: Layer, works: bool) -> tuple[Where, Where, Where]:
    """Return what a layer does on this rank, pass by pass; a layer with nothing to weigh only goes backward."""
    mine = (layer.name,) if works else ()
    weighs = type(layer).weigh is not Layer.weigh
    return (mine, "forward"), (mine, "backward"), (mine, "weights" if weighs else "backward")
