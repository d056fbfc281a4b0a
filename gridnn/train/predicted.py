"""What a step and an evaluation of a run move on one rank, by the formulas: law 4 holds the ledger to it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gridnn.cost.traffic import predict_backward, predict_forward, predict_gradients, predict_scalars
from gridnn.geometry.traffic import Traffic
from gridnn.network.stages import crossing
from gridnn.train.choose import Job
from gridnn.train.sections import TrainSection


class Predicted:
    """The traffic of the steps of one rank, put together from that of passes."""

    def __init__(self, job: Job, config: TrainSection, procs: int, rank: int) -> None:
        self.job, self.config, self._procs, self._rank = job, config, procs, rank
        self._itemsize = job.widths or np.dtype(config.dtype).itemsize
        self._parameters = sum(len(layer.placement.parameters) for layer in job.placed.layers)
        self._crossing = crossing(job.placed, job.stages)
        self._stage = job.stage(rank)
        self._tasks = lru_cache(maxsize=64)(self._sum)  # steps are alike but for the first and the last

    def step(self, step: int, first: int = 0, stop: int | None = None) -> Traffic:
        """Return the traffic of a step; see `plan.pipeline.schedule.Schedule.step`.

        With `stop` or more it is a step in which the pipeline is drained.
        """
        job = self.job
        tasks = tuple(
            (t.verb, 0 if t.verb == "update" else job.kind(t.number))
            for t in job.schedule.step(self._stage, step, first, stop)
        )
        return self._tasks(tasks, stop is None or step < stop)

    def evaluation(self, steps: int) -> Traffic:
        """Return the traffic of an evaluation of `steps` passes."""
        traffic = Traffic()
        forward = predict_forward(self.job.placed, self._rank, self._itemsize, train=False, score=True)
        traffic.merge(forward, steps)
        predict_scalars(traffic, "loss", "evaluation", self._procs, self._rank, 3)
        return traffic

    def _sum(self, tasks: tuple[tuple[str, int], ...], comes: bool) -> Traffic:
        traffic, job, config = Traffic(), self.job, self.config
        for verb, kind in tasks:
            placed = job.sizes_placed[kind]
            at = placed, self._rank, self._itemsize
            if verb == "forward":
                traffic.merge(predict_forward(*at, train=True))
            elif verb == "update":
                traffic.merge(predict_gradients(*at, config.bucket_bytes, config.cut_optimizer))
            else:
                if job.schedule.replays(self._stage):  # what came from other stages was kept
                    traffic.merge(predict_forward(*at, train=True, without=self._crossing))
                without = self._crossing if job.schedule.name == "local" else ()
                traffic.merge(predict_backward(*at, without=without))
        if comes:
            predict_scalars(traffic, "loss", "forward", self._procs, self._rank, 1)
        if needs_squares(config):
            predict_scalars(traffic, "optimizer", "update", self._procs, self._rank, 2 * self._parameters)
        return traffic


def needs_squares(config: TrainSection) -> bool:
    """Return whether a step needs the norms of parameters and gradients."""
    return config.optimizer == "lars" or config.clip_norm is not None
