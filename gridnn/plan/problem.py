"""The layer-wise problem: a network, a machine, and for every layer its candidate grids with their costs.

Layers that are alike share their vectors, edges that are alike their matrices: a ResNet has some ten of each, however
deep it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gridnn.cost.grids import Grids, Ways
from gridnn.cost.machine import Machine
from gridnn.cost.moves import Floats
from gridnn.cost.tables import CostTables, LayerCosts
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network.graph import INPUT, Network, Node
from gridnn.plan.costgraph import CostGraph
from gridnn.plan.space import axis_limits, grids_of

Degrees = tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What is to be planned.

    Attributes
    ----------
    batch
        Samples in a step; `passes` of batch / passes each.
    itemsize
        Bytes of an element.
    states
        Arrays of optimizer state a parameter.
    """

    network: Network
    machine: Machine
    procs: int
    batch: int
    passes: int = 1
    itemsize: int = 4
    states: int = 1

    def __post_init__(self) -> None:
        if self.procs < 1:
            raise InputError(f"{self.procs} processes: a plan needs at least 1; give --procs 1 or more")
        if self.batch < 1 or self.batch % self.passes:
            raise InputError(
                f"batch {self.batch} in {self.passes} passes: a pass needs the same whole number of samples, at least 1"
            )

    @property
    def per_pass(self) -> int:
        """Samples in one pass."""
        return self.batch // self.passes

    def tables(self) -> CostTables:
        """Return an empty set of cost tables."""
        return CostTables(
            self.machine, self.per_pass, self.procs, self.itemsize, passes=self.passes, states=self.states
        )


class Problem:
    """Candidates of every layer and what they cost.

    Parameters
    ----------
    candidates
        Grids of every layer, in the order of the network's nodes; the same object for the same grids saves time.
    """

    def __init__(self, job: Job, candidates: Sequence[Grids], tables: CostTables | None = None) -> None:
        self.job, self.nodes, self.candidates = job, job.network.nodes, tuple(candidates)
        self.tables = tables or job.tables()
        self.at = {node.name: i for i, node in enumerate(self.nodes)}
        self.layers = self._layers()
        self._moves: dict[object, Floats] = {}
        self._floors: dict[object, Floats] = {}

    def _layers(self) -> tuple[LayerCosts, ...]:
        shapes, known, found = self.job.network.shapes, dict[object, LayerCosts](), []
        for node, grids in zip(self.nodes, self.candidates, strict=True):
            inputs, first = tuple(shapes[i] for i in node.inputs), set(node.inputs) == {INPUT}
            key = (node.spec, inputs, shapes[node.name], id(grids), first)
            if key not in known:
                known[key] = self.tables.layer(node.spec, inputs, shapes[node.name], grids, first=first)
            found.append(known[key])
        return tuple(found)

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
        need, shared = used.needs[number]
        cuts = (tuple(c.key for c in made.out), tuple(c.key for c in need), shared.tobytes())
        key = (id(made.grids), id(used.grids), cuts)
        if key not in self._moves:
            self._moves[key] = self.tables.edge(made, used, number)
        return self._moves[key]

    def floor(self, producer: int, consumer: int, number: int) -> Floats:
        """Return the least an edge can cost each grid of its consumer; equal edges return the same array."""
        made, used = self.layers[producer], self.layers[consumer]
        key = (id(made), id(used), number)
        if key not in self._floors:
            self._floors[key] = self.tables.floor(made, used, number)
        return self._floors[key]

    @cached_property
    def graph(self) -> CostGraph:
        """The costs as a graph, with the memory of every choice."""
        edges: dict[tuple[int, int], Floats] = {}
        for producer, consumer, number in self.edges:
            pair = (producer, consumer)
            seconds = self.edge(producer, consumer, number)
            edges[pair] = edges[pair] + seconds if pair in edges else seconds
        memory = tuple(layer.memory_bytes for layer in self.layers)
        return CostGraph(tuple(layer.seconds for layer in self.layers), edges, memory)

    def choice(self, schemes: Mapping[str, Degrees]) -> tuple[int, ...]:
        """Return the number of each layer's grid among its candidates."""
        return tuple(
            int(np.flatnonzero((grids.degrees == schemes[node.name]).all(axis=1))[0])
            for node, grids in zip(self.nodes, self.candidates, strict=True)
        )

    def schemes(self, choice: Sequence[int]) -> dict[str, Scheme]:
        """Return the scheme of every layer.

        A layer that has its input where and as it is takes over its producer's grid by name ("n2 c2" for "n2 k2"
        where both cut alike), so that what is done as one is seen as one.
        """
        found: dict[str, Scheme] = {}
        for i, node in enumerate(self.nodes):
            grids, at = self.candidates[i], choice[i]
            found[node.name] = grids.scheme(at)
            if len(node.inputs) == 1 and node.inputs[0] != INPUT:
                before = self.at[node.inputs[0]]
                other = found[node.inputs[0]]
                same = other.grid.size == found[node.name].grid.size and _same(self.layers[before], self.layers[i], choice[before], at)
                found[node.name] = other if same else found[node.name]
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


def space(job: Job, *, every: bool = False, extra: Mapping[str, Sequence[Degrees]] | None = None,
          pins: Mapping[str, Degrees] | None = None) -> list[Grids]:  # fmt: skip
    """Return the candidate grids of every layer; layers with the same ones share an object.

    Parameters
    ----------
    extra
        Grids a layer may have besides, such as those of a plan it is compared with.
    pins
        The one grid of a layer that is not to be chosen.
    """
    known: dict[object, Grids] = {}
    shared: dict[bytes, Grids] = {}
    found = []
    for node in job.network.nodes:
        given, pin = tuple(dict.fromkeys((extra or {}).get(node.name, ()))), (pins or {}).get(node.name)
        limits = tuple(axis_limits(job.network, node, job.per_pass).items())
        key = (limits, given, pin)
        if key not in known:
            grids = _grids(job, node, every, given, pin)
            known[key] = shared.setdefault(grids.degrees.tobytes(), grids)
        found.append(known[key])
    return found


def _grids(job: Job, node: Node, every: bool, extra: Sequence[Degrees], pin: Degrees | None) -> Grids:
    if pin is not None:
        return Grids(np.array([pin], dtype=np.int64))
    return grids_of(job.network, node, job.per_pass, job.procs, every=every, extra=extra)
