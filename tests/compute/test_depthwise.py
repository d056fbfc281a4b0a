"""Convolution of narrow groups against the reference: windows, layouts, threads, few channels, empty blocks."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.compute.cpu import conv as chosen
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Workspace, empty
from gridnn.compute.cpu.native import depthwise
from gridnn.compute.cpu.native.library import Library
from gridnn.compute.cpu.native.walk import window as three
from gridnn.compute.cpu.reference import conv
from gridnn.compute.cpu.window import Window

from .native import Array, each_dtype, each_layout, each_library, each_thread_count, library, place, untouched


class Case(NamedTuple):
    """A convolution of groups of `width` channels in and `copies` times as many out."""

    n: int
    c: int
    space: tuple[int, ...]
    window: Window
    width: int = 1
    copies: int = 1


def square(r: int, stride: int = 1, pad: tuple[int, int] | None = None, dilation: int = 1) -> Window:
    """Two dims; pads before and behind, or what keeps the extents."""
    lo, hi = (r // 2, r // 2) if pad is None else pad
    return Window((r, r), (stride, stride), (dilation, dilation), (lo, lo), (hi, hi))


CASES = [
    # Slides: every length of a window row, strides 1 and 2, rows of whole slides, of more, and of less.
    Case(2, 16, (9, 14), square(3)),
    Case(1, 17, (9, 11), square(3, 2, (1, 0))),
    Case(2, 64, (7, 7), square(5)),
    Case(1, 24, (18, 17), square(5, 2)),
    Case(1, 17, (8, 16), square(7)),
    Case(1, 32, (17, 19), square(7, 2)),
    Case(2, 40, (15, 8), square(2, pad=(1, 0))),
    Case(1, 16, (6, 10), square(4, pad=(0, 3))),
    Case(2, 16, (11, 13), square(1)),
    Case(3, 64, (15, 15), square(1, 2)),
    # Tiles: gaps, other strides, long windows, few columns, taps that never meet x.
    Case(2, 17, (9, 12), square(3, dilation=2)),
    Case(1, 16, (20, 20), square(3, 3)),
    Case(1, 16, (3, 12), square(9)),
    Case(2, 40, (2, 3), square(5, 2)),
    Case(1, 64, (4, 4), square(3, pad=(4, 4))),
    Case(1, 16, (12, 12), square(3, pad=(-1, -2))),
    Case(2, 33, (8, 9), Window((3, 1), (2, 1), (1, 1), (2, -1), (-1, 2))),
    # One and three dims.
    Case(2, 17, (40,), Window((7,), (3,), (1,), (3,), (3,))),
    Case(2, 16, (40,), Window((5,), (1,), (1,), (4,), (0,))),
    Case(2, 24, (5, 6, 9), Window((3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 0, 1), (1, 1, 0))),
    Case(1, 16, (4, 5, 8), Window((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
    # Fewer channels than lanes, and several outputs a channel.
    Case(3, 3, (8, 20), square(3)),
    Case(2, 5, (9, 9), square(3, 2), copies=3),
    Case(2, 16, (9, 9), square(5), copies=2),
    Case(1, 2, (40, 50), square(3), copies=20),
    # 2, 4, 8 channels a group, the last vector beside the others.
    Case(2, 16, (9, 11), square(3), width=2),
    Case(1, 18, (9, 11), square(3, 2), width=2),
    Case(2, 64, (7, 7), square(5), width=4),
    Case(2, 20, (8, 9), square(3, dilation=2), width=4),
    Case(2, 24, (8, 9), square(3), width=8),
    Case(1, 40, (9, 8), Window((3, 2), (2, 1), (1, 1), (1, -1), (0, 2)), width=8),
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.c}x{case.space}-{case.window[0]}")


class Layer(NamedTuple):
    """The arrays of a case, in float64, with what the reference makes of them."""

    x: Array
    w: Array
    bias: Array
    dy: Array
    y: Array
    dx: Array
    dw: Array
    groups: int


@functools.cache
def layer(case: Case) -> Layer:
    rng = np.random.default_rng(case.c + len(case.space))
    k, groups, of = case.c * case.copies, case.c // case.width, case.window.keywords
    x = rng.standard_normal((case.n, case.c, *case.space))
    w, bias = rng.standard_normal((k, case.width, *case.window.kernel)), rng.standard_normal(k)
    y = conv.forward(x, w, **of, groups=groups)
    dy = rng.standard_normal(y.shape)
    dx = conv.backward_data(dy, w, x.shape, **of, groups=groups)
    dw = conv.backward_weights(x, dy, w.shape, **of, groups=groups)
    return Layer(x, w, bias, dy, y + bias.reshape(-1, *(1,) * len(case.space)), dx, dw, groups)


def dense(a: Array, dtype: Any) -> Array:
    return place(a.astype(dtype), "dense")


def near(found: Array, wanted: Array) -> None:
    """As close as sums of the dtype in another order are."""
    scale = max(float(np.abs(wanted).max()), 1.0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=32 * np.finfo(found.dtype).eps * scale)


def usable(case: Case, lib: Library, dtype: Any) -> bool:
    of = (case.c, (case.c * case.copies, case.width), case.c // case.width, dtype)
    return depthwise.suits(lib, *of, weights=True)


@each_library
@each_dtype
@each_layout
@each_thread_count
@each_case
def test_the_reference_agrees(which: str, dtype: Any, layout: str, threads: int, case: Case) -> None:
    lib, work, win = library(which, threads), Workspace(), three(case.window)
    if not usable(case, lib, dtype):
        pytest.skip("groups wider than a vector are the direct kernels'")
    a = layer(case)
    w = dense(a.w, dtype)
    x, dy = place(a.x.astype(dtype), layout), place(a.dy.astype(dtype), layout)
    y, dx = place(np.ones_like(dy), layout), place(np.ones_like(x), layout)
    forward = depthwise.forward(lib, work, x, w, y, win)
    forward(x, w, y, a.bias.astype(dtype), True)
    near(y, np.maximum(a.y, 0))
    forward(x, w, y)
    near(y, a.y - a.bias.reshape(-1, *(1,) * len(case.space)))
    assert untouched(y)

    depthwise.backward_data(lib, work, dy, w, dx, win)(dy, w, dx)
    near(dx, a.dx)
    assert untouched(dx)

    dw = empty(w.shape, dtype)
    dw[...] = 5
    weights = depthwise.backward_weights(lib, work, x, dy, dw, win)
    weights(x, dy, dw)
    near(dw, a.dw)
    weights(x, dy, dw, add=True)
    near(dw, 2 * a.dw)


@each_library
@each_dtype
def test_bits_do_not_depend_on_layout_or_threads(which: str, dtype: Any) -> None:
    """Outputs and input gradients; weight gradients repeat with the number of threads."""
    case = Case(3, 48, (23, 25), square(3))
    a, win = layer(case), three(case.window)
    outputs, gradients = [], []
    for threads, layout in [(1, "dense"), (2, "margin"), (2, "slice"), (2, "dense")]:
        lib = library(which, threads)
        x, dy, w = place(a.x.astype(dtype), layout), place(a.dy.astype(dtype), layout), dense(a.w, dtype)
        y, dx, dw = empty(dy.shape, dtype), empty(x.shape, dtype), empty(w.shape, dtype)
        depthwise.forward(lib, Workspace(), x, w, y, win)(x, w, y)
        depthwise.backward_data(lib, Workspace(), dy, w, dx, win)(dy, w, dx)
        depthwise.backward_weights(lib, Workspace(), x, dy, dw, win)(x, dy, dw)
        outputs.append(y.tobytes() + dx.tobytes())
        gradients.append(dw.tobytes())
    assert len(set(outputs)) == 1
    assert len(set(gradients[1:])) == 1


@each_library
def test_which_groups_are_narrow(which: str) -> None:
    lib = library(which)
    lanes = 16 if which == "wide" else int(lib.plain("vector_bytes")()) // 4
    assert depthwise.suits(lib, 96, (96, 1, 3, 3), 96, np.float32)
    assert depthwise.suits(lib, 3, (6, 1, 3, 3), 3, np.float32)
    assert not depthwise.suits(lib, 1, (6, 1, 3, 3), 1, np.float32)
    assert not depthwise.suits(lib, 96, (192, 2, 3, 3), 48, np.float32)
    assert not depthwise.suits(lib, 96, (96, 3, 3, 3), 32, np.float32)
    assert depthwise.suits(lib, 64, (64, lanes // 2, 3, 3), 64 // (lanes // 2), np.float32)
    if lanes <= 8:
        wide = (64, (64, lanes, 3, 3), 64 // lanes, np.float32)
        assert not depthwise.suits(lib, *wide)
        assert depthwise.suits(lib, *wide, weights=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 12, 9, 8), (0, 12, 9, 8), (2, 12, 0, 8)])
def test_the_engine_takes_them(dtype: Any, shape: tuple[int, ...]) -> None:
    """By the functions that layers call, with arrays in another memory order; empty blocks have no gradient."""
    engine, rng, window = Engine(library("native")), np.random.default_rng(5), square(3)
    x, w = rng.standard_normal(shape).astype(dtype), rng.standard_normal((12, 1, 3, 3)).astype(dtype)
    wanted = conv.forward(x.astype(float), w.astype(float), **window.keywords, groups=12)
    y = chosen.forward(engine, x, w, window, groups=12)
    near(y, wanted) if y.size else None
    dx = chosen.backward_data(engine, wanted.astype(dtype), w, window, x.shape, groups=12)
    dw = np.ones(w.shape, dtype)
    chosen.backward_weights(engine, x, wanted.astype(dtype), window, dw, groups=12)
    if x.size:
        of = window.keywords
        near(dx, conv.backward_data(wanted, w.astype(float), x.shape, **of, groups=12))
        near(dw, 1 + conv.backward_weights(x.astype(float), wanted, w.shape, **of, groups=12))
    else:
        assert dx.shape == x.shape
        assert (dw == 1).all()
