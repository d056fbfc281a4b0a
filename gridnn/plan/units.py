"""What a random walk moves: layers that keep together, the schemes they may have, and how often each is proposed.

| what                  | choice                                                                                    |
|-----------------------|-------------------------------------------------------------------------------------------|
| unit of a proposal    | a layer and what follows it: layers that share its weights; and its batch norm, activation |
|                       | or dropout where all starts have them on one scheme                                       |
| candidates of a unit  | `space.grids_of`, at offsets that are multiples of the size; of more than `MOST_GRIDS`     |
|                       | grids the cheapest by themselves, of more than `MOST_OFFSETS` offsets some spread evenly  |
| weight of a candidate | seconds of the cheapest grid / those of its own / its offsets, so neither dear grids nor   |
|                       | small ones with many offsets take most of the proposals                                   |

What a start has is a candidate too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.cost.grids import Grids
from gridnn.cost.moves import Floats
from gridnn.geometry.grid import AXES, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import INPUT
from gridnn.plan.problem import Job
from gridnn.plan.simulate.wiring import absorbed_by, wiring_of
from gridnn.plan.space import axis_limits, grids_of

MOST_GRIDS = 96
"""Grids of a layer that are proposed."""
MOST_OFFSETS = 16
"""First ranks at which a grid is proposed."""
FOLLOWERS = (s.BatchNorm, s.LayerNorm, s.Activation, s.Dropout)
"""Kinds that may follow the layer whose output they read alone."""

Schemes = Mapping[str, Scheme]


@dataclass(frozen=True)
class Candidates:
    """Schemes of a unit and how often each is proposed."""

    schemes: tuple[Scheme, ...]
    weights: tuple[float, ...]


def units_of(job: Job, starts: Sequence[Schemes], pins: Schemes) -> list[int]:
    """Return for each node the first of its unit: the node whose scheme it shares."""
    nodes, wiring = job.network.nodes, wiring_of(job.network)
    at, relus, found = {node.name: i for i, node in enumerate(nodes)}, absorbed_by(job.network), list[int]()
    for i, node in enumerate(nodes):
        if node.shared:
            found.append(found[at[node.shared]])
            continue
        before = at[node.inputs[0]] if len(node.inputs) == 1 and node.inputs[0] != INPUT else i
        alone = isinstance(node.spec, FOLLOWERS) and len(wiring.uses[before]) == 1
        together = all(start[node.name] == start[nodes[before].name] for start in starts)
        # A pin holds what it names, not what follows; but where both stand together a ReLU is free.
        pinned, first_pinned = node.name in pins, nodes[before].name in pins
        free = pinned == first_pinned or (first_pinned and i in relus)
        found.append(found[before] if before < i and alone and together and free else i)
    return found


def candidates_of(
    job: Job, leaders: Sequence[int], starts: Sequence[Schemes], pins: Schemes
) -> dict[int, Candidates]:
    """Return the candidates of every unit by its first node."""
    nodes, tables, known = job.network.nodes, job.tables(), dict[object, tuple[Grids, Floats]]()
    found = {}
    for leader in dict.fromkeys(leaders):
        members = [i for i, other in enumerate(leaders) if other == leader]
        given = [start[nodes[leader].name] for start in starts]
        pinned = [pins[nodes[i].name] for i in members if nodes[i].name in pins]
        if pinned:
            found[leader] = Candidates((pinned[0],), (1.0,))
            continue
        extra = tuple(dict.fromkeys(scheme.grid.sizes for scheme in given))
        kinds = tuple(_kind(job, i) for i in members)
        if (kinds, extra) not in known:
            grids = grids_of(job.network, nodes[leader], job.per_pass, job.procs, extra=extra)
            fits = np.ones(len(grids), bool)
            for i in members:  # steps that share weights need not be equally long
                if nodes[i].shared:
                    limits = axis_limits(job.network, nodes[i], job.per_pass)
                    fits &= (grids.degrees <= [limits.get(axis, 1) for axis in AXES]).all(axis=1)
            grids = Grids(grids.degrees[fits])
            seconds = sum(tables.layer(*kind[:3], grids, first=kind[3]).seconds for kind in kinds)
            known[kinds, extra] = grids, np.asarray(seconds)
        found[leader] = _proposed(*known[kinds, extra], given, job.procs)
    return found


def _kind(job: Job, i: int) -> tuple[s.LayerSpec, tuple[s.Shape, ...], s.Shape, bool]:
    """Return what the costs of a layer depend on, beside its grid."""
    node, shapes = job.network.nodes[i], job.network.shapes
    inputs = tuple(shapes[name] for name in node.inputs)
    return node.spec, inputs, shapes[node.name], set(node.inputs) == {INPUT}


def _proposed(grids: Grids, seconds: Floats, given: Sequence[Scheme], procs: int) -> Candidates:
    """Return the schemes of a unit that are proposed; what only a start has is as likely as the least likely."""
    cheapest = np.argsort(seconds, kind="stable")[:MOST_GRIDS]
    weights = dict[Scheme, float]()
    for at in sorted(cheapest.tolist()):
        grid = grids.scheme(at).grid
        count = procs // grid.size
        shown = (
            range(count)
            if count <= MOST_OFFSETS
            else [i * count // MOST_OFFSETS for i in range(MOST_OFFSETS)]
        )
        for place in shown:
            weights[Scheme(grid, place * grid.size)] = float(seconds.min() / seconds[at]) / len(shown)
    least = min(weights.values())
    for scheme in given:
        weights.setdefault(scheme, least)
    return Candidates(tuple(weights), tuple(weights.values()))
