"""Pooling on a grid: windows with halo, and global pools.

Halo rows of a pool are borrowed like a convolution's, so windows may overlap and cross any number of
neighbours.  A global average sums where the space lies and is scattered over the batch; a global maximum is
not a sum, so its edge brings whole samples instead.
"""

from __future__ import annotations

from math import prod

import numpy as np

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.cpu import pool
from gridnn.layers.base import Layer
from gridnn.layers.conv import LocalWindow, window_arguments
from gridnn.network import spec as s


class PoolWindow(LocalWindow):
    """Keyword arguments of a local pool."""

    kernel: tuple[int, ...]


class Pooling(Layer):
    """Max or average over windows."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the pooled block."""
        x, spec, local = inputs[0].wait(), self._spec, self._local()
        self._shape = x.shape
        if spec.how == "max":
            y, self._best = pool.max_forward(x, **local)
            return y
        return pool.average_forward(x, count_pad=spec.count_pad, **local)

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        if self._spec.how == "max":
            return [pool.max_backward(dy, self._best, self._shape, **self._local())]
        return [pool.average_backward(dy, self._shape, count_pad=self._spec.count_pad, **self._local())]

    @property
    def _spec(self) -> s.Pool:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Pool)
        return spec

    def _local(self) -> PoolWindow:
        windows, extents = self._spec.windows, self.placed.placement.needs[0].shape[2:]
        found = [w.needs(o, e) for w, o, e in zip(windows, self.out[2:], extents, strict=True)]
        local = window_arguments(windows, [f.pad_lo for f in found], [f.pad_hi for f in found])
        return {"kernel": tuple(w.kernel for w in windows), **local}


class GlobalAverage(Layer):
    """Mean over all of space: (N, C, *S) to (N, C), owed over the axes that cut space until it settles."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the means at rest."""
        x = inputs[0].wait()
        self._shape = x.shape
        return self.settle(pool.sum_space(x) * np.asarray(1 / self._count, self.dtype))

    def backward(self, dy: Array) -> list[Array]:
        """Return dX: every element gets its share."""
        return [pool.spread_space(self.spread(dy) * np.asarray(1 / self._count, self.dtype), self._shape)]

    @property
    def _count(self) -> int:
        return prod(self.placed.placement.needs[0].shape[2:])


class GlobalMax(Layer):
    """Maximum over all of space: (N, C, *S) to (N, C); each rank has whole samples."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the maxima."""
        x = inputs[0].wait()
        self._shape = x.shape
        y, self._best = pool.max_space(x)
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dX: the first largest element gets all."""
        return [pool.max_space_backward(dy, self._best, self._shape)]
