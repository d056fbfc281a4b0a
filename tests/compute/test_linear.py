"""The linear layer against sums over its features, its gradients, and empty blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import linear


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "c", "k"), [(3, 5, 7), (1, 1, 1), (0, 5, 7), (3, 0, 7), (3, 5, 0), (0, 0, 0)])
def test_linear(n: int, c: int, k: int, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((n, c)).astype(dtype), rng.standard_normal((k, c)).astype(dtype)
    y = linear.forward(x, w)
    wanted = np.zeros((n, k))
    for i in range(c):
        wanted += np.outer(x[:, i].astype(float), w[:, i].astype(float))
    tolerance = {np.float32: 1e-5, np.float64: 1e-13}[dtype]
    np.testing.assert_allclose(y, wanted, atol=tolerance)
    dy = rng.standard_normal((n, k)).astype(dtype)
    dx, dw = linear.backward_data(dy, w), linear.backward_weights(x, dy)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert y.dtype == dx.dtype == dw.dtype == np.dtype(dtype)
    np.testing.assert_allclose(np.vdot(x, dx), np.vdot(y, dy), atol=50 * tolerance)
    np.testing.assert_allclose(np.vdot(w, dw), np.vdot(y, dy), atol=50 * tolerance)
