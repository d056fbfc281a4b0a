"""The plans everyone knows, to measure a searched plan against.

| method   | convolutions, LSTM, what goes along  | fully connected layers         | source                         |
|----------|--------------------------------------|--------------------------------|--------------------------------|
| data     | n = P                                | n = P                          | Gholami et al. 2018, Eq. 4     |
| model    | k = P                                | k = P                          | Gholami et al. 2018, Eq. 3     |
| owt      | n = P                                | k = P                          | Krizhevsky 2014                |
| fc-only  | n = P                                | best k x n = P                 | Gholami et al. 2018, Fig. 7    |
| uniform  | the same grid for every layer, the best of all                        | Gholami et al. 2018, Fig. 6    |

An axis stops at the extent it cuts: with P above the batch, `data` leaves ranks idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from gridnn.cost.grids import Grids
from gridnn.geometry.grid import AXES
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.placement import space_axes
from gridnn.plan.exact.costgraph import cost_of
from gridnn.plan.problem import Degrees, Job, Problem
from gridnn.plan.space import axis_limits, degrees

Schemes = Mapping[str, Degrees]
BASELINES = ("data", "model", "owt", "fc-only", "uniform")


def candidates(job: Job) -> dict[str, list[Schemes]]:
    """Return the plans of every baseline but `uniform`, as axis sizes n, k, c, d, h, w of every layer."""
    limits = {node.name: axis_limits(job.network, node, job.per_pass) for node in job.network.nodes}
    data, model = _all(job, limits, "n"), _all(job, limits, "k")
    late = fully_connected(job.network)
    owt = {name: model[name] if name in late else data[name] for name in data}
    split: list[Schemes] = []
    for rows in degrees(job.procs):
        sizes = {"k": rows, "n": job.procs // rows}
        if job.procs % rows == 0:
            split.append(
                {name: _grid(job, limits[name], sizes) if name in late else data[name] for name in data}
            )
    return {"data": [data], "model": [model], "owt": [owt], "fc-only": split}


def price_all(job: Job, plans: Sequence[Schemes]) -> list[float]:
    """Return the seconds of a step of some plans, by the tables a search uses."""
    distinct: dict[bytes, Grids] = {}
    grids = []
    for node in job.network.nodes:
        rows = np.array(list(dict.fromkeys(p[node.name] for p in plans)), dtype=np.int64)
        grids.append(distinct.setdefault(rows.tobytes(), Grids(rows)))
    problem = Problem(job, grids)
    return [cost_of(problem.graph, problem.choice(plan)) for plan in plans]


def uniform(job: Job) -> tuple[Schemes, float]:
    """Return the cheapest plan that gives every layer the same grid, and its seconds a step."""
    grids = Grids(np.array(list(uniform_grids(job)), dtype=np.int64))
    problem = Problem(job, [grids] * len(job.network.nodes))
    total, same = np.sum([layer.seconds for layer in problem.layers], axis=0), np.arange(len(grids))
    keys, asked = [], {}
    for producer, consumer, number in problem.edges:
        made, used = problem.layers[producer], problem.layers[consumer]
        keys.append(problem.edge_key(made, used, number))
        asked[keys[-1]] = made, used, number, same, same
    known = dict(zip(asked, problem.tables.edges(list(asked.values())), strict=True))
    for key in keys:
        total = total + known[key]
    best = int(np.argmin(total))
    grid: Degrees = tuple(int(d) for d in grids.degrees[best])
    return {node.name: grid for node in job.network.nodes}, float(total[best])


def uniform_grids(job: Job) -> Iterator[Degrees]:
    """Yield the grids of all processes whose axes cut something in some layer (of fewer, where there is none)."""
    limits = _limits(job)
    for procs in range(job.procs, 0, -1):
        grids = _products(procs, [(a, limits[a]) for a in AXES if a in limits])
        # Most layers cut their channels by `k` and, inside, by `c`: together no more than there are.
        found = [g for g in grids if g["k"] * g["c"] <= limits["k"]]
        if found:
            yield from (tuple(sizes.get(a, 1) for a in AXES) for sizes in found)
            return


def fully_connected(network: Network) -> set[str]:
    """Return the linear layers and what stands between and behind them.

    A convolution of window 1 over the steps of a sequence is a linear layer.  An LSTM is none: it uses its weights once
    a step, as a convolution does once a position, and is data parallel where convolutions are; so is an embedding.
    """
    late: set[str] = set()
    sequences: set[str] = set()  # what is computed from embeddings, LSTM or attention
    for node in network.nodes:
        if isinstance(node.spec, s.SEQUENCES) or any(i in sequences for i in node.inputs):
            sequences.add(node.name)
        points = isinstance(node.spec, s.Conv) and all(w.kernel == 1 for w in node.spec.windows)
        if (
            isinstance(node.spec, s.Linear)
            or (points and node.name in sequences)
            or (late and all(i in late for i in node.inputs))
        ):
            late.add(node.name)
    # Layers that share weights have one grid: all of them are late, or none.
    early = {n.shared or n.name for n in network.nodes if n.name not in late}
    return {n.name for n in network.nodes if n.name in late and (n.shared or n.name) not in early}


def _limits(job: Job) -> dict[str, int]:
    shapes = [x for x in job.network.shapes.values() if x]
    dims = max(len(x) - 1 for x in shapes)
    limits = {"n": job.per_pass, "k": max(x[0] for x in shapes), "c": max(x[0] for x in shapes)}
    for at, axis in enumerate(space_axes(dims)):
        limits[axis] = max(x[1 + at] for x in shapes if len(x) == dims + 1)
    return limits


def _products(procs: int, limits: Sequence[tuple[str, int]]) -> Iterator[dict[str, int]]:
    if not limits:
        if procs == 1:
            yield {}
        return
    (axis, limit), *rest = limits
    for size in (d for d in _divisors(procs) if d <= limit):
        for others in _products(procs // size, rest):
            yield {axis: size, **others}


@cache
def _divisors(number: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def _all(job: Job, limits: Mapping[str, Mapping[str, int]], axis: str) -> dict[str, Degrees]:
    return {name: _grid(job, most, {axis: job.procs}) for name, most in limits.items()}


def _grid(job: Job, limits: Mapping[str, int], wanted: Mapping[str, int]) -> Degrees:
    """Return the grid of a layer with these sizes, each no larger than what it cuts."""
    steps = degrees(job.procs)
    return tuple(
        max(d for d in steps if d <= min(wanted[a], limits[a])) if a in wanted and a in limits else 1
        for a in AXES
    )
