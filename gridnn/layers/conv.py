"""Convolution and transposed convolution on a grid.

    X  cut n, c, space with halo; whole over k    forward   Y~ = W X, owed over c;  Y = settle Y~ + b
    W  cut k, c; whole over n and space           backward  dY~ = spread dY;  dX = W^T dY~, owed over k, in halos
    Y  cut n, k (and c inside k), space           weigh     dW = dY~ X^T, owed over n, space (the arena sums it)

c = 1 is the 1.5D product of Gholami et al. 2018 (section 2.3) with space cut as in their Fig. 3.
While the halo is on its way the interior is computed:

    outputs     |strip|    interior     |strip|
    own rows    |=============================|
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypedDict

import numpy as np

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.cpu import conv
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices, overlap, volume
from gridnn.geometry.window import TransposedWindow, Window
from gridnn.layers.weighted import Weighted
from gridnn.network import spec as s


class Segment(NamedTuple):
    """Output channels (in the weight block) that share whole groups, and the input channels they read."""

    k: slice
    c: slice
    groups: int


def segments(k: Interval, c: Interval, per_k: int, per_c: int) -> Iterator[Segment]:
    """Split a block of output channels where it begins or ends inside a group."""
    at = k.start
    while at < k.stop:
        group = at // per_k
        aligned_stop = k.stop // per_k * per_k
        stop = aligned_stop if at == group * per_k and aligned_stop > at else min(k.stop, (group + 1) * per_k)
        groups = max(1, (stop - at) // per_k)
        first = group * per_c - c.start
        yield Segment(slice(at - k.start, stop - k.start), slice(first, first + groups * per_c), groups)
        at = stop


class Convolution(Weighted):
    """A convolution: forward, backward and gradients over blocks."""

    overlap_halo = True

    @cached_property
    def _setup(self) -> tuple[s.Conv, list[Segment]]:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Conv)
        k, c = self.raw[1], self.needs[0][1]
        if spec.groups == 1:
            return spec, [Segment(slice(0, k.size), slice(0, c.size), 1)]
        channels = self.placed.placement.needs[0].shape[1]
        return spec, list(segments(k, c, spec.out // spec.groups, channels // spec.groups))

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the convolution of the block; the interior is computed while the halo arrives."""
        (pending,) = inputs
        y = np.empty(extents_of(self.raw), self.dtype)
        todo: list[Box] = [self.raw]
        if self.overlap_halo and pending.partial:
            held = pending.path.source
            interior = self._interior(held)
            if volume(interior):
                y[local_slices(interior, self.raw)] = self._on(pending.own, held, interior)
                todo = [strip for strip in strips(self.raw, interior) if volume(strip)]
        self._x = pending.wait()
        for box in todo:
            y[local_slices(box, self.raw)] = self._on(self._x, self.needs[0], box)
        return self.finish(y)

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need: owed over k and where windows of neighbours overlap."""
        self._dy = self.begin(dy)
        if not self.wants_dx:
            return [dy]
        _, parts = self._setup
        weight, dx = self.parameters["weight"].value, np.zeros(self._x.shape, self.dtype)
        local = self._local(self.needs[0], self.raw)
        for k, c, groups in parts:
            shape = (dx.shape[0], c.stop - c.start, *dx.shape[2:])
            dx[:, c] += conv.backward_data(self._dy[:, k], weight[k], shape, groups=groups, **local)
        return [dx]

    def weigh(self) -> None:
        """Add dW of the block."""
        _, parts = self._setup
        weight = self.parameters["weight"]
        local = self._local(self.needs[0], self.raw)
        for k, c, groups in parts:
            shape = weight.value[k].shape
            weight.grad[k] += conv.backward_weights(
                self._x[:, c], self._dy[:, k], shape, groups=groups, **local
            )
        del self._x, self._dy

    def _on(self, x: Array, origin: Box, out: Box) -> Array:
        """Return the outputs of `out` from `x`, which holds the box `origin` of the input."""
        spec, parts = self._setup
        weight = self.parameters["weight"].value
        spaces = zip(spec.windows, out[2:], self._extents, strict=True)
        needs = [w.needs(o, e).interval for w, o, e in spaces]
        x = x[(slice(None), slice(None), *local_slices(tuple(needs), origin[2:]))]
        local = self._local((*origin[:2], *needs), out)
        pieces = [conv.forward(x[:, c], weight[k], groups=groups, **local) for k, c, groups in parts]
        return (
            pieces[0]
            if len(pieces) == 1
            else np.concatenate(pieces, axis=1)
            if pieces
            else np.empty(extents_of(out), x.dtype)
        )

    @property
    def _extents(self) -> tuple[int, ...]:
        return self.placed.placement.needs[0].shape[2:]

    def _local(self, need: Box, out: Box) -> LocalWindow:
        """Return the window of the local convolution from the box `need` to the box `out`."""
        spec = self.placed.node.spec
        assert isinstance(spec, s.Conv)
        found = [w.needs(o, e) for w, o, e in zip(spec.windows, out[2:], self._extents, strict=True)]
        return window_arguments(spec.windows, [f.pad_lo for f in found], [f.pad_hi for f in found])

    def _interior(self, held: Box) -> Box:
        spec, _ = self._setup
        spaces = zip(spec.windows, self.raw[2:], held[2:], self._extents, strict=True)
        return (*self.raw[:2], *(w.interior(o, h, e) for w, o, h, e in spaces))


class TransposedConvolution(Weighted):
    """A transposed convolution: the forward is a convolution's gradient by its input, and the reverse."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the transposed convolution of the block."""
        self._x = inputs[0].wait()
        weight = self.parameters["weight"].value
        return self.finish(conv.backward_data(self._x, weight, extents_of(self.raw), **self._local()))

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        self._dy = self.begin(dy)
        if not self.wants_dx:
            return [dy]
        return [conv.forward(self._dy, self.parameters["weight"].value, **self._local())]

    def weigh(self) -> None:
        """Add dW of the block."""
        weight = self.parameters["weight"]
        weight.grad += conv.backward_weights(self._dy, self._x, weight.value.shape, **self._local())
        del self._x, self._dy

    def _local(self) -> LocalWindow:
        spec = self.placed.node.spec
        assert isinstance(spec, s.ConvTranspose)
        extents = self.placed.placement.needs[0].shape[2:]
        found = [w.needs(o, e) for w, o, e in zip(spec.windows, self.raw[2:], extents, strict=True)]
        return window_arguments(spec.windows, [f.pad_lo for f in found], [f.pad_hi for f in found])


class LocalWindow(TypedDict):
    """Keyword arguments of a local convolution or pool."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_lo: tuple[int, ...]
    pad_hi: tuple[int, ...]


def window_arguments(
    windows: Sequence[Window | TransposedWindow], lo: list[int], hi: list[int]
) -> LocalWindow:
    """Return the keyword arguments of a local convolution."""
    return {
        "stride": tuple(w.stride for w in windows),
        "dilation": tuple(w.dilation for w in windows),
        "pad_lo": tuple(lo),
        "pad_hi": tuple(hi),
    }


def strips(whole: Box, interior: Box) -> Iterator[Box]:
    """Yield disjoint boxes that make up `whole` without `interior`, two for each dim."""
    assert overlap(whole, interior) == interior
    for dim, (w, i) in enumerate(zip(whole, interior, strict=True)):
        for side in (Interval(w.start, i.start), Interval(i.stop, w.stop)):
            yield (*interior[:dim], side, *whole[dim + 1 :])
