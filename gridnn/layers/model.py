"""A network at work on its grids: forward and backward over layers and edges.

    forward    layer computes -> its output leaves on every edge at once -> consumers await it as late as they can
    backward   a consumer's dX goes back as soon as the edge's last consumer has added its part; the weights'
               products are computed while it is on its way; gradient sums start bucket by bucket

All ranks walk the same layers in the same order; a rank outside a layer's scheme only passes messages on.  In stages
(`network.stages`) a rank walks those of its own.  Several passes may be open then: what one leaves for its backward is
set aside while others come between.

    forward of pass 2     set aside 2     take up 1     backward of pass 1
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import DTypeLike

from gridnn.comm.mover import Pending, Route, start
from gridnn.comm.world import Array, World
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.interface import Engine, subjects_of
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices
from gridnn.layers.arena import Arena
from gridnn.layers.base import Layer, Stowed, in_type
from gridnn.layers.conv import Convolution
from gridnn.layers.fuse import fuse, margins
from gridnn.layers.itinerary import Itinerary, Stop, Way
from gridnn.layers.kinds import make_layer
from gridnn.layers.loss import Loss, Verdict
from gridnn.layers.norm import BatchNormalisation
from gridnn.layers.pointwise import DropoutLayer
from gridnn.network.graph import INPUT, check_runs
from gridnn.network.placed import Edge, PlacedNetwork
from gridnn.network.stages import Stages

AHEAD = 8
"""Passes, at most, that stages behind have not taken yet: a fast stage without gradients to wait for stops there."""


@dataclass
class Pass:
    """What is kept of a forward until its backward.

    Attributes
    ----------
    layers
        What each layer left; None if the forward will be made again.
    arrived
        What came from other stages, by edge, if so.
    """

    layers: list[Stowed] | None = None
    arrived: dict[int, Array] = field(default_factory=dict)


class Model:
    """A placed network with its parameters, as one rank sees it.

    Parameters
    ----------
    overlap
        Compute while messages are on their way: the interior of convolutions beside their halo, gradients by weights
        beside those by inputs that move, backward beside the sums of gradients.
    engine
        What computes; by default the best of this machine.
    stages
        Of the network, on ranks of their own.
    detached
        No gradient goes from a stage to the one before: each has a loss of its own.
    twin
        A model of the same plan for passes of another size, whose parameters and running statistics this one has, too.

    Attributes
    ----------
    dtype, activations
        Of parameters and their gradients; of the arrays between layers, which is the engine's to say.
    """

    def __init__(
        self, world: World, placed: PlacedNetwork, dtype: DTypeLike, bucket_bytes: int = 4 << 20,
        cut_optimizer: bool = False, overlap: bool = True, engine: Engine | None = None, *,
        stages: Stages | None = None, detached: bool = False, twin: Model | None = None,
    ) -> None:  # fmt: skip
        check_runs(placed.network)
        self.world, self.placed, self.dtype, self.overlap = world, placed, np.dtype(dtype), overlap
        self.engine: Engine = engine or CpuEngine.detect(world.memory)
        self.compute, self.activations = subjects_of(self.engine), self.engine.activations(dtype)
        made = (
            None if twin else Arena(world, placed, dtype, bucket_bytes, cut_optimizer, overlap, self.engine)
        )
        self.arena: Arena = made or twin.arena  # type: ignore[union-attr]
        self.layers = [
            make_layer(world, p, self.activations, self.arena.parameters[p.node.name], self.engine)
            for p in placed.layers
        ]
        self.paths = [None if e.exchange is None else Route(e.exchange, world.rank) for e in placed.edges]
        way = Itinerary(world.rank, placed, self.paths, stages, detached)
        for layer in self.layers:
            layer.wants_dx = any(way.returns(e) for e in layer.placed.edges)
            if isinstance(layer, Convolution):
                layer.overlap_halo = overlap
        if twin:
            for layer, other in zip(self.layers, twin.layers, strict=True):
                if isinstance(layer, BatchNormalisation) and isinstance(other, BatchNormalisation):
                    layer.share(other)
        fuse(placed, self.layers)
        loss = self.layers[-1]
        assert isinstance(loss, Loss)
        self.loss, self.stage = loss, way.stage
        self._stops = way.stops(self.layers, margins(placed, self.layers, self.paths))
        self._uses = [sum(stop.inputs.count(e) for stop in self._stops) for e in range(len(placed.edges))]
        self._arrivals, self._returning = way.arrivals(), way.returning()
        self._returns = [way.returns(e) for e in range(len(placed.edges))]
        self._pass, self._sent, self._given = Pass(), deque[list[Pending]](), list[Pending]()
        self.output: Array | None = None

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
        """What this rank reads of a batch of targets: the loss of its stage, or the network's."""
        losses = [stop.layer.placed for stop in self._stops if isinstance(stop.layer, Loss)]
        return (losses[-1].target if losses else self.placed.target).box(self.world.rank)

    def forward(
        self, x: Array, target: Array, *, valid: int | None = None, train: bool = True, score: bool = False,
        at: tuple[int, int] = (0, 0), replay: Pass | None = None,
    ) -> Verdict:  # fmt: skip
        """Run the network, or this rank's stage of it, on one batch and judge it.

        Parameters
        ----------
        x, target
            This rank's `input_box` and `target_box` of the batch.
        valid
            Samples that count; the rest of the batch is padding.
        at
            Seed and number of the pass, for dropout.
        replay
            A pass to be made again, from what had arrived: nothing is sent to other stages, and running statistics
            stay as they are.
        """
        valid = self.placed.batch if valid is None else valid
        with self.world.clock.phase("compute", ((), "forward")):
            return self._forward(x, target, valid, train, score, at, replay)

    def _forward(
        self, x: Array, target: Array, valid: int, train: bool, score: bool, at: tuple[int, int],
        replay: Pass | None,
    ) -> Verdict:  # fmt: skip
        self._pass = Pass()
        self.arena.round()
        coming: dict[int, Pending] = {
            i: self._read(e, x)
            for i, e in enumerate(self.placed.edges)
            if e.producer == INPUT and self._uses[i]
        }
        for way in self._arrivals:
            coming[way.edge] = (
                self._await(way) if replay is None
                else Pending.arrived_already(self.world, replay.arrived[way.edge])
            )  # fmt: skip
        arriving = {way.edge: coming[way.edge] for way in self._arrivals}
        margin, clock = dict[int, tuple[Array, Array]](), self.world.clock
        verdict, self.output = Verdict(0.0, 0.0, 0.0), None
        for stop in self._stops:
            clock.at(stop.computes[0])
            layer, inputs = stop.layer, [coming[e] for e in stop.inputs]
            if isinstance(layer, DropoutLayer):
                layer.at = at
            elif isinstance(layer, BatchNormalisation):
                layer.frozen = replay is not None
            if isinstance(layer, Loss):
                self.output = y = inputs[0].wait()
                if stop.works:
                    found = layer.judge(y, self._taken(target), valid, score)
                    verdict = found if layer is self.loss else verdict
            elif stop.works and replay is not None and not any(self._uses[way.edge] for way in stop.leaves):
                layer.recall(inputs)
            elif stop.works:
                if stop.margin is not None:
                    layer.into = self._margin(stop.margin, margin)
                y = layer.forward(inputs, train)
                layer.into = None
            else:
                y = self._nothing(layer)
            for e, path, key in stop.leaves:
                if replay is not None and not self._uses[e]:
                    continue  # sent the first time
                room, middle = margin.pop(e, (None, None)) if margin else (None, None)
                coming[e] = start(self.world, path, y, key, self.activations, room if y is middle else None)
            for e in stop.last:
                coming.pop(e).wait()  # also completes what this rank only sent
        self._pass.arrived = {e: pending.wait() for e, pending in arriving.items()}
        self._sent.append(list(coming.values()))  # to stages behind: nobody of this one has read them
        while self._sent and all(pending.gone() for pending in self._sent[0]):
            self._sent.popleft()
        if len(self._sent) > AHEAD:
            self._finish(self._sent.popleft())
        return verdict

    def set_aside(self, again: bool = False) -> Pass:
        """Take out what the last forward left for its backward.

        Parameters
        ----------
        again
            Keep only what came from other stages: the forward will be made again.
        """
        kept, self._pass = self._pass, Pass()
        layers = [stop.layer.stow() for stop in self._stops]
        if not again:
            kept.layers, kept.arrived = layers, {}
        return kept

    def take_up(self, kept: Pass) -> None:
        """Put back what `set_aside` took out."""
        assert kept.layers is not None, "only what arrived was kept of this pass: make its forward again"
        self._pass = kept
        for stop, stowed in zip(self._stops, kept.layers, strict=True):
            stop.layer.fetch(stowed)

    def settle(self) -> None:
        """Wait until other stages have all that was sent to them."""
        self._finish(chain(*self._sent, self._given))
        self._sent.clear()
        self._given = []

    @staticmethod
    def _finish(leaving: Iterable[Pending]) -> None:
        for pending in leaving:
            pending.wait()

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
        self.arena.round()  # a pass goes backward with the weights of its forward, which may have been others
        left, sums = list(self._uses), dict[int, Array]()
        clock = self.world.clock
        coming = {way.edge: self._await(way) for way in self._returning}
        for stop in reversed(self._stops):
            clock.at(stop.computes[1])
            layer, dy = stop.layer, self._collect(stop, coming)
            if not stop.works:
                found = [self.engine.empty((0,) * len(need), self.activations) for need in layer.needs]
            elif isinstance(layer, Loss):
                found = [layer.gradient(scale)]
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
                    coming[e] = start(self.world, back.route, dx, back.key, self.activations)
                    if not (self.overlap or back.route.lane):  # other stages take theirs when they get there
                        coming[e].wait()
            if stop.works:
                clock.at(stop.computes[2])
                layer.weigh()
                if last:
                    self.arena.finished(layer.name)
        # Stages before take them when they go backward, a step later where gradients are late: nobody waits for that.
        self._given = [pending for pending in (*self._given, *coming.values()) if not pending.gone()]

    def _await(self, way: Way) -> Pending:
        """Start to receive what other stages send on an edge."""
        nothing = self.engine.empty(way.route.shape, self.activations)
        return start(self.world, way.route, nothing, way.key, self.activations)

    def _margin(self, edge: int, margin: dict[int, tuple[Array, Array]]) -> Array:
        """Make the margin buffer of a halo edge; return its middle, for the producer to write."""
        path = self.paths[edge]
        assert path is not None
        room = self.engine.empty(extents_of(path.target), self.activations)
        margin[edge] = (room, room[local_slices(path.source, path.target)])
        return margin[edge][1]

    def _collect(self, stop: Stop, coming: dict[int, Pending]) -> Array:
        """Return the gradient of a layer's output: the sum of what its edges give back."""
        parts = [coming.pop(way.edge).wait() for way in stop.leaves if self._returns[way.edge]]
        if len(parts) > 1:
            return self.compute.pointwise.add(self.engine, parts)
        if parts or not stop.leaves or not stop.works:
            return parts[0] if parts else self._nothing(stop.layer)
        # Only stages behind use it.
        return self.engine.memory.zeros(extents_of(stop.layer.out), self.activations)

    def _read(self, edge: Edge, x: Array) -> Pending:
        """Return an input edge, which has arrived: the loader read it."""
        need = edge.need.box(self.world.rank)
        array = (
            x[local_slices(need, self.input_box)]
            if x.size and all(i.size for i in need)
            else np.zeros(extents_of(need), self.dtype)
        )
        array = self._taken(array)
        if self.activations != self.dtype:
            array = in_type(self.engine, array, self.activations)
        return Pending.arrived_already(self.world, array)

    def _taken(self, array: Array) -> Array:
        """Return a part of a batch where the engine computes; that of a captured step is there."""
        return self.engine.fitted(array) if self.engine.holds(array) else self.engine.take(array)

    def _nothing(self, layer: Layer) -> Array:
        dims = len(layer.placed.placement.out.dims)
        return self.engine.empty((0,) * dims, self.activations)
