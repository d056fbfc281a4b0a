"""Normalisation against whole-array formulas, its gradients, and its sums over pieces of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import norm

from .loops import Array

EPS = 1e-5
SHAPES = [(5, 3), (4, 3, 7), (3, 2, 4, 5), (2, 3, 2, 3, 4)]


def batch_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """Batch norm, a channel at a time, from its definition."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = gamma[c] * (x[:, c] - x[:, c].mean()) / np.sqrt(x[:, c].var() + EPS) + beta[c]
    return y


def layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """Layer norm, a sample at a time, from its definition."""
    return np.stack([gamma * (v - v.mean()) / np.sqrt(v.var() + EPS) + beta for v in x])


def statistics(sums: Array, count: int) -> tuple[Array, Array]:
    """Mean and inverse deviation from plain sums."""
    mean = sums[0] / count
    return mean, 1 / np.sqrt(sums[1] / count - mean**2 + EPS)


def slope(f: Callable[[Array], Array], x: Array, direction: Array, dy: Array) -> float:
    return float(np.vdot(f(x + 1e-5 * direction) - f(x - 1e-5 * direction), dy) / 2e-5)


def draw(shape: tuple[int, ...], parameters: tuple[int, ...]) -> list[Array]:
    """x, gamma, beta, dy and a direction."""
    rng = np.random.default_rng(len(shape))
    shapes = [shape, parameters, parameters, shape, shape]
    return [rng.standard_normal(s) + (i == 1) for i, s in enumerate(shapes)]


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(shape: tuple[int, ...]) -> None:
    x, gamma, beta, dy, direction = draw(shape, shape[1:2])
    count = x.size // shape[1]
    mean, inv_std = statistics(norm.moments(x, np.zeros(shape[1])), count)
    np.testing.assert_allclose(
        norm.apply(x, mean, inv_std, gamma, beta), batch_norm(x, gamma, beta), atol=1e-12
    )
    sums = norm.backward_sums(x, mean, inv_std, dy)
    dx = norm.backward_apply(x, mean, inv_std, gamma, dy, sums, count)
    np.testing.assert_allclose(
        np.vdot(dx, direction), slope(lambda v: batch_norm(v, gamma, beta), x, direction, dy), rtol=1e-6
    )
    for row, parameter in ((0, beta), (1, gamma)):
        along = np.random.default_rng(1).standard_normal(parameter.shape)
        pair = (lambda v: batch_norm(x, gamma, v)) if row == 0 else (lambda v: batch_norm(x, v, beta))
        np.testing.assert_allclose(np.vdot(sums[row], along), slope(pair, parameter, along, dy), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape: tuple[int, ...]) -> None:
    x, gamma, beta, dy, direction = draw(shape, shape[1:])
    count = x.size // shape[0]
    mean, inv_std = statistics(norm.sample_moments(x), count)
    y = norm.sample_apply(x, mean, inv_std, gamma, beta)
    np.testing.assert_allclose(y, layer_norm(x, gamma, beta), atol=1e-12)
    sums = norm.sample_backward_sums(x, mean, inv_std, gamma, dy)
    dx = norm.sample_backward_apply(x, mean, inv_std, gamma, dy, sums, count)
    np.testing.assert_allclose(
        np.vdot(dx, direction), slope(lambda v: layer_norm(v, gamma, beta), x, direction, dy), rtol=1e-6
    )
    dgamma, dbeta = norm.sample_parameter_gradients(x, mean, inv_std, dy)
    along = np.random.default_rng(1).standard_normal(gamma.shape)
    np.testing.assert_allclose(
        np.vdot(dgamma, along), slope(lambda v: layer_norm(x, v, beta), gamma, along, dy), rtol=1e-6
    )
    np.testing.assert_allclose(
        np.vdot(dbeta, along), slope(lambda v: layer_norm(x, gamma, v), beta, along, dy), rtol=1e-6
    )


def test_batch_sums_add_up_over_pieces() -> None:
    """Uneven pieces of samples and of rows, one of them empty, sum to the sums of the whole."""
    x, gamma, _, dy, _ = draw((5, 3, 7, 4), (3,))
    shift, mean, inv_std = x[0, :, 0, 0], x.mean(axis=(0, 2, 3)), np.array([1.0, 2.0, 0.5])
    cuts: list[Any] = [np.s_[:2], np.s_[2:2], np.s_[2:, :, :3], np.s_[2:, :, 3:]]
    whole = norm.backward_sums(x, mean, inv_std, dy)
    np.testing.assert_allclose(
        sum(norm.moments(x[c], shift) for c in cuts), norm.moments(x, shift), rtol=1e-12
    )
    parts = [norm.backward_sums(x[c], mean, inv_std, dy[c]) for c in cuts]
    np.testing.assert_allclose(sum(parts), whole, atol=1e-12)
    dx = norm.backward_apply(x, mean, inv_std, gamma, dy, whole, 140)
    for c in cuts:
        part = norm.backward_apply(x[c], mean, inv_std, gamma, dy[c], whole, 140)
        np.testing.assert_allclose(part, dx[c], atol=1e-13)


def test_sample_sums_add_up_over_pieces() -> None:
    x, gamma, _, dy, _ = draw((3, 5, 7), (5, 7))
    mean, inv_std = np.array([0.1, 0.2, -0.3]), np.array([1.0, 2.0, 0.5])
    cuts: list[tuple[slice, ...]] = [np.s_[:2, :], np.s_[2:2, :], np.s_[2:, :3], np.s_[2:, 3:]]
    parts = [norm.sample_moments(x[:, *c]) for c in cuts]
    np.testing.assert_allclose(sum(parts), norm.sample_moments(x), rtol=1e-12)
    whole = norm.sample_backward_sums(x, mean, inv_std, gamma, dy)
    parts = [norm.sample_backward_sums(x[:, *c], mean, inv_std, gamma[c], dy[:, *c]) for c in cuts]
    np.testing.assert_allclose(sum(parts), whole, atol=1e-12)


def test_a_shift_keeps_the_variance_of_a_large_mean() -> None:
    rng = np.random.default_rng(2)
    x = (1e4 + rng.standard_normal((16, 2, 9, 9))).astype(np.float32)
    shift = x[0, :, 0, 0]
    sums = norm.moments(x, shift) / (16 * 81)
    variance = sums[1] - sums[0] ** 2
    np.testing.assert_allclose(variance, x.astype(float).var(axis=(0, 2, 3)), rtol=1e-5)


def test_constant_statistics_have_no_sums() -> None:
    """With zero sums the gradient is that of a fixed scale, as in evaluation."""
    x, gamma, beta, dy, direction = draw((3, 2, 5), (2,))
    mean, inv_std = np.array([0.3, -0.1]), np.array([2.0, 0.5])
    dx = norm.backward_apply(x, mean, inv_std, gamma, dy, np.zeros((2, 2)), 15)
    wanted = slope(lambda v: norm.apply(v, mean, inv_std, gamma, beta), x, direction, dy)
    np.testing.assert_allclose(np.vdot(dx, direction), wanted, rtol=1e-8)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 4)])
def test_dtypes_and_empty_blocks(shape: tuple[int, ...]) -> None:
    """Float32 in, float32 out, float64 sums; an empty block has empty or zero results."""
    x = np.ones(shape, np.float32)
    c, n = np.ones(shape[1]), np.ones(shape[0])
    full = np.ones(shape[1:], np.float32)
    sums = [norm.moments(x, c), norm.backward_sums(x, c, c, x)]
    sample_sums = [norm.sample_moments(x), norm.sample_backward_sums(x, n, n, full, x)]
    assert all(s.shape == (2, shape[1]) and s.dtype == np.float64 for s in sums)
    assert all(s.shape == (2, shape[0]) and s.dtype == np.float64 for s in sample_sums)
    results = [
        norm.apply(x, c, c, c, c), norm.backward_apply(x, c, c, c, x, sums[1], 24),
        norm.sample_apply(x, n, n, full, full),
        norm.sample_backward_apply(x, n, n, full, x, sample_sums[1], 24),
    ]  # fmt: skip
    assert all(r.shape == shape and r.dtype == np.float32 for r in results)
    gradients = norm.sample_parameter_gradients(x, n, n, x)
    assert all(g.shape == shape[1:] and g.dtype == np.float32 for g in gradients)
    if x.size == 0:
        assert not any(s.any() for s in [*sums, *sample_sums, *gradients])


def test_arguments_are_not_overwritten() -> None:
    x, gamma, _, dy, _ = draw((3, 2, 5), (2,))
    before = dy.copy(), x.copy()
    norm.backward_apply(x, gamma, gamma, gamma, dy, np.ones((2, 2)), 15)
    norm.sample_backward_apply(x, np.ones(3), np.ones(3), np.ones((2, 5)), dy, np.ones((2, 3)), 10)
    np.testing.assert_array_equal(dy, before[0])
    np.testing.assert_array_equal(x, before[1])
