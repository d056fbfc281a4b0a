"""Layers that need no other rank: activations, dropout, add, concat, flatten, upsample.

What they need has been brought by their edges; upsampling reads a window, so its edge brings a halo.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.random import Draw
from gridnn.geometry.interval import extents_of, volume
from gridnn.layers.base import Layer
from gridnn.network import spec as s


class ActivationLayer(Layer):
    """An elementwise function; keeps its input or its output, whichever the derivative reads."""

    KEEPS = ("_kept",)
    absorbed = False  # True where the layer before it does all its work (see fuse)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return f(x)."""
        x = inputs[0].wait()
        if self.absorbed:
            return x
        rectified = self.masks and self.into is None  # else it goes into the margin buffer, once more
        y = (
            x
            if rectified
            else self.compute.pointwise.activate(self.engine, self._function, x, out=self.output())
        )
        self._kept = x if self.compute.pointwise.KEEPS[self._function] == "x" else y
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return f'(x) dy."""
        if self.absorbed:
            return [dy]
        kept = self._kept
        del self._kept
        return [self.compute.pointwise.activate_backward(self.engine, self._function, kept, dy)]

    @property
    def _function(self) -> str:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Activation)
        return spec.name


class DropoutLayer(Layer):
    """Dropout by global element index: the mask is the same on every grid (`at` is set by the model)."""

    KEEPS = ("_draw", "_kept")
    at: tuple[int, int] = (0, 0)  # seed of the run, number of the pass

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return x times the mask in training, x otherwise."""
        x, spec = inputs[0].wait(), self.placed.node.spec
        assert isinstance(spec, s.Dropout)
        self._draw: Draw | None = None
        if not train or spec.rate == 0:
            return x
        seed, step = self.at
        shape = self.placed.placement.out.shape
        self._draw = Draw(seed, f"dropout:{self.name}", shape, self.out, step, spec.rate)
        y, self._kept = self.compute.pointwise.dropout_forward(self.engine, x, self._draw)
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dy times the mask."""
        if self._draw is None:
            return [dy]
        kept, self._kept = self._kept, None
        return [self.compute.pointwise.dropout_backward(self.engine, dy, kept, self._draw)]


class Addition(Layer):
    """The sum of the inputs."""

    KEEPS = ("_y",)

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the sum, in the order of the inputs."""
        y = self.compute.pointwise.add(
            self.engine, [pending.wait() for pending in inputs], relu=self.rectified, out=self.output()
        )
        self._y = y if self.masks else None
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return dy for each input."""
        y, self._y = self._y, None
        if y is not None:
            dy = self.compute.pointwise.activate_backward(self.engine, "relu", y, dy)
        return [dy] * len(self.needs)


class Concatenation(Layer):
    """The inputs side by side along channels; each rank fetched what lies in its block."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the block."""
        parts, y, at = [pending.wait() for pending in inputs], self.output(), 0
        for part in parts:
            y[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return y

    def backward(self, dy: Array) -> list[Array]:
        """Return each input's channels of dy."""
        stops = [*accumulate((box[1].size for box in self.needs), initial=0)]
        return [dy[:, first:stop] for first, stop in pairwise(stops)]


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
        x, compute, y = inputs[0].wait(), self.compute.upsample, self.output()
        extents = extents_of(self.out[2:])
        if self._linear:
            return compute.linear_forward(
                self.engine, x, out_extent=extents, out=y, **self._sizes(), **self._starts()
            )
        return compute.nearest_forward(
            self.engine, x, out_extent=extents, out=y, factor=self._factors, **self._starts()
        )

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        compute, extents = self.compute.upsample, extents_of(self.needs[0][2:])
        if self._linear:
            dx = compute.linear_backward(
                self.engine, dy, in_extent=extents, **self._sizes(), **self._starts()
            )
        else:
            dx = compute.nearest_backward(
                self.engine, dy, in_extent=extents, factor=self._factors, **self._starts()
            )
        return [dx]

    @property
    def _spec(self) -> s.Upsample:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Upsample)
        return spec

    @property
    def _linear(self) -> bool:
        return self._spec.windows[0].linear

    @property
    def _factors(self) -> tuple[int, ...]:
        return tuple(w.factor for w in self._spec.windows)

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        return {
            "in_size": self.placed.placement.needs[0].shape[2:],
            "out_size": self.placed.placement.out.shape[2:],
        }

    def _starts(self) -> dict[str, tuple[int, ...]]:
        return {
            "out_start": tuple(i.start for i in self.out[2:]),
            "in_start": tuple(i.start for i in self.needs[0][2:]),
        }
