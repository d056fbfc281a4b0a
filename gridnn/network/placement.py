"""Placement: which axis of a layer's grid cuts which dim of its arrays.  The one table of gridnn.

A layer's output is cut by every axis of its grid, so at rest each element has one owner.  An axis whose own
dim the layer lacks cuts the next best one, inside what cuts it already (`c` inside `k`, space inside `n`):

| axis  | conv, linear                       | every other layer             | layer without that space dim |
|-------|------------------------------------|-------------------------------|------------------------------|
| n     | batch                              | batch                         |                              |
| k     | output channels (X whole over k)   | channels                      |                              |
| c     | input channels: Y is owed over c,  | channels, inside k            |                              |
|       | then scattered inside k            |                               |                              |
| d h w | space, with halo                   | space, with halo if a window  | batch, inside n              |

A grouped convolution sums over C / groups channels only, so there `c` cuts channels inside `k` as well.  The layers
of sequences (features, steps) place `w` on the steps, but for an LSTM, whose steps follow each other:

| axis  | embedding                     | LSTM                                | attention                         |
|-------|-------------------------------|-------------------------------------|-----------------------------------|
| k     | features                      | hidden; all of h goes to every rank | features; products owed over k, c |
| c     | vocabulary: Y is owed over c  |   of k, c before each step          |   are summed before the softmax   |
| w     | steps                         | batch, inside n                     | steps of the query                |

For each layer `place` gives: `needs`, the layout in which it wants each input; `raw`, its output as computed
(owed over c, or over space for a global average); `out`, the output at rest; and its parameters.
Moving from the producer's `out` to `needs`, from `raw` to `out`, and what `inner` adds, is all the forward traffic
there is, and the transposes are the backward traffic (Gholami et al. 2018, section 2.3, is the case c = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import SPACE, GridShape, Scheme
from gridnn.geometry.interval import Interval
from gridnn.geometry.layout import Dim, Layout, cut, part, whole, windows
from gridnn.geometry.window import SpaceMap
from gridnn.network import spec as s
from gridnn.network.sequence import span


@dataclass(frozen=True)
class Parameter:
    """A weight of a layer: name, layout, how it starts, and what the optimizer may do with it."""

    name: str
    layout: Layout
    start: str  # initialiser: he_uniform, zeros or ones
    fan_in: int = 1
    decay: bool = True
    owed: bool = True  # gradients of the ranks that share a block are terms of a sum still to be made

    @property
    def shape(self) -> tuple[int, ...]:
        """Global shape."""
        return self.layout.shape


@dataclass(frozen=True)
class Inner:
    """A movement inside a layer, made `times` times in a forward pass; its transpose as often in the backward."""

    times: int
    exchange: Exchange


@dataclass(frozen=True)
class Placement:
    """A layer on its grid: layouts of its inputs, of its output as computed and at rest, its parameters."""

    needs: tuple[Layout, ...]
    raw: Layout
    out: Layout
    parameters: tuple[Parameter, ...] = ()
    statistics: tuple[str, ...] = ()  # axes over which the layer sums its statistics
    inner: tuple[Inner, ...] = ()
    kept: tuple[Layout, ...] = ()  # arrays kept for backward beside inputs and output; sequences only


def space_axes(dims: int) -> tuple[str, ...]:
    """Return the axes that cut `dims` space dims: the last of d h w."""
    return SPACE[len(SPACE) - dims :]


def rest(shape: tuple[int, ...], scheme: Scheme) -> Layout:
    """Return the layout at rest of an array (N, C, *space) or (N, F)."""
    grid, dims = scheme.grid, len(shape) - 2
    space = [cut(e, grid, (a,)) for e, a in zip(shape[2:], space_axes(dims), strict=True)]
    return Layout(scheme, (batch_dim(shape[0], grid, dims), cut(shape[1], grid, ("k", "c")), *space))


def batch_dim(extent: int, grid: GridShape, dims: int) -> Dim:
    """Cut the batch of an array with `dims` space dims: by n, and inside by the space axes it lacks."""
    return cut(extent, grid, ("n", *SPACE[: len(SPACE) - dims]))


def place(
    spec: s.LayerSpec, inputs: tuple[tuple[int, ...], ...], out: tuple[int, ...], scheme: Scheme
) -> Placement:
    """Place a layer on its scheme.

    Parameters
    ----------
    inputs, out
        Global shapes with the batch: (N, C, *space) or (N, F).  For a loss `out` is not used.
    """
    if isinstance(spec, s.Conv | s.ConvTranspose | s.Linear):
        return _weighted(spec, inputs[0], out, scheme)
    if isinstance(spec, s.LOSSES):
        logits = rest(inputs[0], scheme)
        return Placement((logits,), logits, logits, statistics=_statistics(spec, len(inputs[0]) - 2))
    if isinstance(spec, s.GlobalPool):
        return _global_pool(spec, inputs[0], out, scheme)
    if isinstance(spec, s.LSTM):
        return _lstm(spec, inputs, scheme)
    if isinstance(spec, s.Embedding):
        return _embedding(spec, inputs[0], out, scheme)
    y = rest(out, scheme)
    if isinstance(spec, s.Attention):
        return _attention(inputs, y)
    if isinstance(spec, s.Flatten):
        grid, (n, c, *space) = scheme.grid, inputs[0]
        batch, inner = batch_dim(n, grid, 0), prod(space)
        y = Layout(scheme, (batch, cut(c * inner, grid, ("k", "c"), grain=inner)))
        need = Layout(scheme, (batch, cut(c, grid, ("k", "c")), *map(whole, space)))
        return Placement((need,), y, y)
    if isinstance(spec, s.Pool | s.Upsample):
        space_dims = _windowed(spec.windows, y.dims[2:], inputs[0][2:])
        return Placement((Layout(scheme, (*y.dims[:2], *space_dims)),), y, y)
    if isinstance(spec, s.Concat | s.Join):
        dim = 1 if isinstance(spec, s.Concat) else 2
        offsets = [sum(i[dim] for i in inputs[:at]) for at in range(len(inputs))]
        needs = [
            Layout(scheme, (*y.dims[:dim], part(y.dims[dim], offset, i[dim]), *y.dims[dim + 1 :]))
            for offset, i in zip(offsets, inputs, strict=True)
        ]
        return Placement(tuple(needs), y, y)
    return Placement((y,) * len(inputs), y, y, _affine(spec, y), _statistics(spec, len(out) - 2))


def _weighted(
    spec: s.Conv | s.ConvTranspose | s.Linear, x: tuple[int, ...], out: tuple[int, ...], scheme: Scheme
) -> Placement:
    grid, y = scheme.grid, rest(out, scheme)
    c, k, kernel = x[1], out[1], () if isinstance(spec, s.Linear) else tuple(w.kernel for w in spec.windows)
    space = () if isinstance(spec, s.Linear) else _windowed(spec.windows, y.dims[2:], x[2:])
    if isinstance(spec, s.Conv) and spec.groups > 1:
        k_dim, c_need, c_weight = (
            y.dims[1],
            group_channels(y.dims[1], c, k, spec.groups),
            whole(c // spec.groups),
        )
    else:
        k_dim, c_need = cut(k, grid, ("k",)), cut(c, grid, ("c",))
        c_weight = c_need
    fan_in, start = c_weight.extent * prod(kernel), spec.start if isinstance(spec, s.Conv) else "he_uniform"
    dims = (c_weight, k_dim) if isinstance(spec, s.ConvTranspose) else (k_dim, c_weight)
    parameters = [Parameter("weight", Layout(scheme, (*dims, *map(whole, kernel))), start, fan_in)]
    if spec.bias:
        parameters.append(Parameter("bias", Layout(scheme, (y.dims[1],)), "zeros", decay=False))
    need = Layout(scheme, (y.dims[0], c_need, *space))
    return Placement((need,), Layout(scheme, (y.dims[0], k_dim, *y.dims[2:])), y, tuple(parameters))


def group_channels(k_dim: Dim, c: int, k: int, groups: int) -> Dim:
    """Return the input channels that blocks of output channels of a grouped convolution read."""
    per_k, per_c = k // groups, c // groups
    blocks = [
        Interval(i.start // per_k * per_c, -(-i.stop // per_k) * per_c) if i.size else Interval(0, 0)
        for i in k_dim.intervals
    ]
    return Dim(c, k_dim.axes, tuple(blocks))


def _global_pool(spec: s.GlobalPool, x: tuple[int, ...], out: tuple[int, ...], scheme: Scheme) -> Placement:
    y, at_rest = rest(out, scheme), rest(x, scheme)
    if spec.how == "average":  # partial sums where the space lies, owed over the space axes
        return Placement((at_rest,), Layout(scheme, at_rest.dims[:2]), y)
    return Placement((Layout(scheme, (*y.dims, *map(whole, x[2:]))),), y, y)  # a maximum is not a sum


def _embedding(spec: s.Embedding, x: tuple[int, ...], out: tuple[int, ...], scheme: Scheme) -> Placement:
    y, start = rest(out, scheme), span(spec, x[2])[0]
    steps = Dim(x[2], y.dims[2].axes, tuple(i.shift(start) if i.size else i for i in y.dims[2].intervals))
    k, c = cut(spec.out, scheme.grid, ("k",)), cut(spec.vocabulary, scheme.grid, ("c",))
    weight = Parameter("weight", Layout(scheme, (c, k)), "he_uniform", spec.vocabulary)
    need = Layout(scheme, (y.dims[0], whole(1), steps))
    return Placement((need,), Layout(scheme, (y.dims[0], k, y.dims[2])), y, (weight,))


def _lstm(spec: s.LSTM, inputs: tuple[tuple[int, ...], ...], scheme: Scheme) -> Placement:
    (n, c, extent), states = inputs[0], inputs[1:]
    start, stop = span(spec, extent)
    batch, hidden = batch_dim(n, scheme.grid, 0), cut(spec.hidden, scheme.grid, ("k", "c"))

    def at(features: Dim, *steps: Dim) -> Layout:
        return Layout(scheme, (batch, features, *steps))

    needs = [at(whole(c), Dim(extent, (), (Interval(start, stop),)))]
    # The last step of h is wanted whole.  The cell stays cut; it is no part of an output, and step 0 of h, which has
    # its size, moves for it.
    for features, (_, _, *steps), first in zip(
        (whole(spec.hidden), hidden), states, (False, True), strict=False
    ):
        needs.append(
            at(features, *(Dim(e, (), (Interval(*((0, 1) if first else (e - 1, e))),)) for e in steps))
        )
    y = at(hidden) if spec.last else at(hidden, whole(stop - start))
    gates = [
        Parameter(
            name, Layout(scheme, (whole(4), hidden, *map(whole, more))), first, fan_in, decay=bool(more)
        )
        for name, more, first, fan_in in (
            ("weight", (c,), "he_uniform", c),
            ("recurrent", (spec.hidden,), "he_uniform", spec.hidden),
            ("bias", (), "zeros", 1),
        )
    ]
    # Four gates and the cell of every step.
    kept = Layout(scheme, (batch, whole(5), hidden, whole(stop - start)))
    return Placement(
        tuple(needs),
        y,
        y,
        tuple(gates),
        inner=_moves(stop - start - 1, at(hidden), at(whole(spec.hidden))),
        kept=(kept,),
    )


def _attention(inputs: tuple[tuple[int, ...], ...], y: Layout) -> Placement:
    """Cut features: the products of queries and keys are owed, scattered by keys and gathered, an all-reduce."""
    scheme, (n, features, steps), keys = y.scheme, y.dims, inputs[1][2]
    scores, shares = (
        Layout(scheme, (n, steps, d)) for d in (whole(keys), cut(keys, scheme.grid, ("k", "c")))
    )
    inner = (*_moves(1, scores, shares), *_moves(1, shares, scores))
    needs = (y, Layout(scheme, (n, features, whole(keys))))
    return Placement(needs, y, y, inner=inner, kept=(scores,))


def _moves(times: int, source: Layout, target: Layout) -> tuple[Inner, ...]:
    """Return the movement, or nothing where nothing moves."""
    return (Inner(times, Exchange(source, target)),) if times and source != target else ()


def _affine(spec: s.LayerSpec, y: Layout) -> tuple[Parameter, ...]:
    if isinstance(spec, s.BatchNorm):
        layout, owed = Layout(y.scheme, y.dims[1:2]), False  # its backward sums over all ranks already
    elif isinstance(spec, s.LayerNorm):
        layout, owed = Layout(y.scheme, y.dims[1:]), True
    else:
        return ()
    return tuple(
        Parameter(name, layout, start, decay=False, owed=owed)
        for name, start in (("gamma", "ones"), ("beta", "zeros"))
    )


def _statistics(spec: s.LayerSpec, dims: int) -> tuple[str, ...]:
    """Return the axes that cut what a layer sums: a channel, a sample, or the classes of a position."""
    if isinstance(spec, s.BatchNorm):
        return ("n", *SPACE)
    if isinstance(spec, s.LayerNorm):
        return ("k", "c", *space_axes(dims))
    return ("k", "c") if isinstance(spec, s.SoftmaxCrossEntropy) else ()


def _windowed(maps: tuple[SpaceMap, ...], out: tuple[Dim, ...], extents: tuple[int, ...]) -> tuple[Dim, ...]:
    return tuple(windows(o, m, e) for o, m, e in zip(out, maps, extents, strict=True))
