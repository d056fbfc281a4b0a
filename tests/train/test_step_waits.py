"""How often the host waits for its device in a step: what the transport of messages demands, and not once more.

a rank waits for                                  staged            cuda-mpi          nccl
an exchange with neighbours, by what it sends     1                 1                 -
the same, if it only receives                     -                 1                 -
a gather or reduce-scatter between layers         1 (of something)  1                 -
statistics over ranks                             1 a sum           1 a sum           -
a bucket of gradients                             1                 1                 -
shares of updated values (cut optimizer)          1                 1                 -
the loss                                          1 a step          1 a step          - (read a step later)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import pytest

from gridnn.comm.mover import Route
from gridnn.comm.transport import Aware, OnDevice, Staged
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network import spec as s
from gridnn.network.buckets import plan_buckets
from gridnn.network.placed import PlacedLayer
from gridnn.train.choose import Job
from gridnn.train.data.loader import Loader
from gridnn.train.sections import TrainSection
from gridnn.train.step import Trainer
from tests.support import nccl, shim
from tests.support.laws import data, uniform_schemes
from tests.support.nets import build
from tests.support.pipelines import BUCKET_BYTES, Cut, Source, job_of
from tests.support.shim.device import DeviceArray, ShimDevice

pytestmark = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
BATCH, STEPS = 6, 4
SUMS = {s.BatchNorm: 2, s.LayerNorm: 2, s.SoftmaxCrossEntropy: 2}
"""Of statistics that a layer makes in a pass, forward and backward."""


class Demands(NamedTuple):
    """Waits of one rank for a movement of each kind."""

    sends: int = 0
    receives: int = 0
    gathers: int = 0
    sums: int = 0
    losses: int = 0
    gathers_nothing: int = 0


DEMANDS = {
    "staged": Demands(sends=1, gathers=1, sums=1, losses=1),
    "cuda-mpi": Demands(1, 1, 1, 1, 1, gathers_nothing=1),
    "nccl": Demands(),
}


class Pinning(ShimDevice):
    """A device that counts how often memory of the host was pinned."""

    pinned_times = 0

    def pinned(self, nbytes: int) -> Any:
        self.pinned_times += 1
        return super().pinned(nbytes)


def demanded(job: Job, rank: int, demands: Demands, cut_optimizer: bool) -> int:
    """Return how often a rank must wait in a step."""
    total = 0
    for number in range(job.passes):
        placed = job.sizes_placed[job.kind(number)]
        there = [edge.exchange for edge in placed.edges if edge.exchange is not None]
        there += [layer.settle for layer in placed.layers if rank in layer.scheme.ranks]
        for exchange in there:
            total += sum(_waits(Route(e, rank), demands) for e in (exchange, exchange.transpose()))
        total += demands.sums * sum(_sums(layer, rank) for layer in placed.layers)
    loss = job.placed.layers[-1].scheme
    total += demands.losses * (rank in loss.ranks and loss.group(rank, ("k", "c"))[0] == rank)
    for bucket in plan_buckets(job.placed, rank, BUCKET_BYTES, 8):
        if bucket.owed and len(bucket.replicas) > 1:
            total += demands.sums * (1 + cut_optimizer)
    return total


def _waits(route: Route, demands: Demands) -> int:
    if route.stays or not route.group:
        return 0
    if route.collective:
        has = any(extent.size for extent in route.source) and all(extent.size for extent in route.source)
        return demands.gathers if has else demands.gathers_nothing
    return demands.sends if route.departures else demands.receives if route.arrivals else 0


def _sums(layer: PlacedLayer, rank: int) -> int:
    axes = [a for a in layer.scheme.grid.used if a in layer.placement.statistics]
    if rank not in layer.scheme.ranks or len(layer.scheme.group(rank, tuple(axes))) < 2:
        return 0
    return SUMS[type(layer.node.spec)]


def on_device(world: World, transport: str) -> Engine:
    """Return an engine whose device the world's arrays are on, and from where messages go by a transport."""
    if transport == "nccl":
        engine: Engine = nccl.on_device(world, ordered=False)
        return engine
    engine = Engine(Pinning())
    kind: type[OnDevice] = {"staged": Staged, "cuda-mpi": Aware}[transport]
    world.memory, world.transport = engine.memory, kind(world.memory, engine)
    world.also_close(world.transport.close)
    return engine


class Step(NamedTuple):
    """What a step of a rank did."""

    waits: int
    late: int
    pinned: int


def steps_of(world: World, job: Job, engine: Engine, cut_optimizer: bool) -> Iterator[Step]:
    """Train, and yield what each step did."""
    settings = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.5, "cut_optimizer": cut_optimizer}
    config = TrainSection(batch=BATCH, steps=STEPS, dtype="float64", bucket_bytes=BUCKET_BYTES, **settings)  # type: ignore[arg-type]
    models: list[Model] = []
    for placed in job.sizes_placed:
        models.append(Model(
            world, placed, "float64", BUCKET_BYTES, cut_optimizer, stages=job.stages,
            twin=models[0] if models else None, engine=engine,
        ))  # fmt: skip
    models[0].arena.initialise(3)
    trainer = Trainer(world, models, job, config, STEPS, STEPS)
    source = cast(Loader, Source(models, job, data(job.network, BATCH * STEPS), "float64"))
    device = cast(Pinning, engine.device)

    def now() -> tuple[int, int, int]:
        return device.waits + DeviceArray.reads, device.late_waits, getattr(device, "pinned_times", 0)

    for number in range(STEPS):
        before = now()
        trainer.step(number, source)
        yield Step(*(a - b for a, b in zip(now(), before, strict=True)))
    trainer.drain(STEPS)


def plan_of(plan: str, transport: str) -> tuple[Job, bool]:
    """Return a job of two ranks, and whether its optimizer is cut."""
    network = build("residual")
    name, passes, cut_optimizer = {
        "n2": ("n2", 1, False),
        "n2 cut": ("n2", 2, True),
        "h2": ("h2", 1, False),
    }.get(plan, ("", 2, False))
    if name:
        cut = Cut((), uniform_schemes(network, name))
    else:
        names = [node.name for node in network.nodes]
        half = len(names) // 2
        schemes = {each: Scheme(GridShape(), int(at >= half)) for at, each in enumerate(names)}
        cut = Cut((names[0], names[half]), schemes)
    return job_of(network, cut, BATCH, passes, "1f1b", "replay", 2, "float64"), cut_optimizer


@pytest.mark.ranks(2)
@pytest.mark.parametrize("transport", DEMANDS)
@pytest.mark.parametrize("plan", ["n2", "n2 cut", "h2", "two stages"])
def test_what_is_demanded_and_no_more(comm: Any, plan: str, transport: str) -> None:
    job, cut_optimizer = plan_of(plan, transport)
    with World(comm) as world:
        engine = on_device(world, transport)
        wanted = demanded(job, world.rank, DEMANDS[transport], cut_optimizer)
        found = list(steps_of(world, job, engine, cut_optimizer))
        assert [step.waits for step in found] == [wanted] * STEPS
        assert wanted > 0 or transport == "nccl"
        if transport == "nccl":  # the loss of a step is read when the next one was started
            last = world.rank in job.placed.layers[-1].scheme.ranks
            assert [step.late for step in found] == [0] + [int(last)] * (STEPS - 1)
        if transport == "staged":
            staging = cast(Staged, world.transport).staging
            assert found[0].pinned > 0 and not any(step.pinned for step in found[2:])
            assert staging.lent == 0 and 0 < staging.nbytes < 1 << 20


def test_the_formula_counts_what_it_says() -> None:
    """A halo grid exchanges, sums and reads; whoever only receives waits where MPI writes into the device itself."""
    network = build("residual")
    for plan, least in (("n2", 3), ("h2", 6)):
        job, cut_optimizer = plan_of(plan, "staged")
        assert demanded(job, 0, DEMANDS["staged"], cut_optimizer) > least
        assert demanded(job, 0, DEMANDS["nccl"], cut_optimizer) == 0
    job, _ = plan_of("two stages", "staged")
    crossing = [e.exchange for e in job.placed.edges if e.exchange is not None and not _stays(e.exchange)]
    assert crossing and len(network.nodes) == len(job.placed.layers)
    one, other = (sum(_waits(Route(e, r), DEMANDS["staged"]) for e in crossing) for r in (0, 1))
    assert (one, other) == (len(crossing), 0)


def _stays(exchange: Exchange) -> bool:
    return all(Route(exchange, rank).stays or not Route(exchange, rank).group for rank in (0, 1))
