"""A network at work on its grids: forward and backward over layers and edges.

    forward    layer computes -> its output leaves on every edge at once -> consumers await it as late as they can
    backward   a consumer's dX goes back as soon as the edge's last consumer has added its part; the weights'
               products are computed while it is on its way; gradient sums start bucket by bucket

All ranks walk the same layers in the same order; a rank outside a layer's scheme only passes messages on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.clock import Where
from gridnn.comm.mover import Pending, Route, start
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.interface import Engine, subjects_of
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices
from gridnn.geometry.traffic import Key
from gridnn.layers.arena import Arena
from gridnn.layers.base import Layer
from gridnn.layers.conv import Convolution
from gridnn.layers.fuse import fuse, margins
from gridnn.layers.kinds import make_layer
from gridnn.layers.loss import Loss, Verdict
from gridnn.layers.pointwise import DropoutLayer
from gridnn.network.graph import INPUT, check_runs
from gridnn.network.placed import Edge, PlacedNetwork


class Stop(NamedTuple):
    """What the passes do at a layer, looked up once."""

    layer: Layer
    works: bool  # on this rank
    inputs: tuple[int, ...]  # edges
    leaves: tuple[tuple[int, Route, Key], ...]  # edges its output takes
    gives: tuple[tuple[Route, Key] | None, ...]  # the way back of each input
    last: tuple[int, ...]  # edges that nobody reads after it
    margin: int | None  # edge into whose margin buffer its output is written
    computes: tuple[Where, Where, Where]  # what the clock is told: forward, backward, weights


def _key(edge: Edge, direction: str, exchange: Exchange) -> Key:
    return Key(edge.owner, direction, exchange.kind, " ".join(exchange.axes))


def _computes(layer: Layer, works: bool) -> tuple[Where, Where, Where]:
    """Return what a layer does on this rank, pass by pass; a layer with nothing to weigh only goes backward."""
    mine = (layer.name,) if works else ()
    weighs = type(layer).weigh is not Layer.weigh
    return (mine, "forward"), (mine, "backward"), (mine, "weights" if weighs else "backward")


class Model:
    """A placed network with its parameters, as one rank sees it.

    Parameters
    ----------
    overlap
        Compute while messages are on their way: the interior of convolutions beside their halo, backward beside the
        sums of gradients.
    engine
        What computes; by default the best of this machine.
    """

    def __init__(
        self, world: World, placed: PlacedNetwork, dtype: DTypeLike, bucket_bytes: int = 4 << 20,
        cut_optimizer: bool = False, overlap: bool = True, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        check_runs(placed.network)
        self.world, self.placed, self.dtype = world, placed, np.dtype(dtype)
        self.engine: Engine = engine or CpuEngine.detect(world.memory)
        self.compute = subjects_of(self.engine)
        self.arena = Arena(world, placed, dtype, bucket_bytes, cut_optimizer, overlap, self.engine)
        self.layers = [
            make_layer(world, p, dtype, self.arena.parameters[p.node.name], self.engine)
            for p in placed.layers
        ]
        self.paths = [None if e.exchange is None else Route(e.exchange, world.rank) for e in placed.edges]
        for layer in self.layers:
            layer.wants_dx = any(placed.edges[e].exchange is not None for e in layer.placed.edges)
            if isinstance(layer, Convolution):
                layer.overlap_halo = overlap
        fuse(placed, self.layers)
        self._margins = margins(placed, self.layers, self.paths)
        loss = self.layers[-1]
        assert isinstance(loss, Loss)
        self.loss = loss
        self._stops = self._itinerary()
        self._uses = [sum(stop.inputs.count(e) for stop in self._stops) for e in range(len(placed.edges))]

    @property
    def input_box(self) -> Box:
        """What this rank reads of a batch of inputs: the hull of what its first layers need."""
        needs = [e.need.box(self.world.rank) for e in self.placed.edges if e.producer == INPUT]
        boxes = [box for box in needs if all(i.size for i in box)]
        if not boxes:
            return needs[0]
        return tuple(
            Interval(min(i.start for i in dims), max(i.stop for i in dims))
            for dims in zip(*boxes, strict=True)
        )

    @property
    def target_box(self) -> Box:
        """What this rank reads of a batch of targets."""
        return self.placed.target.box(self.world.rank)

    def forward(
        self, x: Array, target: Array, *, valid: int | None = None, train: bool = True, score: bool = False,
        at: tuple[int, int] = (0, 0),
    ) -> Verdict:  # fmt: skip
        """Run the network on one batch and judge it.

        Parameters
        ----------
        x, target
            This rank's `input_box` and `target_box` of the batch.
        valid
            Samples that count; the rest of the batch is padding.
        at
            Seed and number of the pass, for dropout.
        """
        with self.world.clock.phase("compute", ((), "forward")):
            return self._forward(x, target, self.placed.batch if valid is None else valid, train, score, at)

    def _forward(
        self, x: Array, target: Array, valid: int, train: bool, score: bool, at: tuple[int, int]
    ) -> Verdict:
        coming: dict[int, Pending] = {
            i: self._read(e, x) for i, e in enumerate(self.placed.edges) if e.producer == INPUT
        }
        margin, clock = dict[int, tuple[Array, Array]](), self.world.clock
        verdict = Verdict(0.0, 0.0, 0.0)
        self.output: Array | None = None
        for stop in self._stops:
            clock.at(stop.computes[0])
            layer, inputs = stop.layer, [coming[e] for e in stop.inputs]
            if isinstance(layer, DropoutLayer):
                layer.at = at
            if layer is self.loss:
                self.output = y = inputs[0].wait()
                if stop.works:
                    verdict = self.loss.judge(y, self.engine.take(target), valid, score)
            elif stop.works:
                if stop.margin is not None:
                    layer.into = self._margin(stop.margin, margin)
                y = layer.forward(inputs, train)
                layer.into = None
            else:
                y = self._nothing(layer)
            for e, path, key in stop.leaves:
                room, middle = margin.pop(e, (None, None)) if margin else (None, None)
                coming[e] = start(self.world, path, y, key, self.dtype, room if y is middle else None)
            for e in stop.last:
                coming.pop(e).wait()  # also completes what this rank only sent
        return verdict

    def backward(self, scale: float = 1.0, last: bool = True) -> None:
        """Add the gradients of `scale` times the loss of the last forward to the arena.

        Parameters
        ----------
        last
            True for the last pass of a step: gradient sums start as buckets are finished.
        """
        with self.world.clock.phase("compute", ((), "backward")):
            self._backward(scale, last)

    def _backward(self, scale: float, last: bool) -> None:
        left, sums = list(self._uses), dict[int, Array]()
        coming: dict[int, Pending] = {}
        clock = self.world.clock
        for stop in reversed(self._stops):
            clock.at(stop.computes[1])
            layer, dy = stop.layer, self._collect(stop, coming)
            if not stop.works:
                found = [self.engine.empty((0,) * len(need), self.dtype) for need in layer.needs]
            elif layer is self.loss:
                found = [self.loss.gradient(scale)]
            else:
                found = layer.backward(dy)
            for e, dx, back in zip(stop.inputs, found, stop.gives, strict=True):
                if back is None:
                    continue
                if e in sums:
                    dx = self.compute.pointwise.add(self.engine, [sums.pop(e), dx])
                left[e] -= 1
                if left[e]:
                    sums[e] = dx
                else:
                    coming[e] = start(self.world, back[0], dx, back[1], self.dtype)
            if stop.works:
                clock.at(stop.computes[2])
                layer.weigh()
                if last:
                    self.arena.finished(layer.name)

    def _itinerary(self) -> list[Stop]:
        """Return what the passes do at each layer, in the order of forward."""
        edges, stops = self.placed.edges, list[Stop]()
        users = [[layer.name for layer in self.layers if i in layer.placed.edges] for i in range(len(edges))]
        backs: list[tuple[Route, Key] | None] = []
        for edge in edges:
            transposed = None if edge.exchange is None else edge.exchange.transpose()
            backs.append(
                None if transposed is None
                else (Route(transposed, self.world.rank), _key(edge, "backward", transposed))
            )  # fmt: skip
        for layer in self.layers:
            leaves = [
                (i, path, _key(edge, "forward", edge.exchange))
                for i, (edge, path) in enumerate(zip(edges, self.paths, strict=True))
                if edge.producer == layer.name and path is not None and edge.exchange is not None
            ]
            mine = layer.placed.edges
            stops.append(Stop(
                layer, self.world.rank in layer.scheme.ranks, mine, tuple(leaves), tuple(backs[e] for e in mine),
                tuple(dict.fromkeys(e for e in mine if users[e][-1] == layer.name)), self._margins.get(layer.name),
                _computes(layer, self.world.rank in layer.scheme.ranks),
            ))  # fmt: skip
        return stops

    def _margin(self, edge: int, margin: dict[int, tuple[Array, Array]]) -> Array:
        """Make the margin buffer of a halo edge; return its middle, for the producer to write."""
        path = self.paths[edge]
        assert path is not None
        room = self.engine.empty(extents_of(path.target), self.dtype)
        margin[edge] = (room, room[local_slices(path.source, path.target)])
        return margin[edge][1]

    def _collect(self, stop: Stop, coming: dict[int, Pending]) -> Array:
        """Return the gradient of a layer's output: the sum of what its edges give back."""
        if len(stop.leaves) == 1:
            return coming.pop(stop.leaves[0][0]).wait()
        parts = [coming.pop(e).wait() for e, _, _ in stop.leaves]
        return self.compute.pointwise.add(self.engine, parts) if parts else self._nothing(stop.layer)

    def _read(self, edge: Edge, x: Array) -> Pending:
        """Return an input edge, which has arrived: the loader read it."""
        need = edge.need.box(self.world.rank)
        array = (
            x[local_slices(need, self.input_box)]
            if x.size and all(i.size for i in need)
            else np.zeros(extents_of(need), self.dtype)
        )
        return Pending.arrived_already(self.world, self.engine.take(array))

    def _nothing(self, layer: Layer) -> Array:
        dims = len(layer.placed.placement.out.dims)
        return self.engine.empty((0,) * dims, self.dtype)
