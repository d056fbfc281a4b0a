"""Stages: a network cut into contiguous runs of layers, each on ranks of its own, busy at the same time.

    layers    conv1 relu1 pool1 | conv2 relu2 | fc1 relu3 fc2 loss         in topological order
    stage     0                 | 1           | 2
    ranks     0 1               | 2 3         | 4                          each stage cut by any grids inside its ranks

A stage is named by its first layer, so that stages are a short list of names: ("conv1", "conv2", "fc1").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.graph import Network
from gridnn.network.placed import PlacedNetwork


@dataclass(frozen=True)
class Stages:
    """A network cut into stages.

    Attributes
    ----------
    names
        Of the layers, in topological order.
    first
        The first layer of each stage.
    """

    names: tuple[str, ...]
    first: tuple[str, ...]

    @property
    def count(self) -> int:
        """Stages there are."""
        return len(self.first)

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """First layer and the one after the last of each stage, as numbers."""
        starts = [self.names.index(name) for name in self.first]
        return tuple(zip(starts, [*starts[1:], len(self.names)], strict=True))

    @cached_property
    def of(self) -> Mapping[str, int]:
        """The stage of each layer."""
        return {name: k for k, (start, stop) in enumerate(self.bounds) for name in self.names[start:stop]}

    def layers(self, stage: int) -> tuple[str, ...]:
        """Return the layers of a stage."""
        start, stop = self.bounds[stage]
        return self.names[start:stop]


def cut_network(network: Network, first: Sequence[str]) -> Stages:
    """Return a network cut before each of some layers; the first layer of the network need not be named.

    Raises
    ------
    InputError
        If a layer is not of the network, or they are not in its order.
    """
    names = tuple(node.name for node in network.nodes)
    if unknown := [name for name in first if name not in names]:
        raise InputError(
            f"stages: network {network.name} has no layer {unknown[0]!r}{_near(unknown[0], names)}"
        )
    given = tuple(first) if first and first[0] == names[0] else (names[0], *first)
    at = [names.index(name) for name in given]
    if at != sorted(set(at)):
        raise InputError(
            f"stages: they begin at {', '.join(given)}, which are not in the order of network {network.name}; "
            "name each first layer once, in the order of the layers"
        )
    return Stages(names, given)


def ranks_of(stages: Stages, schemes: Mapping[str, Scheme]) -> tuple[range, ...]:
    """Return the ranks of each stage: from the first that any of its layers uses to the last.

    Raises
    ------
    InputError
        If two stages would share a rank.
    """
    found = []
    for k in range(stages.count):
        used = [schemes[name].ranks for name in stages.layers(k)]
        found.append(range(min(r.start for r in used), max(r.stop for r in used)))
    for (a, mine), (b, other) in ((x, y) for x in enumerate(found) for y in enumerate(found) if x[0] < y[0]):
        if mine.start < other.stop and other.start < mine.stop:
            raise InputError(
                f"stages: stage {a} (from {stages.first[a]}) is on ranks {_words(mine)} and stage {b} (from "
                f"{stages.first[b]}) on ranks {_words(other)}; give each stage ranks of its own: a grid such as "
                '"k2 @4" begins at rank 4'
            )
    return tuple(found)


def crossing(placed: PlacedNetwork, stages: Stages | None) -> frozenset[int]:
    """Return the edges (numbers) that lead from one stage to another."""
    if stages is None:
        return frozenset()
    of = stages.of
    return frozenset(
        e for e, edge in enumerate(placed.edges)
        if edge.exchange is not None and of[edge.producer] != of[edge.owner]
    )  # fmt: skip


def stage_at(rank: int, placed: PlacedNetwork, stages: Stages | None) -> int:
    """Return the stage of a rank, -1 if it has no part in any."""
    if stages is None:
        return 0
    ranks = ranks_of(stages, {layer.node.name: layer.scheme for layer in placed.layers})
    return next((k for k, mine in enumerate(ranks) if rank in mine), -1)


def _near(name: str, names: Sequence[str]) -> str:
    """Return a hint at what could be meant."""
    if near := get_close_matches(name, names, 1):
        return f"; did you mean {near[0]}?"
    return f"; its layers are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def _words(ranks: range) -> str:
    return str(ranks.start) if len(ranks) == 1 else f"{ranks.start}-{ranks.stop - 1}"
