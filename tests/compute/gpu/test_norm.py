"""Batch norm on a device: sums by chunks, and what is done with them, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import activation
from gridnn.compute.cpu.reference import norm as reference
from gridnn.compute.gpu.source import read_source
from tests.compute.gpu.conftest import Launch, near
from tests.support import shim

Arrays = np.ndarray[Any, Any]
CASES = pytest.mark.parametrize(
    ("rows", "channels", "chunk"), [(1, 1, 1), (37, 5, 10), (64, 70, 64), (23, 33, 7)]
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def drawn(dtype: Any, rows: int, channels: int) -> tuple[Arrays, Arrays, Arrays, Arrays, Arrays]:
    rng = np.random.default_rng(rows)
    x, dy = (rng.standard_normal((rows, channels)).astype(dtype) for _ in range(2))
    mean, inv_std = rng.standard_normal(channels), rng.uniform(0.5, 2, channels)
    return x, dy, mean, inv_std, rng.standard_normal((2, channels)).astype(dtype)


def summed(
    kernels: shim.Module, name: str, arguments: list[Any], rows: int, channels: int, chunk: int
) -> Arrays:
    chunks = -(-rows // chunk)
    partial, sums = np.full((chunks, 2, channels), np.nan), np.full((2, channels), np.nan)
    grid = (-(-channels // 32), chunks)
    kernels.launch(name, grid, (32, 8), [*arguments, rows, channels, chunk, partial])
    kernels.launch("fold", (2,), (32,), [partial, chunks, 2 * channels, sums])
    return sums


@DTYPES
@CASES
def test_moments(module: Launch, dtype: Any, rows: int, channels: int, chunk: int) -> None:
    x, _, mean, _, _ = drawn(dtype, rows, channels)
    found = summed(module("norm", dtype), "moments", [x, mean], rows, channels, chunk)
    np.testing.assert_allclose(found, reference.moments(x.astype(float), mean), rtol=1e-12, atol=1e-12)


@DTYPES
@CASES
@pytest.mark.parametrize("rectified", [False, True])
def test_backward(module: Launch, dtype: Any, rows: int, channels: int, chunk: int, rectified: bool) -> None:
    x, dy, mean, inv_std, (gamma, y_of_channel) = drawn(dtype, rows, channels)
    y = (x * y_of_channel).astype(dtype) if rectified else None
    masked = dy if y is None else activation.backward("relu", None, y, dy)
    kernels, close = module("norm", dtype), (1e-12 if dtype == np.float64 else 1e-5, 1e-6)
    found = summed(kernels, "backward_sums", [x, dy, y, mean, inv_std], rows, channels, chunk)
    wanted = reference.backward_sums(x.astype(float), mean, inv_std, masked.astype(float))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)
    dx, m = np.empty_like(x), 3.0 * rows
    kernels.launch(
        "backward_apply", (2,), (64,), [x, dy, y, mean, inv_std, gamma, wanted, m, dx, x.size, channels]
    )
    wanted = reference.backward_apply(
        x.astype(float), mean, inv_std, gamma, masked.astype(float), wanted, int(m)
    )
    near(dx, wanted, close)


@DTYPES
@pytest.mark.parametrize("rectify", [False, True])
def test_apply(module: Launch, dtype: Any, rectify: bool) -> None:
    x, _, mean, inv_std, (gamma, beta) = drawn(dtype, 19, 6)
    y = np.empty_like(x)
    module("norm", dtype).launch("apply", (2,), (32,), [x, mean, inv_std, gamma, beta, y, x.size, 6, rectify])
    wanted = reference.apply(x.astype(float), mean, inv_std, gamma, beta)
    wanted = np.maximum(wanted, 0) if rectify else wanted
    np.testing.assert_allclose(y, wanted, rtol=1e-12 if dtype == np.float64 else 1e-5, atol=1e-6)


def test_each_barrier_is_needed(order: str) -> None:
    x, _, mean, _, _ = drawn(np.float64, 37, 5)
    assert shim.barriers("norm") == read_source("norm").count("__syncthreads") > 0
    for number in range(shim.barriers("norm")):
        found = summed(
            shim.Module("norm", np.float64, order, without=number), "moments", [x, mean], 37, 5, 10
        )
        assert not np.allclose(found, reference.moments(x, mean)), f"barrier {number} is not missed"
