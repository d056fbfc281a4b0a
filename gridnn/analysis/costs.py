"""What plans cost layer by layer, at any number of processes, in the best way that answers soon.

| `source`    | where                                     | seconds            | bytes                                |
|-------------|-------------------------------------------|--------------------|--------------------------------------|
| "traffic"   | `placed_on` has one:   sizes that nest,   | `price_plan` of    | what a run's ledger says, of the     |
|             | each up to 4096                           | some ranks         | busiest rank looked at               |
| "tables"    | otherwise, up to `TABLED` processes       | those of a search  | the same where a byte takes a second |
| "equations" | more: up to a million processes           | Eq. 9 of Gholami   | Eq. 9: convolutions and linear       |
|             |                                           | et al. 2018        | layers only                          |

Plans that are compared have one source: the three differ by more than plans do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gridnn.analysis.cost import LayerCost, PlanCost, kept_bytes
from gridnn.analysis.equations import by_equations
from gridnn.analysis.tabled import by_tables
from gridnn.cost.memory import predict_memory
from gridnn.cost.price import ALL_RANKS, PlanPrice, price_plan, priced_ranks
from gridnn.cost.sampled.placed import placed_on
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.geometry.interval import volume
from gridnn.network.placed import PlacedNetwork
from gridnn.plan.job import Job

Plan = Mapping[str, Scheme]
TABLED = 4096
"""Processes up to which the tables answer in a second or so."""
LONGEST_WAIT = 1 << 16
"""Processes up to which they answer at all, where the equations do not know the network."""
ANSWER_S, RANKS_S, LAYER_S, INTERVAL_S = 0.4, 0.2, 3.3e-4, 5e-7
"""Seconds an answer may take, those of them for more ranks than one; what a layer takes of the price of a rank, and a
block on the longest axis (measured)."""


def cost_of(job: Job, schemes: Plan) -> PlanCost:
    """Return what a plan costs.

    Raises
    ------
    InputError
        If a scheme does not fit the job, or nothing answers for that many processes.
    """
    ranks = priced_ranks(job.procs)
    placed = placed_on(job.network, schemes, job.per_pass, job.procs, ranks)
    return _otherwise(job, [schemes])[0] if placed is None else by_traffic(job, placed, ranks)


def costs_of(job: Job, plans: Sequence[Plan]) -> list[PlanCost]:
    """Return what plans cost that are to be compared: all in one way; by the tables bytes are not counted.

    Raises
    ------
    InputError
        As `cost_of`.
    """
    if sum(_rank_s(plan.values()) for plan in plans) > ANSWER_S and job.procs > ALL_RANKS:
        return _otherwise(job, plans, False)
    ranks, found = priced_ranks(job.procs), list[PlanCost]()
    for plan in plans:
        placed = placed_on(job.network, plan, job.per_pass, job.procs, ranks)
        if placed is None:
            return _otherwise(job, plans, False)
        found.append(by_traffic(job, placed, ranks, RANKS_S / len(plans)))
    return found


def _otherwise(job: Job, plans: Sequence[Plan], count_bytes: bool = True) -> list[PlanCost]:
    if job.procs <= TABLED:
        return by_tables(job, plans, count_bytes)
    try:
        return [by_equations(job, plan) for plan in plans]
    except InputError as error:  # not a network or a grid the equations know
        if job.procs <= LONGEST_WAIT:
            return by_tables(job, plans, count_bytes)
        raise InputError(f"{job.procs} processes are too many but for closed forms, and {error}") from None


def by_traffic(job: Job, placed: PlacedNetwork, ranks: Sequence[int], within_s: float = RANKS_S) -> PlanCost:
    """Return the exact cost of a placed plan by some ranks, of many processes by as many as time allows."""
    blocks = {rank: _blocks(placed, rank) for rank in ranks}
    largest = max(ranks, key=lambda rank: sum(blocks[rank]))
    if job.procs > ALL_RANKS:
        ranks = _spokesmen(placed, blocks, within_s)
    price = price_plan(placed, job.machine, job.itemsize, job.passes, states=job.states, ranks=ranks)
    moved = _busiest(job, placed, price)
    use = predict_memory(placed, largest, job.itemsize, job.states)
    found = []
    for layer, x in zip(placed.layers, price.layers, strict=True):
        elements = sum(volume(p.layout.box(largest)) for p in layer.placement.parameters)
        parameters, kept = (
            elements * (2 + job.states) * job.itemsize,
            kept_bytes(layer, largest, job.itemsize),
        )
        sums_s = sum(m.seconds for m in x.movements if m.part == "gradients")
        here = moved.get(x.name, {})
        found.append(
            LayerCost(
                x.name,
                x.compute_s,
                x.comm_s,
                sums_s,
                here,
                sum(here.values()),
                parameters,
                kept,
                parameters + kept,
            )
        )
    return PlanCost(tuple(found), price.overlapped_s, use.total_bytes, "traffic", tuple(ranks))


def _blocks(placed: PlacedNetwork, rank: int) -> tuple[int, ...]:
    """Return the sizes of all blocks of a rank: ranks with equal ones compute alike and need the same memory."""
    layouts = [e.need for e in placed.edges]
    for layer in placed.layers:
        at = layer.placement
        layouts += [at.raw, at.out, *at.kept, *(p.layout for p in at.parameters)]
    return tuple(volume(layout.box(rank)) for layout in layouts)


def _rank_s(schemes: Iterable[Scheme]) -> float:
    """Return about how many seconds the price of a rank takes."""
    sizes = [max(scheme.grid.sizes) for scheme in schemes]
    return len(sizes) * (LAYER_S + max(sizes) * INTERVAL_S)


def _spokesmen(
    placed: PlacedNetwork, blocks: Mapping[int, tuple[int, ...]], within_s: float
) -> tuple[int, ...]:
    """Return ranks that speak for all: one for all with blocks of the same sizes, largest first, as time allows."""
    alike: dict[tuple[int, ...], int] = {}
    for rank, sizes in blocks.items():
        alike.setdefault(sizes, rank)
    most = max(1, int(within_s / _rank_s(layer.scheme for layer in placed.layers)))
    order = sorted(alike, key=sum, reverse=True)[:most]
    return tuple(sorted(alike[sizes] for sizes in order))


def _busiest(job: Job, placed: PlacedNetwork, price: PlanPrice) -> dict[str, dict[str, int]]:
    """Return what the rank that receives most receives, by layer and collective."""
    found: dict[str, dict[str, int]] = {}
    if len(price.ranks) == 1:  # its movements are in the price
        counts = [(x.name, m.collective, m.received_bytes) for x in price.layers for m in x.movements]
    else:
        steps = [predict_step(placed, rank, job.itemsize, passes=job.passes) for rank in price.ranks]
        step = max(steps, key=lambda one: one.received_bytes)
        counts = [(key.layer, key.collective, count.received_bytes) for key, count in step.items()]
    for layer, collective, count in counts:
        here = found.setdefault(layer, {})
        here[collective] = here.get(collective, 0) + count
    return found
