"""The compiled elementwise kernels against NumPy, in every layout, in place, with one and two threads."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.native import library, pointwise
from gridnn.compute.cpu.native.library import array

from . import native
from .native import Array, each_dtype, each_layout, each_library, each_thread_count, place, untouched

# Batch 1, odd extents, and one of each that is worth a second thread.
SHAPES = [(1, 1, 1, 1), (3, 5), (2, 3, 7), (1, 16, 5, 3), (2, 17, 3, 4, 5), (3, 64, 11, 13), (2, 3, 67, 71)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def draw(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Numbers of both signs with zeros of both signs among them."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    x.flat[::7], x.flat[3::11] = 0, -0.0
    return x


@each_library
@each_layout
@each_dtype
@each_shape
@each_thread_count
def test_elementwise(which: str, layout: str, dtype: Any, shape: tuple[int, ...], threads: int) -> None:
    """Outputs elsewhere and in place are NumPy's to the bit, and nothing around a block is touched."""
    lib = native.library(which, threads)
    x, d = draw(shape, dtype, 1), draw(shape, dtype, 2)
    a, b, fresh = place(x, layout), place(d, layout), place(np.zeros_like(x), layout)

    pointwise.relu(lib, a, fresh)
    np.testing.assert_array_equal(fresh, np.maximum(x, 0))
    pointwise.relu_backward(lib, a, b, fresh)
    np.testing.assert_array_equal(fresh, np.where(x > 0, d, 0))
    for relu in (False, True):
        pointwise.add(lib, a, b, fresh, relu)
        np.testing.assert_array_equal(fresh, np.maximum(x + d, 0) if relu else x + d)
    assert untouched(fresh)

    pointwise.relu_backward(lib, a, b, b)
    np.testing.assert_array_equal(b, np.where(x > 0, d, 0))
    pointwise.add(lib, a, b, b)
    np.testing.assert_array_equal(b, x + np.where(x > 0, d, 0))
    pointwise.relu(lib, a, a)
    np.testing.assert_array_equal(a, np.maximum(x, 0))
    assert untouched(a)
    assert untouched(b)


@each_library
@each_dtype
def test_layouts_may_differ(which: str, dtype: Any) -> None:
    """One operand dense, one with a margin, one a slice of channels: the strides fold for none of them."""
    lib = native.library(which)
    x, d = draw((2, 5, 4, 3), dtype, 1), draw((2, 5, 4, 3), dtype, 2)
    a, b, y = place(x, "dense"), place(d, "margin"), place(x, "slice")
    pointwise.add(lib, a, b, y)
    np.testing.assert_array_equal(y, x + d)


@each_library
@each_dtype
def test_relu_hides_no_nan(which: str, dtype: Any) -> None:
    lib = native.library(which)
    x = np.full((1, 37), np.nan, dtype)
    pointwise.relu(lib, x, x)
    assert np.isnan(x).all()


@each_library
@each_layout
@each_dtype
@each_shape
@each_thread_count
def test_bias(which: str, layout: str, dtype: Any, shape: tuple[int, ...], threads: int) -> None:
    lib = native.library(which, threads)
    x = draw(shape, dtype, 3)
    b = np.random.default_rng(4).standard_normal(shape[1])
    wanted = x + b.astype(dtype).reshape(-1, *[1] * (len(shape) - 2))
    for relu in (False, True):
        y = place(x, layout)
        pointwise.bias(lib, y, b, relu)
        np.testing.assert_array_equal(y, np.maximum(wanted, 0) if relu else wanted)
        assert untouched(y)


@each_library
@each_layout
@each_dtype
@each_shape
@each_thread_count
def test_bias_gradient(which: str, layout: str, dtype: Any, shape: tuple[int, ...], threads: int) -> None:
    """The sums are added to what is there; the masked gradient may take the place of dy."""
    lib = native.library(which, threads)
    g, out = draw(shape, dtype, 5), draw(shape, dtype, 6)
    all_but_channels = tuple(d for d in range(len(shape)) if d != 1)
    masked = np.where(out > 0, g, 0)
    # Slots hold 64 numbers before they go to float64; db itself, up to 64 here, is rounded once more.
    tolerance = np.finfo(dtype).eps * (64 + 4 * np.sqrt(g.size / shape[1]))
    start = np.arange(shape[1], dtype=dtype)
    dy, y, dx = place(g, layout), place(out, layout), place(np.zeros_like(g), layout)

    db = start.copy()
    pointwise.bias_gradient(lib, dy, db)
    np.testing.assert_allclose(db, start + g.sum(axis=all_but_channels, dtype=np.float64), atol=tolerance)
    for target in (dx, dy):
        db = start.copy()
        pointwise.bias_gradient(lib, dy, db, y, target)
        np.testing.assert_array_equal(target, masked)
        np.testing.assert_allclose(
            db, start + masked.sum(axis=all_but_channels, dtype=np.float64), atol=tolerance
        )
        assert untouched(target)


@each_library
@each_dtype
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 100])
def test_sums_do_not_depend_on_strides(which: str, dtype: Any, channels: int) -> None:
    """A block with a margin gives bitwise the sums of a dense one."""
    lib = native.library(which)
    g = draw((3, channels, 13, 17), dtype, 7)
    found = []
    for layout in native.LAYOUTS:
        db = np.zeros(channels, dtype)
        pointwise.bias_gradient(lib, place(g, layout), db)
        found.append(db)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@each_library
@each_dtype
def test_large_sums_are_made_in_double(which: str, dtype: Any) -> None:
    """A million equal numbers: float32 alone would be wrong by one percent."""
    lib = native.library(which, 2)
    dy = np.full((1, 1, 1000, 1000), 0.1, dtype)
    db = np.zeros(1, dtype)
    pointwise.bias_gradient(lib, dy, db)
    np.testing.assert_allclose(db, 1e6 * float(dy[0, 0, 0, 0]), rtol=5e-6)


@each_library
@each_dtype
@each_thread_count
@pytest.mark.parametrize("shape", [*SHAPES, (7, 19, 70), (5,), (37, 41)])
def test_copy(which: str, dtype: Any, threads: int, shape: tuple[int, ...]) -> None:
    """Between every two orders of the dims in memory."""
    lib = native.library(which, threads)
    x = draw(shape, dtype, 8)
    orders = [
        tuple(range(x.ndim)),
        tuple(reversed(range(x.ndim))),
        (0, *range(2, x.ndim), 1) if x.ndim > 1 else (0,),
    ]
    for source in orders:
        for target in orders:
            a, y = _ordered(x, source), _ordered(np.zeros_like(x), target)
            pointwise.copy(lib, a, y)
            np.testing.assert_array_equal(y, x)


@each_library
def test_copy_into_and_out_of_a_margin(which: str) -> None:
    lib = native.library(which)
    x = draw((2, 6, 9, 10), np.float32, 9)
    y = place(np.zeros_like(x), "margin")
    pointwise.copy(lib, x, y)
    np.testing.assert_array_equal(y, x)
    assert untouched(y)
    back = np.zeros_like(x)
    pointwise.copy(lib, y[:, ::2, ::-1, 1::3], back[:, ::2, :, 1::3])
    np.testing.assert_array_equal(back[:, ::2, :, 1::3], x[:, ::2, ::-1, 1::3])
    assert not back[:, 1::2].any()


def _ordered(x: Array, order: tuple[int, ...]) -> Array:
    """A copy of x whose dims lie in memory in that order."""
    return np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))


@each_library
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_blocks(which: str, shape: tuple[int, ...]) -> None:
    lib = native.library(which)
    x, b = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
    pointwise.relu(lib, x, x)
    pointwise.relu_backward(lib, x, x, x)
    pointwise.add(lib, x, x, x)
    pointwise.bias(lib, x, b)
    pointwise.bias_gradient(lib, x, b)
    pointwise.copy(lib, x, x)
    assert (b == 1).all()


@each_library
def test_arrays_are_seen_where_numpy_keeps_them(which: str, tmp_path: Path) -> None:
    """A view, a part without rows, a part of every other row, and a subclass of an array; nothing else passes."""
    lib, x = native.library(which), np.zeros((6, 5), np.uint8)
    mapped = np.memmap(tmp_path / "x", dtype=np.uint8, mode="w+", shape=(3, 2))
    for a in (x, x[1:, 2:], x[:0], x[::2], mapped):
        assert lib.sees(a)
    assert not lib.sees(x.T)
    assert not lib.sees(x.view(np.int8).astype(np.int16))
    assert array(None) is None


def test_an_array_that_is_handed_over_has_a_name() -> None:
    """One that is made in the call itself is gone, and its address with it, before the kernel runs."""
    checked = 0
    for path in sorted(Path(library.__file__).parent.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "array":
                assert isinstance(call.args[0], ast.Name), f"{path.name}:{call.lineno}"
                checked += 1
    assert checked > 50
