"""Tables of runs: what every run of units of a network costs, taken from one plan for each size of a group.

For each size q the plan of q ranks that `layerwise` finds for the whole network is placed and priced once, and a run
[i, j) of units takes from it what lies inside:

| of a run     | added over its                                                                             |
|--------------|--------------------------------------------------------------------------------------------|
| work         | layers, and edges from inside it                                                           |
| spared       | the product at its end, if it is one with nothing to sum                                   |
| update       | layers: sums of gradients that the run's own backward does not hide, and updates           |
| arrive       | edges from before it, each output once in each layout: received from the outermost link    |
| bytes        | layers, on the first rank, which has the largest blocks; kept besides: what arrives        |

So tables are as near as plans of q ranks are to plans of a stage; what is chosen from them is placed and priced again
(`stagecost`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np

from gridnn.cost.collectives import exchange_s
from gridnn.cost.grids import Ints
from gridnn.cost.price import LayerPrice, PlanPrice, backward_seconds, forward_seconds, price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.traffic import Widths
from gridnn.network.fusion import absorbable
from gridnn.network.graph import INPUT
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.plan.job import Job
from gridnn.plan.pipeline.partition import Floats
from gridnn.plan.pipeline.runs import SPARED, Runs, masked_later
from gridnn.plan.pipeline.runs import units_of as units_of
from gridnn.plan.pipeline.stagecost import kept_arrays
from gridnn.plan.search import layerwise


def plans_of(job: Job, groups: Sequence[int]) -> dict[int, dict[str, Scheme]]:
    """Return the best plan of the whole network on groups of some sizes, without sizes that nothing can be cut into.

    Raises
    ------
    InputError
        If none is left.
    """
    found = {}
    for ranks in groups:
        with suppress(InputError):  # 67 ranks, and nothing that can be cut into 67
            found[ranks] = dict(layerwise(replace(job, procs=ranks))[0].schemes)
    if not found:
        raise InputError(
            f"groups of {', '.join(map(str, groups))} ranks: no layer of {job.network.name} can be cut into so many; "
            "take numbers with small factors, such as powers of two"
        )
    return found


def runs_of(job: Job, groups: Sequence[int]) -> Runs:
    """Return the runs of a job's network on groups of some sizes.

    Sizes of which no layer can use more than one rank are left out.

    Raises
    ------
    InputError
        If that leaves none.
    """
    units = units_of(job.network)
    plans = plans_of(job, groups)
    found = [
        _of(job, units, place_network(job.network, plan, job.per_pass, ranks))
        for ranks, plan in plans.items()
    ]
    tables = {f.name: np.stack([each[f.name] for each in found], axis=-1) for f in fields(Runs)[4:]}
    return Runs(units, tuple(plans), tuple(plans.values()), masked_later(job.network, units), **tables)


def _of(job: Job, units: Sequence[str], placed: PlacedNetwork) -> dict[str, Floats]:
    """Return the tables of one group, each (U + 1, U + 1), by their names in `Runs`."""
    at = {node.name: i for i, node in enumerate(job.network.nodes)}
    starts = [at[name] for name in units]
    unit: Ints = np.searchsorted(starts, np.arange(len(at)), "right") - 1
    price = price_plan(placed, job.machine, job.widths, job.passes, states=job.states)
    bare = [each._replace(movements=tuple(m for m in each.movements if m.part != "edge"), interior=0.0)
            for each in price.layers]  # fmt: skip
    # What edges add to a layer's seconds counts in runs that have all its inputs.
    since: Ints = np.array(
        [min((unit[at[x]] for x in layer.node.inputs if x != INPUT), default=0) for layer in placed.layers],
        dtype=np.int64,
    )
    m, size = job.passes, len(units)
    tables = {}
    for name, seconds in (("forward_s", forward_seconds), ("backward_s", backward_seconds)):
        alone = np.array([seconds(layer, job.machine) for layer in bare]) / m
        whole = np.array([seconds(layer, job.machine) for layer in price.layers]) / m
        inside = np.zeros((size, size))
        np.add.at(inside, (since, unit), whole - alone)
        # Edges that begin at i or later and end before j.
        within = np.zeros((size + 1, size + 1))
        within[:size, 1:] = np.cumsum(np.cumsum(inside[::-1], axis=0)[::-1], axis=1)
        tables[name] = _added(alone, unit) + within
        if name == "forward_s":
            tables["spared_s"] = _spared_s(placed, alone, starts)
    tables["update_s"] = _update_s(price, job, starts)
    widths = job.widths
    weights = [sum(volume(p.layout.box(0)) for p in layer.placement.parameters) for layer in placed.layers]
    copies = 0 if widths.activation == widths.parameter else widths.activation
    each = widths.parameter * (2.0 + job.states) + copies
    tables["weight_bytes"] = _added(np.array(weights) * each, unit)
    tables.update(_arriving(job, placed, unit, size))
    tables["kept_bytes"] = _added(_kept(placed, widths), unit) + tables["input_bytes"]
    arrays = [
        sum(volume(x.box(0)) for x in (*layer.placement.needs, layer.placement.raw))
        for layer in placed.layers
    ]
    tables["worst_bytes"] = _largest(np.array(arrays) * float(widths.activation), unit)
    return tables


def _spared_s(placed: PlacedNetwork, forward_s: Floats, starts: Sequence[int]) -> Floats:
    """Return the seconds of the products that runs end with, whose outputs only other stages read."""
    nodes, hosts, found = (
        [layer.node for layer in placed.layers],
        absorbable(placed.network),
        np.zeros(len(starts) + 1),
    )
    for u, (at, stop) in enumerate(pairwise([*starts, len(nodes)]), 1):
        ends = stop == at + 1 or (stop == at + 2 and hosts.get(nodes[at + 1].name) == nodes[at].name)
        if ends and isinstance(nodes[at].spec, SPARED) and placed.layers[at].settle.kind == "none":
            found[u] = forward_s[at]
    return np.broadcast_to(found, (len(found), len(found)))


def _added(of: Floats, unit: Ints) -> Floats:
    """Return the sums over the layers of every run."""
    ends = np.concatenate([[0.0], np.cumsum(np.bincount(unit, of))])
    return np.asarray(ends[None, :] - ends[:, None])


def _largest(of: Floats, unit: Ints) -> Floats:
    """Return the largest over the layers of every run."""
    size = unit[-1] + 1
    each, found = np.zeros(size), np.zeros((size + 1, size + 1))
    np.maximum.at(each, unit, of)
    for start in range(size):
        found[start, start + 1 :] = np.maximum.accumulate(each[start:])
    return found


def _kept(placed: PlacedNetwork, widths: Widths) -> Floats:
    """Return the bytes each layer is the first to keep, what the data is left out: it arrives."""
    seen, found = set[str](), []
    for arrays in kept_arrays(placed, 0, widths):
        fresh = {array: size for array, size in arrays.items() if array not in seen}
        seen.update(fresh)
        found.append(sum(size for array, size in fresh.items() if not array.startswith(f"{INPUT} ")))
    return np.array(found, dtype=float)


def _update_s(price: PlanPrice, job: Job, starts: Sequence[int]) -> Floats:
    """Return `stage_seconds`' update of every run: for all its ends at once, from the last layer to the first."""
    size, layers = len(starts), price.layers
    stops = np.array([*starts, len(layers)])
    back, now_s, end_s, rest_s = (np.zeros(size + 1) for _ in range(4))
    found = np.zeros((size + 1, size + 1))
    for i in range(len(layers) - 1, -1, -1):
        layer, runs = layers[i], stops > i  # those that end behind this layer
        seconds, sums_s = _backward_and_sums(layer, job)
        back, now_s = back + runs * seconds, now_s + runs * seconds
        if sums_s:
            end_s = np.where(runs, np.maximum(end_s, now_s) + sums_s, 0.0)
            now_s = now_s + runs * (1 - job.machine.overlap) * sums_s
        rest_s = rest_s + runs * (layer.update_s + layer.moved_s("update"))
        if i in starts:
            found[starts.index(i)] = np.maximum(now_s, end_s) - back + rest_s
    return found


def _backward_and_sums(layer: LayerPrice, job: Job) -> tuple[float, float]:
    return backward_seconds(layer, job.machine) / job.passes, layer.moved_s("backward", "gradients")


def _arriving(job: Job, placed: PlacedNetwork, unit: Ints, size: int) -> dict[str, Floats]:
    """Return what arrives from before every run: its seconds, and its bytes with the data's."""
    at = {node.name: i for i, node in enumerate(job.network.nodes)}
    seconds, nbytes = np.zeros((size + 1, size + 1)), np.zeros((size + 1, size + 1))
    levels = len(job.machine.levels)
    outermost = sum(job.procs > ranks for ranks in job.machine.units)
    for edge in placed.edges:
        taken = volume(edge.need.box(0)) * job.widths.activation
        messages, moved = [0] * levels, [0] * levels
        messages[outermost], moved[outermost] = 1, taken
        edge_s = 0.0 if edge.exchange is None else float(exchange_s(job.machine, messages, moved, job.procs))
        users = sorted({int(unit[at[name]]) for name in edge.users})
        made = -1 if edge.producer == INPUT else int(unit[at[edge.producer]])
        for start in range(made + 1, users[-1] + 1):
            # It arrives once, for the first of the run that reads it.
            reader = next(user for user in users if user >= start)
            seconds[start, reader + 1 :] += edge_s
            nbytes[start, reader + 1 :] += taken
    return {"arrive_s": seconds, "input_bytes": nbytes}
