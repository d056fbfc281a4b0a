"""Steps of training, and an evaluation: the doing wing in the order of time.

The schedule (plan.pipeline.schedule) says what this rank's stage does next; without stages it is one pass after the
other, and the update:

    begin - (forward - backward) x passes - sums awaited - norms - clip - update - shares published
                         \\_ the loss is summed over all ranks meanwhile

Where a schedule has no flush, stages are at different steps: the loss of a step is known some steps later (`lag`), and
`drain` makes all weights those after the same step, for whoever looks at them.

On a device the host reads a loss when the next step has been started, so that the device never waits for the host:

    host      start 0 | start 1, read loss 0 | start 2, read loss 1 |         a loss that is not finite ends the run one
    device            | step 0 | step 1         | step 2 | ...                update later

It reads it in the step itself where it has to wait there for messages, as they go by MPI.  Norms (train.clip_norm,
LARS) it reads with the loss: the update finds them on the device (`train.norms`).  Where nothing is read in a step, all
of it can be one graph of the device (`train.replay`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gridnn.comm.carrier import Awaited
from gridnn.comm.clock import Where
from gridnn.comm.collectives import all_reduce, finish, start_scalars
from gridnn.comm.world import Array, World
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.graph import Known, Later
from gridnn.errors import RunError
from gridnn.geometry.traffic import Key
from gridnn.layers.loss import Loss
from gridnn.layers.model import Model, Pass
from gridnn.train.choose import Job
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.late import led, missed
from gridnn.train.norms import Norm, Told, norms_of
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.replay import replay_of
from gridnn.train.schedule import lr_at
from gridnn.train.sections import TrainSection

_LOSS: Where = (("loss",), "forward")


@dataclass(frozen=True)
class StepResult:
    """Loss before the update, learning rate, and the gradient's global norm where it was needed."""

    step: int
    loss: float
    lr: float
    norm: float | None


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of correct predictions over a data set; accuracy is None without classes."""

    loss: float
    accuracy: float | None


@dataclass
class _Open:
    """A pass between its forward and its backward."""

    kept: Pass
    batch: Batch | None = None  # to make the forward again
    weights: list[Array] | None = None  # of then


@dataclass
class _Sum:
    """A step's loss on its way: from the device, then to all ranks."""

    step: int
    loss: Array
    later: Later | None = None
    request: Awaited | None = None
    norm: Norm | None = None


class Trainer:
    """Models with their optimizer: `step` and `evaluate`.

    Parameters
    ----------
    models
        One for each size of a pass, the largest first; all but the first are twins of it.
    first
        The step at which training starts.
    """

    def __init__(
        self, world: World, models: Sequence[Model], job: Job, config: TrainSection, steps_per_epoch: int,
        total_steps: int, first: int = 0,
    ) -> None:  # fmt: skip
        self.world, self.models, self.job, self.config = world, models, job, config
        self.model = models[0]
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps
        self.optimizer = Optimizer(config, self.model.engine)
        names = [
            f"{layer.node.name}.{p.name}" for layer in job.placed.layers for p in layer.placement.parameters
        ]
        self._index = {name: i for i, name in enumerate(names)}
        self._everyone = tuple(range(world.size))
        self._pieces = [
            Piece(s.entry.name, s.value, s.grad, s.entry.parameter.decay, self._index[s.entry.name])
            for s in self.model.arena.shares()
        ]
        if world.size > 1:
            world.group(
                self._everyone, "scalars"
            )  # made by all together: later, stages would wait for each other
        self.stage, self._first = job.stage(world.rank), first
        self._open: dict[int, _Open] = {}
        self._sums: deque[_Sum] = deque()
        self._loss: Any = 0.0  # of this rank and the step's passes so far, maybe on a device
        engine = self.model.engine
        self._norms = norms_of(world, self.model.arena, config, self._index, engine)
        self._unheard: deque[Norm] = deque()
        waits = world.size > 1 and world.transport.waits
        self._device = engine.device if isinstance(engine, GpuEngine) and not waits else None
        for layer in (layer for model in models for layer in model.layers):
            if isinstance(layer, Loss):
                layer.late = isinstance(engine, GpuEngine)
        self._lag = job.lag + (self._device is not None)
        self._replay = replay_of(world, engine, self.model.arena, job, self._announce)
        self.staleness: set[int] = set()
        """Steps between a batch and the update by its gradient, as counted."""

    def step(
        self, number: int, loader: Loader, before_update: Callable[[], None] = lambda: None
    ) -> list[StepResult]:
        """Make step `number` (from 0); return the steps whose loss is known by now: this one, unless it is known late.

        Parameters
        ----------
        before_update
            Returns when weights and optimizer state may change.

        Raises
        ------
        RunError
            On all ranks, when a loss is not finite.
        """
        with self.world.clock.phase("update", ((), "update")):  # has what no other phase has: no gaps
            if not self._replayed(number, loader, before_update):
                self._work(number, None, loader, before_update)
            return self._known(self._lag)

    def drain(self, stop: int, before_update: Callable[[], None] = lambda: None) -> list[StepResult]:
        """Bring all stages to the same step: nothing is on its way, no gradient is missing.  Costs a filling.

        Parameters
        ----------
        stop
            The steps made so far.

        Raises
        ------
        RunError
            On all ranks, when a loss is not finite.
        """
        with self.world.clock.phase("update", ((), "update")):
            for number in range(stop, self.job.schedule.last_step(stop) if stop > self._first else stop):
                self._work(number, stop, None, before_update)
            for model in self.models:
                model.settle()
            self._first = stop
            return self._known(0)

    def _work(
        self, number: int, stop: int | None, loader: Loader | None, before_update: Callable[[], None]
    ) -> None:
        updated = False
        for task in self.job.schedule.step(self.stage, number, self._first, stop):
            if task.verb == "forward":
                assert loader is not None, "a drained pipeline takes no batches"
                self._forward(task.number, loader)
            elif task.verb == "backward":
                self._backward(task.number)
            else:
                self._update(number, task.number, before_update)
                updated = True
        if not updated:  # other stages have gradients already, or still
            self._measured(number, counts=False)

    def _forward(self, number: int, loader: Loader) -> None:
        job, config = self.job, self.config
        step, part = divmod(number, job.passes)
        model, batch = self.models[job.kind(number)], self._batch(number, loader)
        late = job.schedule.delay(self.stage) > 0
        weights = self._stashed(step, part) if late and not job.schedule.replays(self.stage) else None
        with model.arena.using(weights):
            verdict = model.forward(batch.x, batch.target, at=(config.seed, number))
        loss = verdict.loss * (model.placed.batch / config.batch)
        self._loss = loss if part == 0 else self._loss + loss
        again = job.schedule.replays(self.stage)
        self._open[number] = _Open(model.set_aside(again), batch if again else None, weights)
        if part == job.passes - 1 and not self._capturing:
            self._send(step)

    def _batch(self, number: int, loader: Loader) -> Batch:
        """Return the batch of a pass."""
        replay = self._replay
        if replay is not None and replay.capturing:
            return replay.batch(number)
        with self.world.clock.phase("data"):
            batch = loader.batch(number)
        if replay is not None:
            replay.keep(self.job.kind(number), batch)
        return batch

    def _send(self, step: int) -> None:
        """Send the loss of a step on its way to all ranks; from a device it comes later."""
        each, loss = _Sum(step, np.zeros(1)), self._loss
        self._sums.append(each)
        if self._device is None:
            each.loss[0] = float(loss)
            self._share(each)
        else:
            there = self._device.holds(loss)
            each.later = self._device.read_later(loss) if there else Known(np.array(loss))

    def _share(self, each: _Sum) -> None:
        """Start the sum of a loss over all ranks."""
        key = Key("loss", "forward", "allreduce", "all")
        each.request = start_scalars(self.world, self._everyone, each.loss, key)

    @property
    def _capturing(self) -> bool:
        return self._replay is not None and self._replay.capturing

    def _replayed(self, number: int, loader: Loader, before_update: Callable[[], None]) -> bool:
        """Make a step by the graph of this rank's steps; return whether there is one."""
        replay = self._replay
        if replay is None or not replay.due():
            return False
        before_update()
        if replay.graph is None:
            updates = self.optimizer.updates
            if not replay.capture(lambda: self._work(number, None, loader, _nothing)):
                self._replay = None
            self.optimizer.updates = updates  # nothing is done yet
            self._open.clear()
        if self._replay is None:
            return False
        replay.launch(number, loader)
        self.staleness.add(0)
        self._send(number)
        self._sums[-1].norm = self._asked(number)
        return True

    def _announce(self, step: int) -> None:
        """Tell the device the numbers of the update that a graph makes next."""
        self.optimizer.announce(self._rate(step))

    def _backward(self, number: int) -> None:
        job, done = self.job, self._open.pop(number)
        model, arena, part = self.models[job.kind(number)], self.model.arena, number % job.passes
        if part == 0:
            arena.begin()
        with arena.using(done.weights):
            if done.batch is not None:
                model.forward(
                    done.batch.x, done.batch.target, at=(self.config.seed, number), replay=done.kept
                )
            else:
                model.take_up(done.kept)
            model.backward(model.placed.batch / self.config.batch, part == job.passes - 1)
        if part == job.passes - 1:
            arena.await_sums()

    def _stashed(self, step: int, part: int) -> list[Array]:
        """Return the weights that all passes of a step go forward and backward with."""
        if part == 0:
            arena, delay = self.model.arena, self.job.schedule.delay(self.stage)
            self._weights = arena.copied()
            with arena.using(self._weights):
                values = {share.entry.name: share.value for share in arena.shares()}
            self.optimizer.lead(values, led(self.config, self._rate, step, self._first, delay))
        return self._weights

    def _rate(self, step: int) -> float:
        return lr_at(step, self.config, self.steps_per_epoch, self.total_steps)

    def _update(self, number: int, step: int, before_update: Callable[[], None]) -> None:
        """Update by the gradient of a step's batch, in step `number`."""
        mine = next((s for s in self._sums if s.step == step), None)
        if self._lag == 0 and mine is not None:
            self._checked(mine)
        self.staleness.add(number - step)
        lr = self._rate(step)
        before_update()
        if self._replay is not None and self._replay.capturing:
            self._replay.update()
        told, norm = self._measured(step)
        if mine is not None:
            mine.norm = norm
        late = missed(step, self._first, number - step)
        self.optimizer.step(self._pieces, lr, late=late, **told._asdict())
        self.model.arena.publish()

    def _measured(self, step: int, counts: bool = True) -> tuple[Told, Norm | None]:
        """Measure norms over all ranks; return what an update is told of them, and the norm that is clipped."""
        if self._norms is None:
            return Told(), None
        return self._norms.measure(counts), self._asked(step)

    def _asked(self, step: int) -> Norm | None:
        """Ask for the norm that was measured for a step; refuse at once one that is known and not finite."""
        later = None if self._norms is None or self._capturing else self._norms.read()
        if self._norms is None or later is None:
            return None
        norm = Norm(step, later)
        if self._norms.late:
            self._unheard.append(norm)
        else:
            norm.check()
        return norm

    def _known(self, lag: int) -> list[StepResult]:
        """Return the results of all steps but the last `lag`."""
        done = [self._sums.popleft() for _ in range(len(self._sums) - lag)]
        for each in done:
            self._checked(each)
        # A norm is of an update, which a step has on every rank: whichever batch it is by, all look at it together.
        while len(self._unheard) > min(lag, self._device is not None):
            with self.world.clock.phase("compute", ((), "update")):
                self._unheard.popleft().check()
        return [
            StepResult(e.step, float(e.loss[0]), self._rate(e.step), None if e.norm is None else e.norm.value)
            for e in done
        ]

    def _checked(self, each: _Sum) -> None:
        """Wait for a loss, and refuse one that is not finite."""
        if each.later is not None:
            with self.world.clock.phase("compute", _LOSS):
                each.loss[0] = each.later.wait()
            each.later = None
            self._share(each)
        finish(self.world, each.request, "allreduce", _LOSS)
        each.request = None
        if not math.isfinite(each.loss[0]):
            raise _everywhere(RunError(
                f"step {each.step}: the loss is {each.loss[0]}; lower train.lr, clip gradients (train.clip_norm = "
                "1.0), warm up longer (train.warmup_steps), or check the data for values that are not finite"
            ))  # fmt: skip

    def evaluate(self, loader: Loader, steps: int, heard: Callable[[], None] = lambda: None) -> Evaluation:
        """Judge every sample of a data set once; `heard` is called after every batch.

        Raises
        ------
        RunError
            On all ranks, when the loss is not finite.
        """
        loss = correct = judged = 0.0
        count = 0
        for number in range(steps):
            with self.world.clock.phase("data"):
                batch = loader.batch(number)
            verdict = self.model.forward(batch.x, batch.target, valid=batch.valid, train=False, score=True)
            loss, correct, judged = (
                loss + verdict.loss * batch.valid,
                correct + verdict.correct,
                judged + verdict.judged,
            )
            count += batch.valid
            heard()
        self.model.settle()
        key = Key("loss", "evaluation", "allreduce", "all")
        loss, correct, judged = all_reduce(self.world, self._everyone, np.array([loss, correct, judged]), key)
        if not math.isfinite(loss):  # the last update may be the one that diverged
            raise _everywhere(
                RunError(f"evaluation: the loss is {loss}; lower train.lr or check the test data")
            )
        return Evaluation(float(loss) / max(1, count), float(correct / judged) if judged else None)


def _nothing() -> None:
    """Return: there is nothing to wait for."""


def _everywhere(error: RunError) -> RunError:
    error.everywhere = True
    return error
