"""Activations against the functions of Python's math module, their slopes, and what backward reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import activation

SCALAR: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2,
}
NAMES = sorted(SCALAR)


def test_each_activation_has_a_reference() -> None:
    assert sorted(activation.ACTIVATIONS) == NAMES == sorted(activation.FORWARD_KEEPS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)])
def test_forward(name: str, dtype: Any, tolerance: float) -> None:
    x = np.linspace(-9, 9, 73).reshape(1, 73, 1).astype(dtype)
    y = activation.forward(name, x)
    assert y.dtype == np.dtype(dtype)
    assert y.shape == x.shape
    np.testing.assert_allclose(y.ravel(), [SCALAR[name](float(v)) for v in x.flat], rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_backward_is_the_slope(name: str) -> None:
    x = np.linspace(-6, 6, 64)  # an even number: 0, the corner of relu, is not among them
    dy = np.random.default_rng(1).standard_normal(64)
    y = activation.forward(name, x)
    kept_x, kept_y = (x, None) if activation.FORWARD_KEEPS[name] == "x" else (None, y)
    slope = [(SCALAR[name](v + 1e-5) - SCALAR[name](v - 1e-5)) / 2e-5 for v in x]
    np.testing.assert_allclose(activation.backward(name, kept_x, kept_y, dy), dy * slope, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_backward_keeps_dtype_and_takes_empty_blocks(name: str) -> None:
    for shape in [(2, 3), (0, 3, 4, 4), (2, 0)]:
        x = np.ones(shape, np.float32)
        dx = activation.backward(name, x, activation.forward(name, x), x)
        assert dx.dtype == np.float32
        assert dx.shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_extreme_values_stay_finite_without_warnings(name: str) -> None:
    x = np.array([-1e4, -100, 100, 1e4], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = activation.forward(name, x)
        dx = activation.backward(name, x, y, np.ones_like(x))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


def test_relu_has_no_gradient_at_its_corner_and_hides_no_nan() -> None:
    y = activation.forward("relu", np.array([0.0, -1.0, np.nan]))
    assert np.isnan(y[2])
    assert not activation.backward("relu", None, y[:2], np.array([3.0, 5.0])).any()


def test_backward_without_what_it_needs_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="gelu needs x"):
        activation.backward("gelu", None, np.ones(1), np.ones(1))
