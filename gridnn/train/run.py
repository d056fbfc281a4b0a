"""A run from configuration to summary: the order of events, and nothing else.

configuration - data - network - plan        on every rank alike, errors agreed upon
model - steps, with evaluations              watched: a stuck rank ends the run
predicted = counted, or the run fails        the summary is written by rank 0
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gridnn.comm.agree import Watchdog, agreed
from gridnn.comm.world import World, mpi_version
from gridnn.compute.cpu.engine import Engine
from gridnn.cost.memory import predict_memory
from gridnn.errors import TrafficError
from gridnn.geometry.traffic import Traffic
from gridnn.layers.model import Model
from gridnn.train.choose import Job, choose
from gridnn.train.config import dump_toml
from gridnn.train.console import Console, shout
from gridnn.train.data import Dataset, EvaluationOrder, Loader, Order, open_data
from gridnn.train.data.order import PassOrder
from gridnn.train.engine import keep_choices, open_engine, words
from gridnn.train.folder import Record, open_folder, versions
from gridnn.train.picture import save_pictures
from gridnn.train.record import Summary
from gridnn.train.sections import Config
from gridnn.train.spans import write_spans
from gridnn.train.step import Evaluation, Trainer, predicted_evaluation, predicted_step
from gridnn.train.tables import run_traffic, show_traffic
from gridnn.train.trace import Trace


@dataclass
class Run:
    """What a run has: its configuration and data, and the job they make."""

    world: World
    config: Config
    console: Console
    train: Dataset
    test: Dataset
    job: Job
    engine: Engine
    threads: int
    choices: Path | None


def prepare(
    world: World, config: Config, console: Console, threads: int = 1, choices: Path | None = None
) -> Run:
    """Open the data, choose the plan and the kernels.

    Parameters
    ----------
    threads
        Of this rank.
    choices
        File of the kernel choices of earlier runs.

    Raises
    ------
    InputError
        On all ranks, if any rank cannot use what it was given.
    """
    with agreed(world):
        train, test = (
            open_data(config.data.source, split, config.data.options) for split in ("train", "test")
        )
        job = choose(config, train, world.size)
        Order(train.count, config.train.batch, config.train.seed)
        config.data.augment.checked(train)
        engine = open_engine(world, config.compute, threads, choices)
    for line in words(world, engine, config.compute, threads):
        console.say(line)
    return Run(world, config, console, train, test, job, engine, threads, choices)


def train(run: Run, folder: Path | None) -> Summary:
    """Train, evaluate and check the traffic; returns the summary (the same on every rank).

    Raises
    ------
    TrafficError
        If counted bytes differ from predicted ones on any rank.
    """
    world, config = run.world, run.config
    t, passes = config.train, run.job.passes
    order = Order(run.train.count, t.batch, t.seed)
    total = t.steps if t.steps is not None else (t.epochs or 1) * order.steps_per_epoch
    model = Model(
        world, run.job.placed, t.dtype, t.bucket_bytes, t.cut_optimizer, config.comm.overlap, run.engine
    )
    model.arena.initialise(t.seed)
    trainer = Trainer(world, model, run.job, t, order.steps_per_epoch, total)
    judged = EvaluationOrder(run.test.count, t.batch // passes)
    boxes, augment = (model.input_box, model.target_box), config.data.augment
    record = Record(folder, dump_toml(config), run.job.plan.dumps()) if folder is not None else None
    predicted, seconds, phases = Traffic(), list[float](), dict[str, float]()
    step_traffic = predicted_step(run.job, t, world.size, world.rank)
    result, evaluation, evaluations = None, None, 0
    trace = Trace(world, total, config.run.trace_steps)
    try:
        with (
            Loader(run.train, PassOrder(order, passes), *boxes, t.dtype, augment, t.seed) as loader,
            Loader(run.test, judged, *boxes, t.dtype, augment.without_chance(), t.seed) as test_loader,
            Watchdog(world, config.comm.timeout_s, shout) as watchdog,
            run.console.progress(total, config.run.log_every_s) as progress,
        ):
            world.ledger = Traffic()
            world.clock.take()
            for number in range(total):
                trace.before(number)
                started_s, bytes_before = time.perf_counter(), world.ledger.received_bytes
                result = trainer.step(number, loader)
                predicted.merge(step_traffic)
                watchdog.heard()
                step_s, epoch = time.perf_counter() - started_s, number // order.steps_per_epoch
                spent = world.clock.take()
                trace.after(number)
                seconds.append(step_s)
                _add(phases, spent)
                counted = world.ledger.received_bytes - bytes_before
                if record is not None:
                    record.step(
                        step=number,
                        epoch=epoch,
                        loss=result.loss,
                        lr=result.lr,
                        step_s=step_s,
                        phases_s=spent,
                        counted_bytes=counted,
                        norm=result.norm,
                    )
                progress.update(
                    step=number + 1, epoch=epoch + 1, loss=result.loss, lr=result.lr, samples=t.batch
                )
                if t.eval and _time_to_judge(number + 1, total, order.steps_per_epoch, t.eval_every_epochs):
                    evaluation = trainer.evaluate(test_loader, judged.steps)
                    evaluations += 1
                    _add(phases, world.clock.take())  # or the next step would seem to have spent it
                    predicted.merge(predicted_evaluation(run.job, t, world.size, world.rank, judged.steps))
                    watchdog.heard()
                    progress.pause()
                    _say_evaluation(run.console, number + 1, evaluation)
            if config.run.pictures:
                save_pictures(model, test_loader, run.test, folder, config.run.pictures)
            _add(phases, {k: v for k, v in world.clock.take().items() if k != "data"})
    finally:
        if record is not None:
            record.__exit__(None, None, None)
    assert result is not None, "a run has at least one step"
    keep_choices(world, run.engine, run.threads, run.choices)
    memory = _memory(run, trainer)
    summary = _summarise(run, total, result.loss, evaluation, seconds, phases, predicted, memory)
    show_traffic(run.world, run.job, run.console, predicted, world.ledger)
    spans, traffic = trace.gather(), run_traffic(world, predicted, world.ledger, total, evaluations)
    if record is not None:
        if spans is not None:
            write_spans(record.folder, spans)
        if traffic is not None:
            record.traffic(traffic)
        record.finish(summary)  # last: it says that all is there
    check_traffic(world, predicted)
    return summary


def check_traffic(world: World, predicted: Traffic) -> None:
    """Hold the run to law 4: what was counted is what was predicted, on every rank and under every key.

    Raises
    ------
    TrafficError
    """
    with agreed(world):
        if differences := predicted.differences(world.ledger):
            listed = "\n  ".join(differences[:10])
            raise TrafficError(
                f"rank {world.rank}: counted traffic is not what the formulas say; this is a bug of gridnn:\n  {listed}"
            )


def _summarise(
    run: Run,
    steps: int,
    loss: float,
    evaluation: Evaluation | None,
    seconds: list[float],
    phases: dict[str, float],
    predicted: Traffic,
    memory: tuple[int, int],
) -> Summary:
    world = run.world
    both = world.comm.allreduce(predicted.received_bytes), world.comm.allreduce(world.ledger.received_bytes)
    return Summary(
        loss=loss,
        test_accuracy=evaluation.accuracy if evaluation else None,
        steps=steps,
        step_s=statistics.median(seconds),
        predicted_step_s=float(run.job.plan.predicted["step_s"]),
        predicted_bytes=both[0],
        counted_bytes=both[1],
        plan=run.job.plan.summary,
        ranks=world.size,
        phases_s=phases,
        predicted_memory_bytes=memory[1],
        memory_bytes=memory[0],
        versions=versions(mpi=mpi_version()),
    )


def _memory(run: Run, trainer: Trainer) -> tuple[int, int]:
    """Return measured and predicted bytes of the rank that needed most.  Collective."""
    model, state = trainer.model, trainer.optimizer.nbytes
    found = predict_memory(model.placed, run.world.rank, model.dtype.itemsize, 0)
    measured = model.arena.nbytes + state + run.world.memory.peak_bytes
    most: tuple[int, int] = max(run.world.comm.allgather((measured, found.total_bytes + state)))
    return most


def _time_to_judge(done: int, total: int, steps_per_epoch: int, every: int) -> bool:
    return done == total or done % (steps_per_epoch * every) == 0


def _say_evaluation(console: Console, step: int, evaluation: Evaluation) -> None:
    accuracy = "" if evaluation.accuracy is None else f", accuracy {100 * evaluation.accuracy:.2f} %"
    console.say(f"test after step {step}: loss {evaluation.loss:.5f}{accuracy}")


def _add(totals: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        totals[name] = totals.get(name, 0.0) + value


def open_record(
    world: World, config: Config, name: str, now: Callable[[], datetime] = datetime.now
) -> Path | None:
    """Make the run folder on rank 0; an error there is one on all."""
    folder = None
    with agreed(world):
        if world.rank == 0:
            folder = open_folder(config.run.dir, name, now())
    return folder
