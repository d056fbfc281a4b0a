"""Many plans of one job at once: what each computes, moves, hides and keeps, by the tables of a search.

A scaling study prices thousands of plans, a map of flip points the same few on many machines.  So plans are gathered
once, as the distinct grids of every layer and the number of each plan's grid among them:

    plans          conv1    fc1            grids of conv1: n4, k4      picks (layers, plans):   0 1 0
    data           n4       n4             grids of fc1:   n4, k4                               0 1 1
    model          k4       k4
    owt            n4       k4

What a step hides follows the rules of `cost.price`: sums of gradients go on behind the backward passes of the layers
before, the backward half of an edge behind the gradient by the weights.  Tables know only the sum of a layer's passes,
so its forward pass is taken as a third of it (half, without weights), and a halo hides nothing.  Of what goes on behind
arithmetic the machine's `overlap` is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gridnn.cost.compute import WEIGHTED
from gridnn.cost.grids import Grids, Ints
from gridnn.cost.machine import Machine
from gridnn.cost.moves import Floats
from gridnn.cost.tables import LayerCosts
from gridnn.network.graph import INPUT
from gridnn.plan.job import Degrees, Job
from gridnn.plan.problem import Problem

Schemes = Mapping[str, Degrees]
"""Sizes of the axes n, k, c, d, h, w of every layer."""


@dataclass(frozen=True)
class Plans:
    """Some plans: the distinct grids of every layer, and `picks` (layers, plans) which of them each plan has."""

    grids: tuple[Grids, ...]
    picks: Ints


@dataclass(frozen=True)
class Parts:
    """A step of each of some plans, arrays (plans,).

    Attributes
    ----------
    compute_s, comm_s
        Seconds, added over layers, each as slow as its slowest rank.
    hidden_s
        The part of `comm_s` that a run does while it computes.
    memory_bytes
        Of the rank that needs most, added over layers.
    busy
        Processes that work, on the average over the seconds that are computed.
    """

    compute_s: Floats
    comm_s: Floats
    hidden_s: Floats
    memory_bytes: Floats
    busy: Floats

    @property
    def step_s(self) -> Floats:
        """Seconds of a step that hides nothing: what plans are chosen by."""
        return self.compute_s + self.comm_s


def gather(job: Job, plans: Sequence[Schemes]) -> Plans:
    """Return plans as grids and picks; layers with the same grids share them."""
    shared: dict[tuple[Degrees, ...], Grids] = {}
    grids, picks = [], []
    rows_of = [dict.fromkeys(plan[node.name] for plan in plans) for node in job.network.nodes]
    every = {sizes: i for i, sizes in enumerate(dict.fromkeys(sizes for rows in rows_of for sizes in rows))}
    whole = Grids(np.array(list(every), dtype=np.int64))
    for node, distinct in zip(job.network.nodes, rows_of, strict=True):
        at = {sizes: i for i, sizes in enumerate(distinct)}
        rows = tuple(at)
        if rows not in shared:
            shared[rows] = whole.some(np.array([every[sizes] for sizes in rows], dtype=np.int64))
        grids.append(shared[rows])
        picks.append([at[plan[node.name]] for plan in plans])
    return Plans(tuple(grids), np.array(picks, dtype=np.int64))


def alike(job: Job, rows: Sequence[Degrees]) -> Plans:
    """Return the plans that have one of some grids for all layers."""
    grids, layers = Grids(np.array(rows, dtype=np.int64)), len(job.network.nodes)
    return Plans((grids,) * layers, np.tile(np.arange(len(rows)), (layers, 1)))


def parts(job: Job, plans: Plans) -> Parts:
    """Return what a step of some plans is made of; first ranks are taken as 0.

    Raises
    ------
    InputError
        If layers that share weights have different grids in one plan.
    """
    return parts_of(Problem(job, plans.grids), plans.picks)


def parts_of(problem: Problem, picks: Ints) -> Parts:
    """Return what a step is made of where layers have those of their candidates: `picks` (layers, plans)."""
    layers, edges = problem.layers, _edges(problem, picks)
    compute = np.array([x.compute_s[p] for x, p in zip(layers, picks, strict=True)])
    inside, sums = _inside(layers, picks), _sums(layers, picks)
    sizes = np.array([g.sizes[p] for g, p in zip(problem.candidates, picks, strict=True)])
    total_s = compute.sum(axis=0)
    memory = np.sum([x.memory_bytes[p] for x, p in zip(layers, picks, strict=True)], axis=0)
    return Parts(
        total_s, (inside + sums + edges).sum(axis=0), _hidden(problem, compute, edges, sums), memory,
        (sizes * compute).sum(axis=0) / np.where(total_s > 0, total_s, 1.0),
    )  # fmt: skip


def communication(job: Job, plans: Plans) -> Floats:
    """Return the seconds that a step of each plan communicates: `parts`, where no other is asked for."""
    problem, picks = Problem(job, plans.grids), plans.picks
    within = _inside(problem.layers, picks) + _sums(problem.layers, picks)
    return np.asarray((within + _edges(problem, picks)).sum(axis=0))


def _inside(layers: Sequence[LayerCosts], picks: Ints) -> Floats:
    """Return the seconds of collectives inside each layer, (layers, plans)."""
    return np.array([(x.settle_s + x.statistics_s)[p] for x, p in zip(layers, picks, strict=True)])


def _sums(layers: Sequence[LayerCosts], picks: Ints) -> Floats:
    """Return the seconds of the sums of gradients, (layers, plans)."""
    return np.array([x.gradients_s[p] for x, p in zip(layers, picks, strict=True)])


def _edges(problem: Problem, picks: Ints) -> Floats:
    """Return the seconds of the edges into each layer, (layers, plans)."""
    same: dict[bytes, Ints] = {}
    rows = [same.setdefault(row.tobytes(), row) for row in picks]  # the same object where they are the same
    asked: dict[object, tuple[LayerCosts, LayerCosts, int, Ints, Ints]] = {}
    keys = []
    for producer, consumer, number in problem.edges:
        made, used = problem.layers[producer], problem.layers[consumer]
        ends = rows[producer], rows[consumer]
        keys.append((problem.edge_key(made, used, number), id(ends[0]), id(ends[1])))
        asked.setdefault(keys[-1], (made, used, number, *ends))
    found = dict(zip(asked, problem.tables.edges(list(asked.values())), strict=True))
    seconds = np.zeros(picks.shape)
    for (_, consumer, _), key in zip(problem.edges, keys, strict=True):
        seconds[consumer] += found[key]
    return seconds


def received_bytes(job: Job, plans: Plans) -> Floats:
    """Return about how many bytes the busiest rank receives in a step of each plan: seconds, if one takes a second."""
    return communication(replace(job, machine=job.machine.only_bytes()), plans)


def scaled(machine: Machine, alpha: float = 1.0, beta: float = 1.0) -> Machine:
    """Return a machine whose messages take `alpha` times as long to start and bytes `beta` times, on all levels."""
    levels = tuple(
        replace(x, alpha_s=x.alpha_s * alpha, beta_s_per_byte=x.beta_s_per_byte * beta)
        for x in machine.levels
    )
    return replace(machine, levels=levels)


def _hidden(problem: Problem, compute: Floats, edges: Floats, sums: Floats) -> Floats:
    """Return the seconds of communication that go on behind computing, (plans,)."""
    passes, hidden = problem.job.passes, np.zeros(compute.shape[1])
    share = problem.job.machine.overlap
    # Gradients are summed in the last pass, one after the other; `late` is how far the sums are behind computing.
    late, summed = np.zeros_like(hidden), share * sums.sum(axis=0)
    for at in reversed(range(len(problem.nodes))):
        node = problem.nodes[at]
        weighted, first = isinstance(node.spec, WEIGHTED), set(node.inputs) == {INPUT}
        kinds = 1 + (not first) + weighted  # forward, by the data, by the weights
        behind = np.minimum(share * edges[at] / 2, compute[at] / kinds if weighted else 0.0)
        hidden += behind
        backward = compute[at] * (kinds - 1) / kinds + edges[at] / 2 - behind
        late = np.maximum(late - backward / passes, 0.0) + share * sums[at]
    return np.asarray(hidden + summed - late)
