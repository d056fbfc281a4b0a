"""Softmax and cross-entropy on a device: the calls of `gridnn.compute.gpu.softmax`, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import softmax as cpu
from gridnn.compute.gpu import softmax as gpu
from tests.compute.gpu.calls import CPU, SETTINGS, Calls, opened

SHAPES = pytest.mark.parametrize(
    "shape",
    [(1, 1), (7, 10), (3, 100), (2, 33, 5), (2, 5, 4, 3), (2, 3, 2, 1, 5), (0, 3, 4), (3, 0), (2, 0, 4)],
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
START, MORE = 4, 3
"""Classes before the block's, and after them."""


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


@DTYPES
@SHAPES
@pytest.mark.parametrize("taken", [False, True], ids=["in order", "as blocks are taken"])
def test_the_pieces(calls: Calls, shape: tuple[int, ...], dtype: Any, taken: bool) -> None:
    """Labels and weights may be in any order of memory, as `Engine.take` leaves them."""
    rng, positions = np.random.default_rng(shape[1]), (shape[0], *shape[2:])
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    classes, smoothing = START + shape[1] + MORE, 0.1
    labels = rng.integers(-1, classes, positions)
    weight = rng.uniform(size=positions)
    other = rng.standard_normal(positions)  # the largest logit of another rank
    place = calls.engine.take if taken else calls.plain
    given, where = calls.block(x), place(labels)
    top = cpu.block_max(CPU, x)
    calls.same(gpu.block_max(calls.engine, given), top)
    top = np.maximum(top, other.astype(dtype))
    sums = cpu.block_sums(CPU, x, top, labels, START)
    calls.held(gpu.block_sums(calls.engine, given, place(top), where, START), sums, _bounds(dtype))
    calls.same(gpu.best_class(given, place(top), START), cpu.best_class(x, top, START))
    sums[0] += 0.5  # of another rank
    calls.held(gpu.losses(calls.plain(sums), classes, smoothing), cpu.losses(sums, classes, smoothing))
    wanted = cpu.gradient(CPU, x, top, sums[0], labels, START, classes, smoothing, weight)
    sum_exp = place(np.ascontiguousarray(sums[0]))
    found = gpu.gradient(
        calls.engine, given, place(top), sum_exp, where, START, classes, smoothing, place(weight)
    )
    calls.held(found, wanted)


@DTYPES
def test_the_first_of_equals_is_the_best(order: str, dtype: Any) -> None:
    calls, x = Calls(order), np.array([[1, 3, 3, 0], [2, 2, 2, 2], [5, 4, 5, 1], [0, 0, 0, 1]], dtype)
    top = np.array([3, 2, 5, 7], dtype)
    found = gpu.best_class(calls.block(x), calls.plain(top), 10)
    calls.same(found, np.array([11, 10, 10, np.iinfo(np.int64).max]))
    calls.same(found, cpu.best_class(x, top, 10))


def test_labels_and_weights_of_other_types_are_cast_not_misread(order: str) -> None:
    calls, rng = Calls(order), np.random.default_rng(3)
    x, labels = rng.standard_normal((4, 6)), np.array([5, 0, -1, 3])
    top = x.max(axis=1)
    wanted = cpu.block_sums(CPU, x, top, labels, 0)
    given = calls.plain(labels.astype(np.int32))
    calls.held(gpu.block_sums(calls.engine, calls.block(x), calls.plain(top), given, 0), wanted)
    weight = calls.plain(np.ones(4, np.float32))
    found = gpu.gradient(
        calls.engine, calls.block(x), calls.plain(top), calls.plain(wanted[0]), given, 0, 6, 0.0, weight
    )
    calls.held(found, cpu.gradient(CPU, x, top, wanted[0], labels, 0, 6, 0.0, np.ones(4)))


def _bounds(dtype: Any) -> tuple[float, float]:
    return (1e-11, 1e-11) if dtype == np.float64 else (2e-5, 1e-4)
