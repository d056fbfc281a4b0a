"""In which order samples come: a pure function of the step, so that a run resumes anywhere.

training     | epoch 0: a permutation         | epoch 1: another one
steps        | 0      1      2     (rest out) | 3      4      5     (rest out)

evaluation   | 0      1      2      3: the last samples, then the first again to fill the batch
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from gridnn.compute.random import permutation
from gridnn.errors import InputError
from gridnn.geometry.interval import Interval
from gridnn.train.data.dataset import Indices


class SampleOrder(Protocol):
    """What a loader asks of an order."""

    batch: int

    @property
    def steps(self) -> int | None:
        """Passes there are; None: without end."""

    def epoch(self, step: int) -> int:
        """The epoch of a step, which its augmentation belongs to."""

    def indices(self, step: int) -> Indices:
        """The `batch` global sample indices of a step."""

    def valid(self, step: int) -> int:
        """How many of them, from the front, count."""

    def kind(self, step: int) -> int:
        """Which of the loader's boxes a step has."""


class Order:
    """The order of training: a permutation an epoch, without the rest that fills no batch.

    The rest differs from epoch to epoch, so no sample is left out for good.

    Parameters
    ----------
    count, batch
        Samples, and samples a step over all ranks.
    seed, shuffle
        The permutation of epoch e belongs to (seed, e); without `shuffle` it is 0, 1, 2, ...
    """

    steps: int | None = None

    def __init__(self, count: int, batch: int, seed: int, shuffle: bool = True) -> None:
        _check(count, batch)
        if count < batch:
            raise InputError(
                f"too few samples: {count} training samples do not fill one batch of {batch}; "
                f"set train.batch to at most {count} or give more data"
            )
        self.count, self.batch, self.seed, self.shuffle = count, batch, seed, shuffle
        self._latest: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.count // self.batch

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Indices:
        """Global sample indices of a global step, length `batch`."""
        epoch, place = divmod(step, self.steps_per_epoch)
        # One assignment and one read: safe between a prefetching thread and its caller.
        latest = self._latest
        if latest[0] != epoch:
            drawn = (
                permutation(self.seed, "order", self.count, epoch) if self.shuffle else np.arange(self.count)
            )
            self._latest = latest = (epoch, drawn)
        return latest[1][place * self.batch : (place + 1) * self.batch]

    def valid(self, step: int) -> int:
        """All of them."""
        return self.batch

    def kind(self, step: int) -> int:
        """All alike."""
        return 0


class PassOrder:
    """The order of the passes that make up a step: each step's batch in `passes` balanced parts, larger ones first."""

    steps: int | None = None

    def __init__(self, order: Order, passes: int) -> None:
        self.order, self.passes, self.batch = order, passes, -(-order.batch // passes)
        self._parts = [Interval(0, order.batch).block(passes, part) for part in range(passes)]

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return self.order.epoch(step // self.passes)

    def indices(self, step: int) -> Indices:
        """Global sample indices of pass `step`, counted over all steps."""
        number, part = divmod(step, self.passes)
        return self.order.indices(number)[slice(*self._parts[part])]

    def valid(self, step: int) -> int:
        """All of a pass."""
        return self._parts[step % self.passes].size

    def kind(self, step: int) -> int:
        """0 for a pass of `batch` samples, 1 for one of a sample less."""
        return int(self.valid(step) < self.batch)


class EvaluationOrder:
    """The order of evaluation: every sample once, the last batch filled with samples that do not count."""

    def __init__(self, count: int, batch: int) -> None:
        _check(count, batch)
        self.count, self.batch = count, batch

    @property
    def steps(self) -> int:
        """Batches, the last one filled up."""
        return -(-self.count // self.batch)

    def epoch(self, step: int) -> int:
        """The epoch of a step."""
        return 0

    def indices(self, step: int) -> Indices:
        """Global sample indices in order, beginning again after the last."""
        return np.arange(step * self.batch, (step + 1) * self.batch) % self.count

    def valid(self, step: int) -> int:
        """Those that are not repetitions."""
        return min(self.batch, self.count - step * self.batch)

    def kind(self, step: int) -> int:
        """All alike."""
        return 0


def _check(count: int, batch: int) -> None:
    if count < 1 or batch < 1:
        raise InputError(f"{count} samples in batches of {batch}: both must be at least 1")
