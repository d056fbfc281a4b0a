"""What is noted of steps: written when a step's loss is known, some steps later where a pipeline has no flush."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gridnn.train.console import Progress
from gridnn.train.folder import Record
from gridnn.train.step import StepResult


class _Made(NamedTuple):
    step_s: float
    phases_s: Mapping[str, float]
    counted_bytes: int


class Notes:
    """The steps of a run on their way to its record and to the terminal; one on each rank.

    Attributes
    ----------
    loss
        Of the last step that is known.
    """

    def __init__(
        self, record: Record | None, progress: Progress, steps_per_epoch: int, batch: int, loss: float = math.nan
    ) -> None:  # fmt: skip
        self._record, self._progress, self._steps_per_epoch, self._batch = (
            record,
            progress,
            steps_per_epoch,
            batch,
        )
        self._made: dict[int, _Made] = {}
        self.loss = loss

    def made(self, step: int, step_s: float, phases_s: Mapping[str, float], counted_bytes: int) -> None:
        """Note what a step took and moved."""
        self._made[step] = _Made(step_s, phases_s, counted_bytes)

    def known(self, results: Iterable[StepResult]) -> None:
        """Write the steps whose loss is known now."""
        for result in results:
            made, epoch = self._made.pop(result.step), result.step // self._steps_per_epoch
            if self._record is not None:
                self._record.step(
                    step=result.step, epoch=epoch, loss=result.loss, lr=result.lr, **made._asdict(), norm=result.norm
                )  # fmt: skip
            self.loss = result.loss
            self._progress.update(
                step=result.step + 1, epoch=epoch + 1, loss=result.loss, lr=result.lr, samples=self._batch
            )
