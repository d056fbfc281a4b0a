"""Batch norm on a device: the calls of `gridnn.compute.gpu.norm`, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import norm as cpu
from gridnn.compute.gpu import norm as gpu
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened

SHAPES = pytest.mark.parametrize(
    "shape", [(3, 5), (2, 33, 9), (2, 5, 14, 7), (2, 3, 2, 1, 5), (0, 3, 4), (2, 0, 4), (2, 3, 0)]
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
RECTIFIED = pytest.mark.parametrize("relu", [False, True])
SUMS = {np.float32: (1e-5, 1e-4), np.float64: (1e-11, 1e-11)}
"""Bounds of sums: the device makes even products in float64, NumPy's reference those of float32 in float32."""


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...], dtype: Any) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    rng, channels = np.random.default_rng(9), shape[1]
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    statistics = np.stack([rng.standard_normal(channels), rng.uniform(0.5, 2, channels)])
    return x, dy, statistics, rng.standard_normal((2, channels)).astype(dtype)


@DTYPES
@SHAPES
def test_moments(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, _, (shift, _), _ = drawn(shape, dtype)
    found = gpu.moments(calls.engine, calls.block(x), calls.plain(shift))
    calls.held(found, cpu.moments(CPU, x, shift), SUMS[dtype])


@pytest.mark.parametrize("count", [0, 1, 40])
def test_statistics(calls: Calls, count: int) -> None:
    rng = np.random.default_rng(10)
    sums, mean = np.stack([rng.standard_normal(6), rng.uniform(5, 9, 6)]), rng.standard_normal(6)
    variance, count = rng.uniform(1, 2, 6), max(count, 1)
    given = [calls.plain(a) for a in (sums, mean, variance)]
    found = gpu.statistics(calls.engine, given[0], count, given[1], given[2], 0.1, 1e-5)
    wanted = cpu.statistics(CPU, sums, count, mean, variance, 0.1, 1e-5)
    for which in (0, 1):
        calls.held(found[which], wanted[which])
    calls.held(given[1], mean)
    calls.held(given[2], variance)
    assert calls.device.launches == [("norm_statistics", "batch")]


def test_running_statistics_of_another_type_move_where_they_are(order: str) -> None:
    """In float32, and every second element of a longer array: a copy is changed, and copied back."""
    calls, rng = Calls(order), np.random.default_rng(12)
    sums, mean, variance = rng.uniform(5, 9, (2, 6)), rng.standard_normal(6), rng.uniform(1, 2, 6)
    sums[1, 3] = 0  # below the square of the first: rounding took it there
    sums[:, 4] = np.nan
    given = calls.plain(mean.astype(np.float32)), calls.plain(np.repeat(variance, 2))[::2]
    found = gpu.statistics(calls.engine, calls.plain(sums), 40, *given, 0.1, 1e-5)
    wanted = cpu.statistics(CPU, sums, 40, mean, variance, 0.1, 1e-5)
    for which in (0, 1):
        calls.held(found[which], wanted[which], (1e-6, 1e-6))
    calls.held(given[0], mean.astype(np.float32), (1e-6, 1e-6))
    calls.held(given[1], variance, (1e-6, 1e-6))
    assert np.isnan(variance[4]) and np.isfinite(np.delete(variance, 4)).all()


@DTYPES
@SHAPES
@RECTIFIED
def test_apply(calls: Calls, relu: bool, shape: tuple[int, ...], dtype: Any) -> None:
    x, _, statistics, (gamma, beta) = drawn(shape, dtype)
    wanted = cpu.apply(CPU, x, statistics, gamma, beta, relu=relu)
    vectors = [calls.plain(gamma), calls.plain(beta)]
    given, out = calls.block(x), calls.place(shape, dtype)
    pair = (calls.plain(statistics[0]), calls.plain(statistics[1]))
    assert gpu.apply(calls.engine, given, pair, vectors[0], vectors[1], relu=relu, out=out) is out
    calls.held(out, wanted)
    calls.kept_margins()
    found = gpu.apply(calls.engine, given, calls.plain(statistics), vectors[0], vectors[1], relu=relu)
    calls.held(found, wanted)


@DTYPES
@SHAPES
@RECTIFIED
def test_backward(calls: Calls, relu: bool, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy, statistics, (gamma, beta) = drawn(shape, dtype)
    y = cpu.apply(CPU, x, statistics, gamma, beta, relu=True) if relu else None
    blocks = calls.block(x), calls.block(dy), None if y is None else calls.block(y)
    given = calls.plain(statistics)
    sums = cpu.backward_sums(CPU, x, statistics, dy, y)
    found = gpu.backward_sums(calls.engine, blocks[0], given, blocks[1], blocks[2])
    calls.held(found, sums, SUMS[dtype])
    for count in (0, 90):
        wanted = cpu.backward_apply(CPU, x, statistics, gamma, dy, sums, count, y)
        dx = gpu.backward_apply(
            calls.engine, blocks[0], given, calls.plain(gamma), blocks[1], calls.plain(sums), count, blocks[2]
        )
        calls.held(dx, wanted, (1e-4, 2e-4) if dtype == np.float32 else (1e-10, 1e-10))


def test_vectors_of_another_type_are_cast_not_misread(order: str) -> None:
    calls, (x, _, statistics, (gamma, beta)) = Calls(order), drawn((3, 5, 4), np.float64)
    vectors = [calls.plain(v.astype(np.float32)) for v in (statistics[0], statistics[1], gamma, beta)]
    found = gpu.apply(calls.engine, calls.block(x), (vectors[0], vectors[1]), vectors[2], vectors[3])
    calls.held(found, cpu.apply(CPU, x, statistics, gamma, beta), (1e-5, 1e-5))


def test_the_same_sums_every_time_and_in_every_order() -> None:
    x, _, (shift, _), _ = drawn((4, 37, 13, 11), np.float32)
    found = []
    for order in ("forward", "reverse", "shuffled"):
        calls = Calls(order)
        sums = gpu.moments(calls.engine, calls.block(x), calls.plain(shift))
        found.append(np.array(sums.view(np.ndarray)).tobytes())
    assert len(set(found)) == 1
