"""The next best grid of a layer while all others keep theirs: what it costs more, and when it would win.

    producer ──e1── layer ──e2── consumer        seconds of the layer's grid g, its neighbours held fixed:
                      g                            compute(g) + settle(g) + statistics(g) + gradients(g)
                                                   + e1(producer's grid, g) + e2(g, consumer's grid)

With all else fixed this is a vector over the layer's candidates; its least entry but the plan's own is the rival.
Both are then priced again with faster and slower links and with other batches:

    bandwidth x       1/64 ... 1/2    1    2   ...  64
    rival - own, us          -0.4    0.9  1.3            x = 0.58, by bisection, then lines in 1/x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log2
from typing import NamedTuple

import numpy as np

from gridnn.cost.grids import Cut, Grids, Ints
from gridnn.cost.machine import Machine
from gridnn.cost.moves import Floats
from gridnn.cost.tables import LayerCosts
from gridnn.network.fusion import absorbable
from gridnn.network.graph import INPUT
from gridnn.plan.problem import Degrees, Job

OCTAVES = 6
"""Bandwidths and batches are looked at up to this many doublings away."""
SAME = 1e-9
"""Times of a relative difference below this are one."""
ZERO_STEPS, SAME_ZERO = 6, 1e-3
"""Steps towards the zero of a margin, and the part of it that is none."""


class Part(NamedTuple):
    """What a layer spends seconds on: its own work by name, or an edge to a neighbour.

    `what` is compute, settle, statistics, gradients, "in" (input `number`) or "out" (the input `number` of `other`).
    """

    what: str
    other: int = -1
    number: int = 0


OWN = ("compute", "settle", "statistics", "gradients")


class Around:
    """Seconds of every candidate of a layer with all other layers held where they are.

    Nothing is priced before it is asked for, and nothing twice: layers that are alike share what they cost.

    Parameters
    ----------
    candidates
        Grids of every layer, in the order of the network; the same object for the same grids.
    choice
        The candidate of every layer.
    """

    def __init__(self, job: Job, candidates: Sequence[Grids], choice: Sequence[int]) -> None:
        self.job, self.candidates, self.choice = job, tuple(candidates), tuple(choice)
        self.tables, self.nodes = job.tables(), job.network.nodes
        self._layers: dict[object, LayerCosts] = {}
        self._absorbable = absorbable(job.network)
        self._edges: dict[object, Floats] = {}
        self._parts: list[list[Part]] = [[Part(what) for what in OWN] for _ in self.nodes]
        at = {node.name: i for i, node in enumerate(self.nodes)}
        for i, node in enumerate(self.nodes):
            for number, name in enumerate(node.inputs):
                if name != INPUT:
                    self._parts[i].append(Part("in", at[name], number))
                    self._parts[at[name]].append(Part("out", i, number))

    def layer(self, layer: int) -> LayerCosts:
        """Return what a layer costs by itself under every candidate."""
        node, shapes, grids = self.nodes[layer], self.job.network.shapes, self.candidates[layer]
        inputs, first = tuple(shapes[i] for i in node.inputs), set(node.inputs) == {INPUT}
        absorbed = node.name in self._absorbable
        key = (node.spec, inputs, shapes[node.name], id(grids), first, bool(node.shared), absorbed)
        if key not in self._layers:
            self._layers[key] = self.tables.layer(
                node.spec, inputs, shapes[node.name], grids, first=first, shares=bool(node.shared),
                absorbed=absorbed,
            )  # fmt: skip
        return self._layers[key]

    def parts(self, layer: int) -> dict[Part, Floats]:
        """Return the seconds of every part under every candidate, (C,) each."""
        return {part: self._seconds(self.layer(layer), part) for part in self._parts[layer]}

    def total(self, layer: int) -> Floats:
        """Return the seconds of every candidate, (C,)."""
        total: Floats = np.sum(list(self.parts(layer).values()), axis=0)
        return total

    def margin(self, layer: int, other: int = 1) -> float:
        """Return the seconds another candidate costs more; 0 where both take the same but for rounding."""
        total = self.total(layer)
        mine, theirs = float(total[self.choice[layer]]), float(total[other])
        return theirs - mine if abs(theirs - mine) > SAME * max(theirs, mine) else 0.0

    def _seconds(self, own: LayerCosts, part: Part) -> Floats:
        if part.what not in ("in", "out"):
            return np.broadcast_to(getattr(own, f"{part.what}_s"), len(own.grids))
        other, fixed, entering = self.layer(part.other), self.choice[part.other], part.what == "in"
        key = (id(own), id(other), fixed, part.number, entering)
        if key not in self._edges:
            ends = (other, own) if entering else (own, other)
            moving, held = np.arange(len(own.grids)), np.array([fixed])
            rows, columns = (held, moving) if entering else (moving, held)
            self._edges[key] = self.tables.edge(*ends, part.number, rows, columns)
        return self._edges[key]


def next_best(around: Around, layer: int) -> int | None:
    """Return the cheapest candidate of a layer that is not its own, by whatever name; None if there is none."""
    own, costs, ranks = around.choice[layer], around.layer(layer), np.arange(around.job.procs)
    for other in np.argsort(around.total(layer), kind="stable"):
        if other != own and not _alike(costs, own, int(other), ranks):
            return int(other)
    return None


def _alike(costs: LayerCosts, one: int, other: int, ranks: Ints) -> bool:
    """True for one grid under two names, such as "n2 c2" and "n2 k2" of a layer that sums nothing over channels."""

    def same(cut: Cut) -> bool:
        mine, theirs = (cut.ways.block_of(int(cut.way[i]), ranks) for i in (one, other))
        return bool((mine == theirs).all())

    layouts = [costs.out, *(need for need, _ in costs.needs)]
    shared = all(copies[one] == copies[other] for _, copies in costs.needs)
    sizes = costs.grids.sizes
    return (
        bool(sizes[one] == sizes[other]) and shared and all(same(cut) for layout in layouts for cut in layout)
    )


@dataclass(frozen=True)
class Flip:
    """When a rival wins: the factor on all bandwidths nearest to 1, the nearest batch; None within the range."""

    bandwidth: float | None
    batch: int | None


def flips(job: Job, own: Sequence[Degrees], rivals: Sequence[Degrees | None]) -> list[Flip]:
    """Return when each layer's rival would win; `Flip(None, None)` where it costs no more as it is.

    Parameters
    ----------
    own, rivals
        The grid of every layer in the plan, and its next best.
    """
    pairs, here = _pairs(own, rivals), [0] * len(own)

    @cache
    def by_bandwidth(octaves: float) -> Around:
        return Around(replace(job, machine=faster(job.machine, 2.0**octaves)), pairs, here)

    @cache
    def by_batch(octaves: int) -> Around:
        return Around(with_batch(job, octaves), pairs, here)

    ends, found = batch_range(job, own), list[Flip]()
    for i, rival in enumerate(rivals):
        if rival is None:
            found.append(Flip(None, None))
            continue

        def faster_links(octaves: float, i: int = i) -> float:
            return by_bandwidth(octaves).margin(i)

        def larger_batch(octaves: int, i: int = i, least: int = rival[0]) -> float:
            return by_batch(octaves).margin(i) if with_batch(job, octaves).per_pass >= least else np.inf

        links = _first_octave(faster_links, (-OCTAVES, OCTAVES))
        batch = _first_octave(larger_batch, ends)
        found.append(
            Flip(
                None if links is None else _zero(faster_links, links),
                None if batch is None else with_batch(job, batch).batch,
            )
        )
    return found


def _first_octave(margin: Callable[[int], float], ends: tuple[int, int]) -> int | None:
    """Return the octave nearest to 0 at which a margin above 0 is below, by bisection towards both ends."""
    found = []
    for end in ends:
        held, lost = 0, end
        if margin(0) <= 0 or margin(end) >= 0:
            continue
        while abs(lost - held) > 1:
            middle = (held + lost) // 2
            held, lost = (held, middle) if margin(middle) < 0 else (middle, lost)
        found.append(lost)
    return min(found, key=abs, default=None)


def _zero(margin: Callable[[float], float], octave: int) -> float:
    """Return the factor at which a margin is 0, between an octave and the one before it, to a thousandth or so.

    The margin is made of lines in 1 / factor: the zero of the line through both ends is the end of the next step.
    """
    held, lost = float(octave - 1 if octave > 0 else octave + 1), float(octave)
    for _ in range(ZERO_STEPS):
        near, far, above, below = 2.0**-held, 2.0**-lost, margin(held), margin(lost)
        middle = -log2(near + (far - near) * above / (above - below))
        now = margin(middle)
        if abs(now) <= SAME_ZERO * max(above, -below):
            break
        held, lost = (held, middle) if now < 0 else (middle, lost)
    return float(2.0**middle)


def faster(machine: Machine, factor: float) -> Machine:
    """Return a machine whose links carry `factor` times the bytes a second."""
    levels = (replace(x, beta_s_per_byte=x.beta_s_per_byte / factor) for x in machine.levels)
    return replace(machine, levels=tuple(levels))


def with_batch(job: Job, octave: int) -> Job:
    """Return the job with its batch doubled `octave` times, or halved (rounded down in a pass)."""
    size = job.per_pass << octave if octave >= 0 else job.per_pass >> -octave
    return replace(job, batch=size * job.passes)


def batch_range(job: Job, own: Sequence[Degrees]) -> tuple[int, int]:
    """Return the octaves of batches that are looked at: down to the largest `n` of the plan, and `OCTAVES` up."""
    least = max(grid[0] for grid in own)
    return -max(0, (job.per_pass // least).bit_length() - 1), OCTAVES


def _pairs(own: Sequence[Degrees], rivals: Sequence[Degrees | None]) -> list[Grids]:
    """Return the two grids of every layer, equal pairs as one object."""
    pairs = [(tuple(mine), tuple(other or mine)) for mine, other in zip(own, rivals, strict=True)]
    grids = {pair: Grids(np.array(pair, dtype=np.int64)) for pair in dict.fromkeys(pairs)}
    return [grids[pair] for pair in pairs]
