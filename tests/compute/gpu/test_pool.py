"""Pooling on a device, against the reference: windows that overlap, jump, dilate, crop and hang over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import pool as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.pool import described
from tests.compute.gpu.conftest import Launch, near

Arrays = np.ndarray[Any, Any]
# extents of space, and the window.
CASES = [
    ((7,), Window((3,), (2,), (1,), (1,), (0,))),
    ((6, 5), Window((2, 3), (2, 1), (1, 2), (0, 2), (1, 1))),
    ((9, 8), Window((3, 3), (1, 2), (1, 1), (-1, 1), (1, -2))),
    ((4, 5, 3), Window((2, 2, 2), (1, 2, 1), (1, 1, 1), (1, 0, 1), (0, 1, 1))),
    ((2, 2), Window((3, 3), (3, 3), (1, 1), (4, 0), (4, 2))),  # windows of padding only
]
SPACES = pytest.mark.parametrize(("space", "window"), CASES)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def inner(array: Arrays) -> Arrays:
    """Channels innermost in memory, logical order kept."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def blank(shape: tuple[int, ...], dtype: Any) -> Arrays:
    return inner(np.full(shape, 77).astype(dtype))


@DTYPES
@SPACES
def test_maximum(module: Launch, dtype: Any, space: tuple[int, ...], window: Window) -> None:
    rng = np.random.default_rng(1)
    x = inner(rng.integers(-4, 5, (2, 3, *space)).astype(dtype))  # with equals
    shape, kernels, w = (2, 3, *window.outs(space)), module("pool", dtype), described(window, x.shape)
    wanted, won = reference.max_forward(x, kernel=window.kernel, **window.keywords)
    y, saved = blank(shape, dtype), blank(shape, np.uint8)
    kernels.launch("max_forward", (2,), (32,), [x, y, saved, y.size, w])
    np.testing.assert_array_equal(y, wanted)
    seen = np.isfinite(wanted)
    np.testing.assert_array_equal(saved[seen], won[seen])
    dy, dx = inner(rng.standard_normal(shape).astype(dtype)), blank(x.shape, dtype)
    dy[~seen] = 0
    kernels.launch("max_backward", (2,), (32,), [dy, saved, dx, dx.size, w])
    np.testing.assert_allclose(
        dx, reference.max_backward(dy, won, x.shape, kernel=window.kernel, **window.keywords), rtol=1e-6
    )


@DTYPES
@SPACES
@pytest.mark.parametrize("count_pad", [False, True])
def test_average(module: Launch, dtype: Any, space: tuple[int, ...], window: Window, count_pad: bool) -> None:
    rng = np.random.default_rng(2)
    x, shape = inner(rng.standard_normal((2, 3, *space)).astype(dtype)), (2, 3, *window.outs(space))
    kernels, w = module("pool", dtype), described(window, x.shape)
    close = (1e-12 if dtype == np.float64 else 1e-5, 1e-6)
    y, dy, dx = blank(shape, dtype), inner(rng.standard_normal(shape).astype(dtype)), blank(x.shape, dtype)
    kernels.launch("average_forward", (2,), (32,), [x, y, y.size, w, count_pad])
    words: dict[str, Any] = {"kernel": window.kernel, **window.keywords, "count_pad": count_pad}
    near(y, reference.average_forward(x, **words), close)
    kernels.launch("average_backward", (2,), (32,), [dy, dx, dx.size, w, count_pad])
    near(dx, reference.average_backward(dy, x.shape, **words), close)
