"""Normalisation on a grid: statistics are sums over every axis that cuts what they sum.

| layer      | statistics of        | summed over the axes     | parameters                              |
|------------|----------------------|--------------------------|-----------------------------------------|
| batch norm | a channel            | all but k and c          | cut with channels; whole gradients      |
| layer norm | a sample             | k, c and space           | cut with the sample; gradients owed     |

Sums are float64 whatever the data.  The sums that batch norm's backward needs are the gradients of its
parameters, so these need no sum of their own (Ioffe & Szegedy 2015, Algorithm 1).
"""

from __future__ import annotations

from functools import cached_property
from math import prod

import numpy as np

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.layers.base import Layer
from gridnn.network import spec as s


class BatchNormalisation(Layer):
    """Batch norm; `mean` and `variance` are the running statistics of the rank's channels."""

    KEEPS = ("_kept",)

    frozen = False  # True while a pass is made again: the running statistics have moved

    def share(self, other: BatchNormalisation) -> None:
        """Have the running statistics of another layer."""
        self.mean, self.variance = other.statistics().values()

    def statistics(self) -> dict[str, Array]:
        """Return the running statistics by name, live; before the first step those of nothing seen."""
        if not hasattr(self, "mean"):
            channels = self.out[1].size
            self.mean, self.variance = (self.engine.take(start(channels)) for start in (np.zeros, np.ones))
        return {"mean": self.mean, "variance": self.variance}

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the normalised block; in training the running statistics move as in the serial run."""
        self.statistics()
        x, spec = inputs[0].wait(), self.placed.node.spec
        assert isinstance(spec, s.BatchNorm)
        if train:
            sums = self._sum(self.compute.norm.moments(self.engine, x, self.mean), "forward")
            statistics = self.compute.norm.statistics(
                self.engine,
                sums,
                self._count,
                self.mean,
                self.variance,
                0.0 if self.frozen else spec.momentum,
                spec.eps,
            )
        else:
            statistics = (self.mean, 1 / np.sqrt(self.variance + spec.eps))
        gamma, beta = self.parameters["gamma"].value, self.parameters["beta"].value
        y = self.compute.norm.apply(
            self.engine, x, statistics, gamma, beta, relu=self.rectified, out=self.output()
        )
        self._kept = (x, statistics, y if self.masks else None)
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dX, and add the parameters' gradients, whole on every rank."""
        x, statistics, y = self._kept
        del self._kept
        sums = self._sum(self.compute.norm.backward_sums(self.engine, x, statistics, dy, y), "backward")
        gamma = self.parameters["gamma"]
        of_beta, of_gamma = sums.astype(gamma.grad.dtype)
        self.parameters["beta"].grad += of_beta
        gamma.grad += of_gamma
        return [
            self.compute.norm.backward_apply(
                self.engine, x, statistics, gamma.value, dy, sums, self._count, y
            )
        ]

    def _sum(self, sums: Array, direction: str) -> Array:
        return self.sum_over(self.placed.placement.statistics, sums, direction)

    @cached_property
    def _count(self) -> int:
        n, _, *space = self.placed.placement.out.shape
        return n * prod(space)


class LayerNormalisation(Layer):
    """Layer norm over channels and space of each sample."""

    KEEPS = ("_kept",)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the normalised block."""
        x, spec, norm = inputs[0].wait(), self.placed.node.spec, self.compute.layer_norm
        assert isinstance(spec, s.LayerNorm)
        sums = self._sum(norm.moments(self.engine, x), "forward")
        statistics = norm.statistics(self.engine, sums, self._count, spec.eps)
        gamma, beta = self.parameters["gamma"].value, self.parameters["beta"].value
        self._kept = (x, statistics)
        return norm.apply(self.engine, x, statistics, gamma, beta, out=self.output())

    def backward(self, dy: Array) -> list[Array]:
        """Return dX."""
        norm, gamma = self.compute.layer_norm, self.parameters["gamma"].value
        sums = self._sum(norm.backward_sums(self.engine, *self._kept, gamma, dy), "backward")
        self._dy = dy
        return [norm.backward_apply(self.engine, *self._kept, gamma, dy, sums, self._count)]

    def weigh(self) -> None:
        """Add the gradients of gamma and beta, owed over the batch."""
        gamma, beta = self.compute.layer_norm.parameter_gradients(self.engine, *self._kept, self._dy)
        self.parameters["gamma"].grad += gamma
        self.parameters["beta"].grad += beta
        del self._kept, self._dy

    def _sum(self, sums: Array, direction: str) -> Array:
        return self.sum_over(self.placed.placement.statistics, sums, direction)

    @property
    def _count(self) -> int:
        return prod(self.placed.placement.out.shape[1:])
