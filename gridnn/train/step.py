"""One step of training, and an evaluation: the doing wing in the order of time.

begin - (forward - backward) x passes - sums awaited - norms - clip - update - shares published
                     \\_ the loss is summed over all ranks meanwhile
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gridnn.comm.collectives import all_reduce, finish, start_sum, where_of
from gridnn.comm.world import World
from gridnn.cost.traffic import predict_forward, predict_scalars, predict_step
from gridnn.errors import RunError
from gridnn.geometry.traffic import Key, Traffic
from gridnn.layers.model import Model
from gridnn.train.choose import Job
from gridnn.train.data.loader import Loader
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.schedule import clip_scale, lr_at
from gridnn.train.sections import TrainSection


@dataclass(frozen=True)
class StepResult:
    """Loss before the update, learning rate, and the gradient's global norm where it was needed."""

    loss: float
    lr: float
    norm: float | None


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of correct predictions over a data set; accuracy is None without classes."""

    loss: float
    accuracy: float | None


class Trainer:
    """A model with its optimizer: `step` and `evaluate`, and what they will move."""

    def __init__(
        self,
        world: World,
        model: Model,
        job: Job,
        config: TrainSection,
        steps_per_epoch: int,
        total_steps: int,
    ) -> None:
        self.world, self.model, self.job, self.config = world, model, job, config
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps
        self.optimizer = Optimizer(config, model.engine)
        names = [
            f"{layer.node.name}.{p.name}" for layer in job.placed.layers for p in layer.placement.parameters
        ]
        self._index = {name: i for i, name in enumerate(names)}
        self._everyone = tuple(range(world.size))
        self._pieces = [
            Piece(s.entry.name, s.value, s.grad, s.entry.parameter.decay, self._index[s.entry.name])
            for s in model.arena.shares()
        ]

    def step(
        self, number: int, loader: Loader, before_update: Callable[[], None] = lambda: None
    ) -> StepResult:
        """Make step `number` (from 0); `before_update` returns when weights and optimizer state may change.

        Raises
        ------
        RunError
            On all ranks, when the loss is not finite.
        """
        with self.world.clock.phase(
            "update", ((), "update")
        ):  # has what no other phase has: a step has no gaps
            return self._step(number, loader, before_update)

    def _step(self, number: int, loader: Loader, before_update: Callable[[], None]) -> StepResult:
        passes, clock = self.job.passes, self.world.clock
        self.model.arena.begin()
        loss, request, parts = np.zeros(1), None, [(Key("loss", "forward", "allreduce", "all"), 1)]
        for each in range(number * passes, (number + 1) * passes):
            last = each == (number + 1) * passes - 1
            with clock.phase("data"):
                batch = loader.batch(each)
            loss += self.model.forward(batch.x, batch.target, at=(self.config.seed, each)).loss / passes
            if last:
                request = start_sum(self.world, self._everyone, loss, parts)
            self.model.backward(1 / passes, last)
        self.model.arena.await_sums()
        finish(self.world, request, "allreduce", where_of(parts))
        if not math.isfinite(loss[0]):
            raise _everywhere(RunError(
                f"step {number}: the loss is {loss[0]}; lower train.lr, clip gradients (train.clip_norm = 1.0), "
                "warm up longer (train.warmup_steps), or check the data for values that are not finite"
            ))  # fmt: skip
        lr = lr_at(number, self.config, self.steps_per_epoch, self.total_steps)
        before_update()
        norm = self._update(number, lr)
        return StepResult(float(loss[0]), lr, norm)

    def _update(self, number: int, lr: float) -> float | None:
        squares, norm, scale = self._squares(), None, 1.0
        if squares is not None and self.config.clip_norm is not None:
            norm = math.sqrt(float(squares[:, 1].sum()))
            if not math.isfinite(norm):
                raise _everywhere(
                    RunError(
                        f"step {number}: the gradient's norm is {norm}; lower train.lr or check the data"
                    )
                )
            scale = clip_scale(norm, self.config.clip_norm)
        self.optimizer.step(
            self._pieces, lr, squares if self.optimizer.needs_norms else None, grad_scale=scale
        )
        self.model.arena.publish()
        return norm

    def _squares(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
        """Return squared norms of value and gradient of every parameter, each element counted on one rank only."""
        if not needs_squares(self.config):
            return None
        squares = np.zeros((len(self._index), 2))
        for share in self.model.arena.counted_once():
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
        key = Key("loss", "evaluation", "allreduce", "all")
        loss, correct, judged = all_reduce(self.world, self._everyone, np.array([loss, correct, judged]), key)
        if not math.isfinite(loss):  # the last update may be the one that diverged
            raise _everywhere(
                RunError(f"evaluation: the loss is {loss}; lower train.lr or check the test data")
            )
        return Evaluation(float(loss) / max(1, count), float(correct / judged) if judged else None)


def predicted_step(job: Job, config: TrainSection, procs: int, rank: int) -> Traffic:
    """Return what a step moves on one rank, by the formulas."""
    itemsize, parameters = (
        np.dtype(config.dtype).itemsize,
        sum(len(layer.placement.parameters) for layer in job.placed.layers),
    )
    traffic = predict_step(
        job.placed,
        rank,
        itemsize,
        passes=job.passes,
        bucket_bytes=config.bucket_bytes,
        cut_optimizer=config.cut_optimizer,
    )
    predict_scalars(traffic, "loss", "forward", procs, rank, 1)
    predict_scalars(traffic, "optimizer", "update", procs, rank, 2 * parameters * needs_squares(config))
    return traffic


def predicted_evaluation(job: Job, config: TrainSection, procs: int, rank: int, steps: int) -> Traffic:
    """Return what an evaluation of `steps` passes moves on one rank, by the formulas."""
    traffic = Traffic()
    traffic.merge(
        predict_forward(job.placed, rank, np.dtype(config.dtype).itemsize, train=False, score=True), steps
    )
    predict_scalars(traffic, "loss", "evaluation", procs, rank, 3)
    return traffic


def needs_squares(config: TrainSection) -> bool:
    """Return whether a step needs the norms of parameters and gradients."""
    return config.optimizer == "lars" or config.clip_norm is not None


def _everywhere(error: RunError) -> RunError:
    error.everywhere = True
    return error
