"""The fully connected layer on a grid: Gholami et al. 2018, Fig. 5, and its transpose in `c`.

    X (N, C) cut n, c    W (K, C) cut k, c    Y (N, K) cut n, k; owed over c, then scattered inside k

With c = 1: the edge gathers X over k, the arena sums dW over n, and giving dX back sums it over k (1.5D).
With k = 1 (c cut): X stays where a k-cut layer before it left it, and only Y is summed: a k-cut layer followed
by a c-cut one needs no all-gather.
"""

from __future__ import annotations

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.layers.weighted import Weighted


class FullyConnected(Weighted):
    """Y = X W^T + b."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the block of Y at rest."""
        self._x = inputs[0].wait()
        return self.finish(
            self.compute.linear.forward(
                self.engine, self._x, self.parameters["weight"].factor, **self.epilogue
            )
        )

    def backward(self, dy: Array) -> list[Array]:
        """Return dX, owed over k."""
        self._dy = self.begin(dy)
        if not self.wants_dx:
            return [dy]
        return [self.compute.linear.backward_data(self.engine, self._dy, self.parameters["weight"].factor)]

    def weigh(self) -> None:
        """Add dW, owed over n (and over space axes, which cut the batch here)."""
        weight = self.parameters["weight"]
        self.compute.linear.backward_weights(
            self.engine, self._x, self._dy, weight.grad, add=not self.first(weight)
        )
        del self._x, self._dy
