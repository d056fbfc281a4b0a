"""The plan and its traffic as tables: what every layer does where, and what it moves."""

from __future__ import annotations

from math import prod

from gridnn.comm.world import World
from gridnn.geometry.traffic import Key, Traffic, Volume
from gridnn.train.choose import Job
from gridnn.train.console import Console, PlanRow
from gridnn.train.predicted import Predicted
from gridnn.train.record import RunTraffic, TrafficRow
from gridnn.train.sections import TrainSection

Bytes = dict[str, int]
ByKey = dict[Key, tuple[int, int, int, int]]  # messages predicted and counted, bytes predicted and counted


def show_plan(world: World, job: Job, config: TrainSection, console: Console) -> None:
    """Show the plan with the predicted bytes of one step, summed over all ranks.  Collective."""
    predicted = over_ranks(world, Predicted(job, config, world.size, world.rank).step(job.schedule.delay(0)))
    rows = plan_rows(job, predicted, None)
    title = f"{job.network.name}, batch {config.batch}, {world.size} processes; plan: {job.plan.origin}"
    console.plan_table(rows, f"{title}; bytes of a step")
    unused = set(range(world.size)) - {r for layer in job.placed.layers for r in layer.scheme.ranks}
    if unused:
        console.warn(
            f"{len(unused)} of {world.size} processes have no layer to work on (ranks {sorted(unused)})"
        )


def show_traffic(world: World, job: Job, console: Console, predicted: Traffic, counted: Traffic) -> None:
    """Show predicted beside counted bytes of a whole run, summed over all ranks.  Collective."""
    both = over_ranks(world, predicted), over_ranks(world, counted)
    moving = [row for row in plan_rows(job, *both) if row.predicted_bytes or row.counted_bytes]
    if moving:
        console.plan_table(moving, "bytes of the run, evaluations included")


def plan_rows(job: Job, predicted: Bytes, counted: Bytes | None) -> list[PlanRow]:
    """Return a row for every layer, and one for traffic that belongs to none (norms of the optimizer)."""
    rows = []
    for layer in job.placed.layers:
        ranks, out, name = layer.scheme.ranks, layer.placement.out, layer.node.name
        idle = sum(prod(out.block_shape(r)) == 0 for r in ranks)
        rows.append(
            PlanRow(
                layer=name,
                grid=f"{layer.scheme.grid.rows} x {layer.scheme.grid.columns}",
                axes=str(layer.scheme) + (f" ({idle} idle)" if idle else ""),
                block=out.block_shape(ranks[0]),
                output=out.shape,
                weights=sum(prod(p.shape) for p in layer.placement.parameters),
                predicted_bytes=predicted.get(name, 0),
                counted_bytes=None if counted is None else counted.get(name, 0),
            )
        )
    names = {row.layer for row in rows}
    for name in [n for n in {**predicted, **(counted or {})} if n not in names]:
        amount = None if counted is None else counted.get(name, 0)
        rows.append(PlanRow(name, "", "all ranks", (), (), 0, predicted.get(name, 0), amount))
    return rows


def over_ranks(world: World, mine: Traffic) -> Bytes:
    """Return bytes by layer, summed over all ranks.  Collective."""
    totals: Bytes = {}
    for part in world.comm.allgather(mine.by_layer()):
        for name, amount in part.items():
            totals[name] = totals.get(name, 0) + amount
    return totals


def run_traffic(
    world: World, predicted: Traffic, counted: Traffic, steps: int, evaluations: int
) -> RunTraffic | None:
    """Return predicted beside counted traffic of a whole run by key, summed over all ranks, on rank 0.  Collective.

    The sums go up a tree, so that no rank holds the tables of all.
    """
    every = world.comm.reduce(side_by_side(predicted, counted), op=added)
    if every is None:
        return None
    return RunTraffic(steps, evaluations, tuple(TrafficRow(*key, *numbers) for key, numbers in every.items()))


def side_by_side(predicted: Traffic, counted: Traffic) -> ByKey:
    """Return what was predicted and counted under each key."""
    one, other, none = dict(predicted.items()), dict(counted.items()), Volume()
    pairs = {key: (one.get(key, none), other.get(key, none)) for key in {**one, **other}}
    return {
        key: (p.messages, c.messages, p.received_bytes, c.received_bytes) for key, (p, c) in pairs.items()
    }


def added(a: ByKey, b: ByKey) -> ByKey:
    """Return the sums of two tables."""
    total = dict(a)
    for key, numbers in b.items():
        p, c, pb, cb = total.get(key, (0, 0, 0, 0))
        total[key] = (p + numbers[0], c + numbers[1], pb + numbers[2], cb + numbers[3])
    return total
