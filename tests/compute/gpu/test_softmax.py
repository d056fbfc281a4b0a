"""Softmax and cross-entropy on a device, in pieces over classes, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import softmax as reference
from tests.compute.gpu.conftest import Launch, near

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
@pytest.mark.parametrize(("positions", "classes", "start"), [(1, 1, 0), (7, 10, 0), (5, 33, 4), (3, 100, 20)])
def test_the_pieces(module: Launch, dtype: Any, positions: int, classes: int, start: int) -> None:
    rng = np.random.default_rng(classes)
    x = (3 * rng.standard_normal((positions, classes))).astype(dtype)
    labels = rng.integers(0, start + classes, positions)
    labels[0] = -1
    kernels, close = module("softmax", dtype), (1e-12 if dtype == np.float64 else 2e-6, 1e-6)
    top, sums, dx = np.empty(positions, dtype), np.empty((3, positions)), np.empty_like(x)
    kernels.launch("block_max", (2,), (64,), [x, positions, classes, top])
    np.testing.assert_array_equal(top, reference.block_max(x))
    kernels.launch("block_sums", (2,), (64,), [x, top, labels, positions, classes, start, sums])
    wanted = reference.block_sums(x, top, labels, start)
    near(sums, wanted, close)
    weight, every, smoothing = rng.uniform(size=positions), start + classes + 3, 0.1
    kernels.launch(
        "gradient", (2,), (32,),
        [x, top, wanted[0], labels, weight, positions, classes, start, smoothing / every, 1 - smoothing, dx],
    )  # fmt: skip
    near(dx, reference.gradient(x, top, wanted[0], labels, start, every, smoothing, weight), close)


@DTYPES
def test_a_block_without_classes_has_no_maximum(module: Launch, dtype: Any) -> None:
    top = np.zeros(4, dtype)
    module("softmax", dtype).launch("block_max", (1,), (128,), [np.zeros(1, dtype), 4, 0, top])
    assert np.isneginf(top).all()
