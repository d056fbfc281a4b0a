"""The next best grid of a layer while all others keep theirs: what it costs more, and when it would win.

    producer ──e1── layer ──e2── consumer        seconds of the layer's grid g, its neighbours held fixed:
                      g                            compute(g) + settle(g) + statistics(g) + gradients(g)
                                                   + e1(producer's grid, g) + e2(g, consumer's grid)

With all else fixed this is a vector over the layer's candidates; its least entry but the plan's own is the rival.
Both are then priced again with faster and slower links and with other batches:

    bandwidth x       1/64 ... 1/2    1    2   ...  64
    rival - own, us          -0.4    0.9  1.3            x = 0.58, by bisection and then a line in 1/x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from gridnn.cost.grids import Cut, Grids, Ints
from gridnn.cost.machine import Machine
from gridnn.cost.moves import Floats
from gridnn.cost.tables import LayerCosts
from gridnn.plan.problem import Degrees, Job, Problem

OCTAVES = 6
"""Bandwidths and batches are looked at up to this many doublings away."""
SAME = 1e-9
"""Times of a relative difference below this are one."""


class Part(NamedTuple):
    """What a layer spends seconds on: its own work by name, or an edge to a neighbour.

    `what` is compute, settle, statistics, gradients, "in" (input `number`) or "out" (the input `number` of `other`).
    """

    what: str
    other: int = -1
    number: int = 0


OWN = ("compute", "settle", "statistics", "gradients")


class Around:
    """Seconds of every candidate of a layer with all other layers held where they are; equal cases are shared.

    Parameters
    ----------
    choice
        The candidate of every layer.
    """

    def __init__(self, problem: Problem, choice: Sequence[int]) -> None:
        self.problem, self.choice = problem, tuple(choice)
        self._edges: dict[tuple[int, int, int, int, bool], Floats] = {}
        self._parts: list[list[Part]] = [[Part(what) for what in OWN] for _ in problem.nodes]
        for producer, consumer, number in problem.edges:
            self._parts[consumer].append(Part("in", producer, number))
            self._parts[producer].append(Part("out", consumer, number))

    def parts(self, layer: int) -> dict[Part, Floats]:
        """Return the seconds of every part under every candidate, (C,) each."""
        own = self.problem.layers[layer]
        return {part: self._seconds(own, part) for part in self._parts[layer]}

    def total(self, layer: int) -> Floats:
        """Return the seconds of every candidate, (C,)."""
        return np.sum(list(self.parts(layer).values()), axis=0)

    def _seconds(self, own: LayerCosts, part: Part) -> Floats:
        if part.what not in ("in", "out"):
            return np.broadcast_to(getattr(own, f"{part.what}_s"), len(own.grids))
        other, fixed, entering = self.problem.layers[part.other], self.choice[part.other], part.what == "in"
        key = (id(own), id(other), fixed, part.number, entering)
        if key not in self._edges:
            ends = (other, own) if entering else (own, other)
            rows, columns = np.arange(len(own.grids)), np.array([fixed])
            here = (columns, rows) if entering else (rows, columns)
            self._edges[key] = self.problem.tables.edge(*ends, part.number, *here)
        return self._edges[key]


def next_best(around: Around, layer: int) -> int | None:
    """Return the cheapest candidate of a layer that is not its own, by whatever name; None if there is none."""
    own, costs = around.choice[layer], around.problem.layers[layer]
    ranks = np.arange(around.problem.job.procs)
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
    return bool(sizes[one] == sizes[other]) and shared and all(same(cut) for layout in layouts for cut in layout)


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
    pairs, first = _pairs(own, rivals), np.array([rival[0] if rival else 0 for rival in rivals])

    @cache
    def by_bandwidth(octave: int) -> Floats:
        return _margins(replace(job, machine=faster(job.machine, 2.0**octave)), pairs)

    @cache
    def by_batch(octave: int) -> Floats:
        other = with_batch(job, octave)
        return np.where(first <= other.per_pass, _margins(other, pairs), np.inf)

    ends, found = batch_range(job, own), list[Flip]()
    for i in range(len(own)):
        links = _first_octave(by_bandwidth, i, (-OCTAVES, OCTAVES))
        batch = _first_octave(by_batch, i, ends)
        found.append(
            Flip(
                None if links is None else _zero(by_bandwidth, i, links),
                None if batch is None else with_batch(job, batch).batch,
            )
        )
    return found


def _first_octave(margins: Callable[[int], Floats], layer: int, ends: tuple[int, int]) -> int | None:
    """Return the octave nearest to 0 at which a layer's margin is below 0, by bisection towards both ends."""
    found = []
    for end in ends:
        held, lost = 0, end
        if margins(0)[layer] <= 0 or margins(end)[layer] >= 0:
            continue
        while abs(lost - held) > 1:
            middle = (held + lost) // 2
            held, lost = (held, middle) if margins(middle)[layer] < 0 else (middle, lost)
        found.append(lost)
    return min(found, key=abs, default=None)


def _zero(margins: Callable[[int], Floats], layer: int, octave: int) -> float:
    """Return the factor between an octave and the one before it at which the margin, a line in 1 / factor, is 0."""
    before, after = (octave - 1 if octave > 0 else octave + 1), octave
    near, far = 2.0**-before, 2.0**-after
    held, lost = margins(before)[layer], margins(after)[layer]
    return float(1 / (near + (far - near) * held / (held - lost)))


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


def _margins(job: Job, pairs: Sequence[Grids]) -> Floats:
    """Return what every layer's rival costs more, all others on the first of their pair; 0 where times are one."""
    around = Around(Problem(job, pairs), [0] * len(pairs))
    total = np.array([around.total(i) for i in range(len(pairs))])
    more = total[:, 1] - total[:, 0]
    return np.where(np.abs(more) > SAME * total.max(axis=1), more, 0.0)
