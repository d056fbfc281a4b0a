"""Losses on a grid: each rank judges its block, the sums over classes run along k and c.

`judge` returns sums, not means: the model adds them over all ranks.  Samples from `valid` on are padding of
an uneven last batch and count for nothing.  The loss of a training pass may stay where it is computed (`late`): it is
read later, and no pass waits for it.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gridnn.comm.world import Array
from gridnn.compute.storage import wide_of
from gridnn.layers.base import Layer
from gridnn.network import spec as s


class Verdict(NamedTuple):
    """A rank's share: the loss's terms, a number or an array without dims; correct predictions and their number."""

    loss: Any
    correct: float
    judged: float


class Loss(Layer):
    """A loss: `judge`, then `gradient`.

    Attributes
    ----------
    late
        Whether the loss of a pass without a score stays where it is computed.
    """

    KEEPS = ("_kept", "_weight")
    late = False

    def judge(self, x: Array, target: Array, valid: int, score: bool) -> Verdict:
        """Return the rank's share of the loss and, if `score`, of the correct predictions."""
        raise AssertionError(f"{self.name}: a loss judges by itself")

    def gradient(self, scale: float) -> Array:
        """Return the gradient of `scale` times the mean loss by the logits of the block."""
        raise AssertionError(f"{self.name}: a loss computes its own gradient")

    def _positions(self, target: Array, valid: int) -> Array:
        """Return weights, one a target element: 1 / (elements judged), 0 for padding; made once for a `valid`."""
        found = self._weights.get((valid, target.shape))
        if found is not None:
            return found
        batch, count = self.needs[0][0], valid * prod(self.placed.placement.needs[0].shape[2:])
        real = np.arange(batch.start, batch.stop) < valid
        weight = np.where(real, 1 / max(1, count), 0.0).reshape(-1, *[1] * (target.ndim - 1))
        found = self._weights[valid, target.shape] = self.engine.take(np.broadcast_to(weight, target.shape))
        return found

    @cached_property
    def _weights(self) -> dict[tuple[int, tuple[int, ...]], Array]:
        """Those made so far, kept for good: a captured step has their addresses."""
        return {}

    def _told(self, loss: Array, score: bool) -> Any:
        """Return a loss as it is told: a number, for which the host waits, or as it is."""
        return loss if self.late and not score else float(loss)

    def _first(self) -> bool:
        """True on one rank of those that share positions and cut the classes."""
        return self.scheme.group(self.world.rank, ("k", "c"))[0] == self.world.rank


class CrossEntropy(Loss):
    """Softmax cross-entropy; classes may be cut over k and c."""

    def judge(self, x: Array, target: Array, valid: int, score: bool) -> Verdict:
        """Sum over the classes of all ranks, then judge the positions of the block."""
        spec = self.placed.node.spec
        assert isinstance(spec, s.SoftmaxCrossEntropy)
        axes, k = self.placed.placement.statistics, self.needs[0][1]
        top = self.sum_over(axes, self.compute.softmax.block_max(self.engine, x), "forward", "max")
        sums = self.sum_over(
            axes, self.compute.softmax.block_sums(self.engine, x, top, target, k.start), "forward"
        )
        weight = self._positions(target, valid)
        classes = self.placed.placement.needs[0].shape[1]
        self._kept = (x, top, sums[0], target, k.start, classes, spec.smoothing)
        self._weight = weight
        losses = self.compute.softmax.losses(sums, classes, spec.smoothing)
        loss = self._told((losses * weight).sum(), score) if self._first() else 0.0
        if not score:
            return Verdict(loss, 0.0, 0.0)
        best = self.sum_over(axes, self.compute.softmax.best_class(x, top, k.start), "forward", "min")
        if not self._first():
            return Verdict(loss, 0.0, 0.0)
        return Verdict(loss, float(((best == target) & (weight > 0)).sum()), float((weight > 0).sum()))

    def gradient(self, scale: float) -> Array:
        """Return softmax minus target."""
        dx = self.compute.softmax.gradient(self.engine, *self._kept, self._weight * scale)
        del self._kept
        return dx


class SquaredError(Loss):
    """Mean of (prediction - target)^2 over all elements of the batch."""

    def judge(self, x: Array, target: Array, valid: int, score: bool) -> Verdict:
        """Judge the elements of the block."""
        x = self.widen(x)
        weight = (self._positions(target, valid) / self.placed.placement.needs[0].shape[1]).astype(x.dtype)
        self._kept = (x - target, weight)
        loss = (np.square(x - target, dtype=np.float64) * weight).sum()
        return Verdict(self._told(loss, score), 0.0, 0.0)

    def gradient(self, scale: float) -> Array:
        """Return 2 (prediction - target) / elements."""
        difference, weight = self._kept
        del self._kept
        dx = self.engine.empty(difference.shape, wide_of(self.dtype))
        np.multiply(difference, (2 * scale) * weight, out=dx, casting="same_kind")
        return self.narrow(dx)
