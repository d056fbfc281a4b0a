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
from gridnn.cost.collectives import allgather_s, allreduce_s, members_of, reduce_scatter_s
from gridnn.cost.grids import PROBE, Cut, Grids, Ints, copies, cuts, whole_axes
from gridnn.cost.machine import Machine
from gridnn.cost.memory import KEEP_INPUTS
from gridnn.cost.moves import Floats, Moves
from gridnn.cost.traffic import STATISTIC_BYTES
from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.layout import Layout
from gridnn.network import spec as s
from gridnn.network.placement import Placement, place

Shape = tuple[int, ...]


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
    alone_s: Floats | None = None
    """Of a layer that costs nothing on the grid of the one before it: what it computes elsewhere."""

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
    """

    def __init__(
        self, machine: Machine, batch: int, procs: int, itemsize: int = 4, *, passes: int = 1, states: int = 1,
        bucket_bytes: int = 4 << 20,
    ) -> None:  # fmt: skip
        self.machine, self.batch, self.procs, self.itemsize = machine, batch, procs, itemsize
        self.passes, self.states, self.bucket_bytes = passes, states, bucket_bytes
        self.moves = Moves(machine, procs, itemsize)
        self._placed: dict[tuple[object, ...], dict[GridShape, Placement]] = {}

    def layer(
        self, spec: s.LayerSpec, inputs: Sequence[Shape], out: Shape, grids: Grids, *, first: bool = False,
        shares: bool = False, absorbed: bool = False,
    ) -> LayerCosts:  # fmt: skip
        """Return the costs of a layer.

        Parameters
        ----------
        inputs, out
            Shapes of one sample.
        first
            The layer reads the input of the network: there is no gradient to make.
        shares
            Its weights are another layer's.
        absorbed
            The layer before it computes it where both are on one grid: then it costs nothing, elsewhere an edge
            carries its cost.
        """
        shapes = tuple((self.batch, *i) for i in inputs), (self.batch, *out)

        known = self._placed.setdefault((spec, shapes), {})

        def placed(scheme: Scheme) -> Placement:
            if scheme.grid not in known:
                known[scheme.grid] = place(spec, *shapes, scheme)
            return known[scheme.grid]

        probe, zeros = placed(PROBE), np.zeros(len(grids))
        raw = cuts(grids, placed, lambda p: p.raw)
        needs = tuple(
            (cuts(grids, placed, _of(lambda p: p.needs, i)), copies(grids, whole_axes(need)))
            for i, need in enumerate(probe.needs)
        )
        weights = [
            (cuts(grids, placed, _of(lambda p: [w.layout for w in p.parameters], i)), parameter)
            for i, parameter in enumerate(probe.parameters)
        ]
        kept = sum(
            (_volume(cuts(grids, placed, _of(lambda p: p.kept, i))) for i in range(len(probe.kept))), zeros
        )
        out_cuts = cuts(grids, placed, lambda p: p.out)
        own = [] if shares else weights
        elements = sum((_volume(c) for c, _ in own), zeros)
        in_sizes, out_sizes = [_sizes(c) for c, _ in needs], _sizes(raw)
        kernel = np.prod(_sizes(weights[0][0])[1:], axis=0) if weights else None
        compute = block_seconds(self.machine, spec, in_sizes, out_sizes, kernel, kept, first=first)
        update = elements * (2 + self.states) * self.machine.touch_s_per_element
        owed = whole_axes(probe.raw)
        settle = self._settle(grids, owed, _volume(raw) * self.itemsize) + self._inner(grids, placed)
        gradients = sum(
            (self._sum(grids, whole_axes(p.layout), _volume(c) * self.itemsize) for c, p in own if p.owed),
            zeros,
        )
        alone = self.passes * compute
        return LayerCosts(
            grids,
            (zeros if absorbed else alone) + update,
            self.passes * settle,
            self.passes * self._statistics(spec, grids, probe.statistics, in_sizes[0]),
            gradients,
            self._memory(spec, elements, in_sizes, out_sizes, kept),
            needs,
            out_cuts,
            alone if absorbed else None,
        )

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
        need, shared = consumer.needs[number]
        rows = np.arange(len(producer.grids))[:, None] if rows is None else rows
        columns = np.arange(len(consumer.grids)) if columns is None else columns
        seconds = self.moves.seconds(
            producer.out, producer.grids, need, consumer.grids, shared, rows, columns
        )
        if consumer.alone_s is not None:
            seconds = seconds + (seconds > 0) * consumer.alone_s[columns] / self.passes
        return self.passes * seconds

    def floor(self, producer: LayerCosts, consumer: LayerCosts, number: int) -> Floats:
        """Return the least that an edge costs each grid of the consumer, whatever the producer's."""
        need, _ = consumer.needs[number]
        return self.passes * self.moves.floor(producer.out, producer.grids, need, consumer.grids)

    def _sum(self, grids: Grids, axes: tuple[str, ...], nbytes: Floats) -> Floats:
        """Seconds of the all-reduce of a gradient over the ranks that share it, in its bucket."""
        members = members_of(self.machine, grids.degrees, axes)
        bucket = np.maximum(nbytes, self.bucket_bytes)
        return allreduce_s(self.machine, members, bucket, self.procs) * (nbytes / bucket)

    def _settle(self, grids: Grids, axes: tuple[str, ...], nbytes: Floats) -> Floats:
        if not axes or (copies(grids, axes) == 1).all():
            return np.zeros(len(grids))
        members = members_of(self.machine, grids.degrees, axes)
        forward = reduce_scatter_s(self.machine, members, nbytes, self.procs)
        return forward + allgather_s(self.machine, members, nbytes, self.procs)

    def _inner(self, grids: Grids, placed: Callable[[Scheme], Placement]) -> Floats:
        """Seconds of the movements inside a layer: each gathers one way and sums up the other."""
        total = np.zeros(len(grids))
        for at, inner in enumerate(placed(PROBE).inner):
            ends = [whole_axes(e) for e in (inner.exchange.source, inner.exchange.target)]
            if len(ends[0]) > len(ends[1]):
                full = _of(lambda p: [i.exchange.source for i in p.inner], at)
            else:
                full = _of(lambda p: [i.exchange.target for i in p.inner], at)
            moving = tuple(a for a in AXES if (a in ends[0]) != (a in ends[1]))
            total = total + inner.times * self._settle(
                grids, moving, _volume(cuts(grids, placed, full)) * self.itemsize
            )
        return total

    def _statistics(
        self, spec: s.LayerSpec, grids: Grids, axes: tuple[str, ...], sizes: list[Floats]
    ) -> Floats:
        axes = tuple(a for a in AXES if a in axes)
        if not axes:
            return np.zeros(len(grids))
        members = members_of(self.machine, grids.degrees, axes)
        if isinstance(spec, s.BatchNorm | s.LayerNorm):  # two sums of float64 forward, two backward
            sums = 2 * [2 * sizes[1 if isinstance(spec, s.BatchNorm) else 0] * STATISTIC_BYTES]
        else:  # largest logit; then sum of exponentials, picked logit, plain sum
            positions = np.prod([sizes[0], *sizes[2:]], axis=0)
            sums = [positions * self.itemsize, 3 * positions * STATISTIC_BYTES]
        return np.asarray(
            np.sum([allreduce_s(self.machine, members, nbytes, self.procs) for nbytes in sums], axis=0)
        )

    def _memory(
        self, spec: s.LayerSpec, elements: Floats, inputs: list[list[Floats]], out: list[Floats], kept: Floats
    ) -> Floats:
        """Bytes a layer holds through a step: parameters, gradients, state, and what backward reads."""
        if isinstance(spec, (*KEEP_INPUTS, *s.LOSSES)):
            kept = sum((np.prod(i, axis=0) for i in inputs), kept)
        elif isinstance(spec, s.Activation | s.Dropout):
            kept = np.prod(out, axis=0)
        elif isinstance(spec, s.Pool):
            kept = np.prod(out, axis=0) / self.itemsize
        return self.itemsize * (elements * (2 + self.states) + kept)


def _of(layouts: Callable[[Placement], Sequence[Layout]], number: int) -> Callable[[Placement], Layout]:
    return lambda placement: layouts(placement)[number]


def _sizes(layout: list[Cut]) -> list[Floats]:
    """Return the largest block's extent in each dim, (G,) each."""
    return [c.size[c.way].astype(float) for c in layout]


def _volume(layout: list[Cut]) -> Floats:
    return np.asarray(np.prod(_sizes(layout), axis=0))
