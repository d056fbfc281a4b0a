"""Pooling on a grid: windows with halo, and global pools.

Halo rows of a pool are borrowed like a convolution's, so windows may overlap and cross any number of
neighbours.  A global average sums where the space lies and is scattered over the batch; a global maximum is
not a sum, so its edge brings whole samples instead.
"""

from __future__ import annotations

from functools import cached_property
from math import prod

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.cpu.window import Window
from gridnn.layers.base import Layer
from gridnn.layers.conv import local_window
from gridnn.network import spec as s


class Pooling(Layer):
    """Max or average over windows."""

    KEEPS = ("_shape", "_best")

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the pooled block."""
        x, spec = inputs[0].wait(), self._spec
        self._shape = x.shape
        if spec.how == "max":
            y, self._best = self.compute.pool.max_forward(self.engine, x, self._window, self.output())
            return y
        return self.compute.pool.average_forward(
            self.engine, x, self._window, count_pad=spec.count_pad, out=self.output()
        )

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        if self._spec.how == "max":
            dx = self.compute.pool.max_backward(self.engine, dy, self._best, self._window, self._shape)
            del self._best
            return [dx]
        count = self._spec.count_pad
        return [
            self.compute.pool.average_backward(self.engine, dy, self._window, self._shape, count_pad=count)
        ]

    @property
    def _spec(self) -> s.Pool:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Pool)
        return spec

    @cached_property
    def _window(self) -> Window:
        windows, extents = self._spec.windows, self.placed.placement.needs[0].shape[2:]
        found = [w.needs(o, e) for w, o, e in zip(windows, self.out[2:], extents, strict=True)]
        return local_window(windows, [f.pad_lo for f in found], [f.pad_hi for f in found])


class GlobalAverage(Layer):
    """Mean over all of space: (N, C, *S) to (N, C), owed over the axes that cut space until it settles."""

    KEEPS = ("_shape",)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the means at rest."""
        x = inputs[0].wait()
        self._shape = x.shape
        return self.settle(self.compute.pool.sum_space(self.engine, x) * (1 / self._count))

    def backward(self, dy: Array) -> list[Array]:
        """Return dX: every element gets its share."""
        share = self.widen(self.spread(dy)) * (1 / self._count)
        return [self.compute.pool.spread_space(self.engine, self.narrow(share), self._shape)]

    @property
    def _count(self) -> int:
        return prod(self.placed.placement.needs[0].shape[2:])


class GlobalMax(Layer):
    """Maximum over all of space: (N, C, *S) to (N, C); each rank has whole samples."""

    KEEPS = ("_shape", "_best")

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the maxima."""
        x = inputs[0].wait()
        self._shape = x.shape
        y, self._best = self.compute.pool.max_space(self.engine, x)
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dX: the first largest element gets all."""
        return [self.compute.pool.max_space_backward(self.engine, dy, self._best, self._shape)]
