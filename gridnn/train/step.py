"""Steps of training, and an evaluation: the doing wing in the order of time.

The schedule (plan.pipeline.schedule) says what this rank's stage does next; without stages it is one pass after the
other, and the update:

    begin - (forward - backward) x passes - sums awaited - norms - clip - update - shares published
                         \\_ the loss is summed over all ranks meanwhile

Where a schedule has no flush, stages are at different steps: the loss of a step is known some steps later (`lag`), and
`drain` makes all weights those after the same step, for whoever looks at them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gridnn.comm.clock import Where
from gridnn.comm.collectives import Awaited, all_reduce, finish, start_scalars
from gridnn.comm.world import Array, World
from gridnn.errors import RunError
from gridnn.geometry.traffic import Key
from gridnn.layers.model import Model, Pass
from gridnn.train.choose import Job
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.predicted import needs_squares
from gridnn.train.schedule import clip_scale, lr_at
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
    """A step's loss on its way."""

    step: int
    loss: Array
    request: Awaited | None
    norm: float | None = None


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
        self.staleness: set[int] = set()
        """Steps between a batch and the update by its gradient, as counted."""

    def step(
        self, number: int, loader: Loader, before_update: Callable[[], None] = lambda: None
    ) -> list[StepResult]:
        """Make step `number` (from 0); return the steps whose loss is known by now: this one, unless stages differ.

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
            self._work(number, None, loader, before_update)
            return self._known(self.job.lag)

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
                self._backward(task.number, before_update)
            else:
                self._update(number, task.number, before_update)
                updated = True
        if not updated and needs_squares(self.config):  # other stages have gradients already, or still
            self._squares(counts=False)

    def _forward(self, number: int, loader: Loader) -> None:
        job, config = self.job, self.config
        step, part = divmod(number, job.passes)
        model = self.models[job.kind(number)]
        with self.world.clock.phase("data"):
            batch = loader.batch(number)
        late = job.schedule.delay(self.stage) > 0
        weights = self._stashed(part) if late and not job.schedule.replays(self.stage) else None
        verdict = model.forward(batch.x, batch.target, at=(config.seed, number))
        if part == 0:
            self._loss = np.zeros(1)
        self._loss += verdict.loss * (model.placed.batch / config.batch)
        again = job.schedule.replays(self.stage)
        self._open[number] = _Open(model.set_aside(again), batch if again else None, weights)
        if part == job.passes - 1:
            key = Key("loss", "forward", "allreduce", "all")
            self._sums.append(
                _Sum(step, self._loss, start_scalars(self.world, self._everyone, self._loss, key))
            )

    def _backward(self, number: int, before_update: Callable[[], None]) -> None:
        job, done = self.job, self._open.pop(number)
        model, arena, part = self.models[job.kind(number)], self.model.arena, number % job.passes
        if part == 0:
            arena.begin()
        now = None
        if done.weights is not None:
            before_update()  # a checkpoint may be copying those of now
            now = arena.exchanged(done.weights)
        if done.batch is not None:
            model.forward(done.batch.x, done.batch.target, at=(self.config.seed, number), replay=done.kept)
        else:
            model.take_up(done.kept)
        model.backward(model.placed.batch / self.config.batch, part == job.passes - 1)
        if now is not None:
            arena.exchanged(now)
        if part == job.passes - 1:
            arena.await_sums()

    def _stashed(self, part: int) -> list[Array]:
        """Return the weights of now, which all passes of a step share."""
        if part == 0:
            self._weights = self.model.arena.copied()
        return self._weights

    def _update(self, number: int, step: int, before_update: Callable[[], None]) -> None:
        """Update by the gradient of a step's batch, in step `number`."""
        mine = next((s for s in self._sums if s.step == step), None)
        if self.job.lag == 0 and mine is not None:
            self._checked(mine)
        self.staleness.add(number - step)
        lr = lr_at(step, self.config, self.steps_per_epoch, self.total_steps)
        before_update()
        squares, norm, scale = self._squares(), None, 1.0
        if squares is not None and self.config.clip_norm is not None:
            norm = math.sqrt(float(squares[:, 1].sum()))
            if not math.isfinite(norm):
                raise _everywhere(
                    RunError(f"step {step}: the gradient's norm is {norm}; lower train.lr or check the data")
                )
            scale = clip_scale(norm, self.config.clip_norm)
        self.optimizer.step(
            self._pieces, lr, squares if self.optimizer.needs_norms else None, grad_scale=scale,
            delay=min(number - step, step - self._first),  # batches that fill a pipeline meet weights that stand still
        )  # fmt: skip
        self.model.arena.publish()
        if mine is not None:
            mine.norm = norm

    def _known(self, lag: int) -> list[StepResult]:
        """Return the results of all steps but the last `lag`."""
        found = []
        while len(self._sums) > lag:
            each = self._sums.popleft()
            self._checked(each)
            lr = lr_at(each.step, self.config, self.steps_per_epoch, self.total_steps)
            found.append(StepResult(each.step, float(each.loss[0]), lr, each.norm))
        return found

    def _checked(self, each: _Sum) -> None:
        """Wait for a loss, and refuse one that is not finite."""
        finish(self.world, each.request, "allreduce", _LOSS)
        each.request = None
        if not math.isfinite(each.loss[0]):
            raise _everywhere(RunError(
                f"step {each.step}: the loss is {each.loss[0]}; lower train.lr, clip gradients (train.clip_norm = "
                "1.0), warm up longer (train.warmup_steps), or check the data for values that are not finite"
            ))  # fmt: skip

    def _squares(self, counts: bool = True) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
        """Return squared norms of value and gradient of every parameter, each element counted on one rank only."""
        if not needs_squares(self.config):
            return None
        squares = np.zeros((len(self._index), 2))
        for share in self.model.arena.counted_once() if counts else ():
            both = (share.value.astype(np.float64), share.grad.astype(np.float64))
            squares[self._index[share.entry.name]] += [float(v @ v) for v in both]
        return all_reduce(self.world, self._everyone, squares, Key("optimizer", "update", "allreduce", "all"))

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


def _everywhere(error: RunError) -> RunError:
    error.everywhere = True
    return error
