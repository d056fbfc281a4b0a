"""Winograd convolution against the reference: results, strides, threads, empty blocks, and how large its errors are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.compute.cpu.memory import Workspace, empty
from gridnn.compute.cpu.native import winograd
from gridnn.compute.cpu.native.library import Library
from gridnn.compute.cpu.reference import conv

from .native import Array, each_dtype, each_layout, each_library, each_thread_count, library, place, untouched

CHANNELS = (1, 3, 5, 16, 17, 64)
LIMIT: dict[type, float] = {np.float32: 1e-5, np.float64: 5e-14}
"""Largest error over the largest result. Sums here are short; float32 ones of thousands reach 4e-6."""


class Case(NamedTuple):
    """A convolution: extents, and pads before and behind."""

    n: int
    c: int
    k: int
    size: tuple[int, ...]
    r: int
    lo: tuple[int, ...]
    hi: tuple[int, ...]

    @property
    def window(self) -> dict[str, Any]:
        return {"stride": (1, 1), "dilation": (1, 1), "pad_lo": self.lo, "pad_hi": self.hi}


def some_cases(many: int) -> list[Case]:
    """Cases with an output: extents 1 to 15, pads one-sided and negative, every number of channels on either side."""
    rng = np.random.default_rng(0)
    cases: list[Case] = []
    while len(cases) < many:
        r, n = (3, 5)[len(cases) % 2], (1, 3)[len(cases) // 2 % 2]
        c, k = CHANNELS[len(cases) % 6], int(rng.choice(CHANNELS))
        size, lo, hi = (tuple(int(i) for i in rng.integers(*span, 2)) for span in ((1, 16), (-1, 4), (-1, 4)))
        if all(s + a + b >= r for s, a, b in zip(size, lo, hi, strict=True)):
            cases.append(Case(n, c, k, size, r, lo, hi))
    return cases


class Layer(NamedTuple):
    """The arrays of a case, in float64, with what the reference makes of them."""

    x: Array
    w: Array
    bias: Array
    dy: Array
    y: Array
    dx: Array
    dw: Array


def layer(case: Case, magnitude: float | None = None) -> Layer:
    """Normal arrays of values that float32 holds; or inputs in [0, magnitude], weights of variance 1 / fan in."""
    rng = np.random.default_rng(hash(case) % 2**32)

    def normal(*shape: int) -> Array:
        return np.asarray(rng.standard_normal(shape, np.float32), np.float64)

    x, w = normal(case.n, case.c, *case.size), normal(case.k, case.c, case.r, case.r)
    if magnitude is not None:
        x = np.asarray(rng.random(x.shape, np.float32) * np.float32(magnitude), np.float64)
        w = np.asarray(w / np.sqrt(case.c * case.r**2), np.float32).astype(np.float64)
    y = conv.forward(x, w, **case.window)
    dy = normal(*y.shape)
    dx, dw = (
        conv.backward_data(dy, w, x.shape, **case.window),
        conv.backward_weights(x, dy, w.shape, **case.window),
    )
    return Layer(x, w, normal(case.k), dy, y, dx, dw)


def error(found: Array, right: Array) -> float:
    """Largest difference over the largest right value."""
    return float(np.abs(found - right).max() / max(np.abs(right).max(), 1e-30))


def passes(
    lib: Library, case: Case, at: Layer, dtype: type, layout: str = "dense"
) -> tuple[Array, Array, Array]:
    """y, dx and dw of the kernels; outputs begin as NaN, and so do the buffers around them."""
    x, dy, y, dx = (place(a.astype(dtype), layout) for a in (at.x, at.dy, at.y, at.dx))
    w, dw = place(at.w.astype(dtype), "dense"), empty(at.w.shape, dtype)
    y[...], dx[...], dw[...] = np.nan, np.nan, np.nan
    work = Workspace()
    winograd.forward(lib, work, x, w, y, pad_lo=case.lo)(x, w, y)
    winograd.backward_data(lib, work, dy, w, dx, pad_lo=case.lo)(dy, w, dx)
    winograd.backward_weights(lib, work, x, dy, dw, pad_lo=case.lo)(x, dy, dw)
    assert untouched(y)
    assert untouched(dx)
    return y, dx, dw


@each_library
@each_dtype
@each_thread_count
def test_passes_are_the_reference(which: str, dtype: type, threads: int) -> None:
    lib = library(which, threads)
    for case in some_cases(36):
        at = layer(case)
        for found, right in zip(passes(lib, case, at, dtype), (at.y, at.dx, at.dw), strict=True):
            assert error(found, right) < LIMIT[dtype], case


@each_library
@each_layout
def test_results_do_not_depend_on_strides(which: str, layout: str) -> None:
    lib = library(which)
    for case in some_cases(12):
        at = layer(case)
        dense = passes(lib, case, at, np.float32)
        for found, same in zip(passes(lib, case, at, np.float32, layout), dense, strict=True):
            assert np.array_equal(found, same), case


@each_library
@pytest.mark.parametrize("shape", [(9, 16, 16, 16), (2, 17, 130, 12), (1, 64, 200, 3), (16, 70, 5, 8)])
@pytest.mark.parametrize("threads", [2, 3, 5, 16])
def test_threads_share_strips_or_channels(which: str, shape: tuple[int, ...], threads: int) -> None:
    lib = library(which, threads)
    n, c, k, side = shape
    case = Case(n, c, k, (side, side), 3, (1, 1), (1, 1))
    at = layer(case)
    for found, right in zip(passes(lib, case, at, np.float64), (at.y, at.dx, at.dw), strict=True):
        assert error(found, right) < LIMIT[np.float64]


@each_library
@pytest.mark.parametrize("k", CHANNELS)
def test_bias_relu_and_add(which: str, k: int) -> None:
    lib, work = library(which), Workspace()
    for r in (3, 5):
        case = Case(2, 5, k, (7, 6), r, (1, 1), (1, 1))
        at = layer(case)
        x, w, dy, y = (place(a, "dense") for a in (at.x, at.w, at.dy, at.y))
        shifted = at.y + at.bias.reshape(1, -1, 1, 1)
        forward = winograd.forward(lib, work, x, w, y, pad_lo=case.lo)
        forward(x, w, y, at.bias)
        assert error(y, shifted) < LIMIT[np.float64]
        forward(x, w, y, at.bias, True)
        assert error(y, np.maximum(shifted, 0)) < LIMIT[np.float64]
        assert (shifted < 0).any()
        dw = place(at.w, "dense")
        winograd.backward_weights(lib, work, x, dy, dw, pad_lo=case.lo)(x, dy, dw, add=True)
        assert error(dw, at.w + at.dw) < LIMIT[np.float64]


@each_library
def test_empty_blocks_give_empty_or_zero(which: str) -> None:
    lib, work = library(which), Workspace()
    for n, height in ((0, 6), (2, 0)):
        x, y = empty((n, 6, height, 6), np.float64), empty((n, 7, max(height, 1), 6), np.float64)
        w, dw = place(np.ones((7, 6, 3, 3)), "dense"), place(np.full((7, 6, 3, 3), 2.0), "dense")
        winograd.forward(lib, work, x, w, y, pad_lo=(1, 1))(x, w, y, np.full(7, 3.0))
        assert (y == 3).all()
        winograd.backward_data(lib, work, y, w, x, pad_lo=(1, 1))(y, w, x)
        weights = winograd.backward_weights(lib, work, x, y, dw, pad_lo=(1, 1))
        weights(x, y, dw, add=True)
        assert (dw == 2).all()
        weights(x, y, dw)
        assert (dw == 0).all()


@each_library
@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
def test_float32_errors_stay_small(which: str, magnitude: float) -> None:
    """Inputs of one sign, whose transforms cancel, are the worst of the usual ones; the allowance is 1e-4."""
    lib = library(which, 2)
    shapes = (2, 256, 64, 14, 3), (16, 16, 16, 32, 3), (1, 512, 32, 7, 3), (1, 96, 64, 27, 5)
    for n, c, k, side, r in shapes:
        case = Case(n, c, k, (side, side), r, (r // 2, r // 2), (r // 2, r // 2))
        at = layer(case, magnitude)
        for found, right in zip(passes(lib, case, at, np.float32), (at.y, at.dx, at.dw), strict=True):
            assert 0 < error(found, right) < 2e-5


def test_supports_only_what_the_kernels_know() -> None:
    def known(
        x: int = 4, r: tuple[int, ...] = (3, 3), stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> bool:
        pairs = (stride,) * len(r), (dilation,) * len(r)
        return winograd.supports((2,) * x, (4, 2, *r), *pairs, groups)

    assert known()
    assert known(r=(5, 5))
    assert not known(r=(3, 5))
    assert not known(r=(1, 1))
    assert not known(x=3, r=(3,))
    assert not known(x=5, r=(3, 3, 3))
    assert not known(stride=2)
    assert not known(dilation=2)
    assert not known(groups=2)


def test_pays_where_tiles_repay_the_transform_of_the_window() -> None:
    assert winograd.pays((64, 64, 3, 3), (16, 64, 56, 56))
    assert winograd.pays((512, 512, 3, 3), (16, 512, 7, 7), weights=True)
    assert winograd.pays((256, 96, 5, 5), (32, 256, 27, 27))
    assert not winograd.pays((256, 256, 3, 3), (1, 256, 7, 7))
    assert not winograd.pays((256, 256, 3, 3), (16, 256, 2, 2))
    assert not winograd.pays((16, 3, 3, 3), (16, 16, 32, 32))
    assert not winograd.pays((64, 64, 3, 3), (0, 64, 8, 8))
