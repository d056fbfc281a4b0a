"""Pooling against plain loops, its gradients, ties, padding, overlap, and empty blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.compute.cpu.reference import pool, window

from . import loops

Case = dict[str, Any]
WINDOW = ("kernel", "stride", "dilation", "pad_lo", "pad_hi")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A window of 1, 2 or 3 dims over a block of which any extent may be empty."""
    dims = draw(st.integers(1, 3))
    most = {1: 11, 2: 6, 3: 4}[dims]

    def each(lo: int, hi: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(lo, hi)) for _ in range(dims))

    return {
        "x": (draw(st.integers(0, 2)), draw(st.integers(0, 2)), *each(0, most)),
        "kernel": each(1, 3), "stride": each(1, 3), "dilation": each(1, 2),
        "pad_lo": each(-2, 2), "pad_hi": each(-2, 2), "seed": draw(st.integers(0, 999)),
    }  # fmt: skip


def window_of(case: Case) -> dict[str, Any]:
    return {key: case[key] for key in WINDOW}


def gathered(case: Case, x: loops.Array) -> dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]:
    """For each output: the (flat window index, element) pairs on real elements, in scan order."""
    order = [case[key] for key in WINDOW]
    found: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for o in np.ndindex(*loops.out_extents(x.shape[2:], *order)):
        found[o] = []
    for o, r, i in loops.visits(x.shape[2:], *order):
        found[o].append((int(np.ravel_multi_index(r, case["kernel"])), i))
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(case=cases())
def test_max(case: Case) -> None:
    """Small integers, so that ties are everywhere: the first in scan order must win and take the gradient."""
    rng = np.random.default_rng(case["seed"])
    x = rng.integers(0, 3, case["x"]).astype(float)
    y, saved = pool.max_forward(x, **window_of(case))
    dy = rng.standard_normal(y.shape)
    wanted, wanted_saved = np.full(y.shape, -np.inf), np.zeros(y.shape, int)
    wanted_dx = np.zeros(x.shape)
    members = gathered(case, x)
    assert y.shape == (*x.shape[:2], *loops.out_extents(x.shape[2:], *window_of(case).values()))
    for n, c in np.ndindex(*x.shape[:2]):
        for o, inside in members.items():
            if not inside:
                continue
            best = max(x[(n, c, *i)] for _, i in inside)
            number, i = next((r, i) for r, i in inside if x[(n, c, *i)] == best)
            wanted[(n, c, *o)], wanted_saved[(n, c, *o)] = best, number
            wanted_dx[(n, c, *i)] += dy[(n, c, *o)]
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(saved, wanted_saved)
    assert saved.dtype == np.uint8
    dx = pool.max_backward(dy, saved, x.shape, **window_of(case))
    np.testing.assert_allclose(dx, wanted_dx, atol=1e-13)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(case=cases(), count_pad=st.booleans())
def test_average(case: Case, count_pad: bool) -> None:
    rng = np.random.default_rng(case["seed"])
    x: loops.Array = np.asarray(rng.standard_normal(case["x"]))
    y = pool.average_forward(x, **window_of(case), count_pad=count_pad)
    dy = rng.standard_normal(y.shape)
    wanted, wanted_dx = np.zeros(y.shape), np.zeros(x.shape)
    for o, inside in gathered(case, x).items():
        share = 1 / (np.prod(case["kernel"]) if count_pad else max(len(inside), 1))
        for _, i in inside:
            wanted[loops.at(..., *o)] += share * x[loops.at(..., *i)]
            wanted_dx[loops.at(..., *i)] += share * dy[loops.at(..., *o)]
    np.testing.assert_allclose(y, wanted, atol=1e-13)
    dx = pool.average_backward(dy, x.shape, **window_of(case), count_pad=count_pad)
    np.testing.assert_allclose(dx, wanted_dx, atol=1e-13)


SQUARE: dict[str, Any] = {
    "kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1), "pad_lo": (1, 1), "pad_hi": (1, 1),
}  # fmt: skip


def test_gradient_of_overlapping_max_is_the_directional_derivative() -> None:
    rng = np.random.default_rng(2)
    x, direction = rng.standard_normal((2, 2, 9, 9)), rng.standard_normal((2, 2, 9, 9))
    y, saved = pool.max_forward(x, **SQUARE)
    dy = rng.standard_normal(y.shape)
    ahead, behind = (pool.max_forward(x + h * direction, **SQUARE)[0] for h in (1e-6, -1e-6))
    slope = np.vdot(ahead - behind, dy) / 2e-6
    dx = pool.max_backward(dy, saved, x.shape, **SQUARE)
    np.testing.assert_allclose(np.vdot(dx, direction), slope, rtol=1e-6)


def test_padding_never_wins_even_over_minus_infinity() -> None:
    x = np.full((1, 1, 3, 3), -np.inf)
    y, saved = pool.max_forward(x, **SQUARE)
    assert np.isneginf(y).all()
    np.testing.assert_array_equal(saved[0, 0], [[4, 3], [1, 0]])  # the first real element of each window


def test_not_a_number_is_not_hidden() -> None:
    x = np.zeros((1, 1, 5, 5))
    x[0, 0, 2, 2] = np.nan
    y, _ = pool.max_forward(x, **SQUARE)
    assert np.isnan(y[0, 0, 1, 1])
    assert np.isfinite(y[0, 0, 0, 0])


def test_a_large_window_needs_a_wider_index() -> None:
    x = np.arange(400.0).reshape(1, 1, 20, 20)
    plain = {"stride": (1, 1), "dilation": (1, 1), "pad_lo": (0, 0), "pad_hi": (0, 0)}
    y, saved = pool.max_forward(x, kernel=(20, 20), **plain)
    assert y.item() == 399
    assert saved.item() == 399
    assert saved.dtype == np.uint16


@pytest.mark.parametrize(
    "shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2), (2, 3, 0, 4), (0, 3, 2), (2, 0, 2)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_space(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(-3, 3, shape).astype(dtype)
    total, (top, local_index) = pool.sum_space(x), pool.max_space(x)
    dy = rng.standard_normal(shape[:2]).astype(dtype)
    spread, picked = pool.spread_space(dy, shape), pool.max_space_backward(dy, local_index, shape)
    assert total.dtype == top.dtype == spread.dtype == picked.dtype == np.dtype(dtype)
    assert spread.shape == picked.shape == shape
    assert total.shape == top.shape == shape[:2]
    for n, c in np.ndindex(*shape[:2]):
        values = list(x[n, c].flat)
        assert total[n, c] == sum(values)
        assert top[n, c] == max(values, default=-np.inf)
        assert local_index[n, c] == (values.index(max(values)) if values else -1)
        assert (spread[n, c] == dy[n, c]).all()
        only = [dy[n, c] if i == local_index[n, c] else 0 for i in range(len(values))]
        assert list(picked[n, c].flat) == only


def test_a_maximum_that_lies_elsewhere_gets_no_gradient() -> None:
    dx = pool.max_space_backward(np.array([[5.0, 7.0]]), np.array([[-1, 2]]), (1, 2, 2, 2))
    np.testing.assert_array_equal(dx.reshape(2, 4), [[0, 0, 0, 0], [0, 0, 7, 0]])


def test_many_samples_in_strips_are_the_samples_one_by_one() -> None:
    """Samples so large that several strips are needed, the last of them shorter."""
    x = np.random.default_rng(6).standard_normal((7, 2, 200, 250))
    assert x[:3].nbytes > window.STRIP_BYTES > x[:2].nbytes
    y, saved = pool.max_forward(x, **SQUARE)
    average = pool.average_forward(x, **SQUARE, count_pad=False)
    dx = pool.max_backward(y, saved, x.shape, **SQUARE)
    spread = pool.average_backward(y, x.shape, **SQUARE, count_pad=False)
    for n in range(7):
        one, one_saved = pool.max_forward(x[n : n + 1], **SQUARE)
        shape = (1, *x.shape[1:])
        np.testing.assert_array_equal(y[n : n + 1], one)
        np.testing.assert_array_equal(dx[n : n + 1], pool.max_backward(one, one_saved, shape, **SQUARE))
        one_average = pool.average_forward(x[n : n + 1], **SQUARE, count_pad=False)
        np.testing.assert_array_equal(average[n : n + 1], one_average)
        one_spread = pool.average_backward(one, shape, **SQUARE, count_pad=False)
        np.testing.assert_array_equal(spread[n : n + 1], one_spread)


def test_the_dtype_is_kept() -> None:
    x = np.ones((1, 2, 6, 6), np.float32)
    y, saved = pool.max_forward(x, **SQUARE)
    for count_pad in (True, False):
        average = pool.average_forward(x, **SQUARE, count_pad=count_pad)
        back = pool.average_backward(average, x.shape, **SQUARE, count_pad=count_pad)
        assert average.dtype == back.dtype == np.float32
    assert y.dtype == pool.max_backward(y, saved, x.shape, **SQUARE).dtype == np.float32


def test_a_gradient_of_the_wrong_shape_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="is not the output"):
        pool.average_backward(np.ones((1, 1, 2, 3)), (1, 1, 4, 4), **SQUARE, count_pad=True)
