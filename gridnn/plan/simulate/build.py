"""From a network, a machine and schemes to a program: one training step of gridnn, for the simulator.

| of the step                  | in the program                                                                     |
|------------------------------|------------------------------------------------------------------------------------|
| a layer                      | an operation, a part for each rank of its scheme (`layers`)                        |
| an output on its way         | an edge (`flows`); through a relay where several layers read it (`wiring`)         |
| a ReLU its producer computes | an operation that takes no time (`network.fusion`)                                 |
| the input of the network     | nothing: every rank reads what it needs                                            |

Not in it: what a run hides behind a layer's own arithmetic (a halo behind its interior, dX on its way while dW is
made).  So a step of one movement after the other takes here what `cost.price` charges for it, and no step of equal
ranks takes more; less where layers stand on other ranks, or sums run behind the backward of earlier layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from gridnn.geometry.grid import Scheme
from gridnn.geometry.layout import Layout
from gridnn.network.graph import INPUT
from gridnn.network.placed import PlacedLayer, check_scheme
from gridnn.network.placement import place
from gridnn.plan.problem import Job
from gridnn.plan.simulate.boxes import Boxes, boxes_of
from gridnn.plan.simulate.flows import flow_of, movement, worst_s
from gridnn.plan.simulate.layers import layer_cost
from gridnn.plan.simulate.links import Links
from gridnn.plan.simulate.program import LOCAL, EdgeCost, Flow, Group, OperationCost, Program
from gridnn.plan.simulate.segment import NOWHERE
from gridnn.plan.simulate.simulator import Simulator
from gridnn.plan.simulate.wiring import Use, absorbed_by, wiring_of

KEPT = 1 << 12
"""Costs that are kept of each kind: of layers on a scheme, of edges between two layouts."""


def program_of(
    job: Job,
    schemes: Sequence[Sequence[Scheme]],
    leaders: Sequence[int] | None = None,
    bucket_bytes: int = 4 << 20,
) -> Program:
    """Return the program of one step; its configurations are `Wiring.configuration` of picks among the schemes.

    Parameters
    ----------
    schemes
        The choices of every node; with one each, the only choice of the program is 0 everywhere.
    leaders
        For each node one whose pick it always shares, itself if free.  A ReLU that its producer computes takes no
        time if it shares the producer's pick, or has one choice and that is the producer's.
    bucket_bytes
        Gradients are summed in buckets of about that size.
    """
    return _Builder(job, schemes, leaders, bucket_bytes).program()


def simulate_plan(job: Job, schemes: Mapping[str, Scheme], bucket_bytes: int = 4 << 20) -> Simulator:
    """Return the simulation of a step under one plan."""
    program = program_of(job, [[schemes[n.name]] for n in job.network.nodes], bucket_bytes=bucket_bytes)
    return Simulator(program, (0,) * len(program.operations))


class _Site(NamedTuple):
    """A layer on a scheme, and the numbers of the layouts of its output and of what it needs."""

    layer: PlacedLayer
    out: int
    needs: tuple[int, ...]


class _Builder:
    """Makes costs when they are asked for; layers and edges that are alike share them."""

    def __init__(
        self, job: Job, schemes: Sequence[Sequence[Scheme]], leaders: Sequence[int] | None, bucket_bytes: int
    ) -> None:
        nodes = job.network.nodes
        self.job, self.bucket_bytes, self.schemes = job, bucket_bytes, [list(row) for row in schemes]
        self.choices = [len(row) for row in schemes]
        assert len(schemes) == len(nodes) and all(self.choices), "one scheme or more for each node"
        self.wiring, self.links = wiring_of(job.network), Links(job.machine, job.procs)
        led, found = range(len(nodes)) if leaders is None else leaders, absorbed_by(job.network)
        self.rectified = found.keys()
        self.relus = {  # by the layers that compute them
            host: relu for relu, host in found.items()
            if self.schemes[relu] == self.schemes[host] and (led[relu] == led[host] or self.choices[host] == 1)
        }  # fmt: skip
        self.absorbed = set(self.relus.values())
        self.kinds = self._kinds()
        self.edges = list(self._edges())
        self._numbers: dict[Layout, int] = {}
        self._boxes: list[Boxes] = []
        # Bounded, for a search goes through many more schemes than it comes back to.
        self.site, self.layer = lru_cache(KEPT)(self._site), lru_cache(KEPT)(self._layer)
        self.carried, self.stations = lru_cache(KEPT)(self._carried), lru_cache(KEPT)(self._stations)

    def program(self) -> Program:
        nodes, wiring = self.job.network.nodes, self.wiring
        counts = [
            prod(self.choices[reader] for reader in wiring.readers(i)) if relay else self.choices[i]
            for i, relay in wiring.operations
        ]
        return Program(
            tuple(nodes[i].name + (" relay" if relay else "") for i, relay in wiring.operations),
            tuple(counts),
            tuple((i, j) for i, j, _ in self.edges),
            tuple(self.links.names),
            self.operation,
            self.edge,
        )

    def operation(self, operation: int, configuration: int) -> OperationCost:
        node, is_relay = self.wiring.operations[operation]
        if is_relay:
            parts, _ = self.stations(node, configuration)
            nothing = np.zeros(sum(len(self._boxes[need].start) for need in parts), np.int64)
            return OperationCost(nothing + NOWHERE, nothing, nothing, nothing)
        scheme = self.schemes[node][configuration]
        check_scheme(self.job.network.nodes[node].name, scheme, self.job.per_pass, self.job.procs)
        relu = self.relus.get(node)
        return self.layer(
            self.kinds[node], scheme, node in self.absorbed, node in self.rectified,
            None if relu is None else self.kinds[relu],
        )  # fmt: skip

    def edge(self, edge: int, a: int, b: int) -> EdgeCost:
        i, j, use = self.edges[edge]
        (source, at_relay), (target, _) = self.wiring.operations[i], self.wiring.operations[j]
        if use is None:
            parts, _ = self.stations(source, b)
            out = self._at(source, a).out
            return _joined([(first, self.carried(out, need)) for need, first in parts.items()])
        if at_relay:
            parts, needs = self.stations(source, a)
            need = needs[use]
            here = np.arange(len(self._boxes[need].start))
            links, nothing = np.full(len(here), LOCAL), np.zeros(len(here), np.int64)
            there = parts[need] + here
            return EdgeCost(Flow(there, here, links, nothing), Flow(here, there, links, nothing))
        assert target not in self.absorbed or a == b, (
            "a ReLU that its producer computes stands where that stands"
        )
        return self.carried(self._at(source, a).out, self._at(target, b).needs[use.number])

    def _edges(self) -> Iterator[tuple[int, int, Use | None]]:
        """Yield the operations at the ends of each edge, and the use it is for; None for one into a relay."""
        wiring = self.wiring
        for i, uses in enumerate(wiring.uses):
            if wiring.relay[i] >= 0:
                yield wiring.at[i], wiring.relay[i], None
            for use in uses:
                yield max(wiring.at[i], wiring.relay[i]), wiring.at[use.reader], use

    def _kinds(self) -> list[int]:
        """Return for each node the first that is like it: the same costs on the same scheme."""
        shapes, first = self.job.network.shapes, dict[object, int]()
        return [
            first.setdefault(
                (n.spec, *(shapes[x] for x in n.inputs), shapes[n.name], set(n.inputs) == {INPUT}, n.shared != ""), i
            )
            for i, n in enumerate(self.job.network.nodes)
        ]  # fmt: skip

    def _at(self, node: int, pick: int) -> _Site:
        return self.site(self.kinds[node], self.schemes[node][pick])

    def _site(self, kind: int, scheme: Scheme) -> _Site:
        node, shapes = self.job.network.nodes[kind], self.job.network.shapes
        inputs = tuple((self.job.per_pass, *shapes[x]) for x in node.inputs)
        placement = place(node.spec, inputs, (self.job.per_pass, *shapes[node.name]), scheme)
        if node.shared:  # its gradients are summed with those of the layer that owns the weights
            placement = replace(placement, parameters=())
        needs = tuple(self._number(need) for need in placement.needs)
        return _Site(PlacedLayer(node, scheme, placement, ()), self._number(placement.out), needs)

    def _layer(
        self, kind: int, scheme: Scheme, absorbed: bool, rectified: bool, relu: int | None
    ) -> OperationCost:
        layer = self.site(kind, scheme).layer
        masked = None if relu is None else self.site(relu, scheme).layer
        return layer_cost(
            self.job, layer, self.links, self._boxes_of, self.bucket_bytes, absorbed, rectified, masked
        )

    def _carried(self, out: int, need: int) -> EdgeCost:
        """Return what moves from an output to where it is needed, and back."""
        kept, forward, backward = movement(self.links, self._boxes[out], self._boxes[need], self.job.itemsize)
        there_s, passes = worst_s(forward), self.job.passes
        factor = passes + (passes - 1) * worst_s(backward) / there_s if there_s else 1.0
        return EdgeCost(flow_of(kept, forward, factor), flow_of((kept[1], kept[0]), backward))

    def _stations(self, node: int, configuration: int) -> tuple[dict[int, int], dict[Use, int]]:
        """Return the layouts wanted at a relay with the first part of each, and the layout of every use."""
        picks = self.wiring.picked(node, configuration, self.choices)
        needs = {u: self._at(u.reader, picks[u.reader]).needs[u.number] for u in self.wiring.uses[node]}
        parts, first = dict[int, int](), 0
        for need in needs.values():
            if need not in parts:
                parts[need], first = first, first + len(self._boxes[need].start)
        return parts, needs

    def _number(self, layout: Layout) -> int:
        if layout not in self._numbers:
            self._numbers[layout] = len(self._boxes)
            self._boxes.append(boxes_of(layout))
        return self._numbers[layout]

    def _boxes_of(self, layout: Layout) -> Boxes:
        return self._boxes[self._number(layout)]


def _joined(edges: Sequence[tuple[int, EdgeCost]]) -> EdgeCost:
    """Return several edges from one layer as one; the parts of each target count from a number of their own."""
    forward = [_shifted(edge.forward, target=first) for first, edge in edges]
    backward = [_shifted(edge.backward, source=first) for first, edge in edges]
    return EdgeCost(_merged(forward), _merged(backward))


def _shifted(flow: Flow, source: int = 0, target: int = 0) -> Flow:
    sources, targets = np.add(flow.source, source), np.add(flow.target, target)
    groups = [Group(np.add(g.sources, source), np.add(g.targets, target), g.links, g.ns) for g in flow.groups]
    return Flow(sources, targets, flow.link, flow.ns, tuple(groups))


def _merged(flows: Sequence[Flow]) -> Flow:
    source, target, link, ns = (
        np.concatenate([getattr(flow, name) for flow in flows]) for name in ("source", "target", "link", "ns")
    )
    return Flow(source, target, link, ns, tuple(g for flow in flows for g in flow.groups))
