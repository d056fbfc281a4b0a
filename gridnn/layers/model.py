"""A network at work on its grids: forward and backward over layers and edges.

    forward    layer computes -> its output leaves on every edge at once -> consumers await it as late as they can
    backward   a consumer's dX goes back as soon as the edge's last consumer has added its part; the weights'
               products are computed while it is on its way; gradient sums start bucket by bucket

All ranks walk the same layers in the same order; a rank outside a layer's scheme only passes messages on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.mover import Pending, Route, start
from gridnn.comm.world import Array, World
from gridnn.compute.cpu import pointwise
from gridnn.compute.cpu.engine import Engine
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices
from gridnn.geometry.traffic import Key
from gridnn.layers.arena import Arena
from gridnn.layers.base import Layer
from gridnn.layers.conv import Convolution
from gridnn.layers.fuse import fuse, margins
from gridnn.layers.kinds import make_layer
from gridnn.layers.loss import Loss, Verdict
from gridnn.layers.pointwise import DropoutLayer
from gridnn.network.graph import INPUT
from gridnn.network.placed import Edge, PlacedNetwork


class Model:
    """A placed network with its parameters, as one rank sees it.

    Parameters
    ----------
    overlap
        Compute the interior of convolutions while their halo is on its way.
    engine
        What computes; by default the best of this machine.
    """

    def __init__(
        self, world: World, placed: PlacedNetwork, dtype: DTypeLike, bucket_bytes: int = 4 << 20,
        cut_optimizer: bool = False, overlap: bool = True, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        self.world, self.placed, self.dtype = world, placed, np.dtype(dtype)
        self.engine = engine or Engine.detect(world.memory)
        self.arena = Arena(world, placed, dtype, bucket_bytes, cut_optimizer)
        self.layers = [
            make_layer(world, p, dtype, self.arena.parameters[p.node.name], self.engine)
            for p in placed.layers
        ]
        self.paths = [None if e.exchange is None else Route(e.exchange, world.rank) for e in placed.edges]
        self.back_paths = [
            None if x is None else Route(x.transpose(), world.rank)
            for x in (e.exchange for e in placed.edges)
        ]
        self.uses = [
            sum(layer.placed.edges.count(i) for layer in self.layers) for i in range(len(placed.edges))
        ]
        for layer in self.layers:
            layer.wants_dx = any(placed.edges[e].exchange is not None for e in layer.placed.edges)
            if isinstance(layer, Convolution):
                layer.overlap_halo = overlap
        fuse(placed, self.layers)
        self._margins = margins(placed, self.layers, self.paths)
        loss = self.layers[-1]
        assert isinstance(loss, Loss)
        self.loss = loss

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
        with self.world.clock.phase("compute"):
            return self._forward(x, target, self.placed.batch if valid is None else valid, train, score, at)

    def _forward(
        self, x: Array, target: Array, valid: int, train: bool, score: bool, at: tuple[int, int]
    ) -> Verdict:
        coming: dict[int, Pending] = {
            i: self._read(e, x) for i, e in enumerate(self.placed.edges) if e.producer == INPUT
        }
        left, margin = list(self.uses), dict[int, tuple[Array, Array]]()
        verdict = Verdict(0.0, 0.0, 0.0)
        self.output: Array | None = None
        for layer in self.layers:
            inputs, y = [coming[e] for e in layer.placed.edges], self._nothing(layer)
            if isinstance(layer, DropoutLayer):
                layer.at = at
            if layer is self.loss:
                self.output = inputs[0].wait()
                if self._works_on(layer):
                    verdict = self.loss.judge(self.output, target, valid, score)
            elif self._works_on(layer):
                if (e := self._margins.get(layer.name)) is not None:
                    layer.into = self._margin(e, margin)
                y = layer.forward(inputs, train)
                layer.into = None
            for i, edge in enumerate(self.placed.edges):
                path = self.paths[i]
                if edge.producer == layer.name and path is not None and edge.exchange is not None:
                    key = Key(edge.owner, "forward", edge.exchange.kind, " ".join(edge.exchange.axes))
                    room, middle = margin.pop(i, (None, None))
                    coming[i] = start(self.world, path, y, key, self.dtype, room if y is middle else None)
            for e in layer.placed.edges:
                left[e] -= 1
                if left[e] == 0:
                    coming.pop(e).wait()  # also completes what this rank only sent
        return verdict

    def backward(self, scale: float = 1.0, last: bool = True) -> None:
        """Add the gradients of `scale` times the loss of the last forward to the arena.

        Parameters
        ----------
        last
            True for the last pass of a step: gradient sums start as buckets are finished.
        """
        with self.world.clock.phase("compute"):
            self._backward(scale, last)

    def _backward(self, scale: float, last: bool) -> None:
        left, sums = list(self.uses), dict[int, Array]()
        coming: dict[int, Pending] = {}
        for layer in reversed(self.layers):
            dy = self._collect(layer, coming)
            if layer is self.loss:
                found = [self.loss.gradient(scale)] if self._works_on(layer) else []
            elif self._works_on(layer):
                found = layer.backward(dy)
            else:
                found = []
            found = found or [np.zeros((0,) * len(need), self.dtype) for need in layer.needs]
            for e, dx in zip(layer.placed.edges, found, strict=True):
                path, exchange = self.back_paths[e], self.placed.edges[e].exchange
                if path is None or exchange is None:
                    continue
                sums[e] = pointwise.add(self.engine, [sums[e], dx]) if e in sums else dx
                left[e] -= 1
                if left[e] == 0:
                    back = exchange.transpose()
                    key = Key(self.placed.edges[e].owner, "backward", back.kind, " ".join(back.axes))
                    coming[e] = start(self.world, path, sums.pop(e), key, self.dtype)
            if self._works_on(layer):
                layer.weigh()
                if last:
                    self.arena.finished(layer.name)

    def _margin(self, edge: int, margin: dict[int, tuple[Array, Array]]) -> Array:
        """Make the margin buffer of a halo edge; return its middle, for the producer to write."""
        path = self.paths[edge]
        assert path is not None
        room = self.engine.empty(extents_of(path.target), self.dtype)
        margin[edge] = (room, room[local_slices(path.source, path.target)])
        return margin[edge][1]

    def _collect(self, layer: Layer, coming: dict[int, Pending]) -> Array:
        """Return the gradient of a layer's output: the sum of what its edges give back."""
        parts = [coming.pop(i).wait() for i, e in enumerate(self.placed.edges) if e.producer == layer.name]
        dy = parts[0] if parts else self._nothing(layer)
        return pointwise.add(self.engine, [dy, *parts[1:]]) if len(parts) > 1 else dy

    def _read(self, edge: Edge, x: Array) -> Pending:
        """Return an input edge, which has arrived: the loader read it."""
        need = edge.need.box(self.world.rank)
        array = (
            x[local_slices(need, self.input_box)]
            if x.size and all(i.size for i in need)
            else np.zeros(extents_of(need), self.dtype)
        )
        return Pending.arrived_already(self.world, array)

    def _works_on(self, layer: Layer) -> bool:
        return self.world.rank in layer.scheme.ranks

    def _nothing(self, layer: Layer) -> Array:
        dims = len(layer.placed.placement.out.dims)
        return np.zeros((0,) * dims, self.dtype)
