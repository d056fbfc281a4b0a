"""Convolution on a device, its halo in buffers of its own, against the reference on the whole array."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import view as structures
from gridnn.compute.gpu.view import BLOCK, Parts, grid
from tests.compute.gpu.conftest import Launch, near
from tests.support import shim
from tests.support.shim.device import ShimDevice

Arrays = np.ndarray[Any, Any]
Ints = tuple[int, ...]
DEVICE = ShimDevice()
"""Where arrays of the host have their own addresses."""


class Case(NamedTuple):
    """Extents of x (N, C, *S), outputs, groups and window; and which indices of S are the rank's own."""

    x: Ints
    outputs: int
    groups: int
    window: Window
    own: tuple[tuple[int, int], ...]


CASES = [
    Case((2, 3, 9), 5, 1, Window((3,), (1,), (1,), (1,), (1,)), ((2, 7),)),
    Case((1, 4, 7, 8), 6, 1, Window((3, 3), (1, 1), (1, 1), (1, 0), (0, 1)), ((1, 6), (2, 6))),
    Case((2, 4, 9, 7), 6, 2, Window((3, 2), (2, 1), (1, 2), (2, 1), (0, 2)), ((0, 5), (3, 7))),
    Case(
        (1, 2, 5, 6, 5),
        3,
        1,
        Window((3, 3, 2), (1, 2, 1), (1, 1, 2), (1, 1, 0), (1, 0, 1)),
        ((1, 4), (2, 5), (0, 3)),
    ),
    Case((3, 70, 3, 3), 66, 1, Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0)), ((0, 3), (0, 3))),
    Case((1, 6, 6, 6), 6, 6, Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), ((0, 6), (2, 4))),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def inner(array: Arrays) -> Arrays:
    """Channels innermost in memory, logical order kept."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def split(x: Arrays, own: tuple[tuple[int, int], ...]) -> Parts:
    """Return x with its own part and each halo in arrays of their own."""
    pieces = dict[Ints, Arrays]()
    for side in product((-1, 0, 1), repeat=len(own)):
        ends = [
            ((0, lo), (lo, hi), (hi, n))[s + 1] for s, (lo, hi), n in zip(side, own, x.shape[2:], strict=True)
        ]
        pieces[side] = inner(x[(slice(None), slice(None), *(slice(*e) for e in ends))])
    return Parts(pieces.pop((0,) * len(own)), {side: p for side, p in pieces.items() if p.size})


def view(x: Arrays, own: tuple[tuple[int, int], ...]) -> tuple[Arrays, Parts]:
    """Return a view of x whose own part and halos lie in arrays of their own, and those arrays."""
    parts = split(x, own)
    return structures.view(DEVICE, parts), parts


def middle(y: Arrays) -> tuple[tuple[int, int], ...]:
    """Return which indices of an output are the rank's own, where it is the input of a transposed convolution."""
    return tuple((n // 3, n - n // 4) for n in y.shape[2:])


def output(y: Arrays) -> Arrays:
    return structures.output(DEVICE, y)


def shape(case: Case, window: Window, rectify: bool = False) -> Arrays:
    return structures.shape(case.x[0], case.x[1], case.outputs, case.groups, window, rectify)


def drawn(case: Case, dtype: Any) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Return x, w, its memory (K, T, C), and dy."""
    rng = np.random.default_rng(prod(case.x))
    per = case.x[1] // case.groups
    x = inner(rng.standard_normal(case.x).astype(dtype))
    w = inner(rng.standard_normal((case.outputs, per, *case.window.kernel)).astype(dtype))
    dy = inner(rng.standard_normal((case.x[0], case.outputs, *case.window.outs(case.x[2:]))).astype(dtype))
    return x, w, np.moveaxis(w, 1, -1), dy


def close(dtype: Any) -> tuple[float, float]:
    return (1e-11, 1e-11) if dtype == np.float64 else (2e-4, 2e-4)


def forward(kernels: shim.Module, case: Case, dtype: Any, rectify: bool, bias: Arrays | None) -> Arrays:
    x, _, memory, dy = drawn(case, dtype)
    y, (seen, _kept) = inner(np.full(dy.shape, np.nan, dtype)), view(x, case.own)
    rows = case.x[0] * prod(dy.shape[2:])
    kernels.launch(
        "forward", grid(rows, case.outputs // case.groups, case.groups), BLOCK,
        [seen, memory, bias, output(y), shape(case, case.window, rectify)],
    )  # fmt: skip
    return y


@DTYPES
@EVERY
@pytest.mark.parametrize("epilogue", [False, True])
def test_forward(module: Launch, dtype: Any, case: Case, epilogue: bool) -> None:
    x, w, _, _ = drawn(case, dtype)
    bias = np.linspace(-1, 1, case.outputs).astype(dtype) if epilogue else None
    wanted = reference.forward(x, w, **case.window.keywords, groups=case.groups)
    if bias is not None:
        reference.add_bias(wanted, bias)
        wanted = np.maximum(wanted, 0)
    found = forward(module("conv", dtype), case, dtype, epilogue, bias)
    near(found, wanted, close(dtype))


@EVERY
def test_a_strip_of_outputs(module: Launch, case: Case) -> None:
    """The first outputs of the first dim only, into the middle of an array: what is left when the interior is done."""
    x, w, memory, dy = drawn(case, np.float64)
    window, rows = case.window, min(2, dy.shape[2])
    y, (seen, _kept) = inner(np.full(dy.shape, -7.0)), view(x, case.own)
    begin = dy.shape[2] - rows
    strip = y[:, :, begin:]
    moved = window._replace(pad_lo=(window.pad_lo[0] - begin * window.stride[0], *window.pad_lo[1:]))
    module("conv").launch(
        "forward", grid(case.x[0] * prod(strip.shape[2:]), case.outputs // case.groups, case.groups), BLOCK,
        [seen, memory, None, output(strip), shape(case, moved)],
    )  # fmt: skip
    wanted = reference.forward(x, w, **window.keywords, groups=case.groups)
    wanted[:, :, :begin] = -7
    near(y, wanted, close(np.float64))


@DTYPES
@EVERY
def test_backward_data(module: Launch, dtype: Any, case: Case) -> None:
    x, w, memory, dy = drawn(case, dtype)
    dx, (seen, _kept) = inner(np.full(x.shape, np.nan, dtype)), view(dy, middle(dy))
    module("conv", dtype).launch(
        "backward_data", grid(case.x[0] * prod(case.x[2:]), case.x[1] // case.groups, case.groups), BLOCK,
        [seen, memory, output(dx), shape(case, case.window)],
    )  # fmt: skip
    wanted = reference.backward_data(dy, w, x.shape, **case.window.keywords, groups=case.groups)
    near(dx, wanted, close(dtype))


@DTYPES
@EVERY
@pytest.mark.parametrize("chunk", [10, 1000])
def test_backward_weights(module: Launch, dtype: Any, case: Case, chunk: int) -> None:
    x, w, memory, dy = drawn(case, dtype)
    (seen, _kept), points = view(x, case.own), case.x[0] * prod(dy.shape[2:])
    chunks, width = -(-points // chunk), prod(memory.shape[1:])
    partial, dw = np.full((chunks, *memory.shape), np.nan, dtype), np.full(memory.shape, np.nan, dtype)
    kernels = module("conv", dtype)
    kernels.launch(
        "backward_weights", grid(case.outputs // case.groups, width, case.groups * chunks), BLOCK,
        [seen, output(dy), shape(case, case.window), chunk, partial],
    )  # fmt: skip
    kernels.launch("fold", (2,), (64,), [partial, chunks, dw.size, dw])
    wanted = reference.backward_weights(x, dy, w.shape, **case.window.keywords, groups=case.groups)
    near(np.moveaxis(dw, -1, 1), wanted, close(dtype))


@pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
def test_each_barrier_is_needed() -> None:
    case = CASES[1]
    x, w, _, _ = drawn(case, np.float64)
    wanted = reference.forward(x, w, **case.window.keywords)
    assert shim.barriers("conv") == 2
    for number in range(shim.barriers("conv")):
        found = [
            forward(shim.Module("conv", np.float64, order, without=number), case, np.float64, False, None)
            for order in shim.ORDERS
        ]
        assert not all(np.allclose(y, wanted) for y in found), f"barrier {number} is not missed"
