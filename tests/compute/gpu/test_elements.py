"""Kernels on each element: pointwise operations and updates, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import activation
from gridnn.compute.cpu.reference import update as reference
from tests.compute.gpu.conftest import Launch, near

CLOSE = {np.float64: (1e-13, 1e-14), np.float32: (2e-6, 1e-6)}
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def drawn(dtype: Any, count: int, *shape: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


@DTYPES
@pytest.mark.parametrize("count", [1, 1000])
def test_rectifier_and_its_gradient(module: Launch, dtype: Any, count: int) -> None:
    x, dy = drawn(dtype, 2, count)
    x[0] = np.nan if count > 1 else 0
    y, dx = np.empty_like(x), np.empty_like(x)
    kernels = module("pointwise", dtype)
    kernels.launch("relu", (3,), (64,), [x, y, count])
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    kernels.launch("relu_backward", (2,), (96,), [y, dy, dx, count])
    np.testing.assert_array_equal(dx, activation.backward("relu", None, y, dy))


@DTYPES
@pytest.mark.parametrize("rectify", [False, True])
def test_sums_and_bias(module: Launch, dtype: Any, rectify: bool) -> None:
    (a, b), (bias,) = drawn(dtype, 2, 4, 5, 7), drawn(dtype, 1, 7)
    kernels, last = module("pointwise", dtype), (lambda y: np.maximum(y, 0) if rectify else y)
    y = np.empty_like(a)
    kernels.launch("add", (2,), (32,), [a, b, y, a.size, rectify])
    np.testing.assert_array_equal(y, last(a + b))
    y = a.copy()
    kernels.launch("add_bias", (2,), (32,), [y, bias, y.size, 7, rectify])
    np.testing.assert_array_equal(y, last(a + bias))


@DTYPES
@pytest.mark.parametrize(
    ("momentum", "carried", "spike"), [(0.0, 1.0, 0.0), (0.9, 1.0, 0.0), (0.9, 0.7, 2.0)]
)
def test_sgd(module: Launch, dtype: Any, momentum: float, carried: float, spike: float) -> None:
    w, g, v = drawn(dtype, 3, 300)
    mine, moved = w.copy(), v.copy()
    words = {"lr": 0.1, "momentum": momentum, "carried": carried, "spike": spike}
    words |= {"weight_decay": 1e-2, "grad_scale": 0.5}
    for _ in range(3):
        reference.sgd(w, g, v if momentum else None, **words)
        module("update", dtype).launch(
            "sgd",
            (2,),
            (64,),
            [
                mine,
                g,
                moved if momentum else None,
                w.size,
                np.array([0.1, momentum, carried, spike, 1e-2, 0.5]),
                None,
            ],
        )
    near(mine, w, CLOSE[dtype])
    near(moved, v, CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(module: Launch, dtype: Any, decoupled: bool) -> None:
    w, g, m = drawn(dtype, 3, 300)
    v = np.abs(m)
    mine, first, second = w.copy(), m.copy(), v.copy()
    rule = reference.adamw if decoupled else reference.adam
    for t in (1, 2, 3):
        rule(w, g, m, v, step=t, lr=0.01, weight_decay=0.1, grad_scale=0.5)
        rate, root = 0.01 / (1 - 0.9**t), np.sqrt(1 - 0.999**t)
        decay, keep = (0.0, 1 - 0.01 * 0.1) if decoupled else (0.1, 1.0)
        module("update", dtype).launch(
            "adam", (2,), (64,),
            [mine, g, first, second, w.size, np.array([rate, root, 0.9, 0.999, 1e-8, decay, keep, 0.5]), None],
        )  # fmt: skip
    for found, wanted in ((mine, w), (first, m), (second, v)):
        near(found, wanted, CLOSE[dtype])


@DTYPES
def test_lars(module: Launch, dtype: Any) -> None:
    w, g, v = drawn(dtype, 3, 300)
    mine, moved = w.copy(), v.copy()
    reference.lars(w, g, v, lr=0.1, rate=0.02, momentum=0.9, weight_decay=1e-2, grad_scale=2.0)
    told = np.array([0.1, 0.9, 1e-2, 2.0])
    module("update", dtype).launch("lars", (5,), (32,), [mine, g, moved, w.size, told, None, 0.02, None])
    near(mine, w, CLOSE[dtype])
    near(moved, v, CLOSE[dtype])
