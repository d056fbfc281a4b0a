"""Batches for one rank: its block of the samples and of space, read ahead by a thread.

The boxes are in global coordinates of a batch: ((n0, n1), (c0, c1), (h0, h1), ...) for the input,
((n0, n1), *box of target_shape) for the target.  They may differ (the last layer can have another
grid), may overlap those of other ranks (halo, replicas), and may be empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.random import Box
from gridnn.train.data.augment import Augment, Geometry, drawn_geometry, finished, read_moved
from gridnn.train.data.dataset import Array, Dataset
from gridnn.train.data.order import SampleOrder

# Batches read ahead.
_DEPTH = 2


@dataclass(frozen=True)
class Batch:
    """One rank's part of a batch.

    `x` has the input box's extents and the loader's dtype; `target` the target box's, int64 for
    classes; `valid` says how many samples of the *global* batch count, from the front.
    """

    x: Array
    target: Array
    valid: int


class Loader:
    """A rank's batches, by step.

    Parameters
    ----------
    dataset, order
        What and in which order.
    boxes
        The rank's parts of inputs and targets, dim 0 over the batch; by the kind of a step (`SampleOrder.kind`).
    dtype
        Of inputs and image targets.
    augment, seed
        What is done to samples, drawn by (seed, epoch, global sample index).

    Attributes
    ----------
    wait_s
        Seconds that `batch` has waited for the reading thread.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: SampleOrder,
        boxes: Sequence[tuple[Box, Box]],
        dtype: DTypeLike,
        augment: Augment,
        seed: int,
    ) -> None:
        for input_box, target_box in boxes:
            assert len(input_box) == 1 + len(dataset.input_shape), f"{input_box} for {dataset.input_shape}"
            assert len(target_box) == 1 + len(dataset.target_shape), (
                f"{target_box} for {dataset.target_shape}"
            )
        self.dataset, self.order, self.dtype, self.seed = dataset, order, np.dtype(dtype), seed
        self.boxes = list(boxes)
        self.augment = augment.checked(dataset)
        self.wait_s = 0.0
        self._geometry: tuple[int, Geometry | None] | None = None
        self._ahead: dict[int, Future[Batch]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gridnn-data")

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; what it was reading is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def batch(self, step: int) -> Batch:
        """The rank's part of a step; the next ones are read meanwhile.

        Raises
        ------
        Whatever the reading of this step raised, in the caller's thread.
        """
        stop = step + 1 + _DEPTH if self.order.steps is None else min(self.order.steps, step + 1 + _DEPTH)
        # After a jump (resume, a second evaluation) what was read ahead is of no use.
        for other in [other for other in self._ahead if not step <= other < stop]:
            self._ahead.pop(other).cancel()
        for coming in range(step, max(stop, step + 1)):
            if coming not in self._ahead:
                self._ahead[coming] = self._thread.submit(self.read, coming)
        started_s = time.perf_counter()
        try:
            return self._ahead.pop(step).result()
        finally:
            self.wait_s += time.perf_counter() - started_s

    def read(self, step: int) -> Batch:
        """The rank's part of a step, read now."""
        dataset, order = self.dataset, self.order
        epoch, indices = order.epoch(step), order.indices(step)
        geometry = self._moves(epoch)
        whole, of_target = self.boxes[order.kind(step)]
        (n0, n1), *input_box = whole
        mine = indices[n0:n1]
        raw = read_moved(dataset.read, geometry, dataset.input_shape, mine, tuple(input_box))
        x = finished(raw, self.augment, dataset, self.seed, epoch, mine, tuple(input_box), self.dtype)

        (n0, n1), *target_box = of_target
        mine = indices[n0:n1]
        if dataset.target == "class":
            target = dataset.read_target(mine, ())
        elif dataset.read_target is dataset.read and tuple(of_target) == tuple(whole):
            target = raw  # a picture that is its own target is decoded once
        else:
            target = read_moved(dataset.read_target, geometry, dataset.target_shape, mine, tuple(target_box))
        if dataset.target == "image":
            target = target.astype(self.dtype) * np.asarray(dataset.target_scale, self.dtype)
        return Batch(x, np.ascontiguousarray(target), order.valid(step))

    def _moves(self, epoch: int) -> Geometry | None:
        if self._geometry is None or self._geometry[0] != epoch:
            self._geometry = (epoch, drawn_geometry(self.augment, self.dataset, self.seed, epoch))
        return self._geometry[1]
