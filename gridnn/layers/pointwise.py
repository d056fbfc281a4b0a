"""Layers that need no other rank: activations, dropout, add, concat, flatten, upsample.

What they need has been brought by their edges; upsampling reads a window, so its edge brings a halo.
"""

from __future__ import annotations

import numpy as np

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.cpu import pointwise
from gridnn.compute.cpu.reference import upsample
from gridnn.compute.random import dropout_mask
from gridnn.geometry.interval import extents_of, volume
from gridnn.layers.base import Layer
from gridnn.network import spec as s


class ActivationLayer(Layer):
    """An elementwise function; keeps its input or its output, whichever the derivative reads."""

    absorbed = False  # True where the layer before it does its work (see fuse)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return f(x)."""
        x = inputs[0].wait()
        if self.absorbed:
            return x
        y = pointwise.activate(self.engine, self._function, x, out=self.output())
        self._kept = x if pointwise.KEEPS[self._function] == "x" else y
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return f'(x) dy."""
        if self.absorbed:
            return [dy]
        kept = self._kept
        del self._kept
        return [pointwise.activate_backward(self.engine, self._function, kept, dy)]

    @property
    def _function(self) -> str:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Activation)
        return spec.name


class DropoutLayer(Layer):
    """Dropout by global element index: the mask is the same on every grid (`at` is set by the model)."""

    at: tuple[int, int] = (0, 0)  # seed of the run, number of the pass

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return x times the mask in training, x otherwise."""
        x, spec = inputs[0].wait(), self.placed.node.spec
        assert isinstance(spec, s.Dropout)
        self._mask: Array | None = None
        if not train or spec.rate == 0:
            return x
        seed, step = self.at
        shape = self.placed.placement.out.shape
        self._mask = dropout_mask(seed, f"dropout:{self.name}", shape, self.out, step, spec.rate, self.dtype)
        y = self.engine.empty(x.shape, self.dtype)
        np.multiply(x, self._mask, out=y)
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dy times the mask."""
        if self._mask is None:
            return [dy]
        return [np.multiply(dy, self._mask, out=self.engine.empty(dy.shape, self.dtype))]


class Addition(Layer):
    """The sum of the inputs."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the sum, in the order of the inputs."""
        y = pointwise.add(
            self.engine, [pending.wait() for pending in inputs], relu=self.rectified, out=self.output()
        )
        self._y = y if self.rectified else None
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dy for each input."""
        y, self._y = self._y, None
        if y is not None:
            dy = pointwise.activate_backward(self.engine, "relu", y, dy)
        return [dy] * len(self.needs)


class Concatenation(Layer):
    """The inputs side by side along channels; each rank fetched what lies in its block."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the block."""
        parts, y = [pending.wait() for pending in inputs], self.output()
        return np.concatenate(parts, axis=1, out=y)

    def backward(self, dy: Array) -> list[Array]:
        """Return each input's channels of dy."""
        stops = np.cumsum([box[1].size for box in self.needs])
        return list(np.split(dy, stops[:-1], axis=1))


class Flattening(Layer):
    """(N, C, *S) to (N, C * S): blocks of whole channels."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the block as features."""
        x = inputs[0].wait()
        if volume(self.needs[0][2:]) < 2:
            return x.reshape(extents_of(self.out))
        y = self.engine.empty(extents_of(self.out), self.dtype)
        self.engine.copy(x, y.reshape(x.shape))
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dy with channels and space apart again."""
        return [self.engine.fitted(dy.reshape(extents_of(self.needs[0])))]


class Upsampling(Layer):
    """Nearest or linear upsampling of the block, whose rows' weights depend on global indices only."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the upsampled block."""
        x, extents = inputs[0].wait(), [i.size for i in self.out[2:]]
        if self._linear:
            return upsample.linear_forward(x, out_extent=extents, **self._sizes(), **self._starts())
        return upsample.nearest_forward(x, out_extent=extents, factor=self._factors, **self._starts())

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        extents = [i.size for i in self.needs[0][2:]]
        if self._linear:
            return [upsample.linear_backward(dy, in_extent=extents, **self._sizes(), **self._starts())]
        return [upsample.nearest_backward(dy, in_extent=extents, factor=self._factors, **self._starts())]

    @property
    def _spec(self) -> s.Upsample:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Upsample)
        return spec

    @property
    def _linear(self) -> bool:
        return self._spec.windows[0].linear

    @property
    def _factors(self) -> list[int]:
        return [w.factor for w in self._spec.windows]

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return {
            "in_size": self.placed.placement.needs[0].shape[2:],
            "out_size": self.placed.placement.out.shape[2:],
        }

    def _starts(self) -> dict[str, list[int]]:
        return {
            "out_start": [i.start for i in self.out[2:]],
            "in_start": [i.start for i in self.needs[0][2:]],
        }
