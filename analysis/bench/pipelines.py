"""Pipelines of two ranks, a thread each, against one rank that does all, and against their predicted steps.

    mpiexec -n 2 python analysis/bench/pipelines.py [--networks plain halves] [--batch 128] [--ahead 64] [--out FILE]

In turns, one schedule after the other, on the same batch; while one rank steps alone the other one sleeps.  What is
predicted comes from blocks of the size of a pass and links that were measured first, in this run (as `gridnn calibrate`
does it); stages are those that the search chose by it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import ahead
import numpy as np
from mpi4py import MPI
from peer import measure
from report import Report, cpu, ms, percent
from threadpoolctl import threadpool_limits

from gridnn.comm.world import World
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import find
from gridnn.cost.machine import Machine, load_machine
from gridnn.cost.profile import Profile
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.stages import cut_network
from gridnn.plan import problem
from gridnn.plan.pipeline.search import best_pipelines
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.timeline import Timeline
from gridnn.plan.pipeline.weigh import plan_of
from gridnn.plan.plan import Plan
from gridnn.train.calibrate import blocks, fit, layers, links
from gridnn.train.calibrate.overlap import measure_overlap
from gridnn.train.choose import Job
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.run import models_of_job
from gridnn.train.sections import TrainSection
from gridnn.train.step import Trainer

CLASSES = 10
SCHEDULES = ("sequential", "gpipe", "1f1b", "delayed replay", "delayed stash")


def plain() -> Network:
    """Return eight equal convolutions behind a small first one: stages can be cut almost anywhere."""
    net = Builder("plain", (3, 32, 32))
    x = net.relu(net.conv(net.input, 64, 3, pad=1))
    for _ in range(8):
        x = net.relu(net.conv(x, 64, 3, pad=1))
    return net.done(net.cross_entropy(net.linear(net.global_pool(x), CLASSES)))


def halves() -> Network:
    """Return two equal large convolutions: cut behind the first, a replay computes the small one before it only."""
    net = Builder("halves", (3, 16, 16))
    x = net.relu(net.conv(net.input, 128, 3, pad=1))
    x = net.conv(x, 128, 5, pad=2)
    x = net.relu(net.conv(net.relu(x), 128, 5, pad=2))
    return net.done(net.cross_entropy(net.linear(net.global_pool(x), CLASSES)))


NETWORKS = {"plain": plain, "halves": halves}


class Case(NamedTuple):
    """A way to make steps: its name, one step, and its predicted seconds and bubble."""

    name: str
    step: Callable[[], None]
    drain: Callable[[], None]
    told: Timeline | None


class Whole:
    """A loader of passes of one batch that stays the same."""

    def __init__(self, models: list[Model], job: Job, shape: tuple[int, ...]) -> None:
        self.job, self.batches = job, list[Batch]()
        for model in models:
            n = model.placed.batch
            x = measure.numbers((n, *shape), 0)[tuple(slice(*i) for i in model.input_box)]
            target = measure.classes((n,), CLASSES, 1)[tuple(slice(*i) for i in model.target_box)]
            self.batches.append(Batch(measure.channels_last(x), target.copy(), n))

    def batch(self, number: int) -> Batch:
        """Return the batch of a pass."""
        return self.batches[self.job.kind(number)]


def main() -> None:
    """Measure the networks, one table each."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=5, help="turns of every schedule (5)")
    options.add_argument("--out", type=Path, metavar="FILE.md")
    options.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--passes", type=int, default=16, help="of schedules with a flush (16)")
    options.add_argument("--late", type=int, default=4, help="passes of delayed schedules (4)")
    options.add_argument("--steps", type=int, default=12, help="of a turn (12)")
    options.add_argument(
        "--ahead", type=int, default=0, metavar="P", help="simulate up to so many ranks, from measured blocks"
    )
    given = options.parse_args()
    with World(MPI.COMM_WORLD) as world, threadpool_limits(1):
        said = None
        if world.rank == 0:
            said = Report("Pipelines on 2 ranks x 1 thread", given.out)
            said.say(f"Machine: {cpu()}.\n")
        with World(MPI.COMM_SELF) as alone:
            for name in given.networks:
                _network(world, alone, NETWORKS[name](), given, said)
        if given.ahead:
            engine = Engine(load(), world.memory, find(), Choice("measured"))
            engine.set_threads(1)
            machine = _measured(world, engine, ahead.chain(2 * ahead.EACH), [ahead.SAMPLES])
            if said is not None:
                ahead.simulate_ahead(machine, given.ahead, said)


def _network(world: World, alone: World, network: Network, given: Any, said: Report | None) -> None:
    engine = Engine(load(), world.memory, find(), Choice("measured"))
    engine.set_threads(1)
    machine = _measured(
        world,
        engine,
        network,
        sorted({-(-given.batch // passes) for passes in (1, given.late, given.passes)}),
    )
    serial = {node.name: Scheme(GridShape()) for node in network.nodes}
    one = Plan(network.name, network.digest, 1, given.batch, serial, "one rank")
    cases = [_case("one rank", alone, network, one, engine, given, None)]
    for words in SCHEDULES:
        name, _, form = words.partition(" ")
        passes, searched = given.late if form else given.passes, name if name != "sequential" else "gpipe"
        job = problem.Job(network, machine, world.size, given.batch, passes)
        (best,) = best_pipelines(job, (searched,), stages=world.size, form=form or "replay").values()
        best = replace(best, schedule=replace(best.schedule, name=name))
        plan = plan_of(job, best, words)
        told = simulate(best.schedule, best.cost)
        cases.append(
            _case(f"{words}, cut before {plan.stages[1]}", world, network, plan, engine, given, told)
        )
    taken: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(given.rounds):
        for case in cases:
            taken[case.name].append(_turn(world, case, given.steps))
    if said is None:
        return
    base = statistics.median(taken["one rank"])
    said.say(
        f"## {network.name}, batch {given.batch}: {given.passes} passes with a flush, {given.late} without\n"
    )
    said.head(("schedule", "step ms", "times one rank", "predicted ms", "error", "bubble predicted"))
    for case in cases:
        s = statistics.median(taken[case.name])
        row = [case.name, ms(s), f"{base / s:.2f}"]
        if case.told is None:
            row += ["", "", ""]
        else:
            row += [ms(case.told.step_s), f"{case.told.step_s / s - 1:+.1%}", percent(case.told.bubble)]
        said.row(row)
    said.say("")


def _case(
    name: str, world: World, network: Network, plan: Plan, engine: Engine, given: Any, told: Timeline | None
) -> Case:  # fmt: skip
    """Return a case of the ranks of a world."""
    stages = cut_network(network, plan.stages) if plan.stages else None
    placed, rest = (
        place_network(network, plan.schemes, n, world.size)
        for n in (-(-plan.batch // plan.passes), plan.batch // plan.passes)
    )
    job = Job(network, plan, placed, plan.passes, rest if plan.batch % plan.passes else None, stages)
    config = TrainSection(batch=plan.batch, steps=1, optimizer="sgd", lr=1e-4, momentum=0.9, late="predict")
    models = models_of_job(world, job, config, True, engine)
    models[0].arena.initialise(0)
    trainer = Trainer(world, models, job, config, 1, 1)
    loader, made = cast(Loader, Whole(models, job, network.input_shape)), [0]

    def step() -> None:
        trainer.step(made[0], loader)
        made[0] += 1

    return Case(name, step, lambda: cast(None, trainer.drain(made[0])), told)


def _turn(world: World, case: Case, steps: int) -> float:
    """Return the seconds of a step; pipelines without a flush are full before the clock starts."""
    world.comm.Barrier()
    if case.told is None and world.rank:
        request = world.comm.Ibarrier()  # asleep: a barrier would keep the core busy
        while not request.Test():
            time.sleep(0.01)
        return 0.0
    for _ in range(2):
        case.step()
    start_s = time.perf_counter()
    for _ in range(steps):
        case.step()
    took_s = (time.perf_counter() - start_s) / steps
    case.drain()
    if case.told is None:
        world.comm.Ibarrier().Wait()
        return took_s
    return cast(float, world.comm.allreduce(took_s, MPI.MAX))


def _measured(world: World, engine: Engine, network: Network, batches: list[int]) -> Machine:
    """Return this machine: links, and the blocks of whole layers for passes of some sizes."""

    def quiet(_: str) -> None:
        return

    nodes = links.find_nodes(world, None)
    levels, _ = fit.fit_levels(list(links.measure_messages(world, nodes, True, quiet)), nodes)
    todo = [b for batch in batches for b in blocks.blocks_of([(network, batch)], 1, 1 << 32)]
    found = list(layers.measure_blocks(world, engine, todo, 60.0, quiet))
    share = measure_overlap(world, True, quiet).share if world.size > 1 else 1.0
    profile = Profile("bench", "today", tuple(layers.sample_of(block, times) for block, times in found))
    return replace(load_machine("laptop"), levels=levels, overlap=share, profile=profile)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
