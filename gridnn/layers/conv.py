"""Convolution and transposed convolution on a grid.

    X  cut n, c, space with halo; whole over k    forward   Y~ = W X, owed over c;  Y = settle Y~ + b
    W  cut k, c; whole over n and space           backward  dY~ = spread dY;  dX = W^T dY~, owed over k, in halos
    Y  cut n, k (and c inside k), space           weigh     dW = dY~ X^T, owed over n, space (the arena sums it)

c = 1 is the 1.5D product of Gholami et al. 2018 (section 2.3) with space cut as in their Fig. 3.
While the halo is on its way the interior is computed:

    outputs     |strip|    interior     |strip|
    own rows    |=============================|

Own kernels of a device read the own block and each halo where they lie (`Parts`); all else reads one array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from gridnn.comm.mover import Pending
from gridnn.comm.world import Array
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.view import Parts
from gridnn.compute.interface import Engine
from gridnn.compute.storage import wide_of
from gridnn.geometry import window as geometry
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices, overlap, volume
from gridnn.layers.weighted import Weighted
from gridnn.network import spec as s

ALL = slice(None)


class Segment(NamedTuple):
    """Output channels (in the weight block) that share whole groups, and the input channels they read.

    Where these are all channels of their block, as in most layers, the slice is ALL.
    """

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


def channels(x: Any, part: slice) -> Any:
    """Return some channels of a block; where they are all, the block itself: a view takes as long as a call."""
    if isinstance(x, Parts) and part is not ALL:
        return Parts(x.own[:, part], {side: halo[:, part] for side, halo in x.halos.items()})
    return x if part is ALL else x[:, part]


def reads_parts(engine: Engine) -> bool:
    """Return whether convolutions of an engine read an own block and halos where they lie; cuDNN takes one array."""
    if engine.where == "cpu":
        return False
    from gridnn.compute.gpu.cudnn_engine import CudnnEngine

    return not isinstance(engine, CudnnEngine)


class Convolution(Weighted):
    """A convolution: forward, backward and gradients over blocks."""

    overlap_halo = True

    @cached_property
    def _setup(self) -> tuple[s.Conv, list[Segment]]:
        spec = self.placed.node.spec
        assert isinstance(spec, s.Conv)
        k, c = self.raw[1], self.needs[0][1]
        if spec.groups == 1:
            return spec, [Segment(ALL, ALL, 1)]
        ins = self.placed.placement.needs[0].shape[1]
        parts = list(segments(k, c, spec.out // spec.groups, ins // spec.groups))
        if len(parts) == 1 and parts[0].c == slice(0, c.size):
            parts = [Segment(ALL, ALL, parts[0].groups)]
        return spec, parts

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the convolution of the block; the interior is computed while the halo arrives."""
        (pending,) = inputs
        y = self.output() if self.settled else self.engine.empty(extents_of(self.raw), self.dtype)
        todo: list[Box] = [self.raw]
        if self.overlap_halo and pending.partial:
            held = pending.path.source
            interior = self._interior(held)
            if volume(interior):
                self.world.progress.begin()
                self._on(pending.own, held, interior, y)
                self.world.progress.rest()
                todo = [strip for strip in strips(self.raw, interior) if volume(strip)]
        self._x = pending.wait()
        for box in todo:
            self._on(self._x, self.needs[0], box, y)
        return self.finish(y)

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need: owed over k and where windows of neighbours overlap."""
        self._dy = self.begin(dy)
        if not self.wants_dx:
            return [dy]
        _, parts = self._setup
        weight, shape = self.parameters["weight"].factor, self._x.shape
        if len(parts) == 1 and parts[0].c is ALL:
            groups = parts[0].groups
            return [
                self.compute.conv.backward_data(
                    self.engine, self._dy, weight, self._window, shape, groups=groups
                )
            ]
        dx = self.engine.memory.zeros(shape, wide_of(self.dtype))
        for k, c, groups in parts:  # parts of one group share input channels
            part = (shape[0], c.stop - c.start, *shape[2:])
            dx[:, c] += self.widen(self.compute.conv.backward_data(
                self.engine, self._dy[:, k], weight[k], self._window, part, groups=groups
            ))  # fmt: skip
        return [self.narrow(dx)]

    def weigh(self) -> None:
        """Add dW of the block."""
        _, parts = self._setup
        weight = self.parameters["weight"]
        add = not self.first(weight)
        for k, c, groups in parts:
            self.compute.conv.backward_weights(self.engine, channels(self._x, c), channels(self._dy, k), self._window,
                                  weight.grad[k], groups=groups, add=add)  # fmt: skip
        del self._x, self._dy

    def _on(self, x: Any, origin: Box, out: Box, y: Array) -> None:
        """Compute the outputs `out` into y, which holds the raw output, from `x`, which holds the box `origin`.

        Of an array the window is told what it reads; of `Parts` it is told all, and reads from another place on.
        """
        spec, parts = self._setup
        weight, last = self.parameters["weight"].factor, self.epilogue
        window = self._window
        if out is not self.raw:
            spaces = zip(spec.windows, out[2:], self._extents, strict=True)
            needs = tuple(w.needs(o, e).interval for w, o, e in spaces)
            y, window = y[local_slices(out, self.raw)], self._local(out)
            if isinstance(x, Parts):
                window = moved(window, needs, origin[2:])
            else:
                x = x[(slice(None), slice(None), *local_slices(needs, origin[2:]))]
        for k, c, groups in parts:
            bias = None if last["bias"] is None else last["bias"][k]
            self.compute.conv.forward(self.engine, channels(x, c), weight[k], window, groups=groups, bias=bias,
                         relu=last["relu"], out=channels(y, k))  # fmt: skip

    @property
    def _extents(self) -> tuple[int, ...]:
        return self.placed.placement.needs[0].shape[2:]

    @cached_property
    def _window(self) -> Window:
        """The window from all of the need to all of the raw output."""
        return self._local(self.raw)

    def _local(self, out: Box) -> Window:
        """Return the window of the local convolution that gives the box `out`."""
        spec = self.placed.node.spec
        assert isinstance(spec, s.Conv)
        found = [w.needs(o, e) for w, o, e in zip(spec.windows, out[2:], self._extents, strict=True)]
        return local_window(spec.windows, [f.pad_lo for f in found], [f.pad_hi for f in found])

    def _interior(self, held: Box) -> Box:
        spec, _ = self._setup
        spaces = zip(spec.windows, self.raw[2:], held[2:], self._extents, strict=True)
        return (*self.raw[:2], *(w.interior(o, h, e) for w, o, h, e in spaces))


class TransposedConvolution(Weighted):
    """A transposed convolution: the forward is a convolution's gradient by its input, and the reverse."""

    def forward(self, inputs: list[Pending], train: bool) -> Array:
        """Return the transposed convolution of the block."""
        self._x = inputs[0].wait()
        weight, shape = self.parameters["weight"].factor, extents_of(self.raw)
        raw = self.compute.conv.backward_data(self.engine, self._x, weight, self._window, shape)
        if self.settled:
            self.compute.pointwise.add_bias(self.engine, raw, **self.epilogue)
        return self.finish(raw)

    def backward(self, dy: Array) -> list[Array]:
        """Return dX in the layout of the need."""
        self._dy = self.begin(dy)
        if not self.wants_dx:
            return [dy]
        out = self.engine.empty(self._x.shape, self.dtype)
        return [
            self.compute.conv.forward(
                self.engine, self._dy, self.parameters["weight"].factor, self._window, out=out
            )
        ]

    def weigh(self) -> None:
        """Add dW of the block."""
        weight = self.parameters["weight"]
        self.compute.conv.backward_weights(
            self.engine, self._dy, self._x, self._window, weight.grad, add=not self.first(weight)
        )
        del self._x, self._dy

    @cached_property
    def _window(self) -> Window:
        spec = self.placed.node.spec
        assert isinstance(spec, s.ConvTranspose)
        extents = self.placed.placement.needs[0].shape[2:]
        found = [w.needs(o, e) for w, o, e in zip(spec.windows, self.raw[2:], extents, strict=True)]
        return local_window(spec.windows, [f.pad_lo for f in found], [f.pad_hi for f in found])


def local_window(
    windows: Sequence[geometry.Window | geometry.TransposedWindow], lo: list[int], hi: list[int]
) -> Window:
    """Return the window of a block, whose pads are its own."""
    return Window(
        tuple(w.kernel for w in windows), tuple(w.stride for w in windows), tuple(w.dilation for w in windows),
        tuple(lo), tuple(hi),
    )  # fmt: skip


def moved(window: Window, needs: Box, held: Box) -> Window:
    """Return the window of a box of inputs for one that holds it: what is around is cropped by negative pads.

    held    |------|== needs ==|----|
    pads     -6                 -4      of a window without pads of its own
    """
    lo = tuple(p - (n.start - h.start) for p, n, h in zip(window.pad_lo, needs, held, strict=True))
    hi = tuple(p - (h.stop - n.stop) for p, n, h in zip(window.pad_hi, needs, held, strict=True))
    return window._replace(pad_lo=lo, pad_hi=hi)


def strips(whole: Box, interior: Box) -> Iterator[Box]:
    """Yield disjoint boxes that make up `whole` without `interior`, two for each dim."""
    assert overlap(whole, interior) == interior
    for dim, (w, i) in enumerate(zip(whole, interior, strict=True)):
        for side in (Interval(w.start, i.start), Interval(i.stop, w.stop)):
            yield (*interior[:dim], side, *whole[dim + 1 :])
