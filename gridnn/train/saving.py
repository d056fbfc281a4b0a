"""When a run saves, and when it leaves.

| a checkpoint is made                      | because                                     |
|-------------------------------------------|---------------------------------------------|
| every `checkpoint.every_steps` steps      | the configuration says so                   |
| `checkpoint.every_s` seconds after the last | the clock of rank 0 says so, a step before |
| after an evaluation better than all before | `checkpoint.best`                          |
| before the run leaves its job             | a signal, or the time limit (see leave)     |
| after the last step                       | the weights are what the run was for        |

It is copied beside the passes of the step that follows, whose update waits for the copy, and written behind the steps
after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from gridnn.comm.world import World
from gridnn.layers.model import Model
from gridnn.train.checkpoint.folders import CHECKPOINTS
from gridnn.train.checkpoint.index import State
from gridnn.train.checkpoint.live import contents_of, restore, values_of
from gridnn.train.checkpoint.read import Checkpoint
from gridnn.train.checkpoint.write import Writer
from gridnn.train.folder import versions
from gridnn.train.leave import Reason, Signals, Stopper
from gridnn.train.optimizer import Optimizer
from gridnn.train.sections import Config


class Saving:
    """The checkpoints of a run, and its ears for what ends it early; one on each rank, all methods are collective.

    Parameters
    ----------
    folder
        Of the run, on rank 0.
    texts
        Of ``config.toml`` and ``plan.json``.
    total, steps_per_epoch
        Of the run.
    signals, left_s
        What this rank was told, and the seconds that are left of its job's time (rank 0; None: no limit).
    """

    def __init__(
        self, world: World, config: Config, model: Model, optimizer: Optimizer, signals: Signals, left_s: float | None,
        *, folder: Path | None, texts: tuple[str, str], total: int, steps_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.world, self.model, self.optimizer, self.total = world, model, optimizer, total
        self._train, self._wanted, self._texts = config.train, config.checkpoint, texts
        self._steps_per_epoch, self._clock = steps_per_epoch, clock
        self._contents = contents_of(model.placed, config.train)
        self._lowest, self._saved_s, self._saved = math.inf, clock(), -1
        self._stopper = Stopper(world, signals, left_s, config.checkpoint.leave_s)
        self._writer: Writer | None = None
        if self._wanted.keep:
            root = None if folder is None else folder / CHECKPOINTS
            self._writer = Writer(
                world, root, self._contents, self._wanted.keep, self._wanted.best, self._wanted.behind
            )

    def __enter__(self) -> Saving:
        self._stopper.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopper.__exit__(kind, error, trace)
        if kind is None and self._writer is not None:  # after an error others may not follow
            self._writer.close()

    def restore(self, checkpoint: Checkpoint | None) -> float:
        """Fill model and optimizer from a checkpoint, if there is one; return the loss of the step before it.

        Raises
        ------
        InputError
            If it is of another network, optimizer or type.
        """
        if checkpoint is None:
            return math.nan
        model, more = self.model, checkpoint.state.more
        restore(checkpoint, self._contents, self.world.rank, model.arena, model.layers, self.optimizer)
        lowest, loss = more.get("lowest_loss"), more.get("step_loss")
        self._lowest = math.inf if lowest is None else float(lowest)
        return math.nan if loss is None else float(loss)

    def before_update(self) -> None:
        """Return when weights and optimizer state may change: a checkpoint may still be copying them."""
        if self._writer is not None and not self._writer.copied:
            with self.world.clock.phase("checkpoint"):
                self._writer.await_copy()

    def after_step(self, done: int, judged: float | None, drain: Callable[[], float]) -> Reason | None:
        """Go on saving, begin a checkpoint where one is due; return why the run must leave now, or None.

        Parameters
        ----------
        done
            Steps made.
        judged
            Loss of the evaluation after this step, None without one.
        drain
            Brings all stages to this step before they are saved, and returns its loss.

        Raises
        ------
        RunError
            If a checkpoint could not be written.
        """
        verdict = self._stopper.after_step(self._is_time())
        if self._writer is None:
            return verdict.stop
        self._writer.poll()
        before, self._lowest = self._lowest, min(self._lowest, math.inf if judged is None else judged)
        every = self._wanted.every_steps
        if (
            verdict.stop is not None or verdict.save or done == self.total
            or (every and done % every == 0) or (self._wanted.best and self._lowest < before)
        ):  # fmt: skip
            self._save(done, drain(), judged)
        return verdict.stop

    def finish(self) -> int | None:
        """Return when all is on the disk: the step of the newest checkpoint, None if there is none."""
        if self._writer is None:
            return None
        self._writer.finish()
        return self._saved if self._saved >= 0 else None

    def _is_time(self) -> bool:
        every_s = self._wanted.every_s
        return self.world.rank == 0 and every_s > 0 and self._clock() - self._saved_s >= every_s

    def _save(self, done: int, loss: float, judged: float | None) -> None:
        assert self._writer is not None
        model, (config, plan) = self.model, self._texts
        state = State(
            step=done, epoch=done // self._steps_per_epoch, updates=self.optimizer.updates, seed=self._train.seed,
            loss=judged, plan=plan, config=config, versions=versions(),
            more={"lowest_loss": self._lowest if math.isfinite(self._lowest) else None, "step_loss": loss},
        )  # fmt: skip
        values = values_of(self._contents, self.world.rank, model.arena, model.layers, self.optimizer)
        with self.world.clock.phase("checkpoint"):
            self._writer.save(values, state)
        self._saved, self._saved_s = done, self._clock()
