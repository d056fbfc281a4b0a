"""The compiled softmax against the NumPy reference in float64, and its exponential against NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.native import softmax as compiled
from gridnn.compute.cpu.reference import softmax

from . import native
from .native import each_dtype, each_layout, each_library, each_thread_count, place, untouched

SHAPES = [
    (1, 1),
    (3, 5),
    (128, 10),
    (7, 17),
    (5, 64, 3),
    (2, 21, 4, 9),
    (64, 1000),
    (2, 3, 2, 3, 4),
    (1, 1537),
]


@each_library
@each_layout
@each_dtype
@each_thread_count
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(which: str, layout: str, dtype: Any, threads: int, shape: tuple[int, ...]) -> None:
    """A block in the middle of the classes: some labels lie in it, some before it, some behind, -1 in none."""
    lib, rng, eps = native.library(which, threads), np.random.default_rng(1), np.finfo(dtype).eps
    values = (3 * rng.standard_normal(shape)).astype(dtype)
    k, k_start, positions = shape[1], 4, (shape[0], *shape[2:])
    labels = rng.integers(-1, k_start + k + 2, positions)
    weight, exact = rng.random(positions), values.astype(float)
    x = place(values, layout)

    top = np.zeros(positions, dtype)
    compiled.block_max(lib, x, top)
    np.testing.assert_array_equal(top, values.max(axis=1))
    sums = compiled.block_sums(lib, x, top, labels, k_start)
    wanted = softmax.block_sums(exact, top.astype(float), labels, k_start)
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums, wanted, rtol=64 * eps, atol=1e-30)

    classes = k_start + k + 2
    for smoothing in (0.0, 0.1):
        rest = labels, k_start, classes, smoothing, weight
        wanted_dx = softmax.gradient(exact, top.astype(float), wanted[0] + 0.3, *rest)
        for dx in (place(np.ones_like(values), layout), place(values, layout)):
            source = x if (dx == 1).all() else dx
            compiled.gradient(lib, source, top, wanted[0] + 0.3, *rest, dx)
            np.testing.assert_allclose(dx, wanted_dx, atol=16 * eps)
            assert untouched(dx)


@each_library
def test_exponential(which: str) -> None:
    """With one class a position the sums are the exponentials: 2 units in the last place of float32 at most."""
    lib = native.library(which)
    x = np.concatenate([-np.logspace(-9, np.log10(87.3), 200_001), np.arange(-87.0, 1.0), [0.0]])
    x = x.astype(np.float32)
    sums = compiled.block_sums(lib, x[:, None], np.zeros_like(x), np.zeros(x.size, int), 0)
    wanted = np.exp(x.astype(float))
    assert np.max(np.abs(sums[0] - wanted) / np.spacing(wanted.astype(np.float32))) < 2
    assert sums[0][-1] == 1
    far = np.array([-88, -104, -1e30, -np.inf], np.float32)
    sums = compiled.block_sums(lib, far[:, None], np.zeros(4, np.float32), np.zeros(4, int), 0)
    np.testing.assert_allclose(sums[0], np.exp(far.astype(float)), atol=1.2e-38)


@each_library
@each_dtype
@pytest.mark.parametrize("classes", [1, 7, 40])
def test_not_a_number_is_not_hidden(which: str, dtype: Any, classes: int) -> None:
    """Wherever it stands in its row; the rows beside it are not touched by it."""
    lib = native.library(which)
    for at in range(classes):
        x = np.zeros((3, classes), dtype)
        x[1, at] = np.nan
        top = np.zeros(3, dtype)
        compiled.block_max(lib, x, top)
        np.testing.assert_array_equal(top, [0, np.nan, 0])
        sums = compiled.block_sums(lib, x, np.zeros(3, dtype), np.zeros(3, int), 0)
        np.testing.assert_array_equal(sums[0], [classes, np.nan, classes])


@each_library
@each_dtype
def test_huge_logits_do_not_overflow(which: str, dtype: Any) -> None:
    lib = native.library(which)
    x = np.array([[3e38, -3e38, 0.0]], dtype)
    top, dx = np.zeros(1, dtype), np.zeros_like(x)
    compiled.block_max(lib, x, top)
    sums = compiled.block_sums(lib, x, top, np.array([1]), 0)
    compiled.gradient(lib, x, top, sums[0], np.array([1]), 0, 3, 0.0, np.ones(1), dx)
    np.testing.assert_array_equal(dx, [[1, -1, 0]])


@each_library
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0)])
def test_empty_blocks(which: str, shape: tuple[int, ...]) -> None:
    lib, x, positions = native.library(which), np.ones(shape, np.float32), (shape[0], *shape[2:])
    top, labels, weight = np.ones(positions, np.float32), np.zeros(positions, int), np.ones(positions)
    compiled.block_max(lib, x, top)
    assert np.isneginf(top).all()
    sums = compiled.block_sums(lib, x, top, labels, 0)
    assert sums.shape == (3, *positions)
    assert not sums.any()
    compiled.gradient(lib, x, top, sums[0], labels, 0, 3, 0.0, weight, x)
