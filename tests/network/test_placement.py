"""Placements of every layer kind on grids with every axis, against dependencies found by enumeration."""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
import pytest

from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import AXES, SPACE, GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.layout import Layout
from gridnn.geometry.window import SpaceMap, TransposedWindow, Upsampling, Window
from gridnn.network import spec as s
from gridnn.network.placement import Placement, place
from tests.geometry.reads import reads

Shapes = tuple[tuple[int, ...], ...]

BATCH, CHANNELS, SPACES = 5, 7, {1: (8,), 2: (7, 5), 3: (5, 4, 3)}
GRIDS = [
    *({a: size} for a in AXES for size in (2, 3)),
    *(dict(zip(pair, (2, 3), strict=True)) for pair in combinations(AXES, 2)),
    {"k": 3, "c": 3}, {"n": 2, "k": 2, "c": 2}, {"n": 2, "h": 2, "w": 2}, {"d": 2, "h": 2, "w": 2},
    {"k": 2, "c": 2, "h": 2}, {"n": 2, "c": 3, "w": 2}, dict.fromkeys(AXES, 2), {"k": 11}, {"n": 5, "h": 4},
]  # fmt: skip


def kinds(dims: int) -> dict[str, tuple[s.LayerSpec, Shapes]]:
    """Return every layer kind in `dims` space dims (0: features), and the batch shapes of its inputs."""
    x = (BATCH, CHANNELS, *SPACES.get(dims, ()))
    everywhere: dict[str, tuple[s.LayerSpec, Shapes]] = {
        "relu": (s.Activation("relu"), (x,)),
        "dropout": (s.Dropout(0.5), (x,)),
        "batch norm": (s.BatchNorm(), (x,)),
        "layer norm": (s.LayerNorm(), (x,)),
        "add": (s.Add(), (x, x, x)),
        "cross-entropy": (s.SoftmaxCrossEntropy(), (x,)),
        "squared error": (s.MeanSquaredError(), (x,)),
        "concat": (s.Concat(), (x, (BATCH, 4, *x[2:]), (BATCH, 1, *x[2:]))),
    }
    if dims == 0:
        return everywhere | {"linear": (s.Linear(10), (x,)), "narrow linear": (s.Linear(2, bias=False), (x,))}

    def each(*numbers: int) -> tuple[Window, ...]:
        return (Window(*numbers),) * dims

    wide = (BATCH, 8, *x[2:])
    return everywhere | {
        "conv": (s.Conv(9, each(3, 1, 1, 1)), (x,)),
        "strided conv": (s.Conv(4, each(2, 2, 1, 0), bias=False), (x,)),
        "dilated conv": (s.Conv(4, each(2, 1, 1, 1, 2)), (x,)),
        "1x1 conv": (s.Conv(3, each(1)), (x,)),
        "grouped conv": (s.Conv(12, each(3, 1, 1, 1), groups=4), (wide,)),
        "depthwise conv": (s.Conv(8, each(3, 1, 0, 2), groups=8), (wide,)),
        "transposed conv": (s.ConvTranspose(5, (TransposedWindow(3, 2, 1, 1, 1, 1),) * dims), (x,)),
        "max pool": (s.Pool("max", each(3, 2, 1, 1)), (x,)),
        "average pool": (s.Pool("average", each(2, 1)), (x,)),
        "global average": (s.GlobalPool("average"), (x,)),
        "global max": (s.GlobalPool("max"), (x,)),
        "flatten": (s.Flatten(), (x,)),
        "upsample": (s.Upsample((Upsampling(2),) * dims), (x,)),
        "linear upsample": (s.Upsample((Upsampling(3, True),) * dims), (x,)),
    }


CASES = [pytest.param(*case, id=f"{dims}-{name}") for dims in range(4) for name, case in kinds(dims).items()]


def placements(spec: s.LayerSpec, inputs: Shapes) -> list[tuple[Scheme, Placement]]:
    """Place a layer on all grids, some of them not at rank 0."""
    out = (BATCH, *s.out_shape(spec, tuple(i[1:] for i in inputs), "layer"))
    schemes = [Scheme(GridShape.of(**grid), first=at % 3) for at, grid in enumerate(GRIDS)]
    return [(scheme, place(spec, inputs, out, scheme)) for scheme in schemes]


def owners(layout: Layout) -> np.ndarray:
    """Count the ranks that have each element."""
    count = np.zeros(layout.shape, int)
    for rank in layout.scheme.ranks:
        count[tuple(slice(*i) for i in layout.box(rank))] += 1
    return count


def size(scheme: Scheme, axes: tuple[str, ...]) -> int:
    return prod(scheme.grid[a] for a in axes)


@pytest.mark.parametrize(("spec", "inputs"), CASES)
def test_outputs(spec, inputs):
    """At rest every element has one owner; as computed it is owed over the axes that the table says."""
    for scheme, placed in placements(spec, inputs):
        assert placed.out.at_rest
        assert (owners(placed.out) == 1).all()
        owed: tuple[str, ...] = ()
        if isinstance(spec, s.Conv | s.ConvTranspose | s.Linear) and getattr(spec, "groups", 1) == 1:
            owed = ("c",)
        if isinstance(spec, s.GlobalPool) and spec.how == "average":
            owed = SPACE[len(SPACE) - len(inputs[0]) + 2 :]
            assert placed.needs[0].at_rest  # the terms of the sum: every element is in one of them
        assert set(placed.raw.uncut) == set(owed) & set(scheme.grid.used)
        assert (owners(placed.raw) == size(scheme, owed)).all()
        assert placed.raw.at_rest == (size(scheme, owed) == 1)
        settle = Exchange(placed.raw, placed.out)
        assert settle.kind in ("none", "reduce_scatter")
        assert set(settle.axes) <= set(owed)


@pytest.mark.parametrize(("spec", "inputs"), CASES)
def test_parameters(spec, inputs):
    """Every weight is on one rank for each coordinate of the axes that do not cut the weight."""
    dims = len(inputs[0]) - 2
    space, missing = SPACE[len(SPACE) - dims :], SPACE[: len(SPACE) - dims]
    for scheme, placed in placements(spec, inputs):
        found = {p.name: p for p in placed.parameters}
        uncut = ("n", *missing) if isinstance(spec, s.LayerNorm) else ("n", *SPACE)
        for p in found.values():
            assert p.shape == p.layout.shape
            assert (owners(p.layout) == size(scheme, uncut)).all()
            assert set(p.layout.uncut) == set(uncut) & set(scheme.grid.used)
            assert p.owed != isinstance(spec, s.BatchNorm)
            assert p.decay == (p.name == "weight")
        assert {n: p.shape for n, p in found.items()} == expected_shapes(spec, inputs[0])
        if isinstance(spec, s.BatchNorm):
            assert placed.statistics == ("n", *SPACE)
        if isinstance(spec, s.LayerNorm):
            assert placed.statistics == ("k", "c", *space)


def expected_shapes(spec: s.LayerSpec, x: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the global shapes of a layer's weights, from the words of its docstring."""
    if isinstance(spec, s.BatchNorm):
        return {"gamma": x[1:2], "beta": x[1:2]}
    if isinstance(spec, s.LayerNorm):
        return {"gamma": x[1:], "beta": x[1:]}
    if not isinstance(spec, s.Conv | s.ConvTranspose | s.Linear):
        return {}
    kernel = () if isinstance(spec, s.Linear) else tuple(w.kernel for w in spec.windows)
    channels = (spec.out, x[1] // getattr(spec, "groups", 1))
    if isinstance(spec, s.ConvTranspose):
        channels = (x[1], spec.out)
    shapes: dict[str, tuple[int, ...]] = {"weight": (*channels, *kernel)}
    return shapes | {"bias": (spec.out,)} if spec.bias else shapes


@pytest.mark.parametrize(("spec", "inputs"), CASES)
def test_needs_are_what_the_block_depends_on(spec, inputs):
    exact = not any(getattr(w, "dilation", 1) > 1 for w in getattr(spec, "windows", ()))
    for scheme, placed in placements(spec, inputs):
        for number, need in enumerate(placed.needs):
            assert need.shape == inputs[number]
            for rank in scheme.ranks:
                if not volume(placed.raw.box(rank)):
                    continue
                wanted = depends(spec, number, placed, rank, inputs)
                held = [set(range(*i)) for i in need.box(rank)]
                assert all(w <= h for w, h in zip(wanted, held, strict=True))
                # An axis of the box that is not read is not held either.
                assert not exact or wanted == held or (not all(wanted) and not volume(need.box(rank)))


def depends(spec: s.LayerSpec, number: int, placed: Placement, rank: int, inputs: Shapes) -> list[set[int]]:
    """Return the indices of input `number` that the block of a rank is computed from, by dim."""
    raw, shape = placed.raw.box(rank), inputs[number]
    out = raw[2:]
    own = [set(range(*i)) for i in raw]
    all_space = [set(range(e)) for e in shape[2:]]
    if isinstance(spec, s.Flatten):
        return [own[0], {f // prod(shape[2:]) for f in own[1]}, *all_space]
    if isinstance(spec, s.GlobalPool):  # an average takes the part of space that the rank holds
        held = [set(range(*i)) for i in placed.needs[0].box(rank)]
        return [*own, *(all_space if spec.how == "max" else held[2:])]
    if isinstance(spec, s.Concat):
        offset = sum(i[1] for i in inputs[:number])
        return [own[0], {c - offset for c in own[1] if 0 <= c - offset < shape[1]}, *own[2:]]
    if isinstance(spec, s.Linear):
        return [own[0], channel_block(spec, placed, rank)]
    if isinstance(spec, s.Conv | s.ConvTranspose | s.Pool | s.Upsample):
        maps: tuple[SpaceMap, ...] = spec.windows
        space = [reads(m, o, e) for m, o, e in zip(maps, out, shape[2:], strict=True)]
        if isinstance(spec, s.Conv) and spec.groups > 1:
            per_k, per_c = spec.out // spec.groups, shape[1] // spec.groups
            return [own[0], {f // per_k * per_c + c for f in own[1] for c in range(per_c)}, *space]
        per_channel = isinstance(spec, s.Pool | s.Upsample)
        return [own[0], own[1] if per_channel else channel_block(spec, placed, rank), *space]
    return own


def channel_block(spec: s.LayerSpec, placed: Placement, rank: int) -> set[int]:
    """Return the input channels of a rank's term of the sum: those of its block of the weight.

    That the blocks of a c group make up all channels is in `test_parameters`: each weight has its owners.
    """
    weight = placed.parameters[0].layout.box(rank)
    k, c = (1, 0) if isinstance(spec, s.ConvTranspose) else (0, 1)
    assert weight[k] == placed.raw.box(rank)[1]
    return set(range(*weight[c]))
