"""Pooling on a device: the calls of `gridnn.compute.gpu.pool`, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import pool as cpu
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import pool as gpu
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened

# extents of space, and the window; the last has more elements than a byte can tell apart.
CASES = [
    ((7,), Window((3,), (2,), (1,), (1,), (0,))),
    ((6, 5), Window((2, 3), (2, 1), (1, 2), (0, 2), (1, 1))),
    ((9, 8), Window((3, 3), (1, 2), (1, 1), (-1, 1), (1, -2))),
    ((4, 5, 3), Window((2, 2, 2), (1, 2, 1), (1, 1, 1), (1, 0, 1), (0, 1, 1))),
    ((2, 2), Window((3, 3), (3, 3), (1, 1), (4, 0), (4, 2))),
    ((1, 2), Window((3, 3), (1, 1), (1, 1), (0, 0), (0, 0))),
    ((0, 4), Window((2, 2), (1, 1), (1, 1), (1, 0), (1, 0))),
    ((5, 9), Window((7, 37), (2, 3), (1, 1), (3, 20), (3, 18))),
]
SPACES = pytest.mark.parametrize(("space", "window"), CASES)
SIZES = pytest.mark.parametrize("sizes", [(2, 3), (0, 3), (2, 0)])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
WHOLE = pytest.mark.parametrize(
    "shape", [(2, 3, 7), (2, 37, 4, 3), (3, 2, 2, 3, 5), (2, 3, 13, 11), (0, 3, 4), (2, 0, 4), (2, 3, 0, 4)]
)


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...], dtype: Any, integers: bool = False) -> Arrays:
    rng = np.random.default_rng(1)
    found = rng.integers(-4, 5, shape) if integers else rng.standard_normal(shape)
    return found.astype(dtype)


@DTYPES
@SIZES
@SPACES
def test_maximum(
    calls: Calls, space: tuple[int, ...], window: Window, sizes: tuple[int, int], dtype: Any
) -> None:
    x = drawn((*sizes, *space), dtype, integers=True)  # with equals
    wanted, won = cpu.max_forward(CPU, x, window)
    given, out = calls.block(x), calls.place(wanted.shape, dtype)
    y, saved = gpu.max_forward(calls.engine, given, window, out)
    assert y is out
    calls.same(y, wanted)
    calls.kept_margins()
    calls.same(gpu.max_forward(calls.engine, given, window)[0], wanted)
    seen = np.isfinite(wanted)
    np.testing.assert_array_equal(saved.view(np.ndarray)[seen], won[seen])
    dy = np.where(seen, drawn(wanted.shape, dtype), 0).astype(dtype)
    dx = gpu.max_backward(calls.engine, calls.block(dy), saved, window, x.shape)
    calls.held(dx, cpu.max_backward(CPU, dy, won, window, x.shape))


@DTYPES
@SIZES
@SPACES
@pytest.mark.parametrize("count_pad", [False, True])
def test_average(
    calls: Calls, space: tuple[int, ...], window: Window, sizes: tuple[int, int], count_pad: bool, dtype: Any
) -> None:
    x = drawn((*sizes, *space), dtype)
    wanted = cpu.average_forward(CPU, x, window, count_pad=count_pad)
    given, out = calls.block(x), calls.place(wanted.shape, dtype)
    assert gpu.average_forward(calls.engine, given, window, count_pad=count_pad, out=out) is out
    calls.held(out, wanted)
    calls.kept_margins()
    calls.held(gpu.average_forward(calls.engine, given, window, count_pad=count_pad), wanted)
    dy = drawn(wanted.shape, dtype)
    dx = gpu.average_backward(calls.engine, calls.block(dy), window, x.shape, count_pad=count_pad)
    calls.held(dx, cpu.average_backward(CPU, dy, window, x.shape, count_pad=count_pad))


@pytest.mark.parametrize("kernel", [(3, 3), (17, 17)], ids=["bytes", "more"])
def test_a_maximum_of_no_number_is_none(order: str, kernel: tuple[int, int]) -> None:
    x, window = drawn((1, 2, 20, 20), np.float64), Window(kernel, (2, 2), (1, 1), (1, 1), (1, 1))
    x[0, 0, 5, 6] = np.nan
    calls, wanted = Calls(order), cpu.max_forward(CPU, x, window)[0]
    assert np.isnan(wanted).any()
    calls.same(gpu.max_forward(calls.engine, calls.block(x), window)[0], wanted)


@DTYPES
@WHOLE
def test_the_sum_of_space_and_its_adjoint(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy = drawn(shape, dtype), drawn(shape[:2], dtype)
    calls.held(gpu.sum_space(calls.engine, calls.block(x)), cpu.sum_space(CPU, x))
    calls.same(gpu.spread_space(calls.engine, calls.plain(dy), shape), cpu.spread_space(CPU, dy, shape))


@DTYPES
@WHOLE
def test_the_maximum_of_space(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy = drawn(shape, dtype, integers=True), drawn(shape[:2], dtype)
    wanted, best = cpu.max_space(CPU, x)
    y, local_index = gpu.max_space(calls.engine, calls.block(x))
    calls.same(y, wanted)
    calls.same(local_index, best)
    best[..., ::2] = -1  # these lie elsewhere
    dx = gpu.max_space_backward(calls.engine, calls.plain(dy), calls.plain(best), shape)
    calls.same(dx, cpu.max_space_backward(CPU, dy, best, shape))
