"""The compiled pooling against the NumPy reference: windows, ties, NaN, crops, layouts, and empty blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.native import pool as compiled
from gridnn.compute.cpu.reference import pool

from . import native
from .native import Array, each_dtype, each_layout, each_library, place, untouched

WINDOW = ("kernel", "stride", "dilation", "pad_lo", "pad_hi")

# Shape, then the window: overlapping, with gaps, one-sided and negative pads, windows of padding only.
CASES: list[tuple[tuple[int, ...], ...]] = [
    ((2, 16, 7), (3,), (2,), (1,), (1,), (1,)),
    ((1, 3, 9), (2,), (3,), (2,), (0,), (2,)),
    ((2, 64, 7, 9), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((3, 17, 8, 6), (2, 2), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((1, 5, 6, 7), (3, 2), (1, 2), (2, 1), (2, 0), (0, 3)),
    ((2, 1, 9, 8), (3, 3), (2, 1), (1, 2), (-1, 0), (0, -2)),
    ((2, 40, 5, 5), (1, 1), (4, 4), (1, 1), (4, 0), (0, 4)),
    ((1, 96, 20, 20), (3, 3), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((2, 19, 4, 5, 6), (2, 3, 2), (2, 1, 2), (1, 1, 2), (1, 0, 1), (0, 1, -1)),
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[0])))


def window_of(case: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    return dict(zip(WINDOW, case[1:], strict=True))


def indices(like: Array) -> Array:
    """Room for saved window indices, channels-last, full of what forward never saves here."""
    return np.moveaxis(np.full((like.shape[0], *like.shape[2:], like.shape[1]), 255, np.uint8), -1, 1)


@each_library
@each_layout
@each_dtype
@each_case
@pytest.mark.parametrize("threads", [1, 2])
def test_max(which: str, layout: str, dtype: Any, case: tuple[tuple[int, ...], ...], threads: int) -> None:
    """Small integers with -inf and NaN among them: values, winners and gradients are the reference's to the bit."""
    lib, window = native.library(which, threads), window_of(case)
    rng = np.random.default_rng(1)
    values = rng.integers(0, 3, case[0]).astype(dtype)
    values.flat[:: values.size // 5 + 1] = np.nan
    values.flat[1:40] = -np.inf
    wanted, wanted_saved = pool.max_forward(values, **window)
    x, y, saved = place(values, layout), place(np.ones_like(wanted), layout), indices(wanted)
    compiled.max_forward(lib, x, y, saved, **window)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(saved, wanted_saved)

    d = rng.standard_normal(wanted.shape).astype(dtype)
    dx = place(np.ones_like(values), layout)
    compiled.max_backward(lib, place(d, layout), saved, dx, **window)
    np.testing.assert_array_equal(dx, pool.max_backward(d, wanted_saved, values.shape, **window))
    assert untouched(dx)


@each_library
@each_layout
@each_dtype
@each_case
@pytest.mark.parametrize("count_pad", [False, True])
def test_average(
    which: str, layout: str, dtype: Any, case: tuple[tuple[int, ...], ...], count_pad: bool
) -> None:
    lib, window = native.library(which, 2), window_of(case)
    rng = np.random.default_rng(2)
    values = rng.standard_normal(case[0]).astype(dtype)
    wanted = pool.average_forward(values.astype(float), **window, count_pad=count_pad)
    y = place(np.ones_like(wanted, dtype), layout)
    compiled.average_forward(lib, place(values, layout), y, **window, count_pad=count_pad)
    tolerance = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, wanted, atol=tolerance)

    d = rng.standard_normal(wanted.shape).astype(dtype)
    dx = place(np.ones_like(values), layout)
    compiled.average_backward(lib, place(d, layout), dx, **window, count_pad=count_pad)
    wanted_dx = pool.average_backward(d.astype(float), values.shape, **window, count_pad=count_pad)
    np.testing.assert_allclose(dx, wanted_dx, atol=tolerance)
    assert untouched(y)
    assert untouched(dx)


@each_library
@each_dtype
def test_saved_may_lie_anywhere(which: str, dtype: Any) -> None:
    """Indices in the middle of a larger buffer of bytes."""
    lib, case = native.library(which), CASES[2]
    values = np.random.default_rng(3).standard_normal(case[0]).astype(dtype)
    wanted, wanted_saved = pool.max_forward(values, **window_of(case))
    room = np.full((2, 6, 7, 70), 255, np.uint8)
    saved = np.moveaxis(room[:, 1:-1, 1:-1, 3:-3], -1, 1)
    y = place(np.ones_like(wanted), "dense")
    compiled.max_forward(lib, place(values, "dense"), y, saved, **window_of(case))
    np.testing.assert_array_equal(saved, wanted_saved)
    assert (room == 255).sum() == room.size - saved.size


@each_library
def test_what_cannot_be_saved_is_refused(which: str) -> None:
    lib = native.library(which)
    x, y = place(np.ones((1, 2, 17, 16)), "dense"), place(np.ones((1, 2, 1, 1)), "dense")
    window = window_of(((), (17, 16), (1, 1), (1, 1), (0, 0), (0, 0)))
    with pytest.raises(ValueError, match="272 elements"):
        compiled.max_forward(lib, x, y, indices(y), **window)
    window["kernel"] = (16, 16)
    with pytest.raises(ValueError, match="uint8"):
        compiled.max_backward(lib, y, y, x, **window)
    x[0, 0, 15, 15] = 2
    saved = indices(y)
    compiled.max_forward(lib, x[:, :, :16], y, saved, **window)
    assert saved.ravel().tolist() == [255, 0]


@each_library
@each_layout
@each_dtype
@pytest.mark.parametrize(
    "shape", [(2, 3, 200), (1, 17, 5, 7), (4, 64, 9, 9), (2, 5, 3, 4, 3), (2, 512, 14, 14)]
)
def test_space(which: str, layout: str, dtype: Any, shape: tuple[int, ...]) -> None:
    lib = native.library(which, 2)
    values = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    y = np.ones(shape[:2], dtype)
    compiled.sum_space(lib, place(values, layout), y)
    np.testing.assert_allclose(y, pool.sum_space(values.astype(float)), atol=512 * np.finfo(dtype).eps)
    dx = place(values, layout)
    compiled.spread_space(lib, y, dx)
    np.testing.assert_array_equal(dx, pool.spread_space(y, shape))
    assert untouched(dx)


@each_library
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_empty_blocks(which: str, shape: tuple[int, ...]) -> None:
    """An empty input has no gradient; outputs over padding alone are still written."""
    lib = native.library(which)
    window = window_of(((), (3, 3), (2, 2), (1, 1), (2, 2), (2, 2)))
    values = np.zeros(shape, np.float32)
    wanted, wanted_saved = pool.max_forward(values, **window)
    y, saved = place(np.zeros_like(wanted), "dense"), indices(wanted)
    compiled.max_forward(lib, values, y, saved, **window)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(saved, wanted_saved)
    compiled.max_backward(lib, y, saved, values, **window)
    compiled.average_forward(lib, values, y, **window, count_pad=True)
    assert not y.any()
    compiled.average_backward(lib, y, values, **window, count_pad=True)
    total = np.ones(shape[:2], np.float32)
    compiled.sum_space(lib, values, total)
    assert not total.any()
    compiled.spread_space(lib, total, values)


@each_library
def test_a_block_without_outputs_has_no_gradient(which: str) -> None:
    lib = native.library(which)
    window = window_of(((), (3,), (1,), (1,), (0,), (0,)))
    dy, dx = np.zeros((1, 4, 0), np.float32), place(np.ones((1, 4, 2), np.float32), "dense")
    compiled.max_backward(lib, dy, np.zeros(dy.shape, np.uint8), dx, **window)
    assert not dx.any()
