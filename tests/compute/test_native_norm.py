"""The compiled batch norm against the NumPy reference in float64, in every layout, in place, masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.native import norm as compiled
from gridnn.compute.cpu.reference import norm

from . import native
from .native import Array, each_dtype, each_layout, each_library, each_thread_count, place, untouched

SHAPES = [(1, 1, 1, 1), (5, 3), (2, 3, 7), (1, 16, 5, 3), (2, 17, 3, 4, 5), (3, 64, 11, 13), (2, 5, 67, 71)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


class Problem:
    """Blocks and vectors of one batch norm, rounded to a dtype, and what is wanted of them in float64."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, offset: float = 0.0) -> None:
        rng = np.random.default_rng(len(shape))
        self.x, self.dy, self.more, self.out = (rng.standard_normal(shape).astype(dtype) for _ in range(4))
        self.x += dtype(offset)
        c = shape[1]
        self.shift, self.mean = (dtype(offset) + rng.standard_normal(c).astype(dtype) for _ in range(2))
        self.gamma, self.beta = (rng.standard_normal(c).astype(dtype) for _ in range(2))
        self.inv_std = rng.uniform(0.5, 2, c).astype(dtype)
        self.count = self.x.size // c
        # One rounding of numbers up to 10 is 5 eps; sums collect 64 numbers in the dtype of x.
        self.near = 16 * np.finfo(dtype).eps
        self.near_sum = np.finfo(dtype).eps * (64 + 16 * np.sqrt(self.count))

    def exact(self, *names: str) -> list[Array]:
        """Arrays as float64."""
        return [getattr(self, name).astype(np.float64) for name in names]


@each_library
@each_layout
@each_dtype
@each_shape
@each_thread_count
def test_forward(which: str, layout: str, dtype: Any, shape: tuple[int, ...], threads: int) -> None:
    lib, a = native.library(which, threads), Problem(shape, dtype)
    x, more = place(a.x, layout), place(a.more, layout)
    sums = compiled.moments(lib, x, a.shift)
    assert sums.dtype == np.float64
    wanted_sums = norm.moments(*a.exact("x", "shift"))
    np.testing.assert_allclose(sums, wanted_sums, rtol=a.near_sum, atol=a.near_sum)

    plain = norm.apply(*a.exact("x", "mean", "inv_std", "gamma", "beta"))
    vectors = (a.mean, a.inv_std), a.gamma, a.beta
    for add in (None, more):
        for relu in (False, True):
            wanted = plain if add is None else plain + a.more
            y = place(np.zeros_like(a.x), layout)
            compiled.apply(lib, x, *vectors, y, add, relu)
            np.testing.assert_allclose(y, np.maximum(wanted, 0) if relu else wanted, atol=a.near)
            assert untouched(y)
    compiled.apply(lib, x, *vectors, more, more, True)
    np.testing.assert_array_equal(more, y)
    compiled.apply(lib, x, *vectors, x)
    np.testing.assert_allclose(x, plain, atol=a.near)
    assert untouched(x)


@each_library
@each_layout
@each_dtype
@each_shape
@each_thread_count
@pytest.mark.parametrize("masked", [False, True])
def test_backward(
    which: str, layout: str, dtype: Any, shape: tuple[int, ...], threads: int, masked: bool
) -> None:
    lib, a = native.library(which, threads), Problem(shape, dtype)
    x, dy = place(a.x, layout), place(a.dy, layout)
    y = place(a.out, layout) if masked else None
    exact_x, mean, inv_std, gamma, exact_dy = a.exact("x", "mean", "inv_std", "gamma", "dy")
    if masked:
        exact_dy *= a.out > 0

    sums = compiled.backward_sums(lib, x, y, (a.mean, a.inv_std), dy)
    wanted_sums = norm.backward_sums(exact_x, mean, inv_std, exact_dy)
    np.testing.assert_allclose(sums, wanted_sums, rtol=a.near_sum, atol=a.near_sum)

    wanted = norm.backward_apply(exact_x, mean, inv_std, gamma, exact_dy, wanted_sums, a.count)
    tolerance = 4 * a.near * max(1, np.abs(wanted_sums).max() / a.count)
    for dx in (place(np.zeros_like(a.x), layout), dy):
        compiled.backward_apply(lib, x, y, (a.mean, a.inv_std), a.gamma, dy, wanted_sums, a.count, dx)
        np.testing.assert_allclose(dx, wanted, atol=tolerance)
        assert untouched(dx)


@each_library
@each_dtype
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 100, 999])
def test_results_do_not_depend_on_strides(which: str, dtype: Any, channels: int) -> None:
    lib, a = native.library(which), Problem((3, channels, 13, 17), dtype)
    found = []
    for layout in native.LAYOUTS:
        x, dy, y, dx = (place(v, layout) for v in (a.x, a.dy, a.out, a.more))
        sums = compiled.backward_sums(lib, x, y, (a.mean, a.inv_std), dy)
        compiled.backward_apply(lib, x, y, (a.mean, a.inv_std), a.gamma, dy, sums, a.count, dx)
        found.append((compiled.moments(lib, x, a.shift), sums, dx))
    for one, other in [(0, 1), (0, 2)]:
        for left, right in zip(found[one], found[other], strict=True):
            np.testing.assert_array_equal(left, right)


@each_library
@each_thread_count
def test_a_large_mean_does_not_cancel(which: str, threads: int) -> None:
    """With a mean of 1e4 deviations, float32 results are as good as what float32 x allows."""
    lib, a = native.library(which, threads), Problem((16, 6, 9, 9), np.float32, 1e4)
    x, dy, dx = place(a.x, "dense"), place(a.dy, "dense"), place(np.zeros_like(a.x), "dense")
    exact_x, mean, inv_std, gamma, beta, exact_dy = a.exact("x", "mean", "inv_std", "gamma", "beta", "dy")
    sums = compiled.moments(lib, x, a.shift) / a.count
    variance = sums[1] - sums[0] ** 2
    np.testing.assert_allclose(variance, exact_x.var(axis=(0, 2, 3)), rtol=1e-5)
    compiled.apply(lib, x, (a.mean, a.inv_std), a.gamma, a.beta, dx)
    np.testing.assert_allclose(dx, norm.apply(exact_x, mean, inv_std, gamma, beta), atol=1e-5)
    sums = norm.backward_sums(exact_x, mean, inv_std, exact_dy)
    compiled.backward_apply(lib, x, None, (a.mean, a.inv_std), a.gamma, dy, sums, a.count, dx)
    wanted = norm.backward_apply(exact_x, mean, inv_std, gamma, exact_dy, sums, a.count)
    np.testing.assert_allclose(dx, wanted, atol=1e-5)


@each_library
def test_large_blocks_are_summed_in_double(which: str) -> None:
    lib = native.library(which, 2)
    x = np.full((1, 1, 1000, 1000), 0.1, np.float32)
    sums = compiled.moments(lib, x, np.zeros(1))
    np.testing.assert_allclose(sums[:, 0], [1e5, 1e4], rtol=5e-6)


@each_library
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_blocks(which: str, shape: tuple[int, ...]) -> None:
    lib, x, v = native.library(which), np.zeros(shape, np.float32), np.ones(shape[1])
    sums = compiled.moments(lib, x, v), compiled.backward_sums(lib, x, x, (v, v), x)
    assert all(s.shape == (2, shape[1]) and not s.any() for s in sums)
    compiled.apply(lib, x, (v, v), v, v, x, x, True)
    compiled.backward_apply(lib, x, x, (v, v), v, x, sums[0], 0, x)


@each_library
@pytest.mark.parametrize("count", [1, 2, 90])
def test_statistics(which: str, count: int) -> None:
    rng = np.random.default_rng(1)
    first, (mean, variance) = rng.standard_normal(17), rng.random((2, 17))
    sums = count * np.stack([first, first**2 + (count > 1) * rng.random(17)])
    running = [mean.copy(), variance.copy()]
    got = compiled.statistics(native.library(which), sums, count, running[0], running[1], 0.1, 1e-5)
    wanted = norm.statistics(sums, count, mean, variance, 0.1, 1e-5)
    np.testing.assert_allclose(got, wanted, rtol=1e-9)
    np.testing.assert_allclose(running, [mean, variance], rtol=1e-12)
