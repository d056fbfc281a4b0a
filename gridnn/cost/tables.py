"""What every layer costs on every candidate grid: t_C and t_S of Jia et al. 2018, Eq. 1, as vectors.

| part         | seconds of the slowest rank                                                      |
|--------------|----------------------------------------------------------------------------------|
| compute      | forward and backward of the largest block                                        |
| settle       | terms owed over `c` (or space): reduce-scatter forward, all-gather backward;     |
|              | movements inside a layer: the state of an LSTM before each step                  |
| statistics   | sums inside the layer: batch norm, layer norm, softmax                           |
| gradients    | all-reduce of dW over the ranks that share a block (Gholami et al. 2018, Eq. 8)  |

Edges are priced by `moves`.  All of it is added up, as OptCNN does: no overlap, no branch beside another.  Consumers
of one output that want it alike pay for it each, though a run moves it once.  Weights that layers share are summed,
updated and kept with the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.cost.blocks import block_seconds
from gridnn.cost.collectives import allgather_s, allreduce_s, reduce_scatter_s
from gridnn.cost.grids import Cut, Floats, Grids, Ints
from gridnn.cost.machine import Machine
from gridnn.cost.memory import KEEP_INPUTS
from gridnn.cost.moves import Moves
from gridnn.cost.overlaps import Edge
from gridnn.cost.patterns import Shape, Sketch, Sketches
from gridnn.cost.traffic import STATISTIC_BYTES
from gridnn.geometry.traffic import Widths, widths_of
from gridnn.network import spec as s

Collective = Callable[[Machine, Sequence[Ints], Floats, int], Floats]
Group = tuple[tuple[Ints, ...], Floats]
"""The members and the bytes of a collective on many grids."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose costs are asked for.

    Attributes
    ----------
    inputs, out
        Shapes of one sample.
    first
        The layer reads the input of the network: there is no gradient to make.
    shares
        Its weights are another layer's.
    absorbed
        A ReLU that the layer before it rectifies for: it costs what masking its gradient costs.
    """

    spec: s.LayerSpec
    inputs: Sequence[Shape]
    out: Shape
    grids: Grids
    first: bool = False
    shares: bool = False
    absorbed: bool = False


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """A layer under G grids: seconds a step and bytes a rank, each (G,), and how its arrays are cut."""

    grids: Grids
    compute_s: Floats
    settle_s: Floats
    statistics_s: Floats
    gradients_s: Floats
    memory_bytes: Floats
    needs: tuple[tuple[list[Cut], Ints], ...]
    out: list[Cut]

    @property
    def seconds(self) -> Floats:
        """All of it."""
        return self.compute_s + self.settle_s + self.statistics_s + self.gradients_s


class CostTables:
    """Costs of a job: one batch size, one machine, one number of processes.

    Parameters
    ----------
    batch
        Samples in one pass.
    passes
        Passes in a step; gradients are summed once.
    states
        Arrays of optimizer state a parameter.
    bucket_bytes
        Gradients are summed in buckets of about that size: a smaller one takes its share of a bucket's time.
    sketches
        Of layers, as far as they are known: any tables may share them.
    """

    def __init__(
        self, machine: Machine, batch: int, procs: int, itemsize: int | Widths = 4, *, passes: int = 1, states: int = 1,
        bucket_bytes: int = 4 << 20, sketches: Sketches | None = None,
    ) -> None:  # fmt: skip
        self.machine, self.batch, self.procs, self.widths = machine, batch, procs, widths_of(itemsize)
        self.passes, self.states, self.bucket_bytes = passes, states, bucket_bytes
        self.sketches = sketches or Sketches()
        self.moves = Moves(machine, procs, self.widths, self.sketches)

    def layer(
        self, spec: s.LayerSpec, inputs: Sequence[Shape], out: Shape, grids: Grids, *, first: bool = False,
        shares: bool = False, absorbed: bool = False,
    ) -> LayerCosts:  # fmt: skip
        """Return the costs of a layer; see `Layer`."""
        return self.layers([Layer(spec, inputs, out, grids, first, shares, absorbed)])[0]

    def layers(self, asked: Sequence[Layer]) -> list[LayerCosts]:
        """Return the costs of some layers: their collectives are priced together, which takes as long as one."""
        sketches = [
            self.sketches.of(x.spec, [(self.batch, *i) for i in x.inputs], (self.batch, *x.out))
            for x in asked
        ]
        both = list(zip(asked, sketches, strict=True))
        scattered = [self._moved(*each, self.widths.moved("reduce_scatter")) for each in both]
        gathered = [self._moved(*each, self.widths.moved("allgather")) for each in both]
        forward, backward = self._priced(reduce_scatter_s, scattered), self._priced(allgather_s, gathered)
        statistics = self._priced(allreduce_s, [self._statistics(*each) for each in both])
        sums = [self._gradients(*each) for each in both]
        gradients = self._priced(allreduce_s, [[group for group, _ in each] for each in sums])
        found = []
        for at, (x, sketch) in enumerate(both):
            zeros = np.zeros(len(x.grids))
            there_and_back = [a + b for a, b in zip(forward[at], backward[at], strict=True)]
            times = [1, *(times for times, *_ in sketch.inner)]
            settle_s = sum((n * each for n, each in zip(times, there_and_back, strict=True)), zeros)
            shares = (each * share for each, (_, share) in zip(gradients[at], sums[at], strict=True))
            gradients_s = sum(shares, zeros)
            found.append(self._layer(x, sketch, settle_s, sum(statistics[at], zeros), gradients_s))
        return found

    def edge(
        self, producer: LayerCosts, consumer: LayerCosts, number: int, rows: Ints | None = None,
        columns: Ints | None = None,
    ) -> Floats:  # fmt: skip
        """Return the seconds of an edge, input `number` of the consumer.

        Parameters
        ----------
        rows, columns
            Which grids of the producer and of the consumer, arrays that broadcast; all pairs if None.
        """
        rows = np.arange(len(producer.grids))[:, None] if rows is None else rows
        columns = np.arange(len(consumer.grids)) if columns is None else columns
        return self.edges([(producer, consumer, number, rows, columns)])[0]

    def edges(self, asked: Sequence[tuple[LayerCosts, LayerCosts, int, Ints, Ints]]) -> list[Floats]:
        """Return the seconds of some edges, each as `edge` is asked for: together they take hardly longer than one."""
        edges = [
            Edge(
                made.out, made.grids, used.needs[number][0], used.grids, used.needs[number][1], rows, columns
            )
            for made, used, number, rows, columns in asked
        ]
        return [self.passes * seconds for seconds in self.moves.seconds(edges)]

    def floor(self, producer: LayerCosts, consumer: LayerCosts, number: int) -> Floats:
        """Return the least that an edge costs each grid of the consumer, whatever the producer's."""
        need, _ = consumer.needs[number]
        return self.passes * self.moves.floor(producer.out, producer.grids, need, consumer.grids)

    def _layer(
        self, x: Layer, sketch: Sketch, settle_s: Floats, statistics_s: Floats, gradients_s: Floats
    ) -> LayerCosts:
        """Return the costs of a layer whose collectives are priced."""
        grids, zeros = x.grids, np.zeros(len(x.grids))
        kept = sum((grids.volume(each.dims) for each in sketch.kept), zeros)
        elements = sum((grids.volume(each.dims) for each in sketch.weights if not x.shares), zeros)
        inputs = [grids.extents(each.dims) for each in sketch.needs]
        kernel = grids.volume(sketch.weights[0].dims[1:]) if sketch.weights else None
        blocks = inputs, grids.extents(sketch.raw.dims), kernel, kept
        compute = self.passes * block_seconds(self.machine, x.spec, *blocks, first=x.first)
        if x.absorbed:
            forward = block_seconds(self.machine, x.spec, *blocks, first=True)
            compute = np.maximum(compute - self.passes * (forward + self.machine.layer_s), 0.0)
        update = elements * (2 + self.states) * self.machine.touch_s_per_element
        return LayerCosts(
            grids,
            compute + update,
            self.passes * settle_s,
            self.passes * statistics_s,
            gradients_s,
            self._memory(x, sketch, elements, kept),
            tuple((grids.cuts(each.dims), grids.copies(each.whole)) for each in sketch.needs),
            grids.cuts(sketch.out.dims),
        )

    def _priced(self, collective: Collective, asked: Sequence[Sequence[Group]]) -> list[list[Floats]]:
        """Return the seconds of the collectives of some layers."""
        every = [group for groups in asked for group in groups]
        if not every:
            return [[] for _ in asked]
        members = [np.concatenate(level) for level in zip(*(members for members, _ in every), strict=True)]
        nbytes = np.concatenate([nbytes for _, nbytes in every])
        seconds = collective(self.machine, members, nbytes, self.procs)
        parts = iter(np.split(seconds, np.cumsum([len(nbytes) for _, nbytes in every])[:-1]))
        return [[next(parts) for _ in groups] for groups in asked]

    def _moved(self, x: Layer, sketch: Sketch, width: int) -> list[Group]:
        """Return what is scattered one way and gathered the other: owed terms, and movements inside a layer."""
        arrays = [(sketch.raw.dims, sketch.raw.whole), *((dims, moving) for _, dims, moving in sketch.inner)]
        return [(x.grids.members(self.machine, axes), x.grids.volume(dims) * width) for dims, axes in arrays]

    def _gradients(self, x: Layer, sketch: Sketch) -> list[tuple[Group, Floats]]:
        """Return the sums of gradients over the ranks that share them: buckets, and a gradient's share of its own."""
        found = []
        for weight, owed in zip(sketch.weights, sketch.owed, strict=True):
            if owed and not x.shares:
                nbytes = x.grids.volume(weight.dims) * self.widths.parameter
                bucket = np.maximum(nbytes, self.bucket_bytes)
                found.append(((x.grids.members(self.machine, weight.whole), bucket), nbytes / bucket))
        return found

    def _statistics(self, x: Layer, sketch: Sketch) -> list[Group]:
        """Return the sums inside a layer."""
        if not sketch.statistics:
            return []
        members, sizes = (
            x.grids.members(self.machine, sketch.statistics),
            x.grids.extents(sketch.needs[0].dims),
        )
        if isinstance(x.spec, s.BatchNorm | s.LayerNorm):  # two sums of float64 forward, two backward
            sums = 2 * [2 * sizes[1 if isinstance(x.spec, s.BatchNorm) else 0] * STATISTIC_BYTES]
        else:  # largest logit; then sum of exponentials, picked logit, plain sum
            positions = np.prod([sizes[0], *sizes[2:]], axis=0)
            sums = [positions * self.widths.parameter, 3 * positions * STATISTIC_BYTES]
        return [(members, nbytes) for nbytes in sums]

    def _memory(self, x: Layer, sketch: Sketch, elements: Floats, kept: Floats) -> Floats:
        """Bytes a layer holds through a step: parameters, gradients, state, and what backward reads."""
        grids, own, wide = x.grids, self.widths.activation, self.widths.parameter
        if isinstance(x.spec, (*KEEP_INPUTS, *s.LOSSES)):
            kept = sum((grids.volume(each.dims) for each in sketch.needs), kept)
        elif isinstance(x.spec, s.Activation | s.Dropout):
            kept = grids.volume(sketch.raw.dims)
        elif isinstance(x.spec, s.Pool):
            kept = grids.volume(sketch.raw.dims) / own
        copies = 0 if own == wide else own * elements  # of weights, to multiply by
        return wide * elements * (2 + self.states) + copies + own * kept
