"""Why a plan is as it is: of every layer what it costs, what it moves, what came second and when that would win.

| from                | what                                                                          |
|---------------------|-------------------------------------------------------------------------------|
| the search's tables | seconds of every part and of every edge into a layer: their sum is the step   |
| exact traffic       | bytes and seconds by collective, direction and axes, equal to a run's ledger  |
| `rival`             | the next best grid, all other layers as they are, and why it costs more       |

`tell` says it in lines, `picture` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gridnn.cost.grids import Grids
from gridnn.cost.price import Movement, PlanPrice, price_plan, priced_ranks
from gridnn.geometry.grid import Scheme
from gridnn.geometry.interval import overlap, volume
from gridnn.geometry.layout import Layout
from gridnn.network import spec as s
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.placement import Placement, place
from gridnn.plan.explain.rival import OWN, SAME, Around, Flip, Part, batch_range, flips, next_best, with_batch
from gridnn.plan.outcome import PLACED
from gridnn.plan.problem import Job, space


@dataclass(frozen=True)
class Rival:
    """The next best grid of a layer.

    Attributes
    ----------
    more_s, more_bytes
        What it costs more, in seconds of a step and in memory of a rank; below 0 where it costs less.
    growth
        Seconds every part grows by, largest first: "compute", "gather from conv3", "halo to conv5", ...
    because
        Why it lost: the part that grows most, or memory where it would be faster.
    """

    scheme: Scheme
    more_s: float
    more_bytes: float
    growth: tuple[tuple[str, float], ...]
    because: str
    flip: Flip


@dataclass(frozen=True)
class LayerExplanation:
    """A layer in its plan: seconds of a step as the search has them, memory of a rank, exact movements.

    Attributes
    ----------
    edges_s
        Seconds of every input, by the layer that makes it (what the network reads is moved by nobody).
    movements
        By collective, direction and axes; None where exact traffic was not priced.
    rival
        None where there is no other grid, or weights are shared with a layer that must have the same.
    """

    name: str
    kind: str
    scheme: Scheme
    compute_s: float
    settle_s: float
    statistics_s: float
    gradients_s: float
    edges_s: tuple[tuple[str, float], ...]
    memory_bytes: float
    movements: tuple[Movement, ...] | None
    rival: Rival | None

    @property
    def moved_in_s(self) -> float:
        """All edges into the layer."""
        return sum(seconds for _, seconds in self.edges_s)

    @property
    def comm_s(self) -> float:
        """All that is not computing."""
        return self.moved_in_s + self.settle_s + self.statistics_s + self.gradients_s

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.compute_s + self.comm_s


@dataclass(frozen=True)
class Explanation:
    """A plan explained.

    Attributes
    ----------
    price
        Of the exact traffic; None where it was not priced.
    batches
        Least and largest batch at which rivals were looked at.
    notes
        What a reader should know of the numbers.
    """

    job: Job
    placed: PlacedNetwork
    layers: tuple[LayerExplanation, ...]
    price: PlanPrice | None
    batches: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def step_s(self) -> float:
        """Seconds of a step as the search adds them up: nothing overlaps."""
        return sum(layer.seconds for layer in self.layers)


def explain(
    job: Job, schemes: Mapping[str, Scheme], every: bool = False, exact: bool | None = None, rivals: bool = True
) -> Explanation:  # fmt: skip
    """Explain a plan.

    Parameters
    ----------
    schemes
        A scheme for every layer.
    every
        Look for the next best among all sizes, not powers of two or divisors only.
    exact
        Price the exact traffic; None: of jobs up to `PLACED`.
    rivals
        Look for the next best grids; a picture needs none.

    Raises
    ------
    InputError
        If the plan does not fit the job.
    """
    placed = place_network(job.network, schemes, job.per_pass, job.procs)
    nodes, tied = job.network.nodes, {*job.network.tied, *job.network.tied.values()}
    own = {node.name: schemes[node.name].grid.sizes for node in nodes}
    extra = {name: [sizes] for name, sizes in own.items()}
    grids = space(job, every=every, extra=extra) if rivals else space(job, pins=own)
    choice = [_index(g, sizes) for g, sizes in zip(grids, own.values(), strict=True)]
    around = Around(job, grids, choice)
    others = [next_best(around, i) if rivals and n.name not in tied else None for i, n in enumerate(nodes)]
    second = [None if o is None else grids[i].scheme(o).grid.sizes for i, o in enumerate(others)]
    when = flips(job, list(own.values()), second)
    exact = job.procs <= PLACED if exact is None else exact
    price = price_plan(placed, job.machine, job.itemsize, job.passes, states=job.states) if exact else None
    words = _Words(around, placed)
    layers = []
    for i, node in enumerate(nodes):
        mine = {part: float(seconds[choice[i]]) for part, seconds in around.parts(i).items()}
        edges = [(nodes[part.other].name, seconds) for part, seconds in mine.items() if part.what == "in"]
        other, (compute_s, settle_s, statistics_s, gradients_s) = (
            others[i],
            (mine[Part(what)] for what in OWN),
        )
        layers.append(
            LayerExplanation(
                node.name, s.kind(node.spec), schemes[node.name], compute_s, settle_s, statistics_s, gradients_s,
                tuple(edges), float(around.layer(i).memory_bytes[choice[i]]),
                None if price is None else price.layers[i].movements,
                None if other is None else words.rival(i, other, when[i]),
            )
        )  # fmt: skip
    low, high = (with_batch(job, octaves).batch for octaves in batch_range(job, list(own.values())))
    notes = tuple(_notes(schemes, tied, exact))
    return Explanation(job, placed, tuple(layers), price, (low, high), notes)


def _index(grids: Grids, sizes: tuple[int, ...]) -> int:
    return int(np.flatnonzero((grids.degrees == sizes).all(axis=1))[0])


def _notes(schemes: Mapping[str, Scheme], tied: set[str], exact: bool) -> list[str]:
    notes = []
    if away := [name for name, scheme in schemes.items() if scheme.first]:
        notes.append(
            f"{len(away)} layers start at another rank than 0 ({away[0]}: {schemes[away[0]]}); the search's seconds "
            "price them as if from rank 0, the exact traffic does not"
        )
    if tied:
        notes.append(
            f"{len(tied)} layers share weights and must have one grid: they have no next best of their own"
        )
    if not exact:
        notes.append(f"exact traffic is not priced above {PLACED} processes unless asked for")
    return notes


class _Words:
    """Names what a change of grid makes dearer; placements are made once."""

    def __init__(self, around: Around, placed: PlacedNetwork) -> None:
        self.around, self.placed = around, placed
        self._placements: dict[object, Placement] = {}

    def rival(self, layer: int, other: int, flip: Flip) -> Rival:
        """Return a candidate as the rival of a layer's own, and why it lost."""
        around, own = self.around, self.around.choice[layer]
        scheme, more_s = around.candidates[layer].scheme(other), around.margin(layer, other)
        memory = around.layer(layer).memory_bytes
        more_bytes = float(memory[other] - memory[own])
        growth = {part: float(cost[other] - cost[own]) for part, cost in around.parts(layer).items()}
        ordered = sorted(growth.items(), key=lambda item: -item[1])
        least_s = SAME * max(map(abs, growth.values()))
        named = tuple(
            # What is saved has the name of what the plan does.
            (self._name(layer, part, scheme if more > 0 else self.placed.layers[layer].scheme), more)
            for part, more in ordered
            if abs(more) > least_s
        )
        if more_s > 0:
            because = named[0][0]
        elif more_s < 0:
            because = "memory" if more_bytes > 0 else "nothing: it is faster"
        else:
            because = "nothing: the same time"
        return Rival(scheme, more_s, more_bytes, named, because, flip)

    def _name(self, layer: int, part: Part, scheme: Scheme) -> str:
        if part.what in OWN:
            return part.what
        layers, entering = self.placed.layers, part.what == "in"
        mine, other = self._placement(layer, scheme), layers[part.other].placement
        ends = (other.out, mine.needs[part.number]) if entering else (mine.out, other.needs[part.number])
        kind = movement_kind(*ends, self.placed.procs)
        return f"{kind} {'from' if entering else 'to'} {layers[part.other].node.name}"

    def _placement(self, layer: int, scheme: Scheme) -> Placement:
        node, shapes, batch = self.around.nodes[layer], self.placed.network.shapes, self.placed.batch
        where = tuple((batch, *shapes[name]) for name in node.inputs), (batch, *shapes[node.name]), scheme
        if (node.spec, where) not in self._placements:
            self._placements[node.spec, where] = place(node.spec, *where)
        return self._placements[node.spec, where]


def movement_kind(source: Layout, target: Layout, procs: int) -> str:
    """Return what an edge is: a halo, a gather (every rank wants what it has, and more), or a repartition.

    `Exchange.kind` knows it from all messages; here it is told from some ranks, which large jobs can afford.
    """
    if source.scheme == target.scheme and source.dims[:2] == target.dims[:2]:
        return "halo"
    boxes = [(source.box(rank), target.box(rank)) for rank in priced_ranks(procs)]
    keeps = all(overlap(have, want) == have for have, want in boxes if volume(have))
    return "gather" if keeps else "repartition"
