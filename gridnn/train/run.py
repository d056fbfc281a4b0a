"""A run from configuration to summary: the order of events, and nothing else.

configuration - data - network - plan        on every rank alike, errors agreed upon
model - checkpoint - steps, evaluations      watched: a stuck rank ends the run; saved now and then
predicted = counted, or the run fails        the summary is written by rank 0
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gridnn.comm.agree import agreed
from gridnn.comm.progress import every_s
from gridnn.comm.watchdog import Watchdog
from gridnn.comm.world import World
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.cost.collectives import piece_bytes
from gridnn.cost.machine import load_machine
from gridnn.geometry.traffic import Traffic
from gridnn.layers.model import Model
from gridnn.train.choose import Job, choose
from gridnn.train.config import dump_toml
from gridnn.train.console import Console, shout
from gridnn.train.data import Dataset, EvaluationOrder, Loader, Order, open_data
from gridnn.train.data.order import PassOrder
from gridnn.train.engine import engine_of, keep_choices, words
from gridnn.train.folder import Record
from gridnn.train.leave import Reason, Signals
from gridnn.train.notes import Notes
from gridnn.train.picture import save_pictures
from gridnn.train.predicted import Predicted
from gridnn.train.record import Summary
from gridnn.train.resume import Start
from gridnn.train.saving import Saving
from gridnn.train.sections import Config, TrainSection
from gridnn.train.spans import write_spans
from gridnn.train.step import Evaluation, Trainer
from gridnn.train.tables import run_traffic, show_traffic
from gridnn.train.tally import Tally
from gridnn.train.trace import Trace

WORTH_HIDING = 0.1
"""Share of a sum that arithmetic must hide, by the machine file, for a thread to move it on meanwhile."""


@dataclass
class Run:
    """What a run has: its configuration and data, the job they make, and what it knows of the batch job around it."""

    world: World
    config: Config
    console: Console
    train: Dataset
    test: Dataset
    job: Job
    engine: CpuEngine | GpuEngine
    threads: int
    choices: Path | None
    signals: Signals = field(default_factory=Signals)
    left_s: float | None = None


class Left(NamedTuple):
    """A run that left before its end."""

    reason: Reason
    step: int
    saved: int | None


def prepare(
    world: World, config: Config, console: Console, threads: int = 1, choices: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:  # fmt: skip
    """Open the data, choose the plan and the kernels.

    Parameters
    ----------
    threads
        Of this rank.
    choices
        File of the kernel choices of earlier runs.
    environment
        Of this process: an MPI may say through it that it takes memory of devices.

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
    engine = engine_of(world, config, threads, choices, environment or {})  # agrees by itself
    for line in (*job.said, *words(world, engine, config.compute, threads)):
        console.say(line)
    return Run(world, config, console, train, test, job, engine, threads, choices)


def steps_of(run: Run) -> int:
    """Return the steps that make up the whole run."""
    t = run.config.train
    each = Order(run.train.count, t.batch, t.seed).steps_per_epoch
    return t.steps if t.steps is not None else (t.epochs or 1) * each


def train(run: Run, start: Start) -> Summary | Left:
    """Train, evaluate and check the traffic; returns the summary (the same on every rank), or why it left.

    Raises
    ------
    TrafficError
        If counted bytes differ from predicted ones on any rank.
    """
    with Watchdog(run.world, run.config.comm.timeout_s, shout) as watchdog:
        return _train(run, start, watchdog)


def _train(run: Run, start: Start, watchdog: Watchdog) -> Summary | Left:
    world, config = run.world, run.config
    t, passes = config.train, run.job.passes
    order, total = Order(run.train.count, t.batch, t.seed), steps_of(run)
    machine = load_machine(config.plan.machine)
    beta = machine.slowest_s_per_byte
    # Where cores carry the bytes, a thread that moves them on only takes time from arithmetic.
    world.progress.on = config.comm.overlap and machine.overlap >= WORTH_HIDING
    world.sums.piece_bytes, world.progress.every_s = piece_bytes(beta), every_s(beta)
    models = models_of_job(world, run.job, t, config.comm.overlap, run.engine)
    model = models[0]
    model.arena.initialise(t.seed)
    trainer = Trainer(world, models, run.job, t, order.steps_per_epoch, total, start.step)
    judged = EvaluationOrder(run.test.count, run.job.placed.batch)
    boxes, augment = [(each.input_box, each.target_box) for each in models], config.data.augment
    texts = dump_toml(config), run.job.plan.dumps()
    saving = Saving(
        world, config, model, trainer.optimizer, run.signals, run.left_s,
        folder=start.folder, texts=texts, total=total, steps_per_epoch=order.steps_per_epoch,
    )  # fmt: skip
    with agreed(world):
        loss = saving.restore(start.checkpoint)
    with agreed(world):
        record = None if start.folder is None else Record(start.folder, *texts, start.step)
    done, evaluation, reason = start.step, None, None
    tally, trace = Tally(), Trace(world, total, config.run.trace_steps, done, run.job.schedule.delay(0))
    predicted = Predicted(run.job, t, world.size, world.rank)
    evaluation_traffic, filled = predicted.evaluation(judged.steps), start.step
    with (
        record or nullcontext(),
        Loader(run.train, PassOrder(order, passes), boxes, t.dtype, augment, t.seed) as loader,
        Loader(run.test, judged, boxes, t.dtype, augment.without_chance(), t.seed) as test_loader,
        saving,
        run.console.progress(total, config.run.log_every_s) as progress,
    ):
        notes = Notes(record, progress, order.steps_per_epoch, t.batch, loss)

        def drain() -> float:
            """Bring all stages to the same step, for whoever looks at the weights; return the loss of the last."""
            nonlocal filled
            notes.known(trainer.drain(done, saving.before_update))
            for number in range(done, run.job.schedule.last_step(done) if done > filled else done):
                tally.predicted.merge(predicted.step(number, filled, done))
            filled = done
            return notes.loss

        world.ledger = Traffic()
        world.clock.take()
        while done < total and reason is None:
            trace.before(done)
            started_s, bytes_before = time.perf_counter(), world.ledger.received_bytes
            results = trainer.step(done, loader, saving.before_update)
            tally.predicted.merge(predicted.step(done, filled))
            watchdog.heard()
            step_s, spent = time.perf_counter() - started_s, world.clock.take()
            trace.after(done)
            tally.seconds.append(step_s)
            tally.spent(spent)
            notes.made(done, step_s, spent, world.ledger.received_bytes - bytes_before)
            notes.known(results)
            done, evaluation = done + 1, None
            if t.eval and _time_to_judge(done, total, order.steps_per_epoch, t.eval_every_epochs):
                drain()
                evaluation = trainer.evaluate(test_loader, judged.steps, watchdog.heard)
                tally.judged(evaluation_traffic)
                progress.pause()
                _say_evaluation(run.console, done, evaluation)
            reason = saving.after_step(done, None if evaluation is None else evaluation.loss, drain)
            watchdog.heard()
            tally.spent(world.clock.take())  # or the next step would seem to have spent it
        drain()
        if done == start.step and t.eval:  # it had ended between its last step and its summary
            evaluation = trainer.evaluate(test_loader, judged.steps, watchdog.heard)
            tally.judged(evaluation_traffic)
        if done == total and config.run.pictures:
            save_pictures(model, test_loader, run.test, start.folder, config.run.pictures)
        saved = saving.finish()
        tally.spent({k: v for k, v in world.clock.take().items() if k != "data"})
    keep_choices(world, run.engine, run.threads, run.choices)
    show_traffic(run.world, run.job, run.console, tally.predicted, world.ledger)
    if reason is not None and done < total:
        tally.check_traffic(world)
        return Left(reason, done, saved)
    made, spans = total - start.step, trace.gather()
    summary = tally.summary(world, run.job, trainer, config, total, notes.loss, evaluation, spans)
    traffic = run_traffic(world, tally.predicted, world.ledger, made, tally.evaluations)
    with agreed(world):
        if record is not None:
            if spans is not None:
                write_spans(record.folder, spans)
            if traffic is not None:
                record.traffic(traffic)
            record.finish(summary)  # last: it says that all is there
    tally.check_traffic(world)
    return summary


def models_of_job(
    world: World, job: Job, train: TrainSection, overlap: bool, engine: CpuEngine | GpuEngine
) -> list[Model]:
    """Return the models of a job, one for each size of a pass, the largest first."""
    found = list[Model]()
    for placed in job.sizes_placed:
        found.append(Model(
            world, placed, train.dtype, train.bucket_bytes, train.cut_optimizer, overlap, engine, stages=job.stages,
            detached=job.plan.schedule == "local", twin=found[0] if found else None,
        ))  # fmt: skip
    return found


def _time_to_judge(done: int, total: int, steps_per_epoch: int, every: int) -> bool:
    return done == total or done % (steps_per_epoch * every) == 0


def _say_evaluation(console: Console, step: int, evaluation: Evaluation) -> None:
    accuracy = "" if evaluation.accuracy is None else f", accuracy {100 * evaluation.accuracy:.2f} %"
    console.say(f"test after step {step}: loss {evaluation.loss:.5f}{accuracy}")
