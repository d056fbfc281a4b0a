"""The laws for pipelines: what a schedule trains is compared with one process, what it moves with the formulas."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from gridnn.comm.shard import Shard, gather
from gridnn.comm.world import World
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import Box
from gridnn.geometry.traffic import Traffic
from gridnn.layers.model import Model
from gridnn.layers.norm import BatchNormalisation
from gridnn.network.graph import Network
from gridnn.network.placed import place_network
from gridnn.network.stages import cut_network
from gridnn.plan.plan import Plan
from gridnn.train.choose import Job
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.predicted import Predicted
from gridnn.train.sections import TrainSection
from gridnn.train.step import Trainer
from tests.support.factor import factorisations
from tests.support.laws import data

BUCKET_BYTES = 1000
Begin = Callable[[Model], None]
After = Callable[[int, Model], None]


class Trained(NamedTuple):
    """What training left, gathered."""

    losses: list[float]
    values: dict[str, Any]
    running: dict[str, Any]
    ledger: Traffic
    predicted: Traffic
    staleness: list[set[int]]


class Cut(NamedTuple):
    """A pipeline: first layers, a scheme for every layer."""

    first: tuple[str, ...]
    schemes: Mapping[str, Scheme]


def one(network: Network) -> Cut:
    """Return the plan of one process."""
    return Cut((), {node.name: Scheme(GridShape()) for node in network.nodes})


def cut_randomly(network: Network, sizes: Sequence[int], most_n: int, rng: random.Random) -> Cut:
    """Return stages on groups of some sizes: cut anywhere, each layer on a grid and ranks inside its group."""
    names = [node.name for node in network.nodes]
    starts = [0, *sorted(rng.sample(range(1, len(names)), len(sizes) - 1))]
    schemes, begin = {}, 0
    for (start, stop), ranks in zip(pairwise([*starts, len(names)]), sizes, strict=True):
        for at, name in enumerate(names[start:stop]):
            size = ranks if at == 0 else rng.choice([ranks, ranks, rng.randint(1, ranks)])
            grids = [g for g in factorisations(size, ("n", "k", "c", "d", "h", "w")) if g["n"] <= most_n]
            schemes[name] = Scheme(GridShape.of(**rng.choice(grids)), begin + rng.randint(0, ranks - size))
        begin += ranks
    return Cut(tuple(names[s] for s in starts), schemes)


def job_of(
    network: Network, cut: Cut, batch: int, passes: int, schedule: str, form: str, procs: int, dtype: str
) -> Job:  # fmt: skip
    """Return what `train.choose` would make of it."""
    if not cut.first:
        schedule = "sequential"
    plan = Plan(
        network.name, network.digest, procs, batch, cut.schemes, "test", passes=passes, dtype=dtype,
        schedule=schedule, form=form, stages=cut.first,
    )  # fmt: skip
    placed, rest = (
        place_network(network, cut.schemes, size, procs) for size in (-(-batch // passes), batch // passes)
    )
    stages = cut_network(network, cut.first) if cut.first else None
    return Job(network, plan, placed, passes, rest if batch % passes else None, stages)


class Source:
    """Batches of a few steps, cut to passes, as a loader gives them."""

    def __init__(self, models: Sequence[Model], job: Job, whole: tuple[Any, Any], dtype: str) -> None:
        self.models, self.job, self.whole, self.dtype = models, job, whole, dtype

    def batch(self, number: int) -> Batch:
        """Return this rank's part of a pass."""
        x, target = self.whole
        model, job = self.models[self.job.kind(number)], self.job
        step, part = divmod(number, job.passes)
        first = step * job.plan.batch + sum(job.sizes_placed[job.kind(p)].batch for p in range(part))
        here, there = slice(first, first + model.placed.batch), model.placed.batch
        return Batch(
            _cut(x[here], model.input_box).astype(self.dtype), _cut(target[here], model.target_box), there
        )


def _cut(array: Any, box: Box) -> Any:
    return np.ascontiguousarray(array[tuple(slice(*i) for i in box)])


def trained(
    world: World, network: Network, cut: Cut, batch: int, passes: int, schedule: str = "1f1b", *, form: str = "replay",
    steps: int = 3, drains: Sequence[int] | None = None, dtype: str = "float64", batches: Any = None,
    begin: Begin = lambda model: model.arena.initialise(3), after: After = lambda step, model: None, **settings: Any,
) -> Trained:  # fmt: skip
    """Train some steps and gather everything.

    Parameters
    ----------
    drains
        Steps after which the pipeline is drained; None for the last.
    batches
        Inputs and targets of all steps; None draws them.
    begin
        Gives a model its first values.
    after
        Called after every step.
    """
    drains = (steps,) if drains is None else drains
    job = job_of(network, cut, batch, passes, schedule, form, world.size, dtype)
    given = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.5} | settings
    config = TrainSection(batch=batch, steps=steps, dtype=dtype, bucket_bytes=BUCKET_BYTES, **given)  # type: ignore[arg-type]
    models: list[Model] = []
    for placed in job.sizes_placed:
        models.append(Model(
            world, placed, dtype, BUCKET_BYTES, config.cut_optimizer, stages=job.stages,
            detached=schedule == "local", twin=models[0] if models else None,
        ))  # fmt: skip
    begin(models[0])
    trainer = Trainer(world, models, job, config, steps, steps)
    source = cast(Loader, Source(models, job, batches or data(network, batch * steps), dtype))
    predicted, traffic, first, results = Predicted(job, config, world.size, world.rank), Traffic(), 0, []
    world.ledger = Traffic()
    for step in range(steps):
        results += trainer.step(step, source)
        traffic.merge(predicted.step(step, first))
        after(step, models[0])
        if step + 1 in drains:
            results += trainer.drain(step + 1)
            for more in range(step + 1, job.schedule.last_step(step + 1)):
                traffic.merge(predicted.step(more, first, step + 1))
            first = step + 1
    assert [result.step for result in results] == list(range(len(results)))
    counted, world.ledger, staleness = world.ledger, Traffic(), world.comm.allgather({*trainer.staleness})
    values, running = {}, {}
    for layer in job.placed.layers:
        for p in layer.placement.parameters:
            mine = models[0].arena.parameters[layer.node.name].get(p.name)
            array = mine.value if mine else np.zeros((0,) * len(p.shape), dtype)
            values[f"{layer.node.name}.{p.name}"] = gather(world, Shard(array, p.layout))
    for live in models[0].layers:
        if isinstance(live, BatchNormalisation):
            inside, dims = world.rank in live.scheme.ranks, live.placed.placement.parameters[0].layout
            for name, statistic in live.statistics().items():
                array = statistic if inside else np.zeros(0)
                running[f"{live.name}.{name}"] = gather(world, Shard(array, dims))
    trainer.drain(steps)  # or its messages would meet those of the next test
    return Trained(
        [result.loss for result in results], values, running, counted, traffic, staleness
    )  # fmt: skip


def alone(network: Network, batch: int, passes: int, **settings: Any) -> Trained:
    """Return what one process trains."""
    from mpi4py import MPI

    with World(MPI.COMM_SELF) as world:
        found = trained(world, network, one(network), batch, passes, **settings)
    assert found.ledger.messages == found.predicted.messages == 0
    return found


def same(got: Trained, wanted: Trained, words: str, tolerance: float = 1e-10) -> None:
    """Hold a pipeline to laws 1 and 4."""
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=tolerance, err_msg=words)
    for part in ("values", "running"):
        assert getattr(got, part).keys() == getattr(wanted, part).keys()
        for name, array in getattr(got, part).items():
            np.testing.assert_allclose(
                array, getattr(wanted, part)[name], rtol=0, atol=tolerance, err_msg=f"{part} {name} {words}"
            )
    moves(got, words)


def moves(got: Trained, words: str) -> None:
    """Hold a pipeline to law 4."""
    differences = got.predicted.differences(got.ledger)
    assert not differences, f"{differences} {words}"
