"""The layer-wise problem: a network, a machine, and for every layer its candidate grids with their costs.

Layers that are alike share their vectors, edges that are alike their matrices: a ResNet has some ten of each, however
deep it is.  Layers that share weights have one grid, so they are one choice, that of the first:

    a1 -> a2 -> a3       a has the costs of all three, and of the edges between them for equal grids;
     |     |     |       its edge to b is the sum of three; a2, a3, b2, b3 are nodes with one choice that costs
    b1 -> b2 -> b3       nothing, so that a choice still has an entry a layer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from gridnn.cost.grids import Grids, Ints, Ways
from gridnn.cost.moves import Floats
from gridnn.cost.tables import Layer, LayerCosts
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network.fusion import absorbable
from gridnn.network.graph import INPUT
from gridnn.plan.exact.costgraph import CostGraph
from gridnn.plan.job import Degrees as Degrees
from gridnn.plan.job import Job as Job
from gridnn.plan.space import space as space

SUMS = (s.Conv, s.ConvTranspose, s.Linear, *s.SEQUENCES)
"""Layers for which `c` is not another name for `k`."""


class Problem:
    """Candidates of every layer and what they cost.

    Parameters
    ----------
    candidates
        Grids of every layer, in the order of the network's nodes; the same object for the same grids saves time.
    """

    def __init__(self, job: Job, candidates: Sequence[Grids]) -> None:
        self.job, self.nodes, self.candidates = job, job.network.nodes, tuple(candidates)
        self.tables = job.tables()
        self.at = {node.name: i for i, node in enumerate(self.nodes)}
        self.owner = tuple(self.at[node.shared or node.name] for node in self.nodes)
        for i, owner in enumerate(self.owner):
            mine, theirs = self.candidates[i], self.candidates[owner]
            if mine is not theirs and not np.array_equal(mine.degrees, theirs.degrees):
                name, other = self.nodes[i].name, self.nodes[owner].name
                raise InputError(
                    f"layers {other} and {name} share weights, so they have one grid; give both the same"
                )
        self.layers = self._layers()
        self._moves: dict[object, Floats] = {}
        self._floors: dict[object, Floats] = {}

    def _layers(self) -> tuple[LayerCosts, ...]:
        shapes, asked, keys = self.job.network.shapes, dict[object, Layer](), []
        hosted = absorbable(self.job.network)
        for node, grids in zip(self.nodes, self.candidates, strict=True):
            inputs, first = tuple(shapes[i] for i in node.inputs), set(node.inputs) == {INPUT}
            flags = first, bool(node.shared), node.name in hosted
            keys.append((node.spec, inputs, shapes[node.name], id(grids), flags))
            if keys[-1] not in asked:
                asked[keys[-1]] = Layer(node.spec, inputs, shapes[node.name], grids, *flags)
        found = dict(zip(asked, self.tables.layers(list(asked.values())), strict=True))
        return tuple(found[key] for key in keys)

    @cached_property
    def edges(self) -> list[tuple[int, int, int]]:
        """(producer, consumer, number of the consumer's input), without the input of the network."""
        return [
            (self.at[name], i, number)
            for i, node in enumerate(self.nodes) for number, name in enumerate(node.inputs) if name != INPUT
        ]  # fmt: skip

    def edge(self, producer: int, consumer: int, number: int) -> Floats:
        """Return the seconds of an edge for all pairs of grids; equal edges return the same array."""
        made, used = self.layers[producer], self.layers[consumer]
        key = self.edge_key(made, used, number)
        if key not in self._moves:
            self._moves[key] = self.tables.edge(made, used, number)
        return self._moves[key]

    def edge_key(self, made: LayerCosts, used: LayerCosts, number: int) -> object:
        """Return a key that is the same for edges that cost the same."""
        need, shared = used.needs[number]
        cuts = (*map(id, made.out), *map(id, need), id(shared))
        return id(made.grids), id(used.grids), cuts

    def _price_edges(self) -> None:
        """Price all edges for all pairs of grids."""
        asked = {}
        for producer, consumer, number in (edge for edges in self.links.values() for edge in edges):
            made, used = self.layers[producer], self.layers[consumer]
            rows, columns = np.arange(len(made.grids))[:, None], np.arange(len(used.grids))
            asked[self.edge_key(made, used, number)] = made, used, number, rows, columns
        self._moves.update(zip(asked, self.tables.edges(list(asked.values())), strict=True))

    def floor(self, producer: int, consumer: int, number: int) -> Floats:
        """Return the least an edge can cost each grid of its consumer; equal edges return the same array."""
        made, used = self.layers[producer], self.layers[consumer]
        key = (id(made), id(used), number)
        if key not in self._floors:
            self._floors[key] = self.tables.floor(made, used, number)
        return self._floors[key]

    @cached_property
    def links(self) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """The edges between choices, by pairs (i, j) with i < j of the layers whose choices they are."""
        found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for edge in self.edges:
            i, j = sorted(self.owner[end] for end in edge[:2])
            if i != j:
                found.setdefault((i, j), []).append(edge)
        return found

    @cached_property
    def costs(self) -> tuple[Floats, ...]:
        """Seconds of every choice: of a layer, and with it of those that share its weights."""
        costs = self._gather([layer.seconds for layer in self.layers])
        for producer, consumer, number in self.edges:
            if (i := self.owner[producer]) == self.owner[consumer]:
                same = np.arange(len(costs[i]))
                made, used = self.layers[producer], self.layers[consumer]
                costs[i] = costs[i] + self.tables.edge(made, used, number, same, same)
        return tuple(costs)

    @cached_property
    def memory_bytes(self) -> tuple[Floats, ...]:
        """Bytes of every choice, as `costs`."""
        return tuple(self._gather([layer.memory_bytes for layer in self.layers]))

    def _gather(self, vectors: Sequence[Floats]) -> list[Floats]:
        """Give the vectors of layers that share weights to the first of them."""
        found = list(vectors)
        for i, owner in enumerate(self.owner):
            if i != owner:
                found[owner], found[i] = found[owner] + vectors[i], np.zeros(1)
        return found

    def link(self, pair: tuple[int, int], rows: Ints | None = None, columns: Ints | None = None) -> Floats:
        """Return the seconds between two choices, a row for each of `rows` of the first; all pairs if None."""
        parts: list[Floats] = []
        for producer, consumer, number in self.links[pair]:
            turned = self.owner[producer] != pair[0]
            if rows is None or columns is None:
                seconds = self.edge(producer, consumer, number)
            else:
                ends = (columns, rows) if turned else (rows, columns)
                made, used = self.layers[producer], self.layers[consumer]
                seconds = self.tables.edge(made, used, number, ends[0][:, None], ends[1])
            parts.append(seconds.T if turned else seconds)
        return parts[0] if len(parts) == 1 else np.asarray(np.sum(parts, axis=0))

    def link_key(self, pair: tuple[int, int]) -> object:
        """Return a key that is the same for links that are alike."""
        ends = [(self.layers[p], self.layers[c], n, self.owner[p] == pair[0]) for p, c, n in self.links[pair]]
        return tuple((id(made), id(used), number, along) for made, used, number, along in ends)

    @cached_property
    def floors(self) -> dict[tuple[int, int], Floats]:
        """The least that a link costs each choice of its second layer, whatever that of the first."""
        found: dict[tuple[int, int], Floats] = {}
        for pair, edges in self.links.items():
            # A floor is a bound by the consumer's choice; of an edge against the pair's order nothing is claimed.
            along = [self.floor(*edge) for edge in edges if self.owner[edge[0]] == pair[0]]
            found[pair] = along[0] if len(along) == 1 else sum(along, np.zeros(len(self.costs[pair[1]])))
        return found

    @cached_property
    def graph(self) -> CostGraph:
        """The costs as a graph, with the memory of every choice."""
        self._price_edges()
        return CostGraph(self.costs, {pair: self.link(pair) for pair in self.links}, self.memory_bytes)

    def choice(self, schemes: Mapping[str, Degrees]) -> tuple[int, ...]:
        """Return the number of each layer's grid among its candidates; 0 for one that has another's weights."""
        known: dict[tuple[int, Degrees], int] = {}
        found = []
        for node, grids in zip(self.nodes, self.candidates, strict=True):
            key = id(grids), schemes[node.name]
            if not node.shared and key not in known:
                known[key] = int(np.flatnonzero((grids.degrees == key[1]).all(axis=1))[0])
            found.append(0 if node.shared else known[key])
        return tuple(found)

    def schemes(self, choice: Sequence[int]) -> dict[str, Scheme]:
        """Return the scheme of every layer.

        A layer that has its input where and as it is takes over its producer's grid by name ("n2 c2" for "n2 k2"
        where both cut alike), so that what is done as one is seen as one.  Of layers that share weights none does.
        """
        found: dict[str, Scheme] = {}
        for i, node in enumerate(self.nodes):
            grids, at = self.candidates[i], choice[self.owner[i]]
            found[node.name] = grids.scheme(at)
            alone = len(node.inputs) == 1 and node.inputs[0] != INPUT and self.owner.count(self.owner[i]) == 1
            if alone and not isinstance(node.spec, SUMS):
                before, other = self.at[node.inputs[0]], found[node.inputs[0]]
                if other.grid.size == found[node.name].grid.size and _same(
                    self.layers[before], self.layers[i], choice[self.owner[before]], at
                ):
                    found[node.name] = other
        return found


def _same(producer: LayerCosts, consumer: LayerCosts, mine: int, theirs: int) -> bool:
    """True where a need is the very layout of the output, block for block and rank for rank."""
    need, shared = consumer.needs[0]
    return shared[theirs] == 1 and all(
        s.extent == t.extent
        and s.kind == t.kind == "plain"
        and _digits(s.ways, s.way[mine]) == _digits(t.ways, t.way[theirs])
        for s, t in zip(producer.out, need, strict=True)
    )


def _digits(ways: Ways, way: int) -> list[tuple[int, int]]:
    """Return (stride, size) of the fields of a rank's number that count blocks; adjacent fields are one."""
    found: list[tuple[int, int]] = []
    for degree, stride in zip(ways.degrees[way], ways.strides[way], strict=True):
        if degree > 1 and found and found[-1][0] == degree * stride:
            found[-1] = (int(stride), found[-1][1] * int(degree))
        elif degree > 1:
            found.append((int(stride), int(degree)))
    return found
