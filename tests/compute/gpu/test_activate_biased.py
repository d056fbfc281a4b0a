"""A bias and a nonlinearity in one launch: the bits of two, the reference's values, and what backward reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import pointwise as cpu
from gridnn.compute.gpu import pointwise as gpu
from gridnn.compute.gpu.pointwise import KEEPS
from gridnn.compute.storage import bfloat16
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened
from tests.compute.gpu.conftest import Launch

SHAPES = pytest.mark.parametrize(
    "shape", [(3, 5), (2, 3, 7), (2, 5, 4, 3), (2, 3, 2, 1, 5), (0, 3, 4), (2, 0, 4)]
)
NAMES = pytest.mark.parametrize("name", sorted(KEEPS))


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...], dtype: Any, seed: int = 8) -> Arrays:
    return (2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array.view(np.ndarray)).tobytes()


@NAMES
@SHAPES
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "bfloat16"])
def test_it_is_two_launches_in_one(calls: Calls, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Bit for bit, the sum too, which bfloat16 rounds before the function reads it."""
    if dtype == "bfloat16":
        pytest.importorskip(
            "ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16"
        )
        dtype = bfloat16()
    x, wide = drawn(shape, dtype), np.float64 if dtype == np.float64 else np.float32
    bias = calls.plain(drawn(shape[1:2], wide, 9))
    total = gpu.add_bias(calls.engine, calls.block(x), bias)
    wanted = gpu.activate(calls.engine, name, total)
    before = len(calls.device.launches)
    y, kept = gpu.activate_biased(calls.engine, name, calls.block(x), bias)
    assert calls.device.launches[before:] == [("pointwise", "activate_biased")] * bool(x.size)
    assert bits(y) == bits(wanted) and bits(kept) == bits(total if KEEPS[name] == "x" else wanted)
    assert (y is kept) == (KEEPS[name] == "y")
    given = calls.block(x)
    y, none = gpu.activate_biased(calls.engine, name, given, bias, train=False)
    assert none is None and bits(y) == bits(wanted)
    assert (y is given) == (not calls.gaps or y.size == 0)  # without a backward one array is enough


@NAMES
@SHAPES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("biased", [False, True])
def test_forward_and_backward(
    calls: Calls, name: str, shape: tuple[int, ...], dtype: Any, biased: bool
) -> None:  # fmt: skip
    """As the reference has it, where a block is written with margins around."""
    x, dy, bias = drawn(shape, dtype), drawn(shape, dtype, 3), drawn(shape[1:2], dtype, 9)
    told = calls.plain(bias) if biased else None
    total = cpu.add_bias(CPU, x.copy(), bias if biased else None)
    y, given, goal = cpu.activate(CPU, name, total), calls.block(x), calls.place(shape, dtype)
    out, kept = gpu.activate_biased(calls.engine, name, given, told, out=goal)
    assert out is goal and kept is not None
    calls.held(out, y)
    calls.kept_margins()
    calls.held(kept, total if KEEPS[name] == "x" else y)
    dx = gpu.activate_backward(calls.engine, name, kept, calls.block(dy))
    calls.held(dx, cpu.activate_backward(CPU, name, total if KEEPS[name] == "x" else y, dy))


@NAMES
@pytest.mark.parametrize("train", [False, True])
def test_where_it_lies(calls: Calls, name: str, train: bool) -> None:
    """Into x itself, margins left alone, unless backward reads the sum: then that is said."""
    x, bias = drawn((2, 3, 4, 5), np.float64), drawn((3,), np.float64, 9)
    given = calls.place(x.shape, np.float64)
    given[...] = calls.engine.take(x)
    if train and KEEPS[name] == "x":
        with pytest.raises(ValueError, match=f"backward of {name} reads its input: give another"):
            gpu.activate_biased(calls.engine, name, given, calls.plain(bias), out=given)
        calls.same(given, x)
        return
    y, kept = gpu.activate_biased(calls.engine, name, given, calls.plain(bias), train=train, out=given)
    assert y is given and kept is (given if train else None)
    calls.held(given, cpu.activate(CPU, name, cpu.add_bias(CPU, x, bias)))
    calls.kept_margins()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernel_on_its_own(module: Launch, dtype: Any) -> None:
    """A grid that goes round; numbers that are none stay so, and no array is written that is not given."""
    x, bias, kernels = drawn((1000, 7), dtype), drawn((7,), dtype, 9), module("pointwise", dtype)
    x[3, 2], x[4, 1], x[5, 0] = np.nan, np.inf, -800
    total = x + bias
    with np.errstate(invalid="ignore"):
        for name, number in gpu.BIASED.items():
            wanted = np.empty_like(x)
            for keeps in (True, False):
                y, kept, read = np.full_like(x, 7), np.full_like(x, 7), x.copy()
                told = [read, bias, kept if keeps else None, y, x.size, 7, number]
                kernels.launch("activate_biased", (3,), (64,), told)
                np.testing.assert_array_equal(read, x)
                np.testing.assert_array_equal(kept, total if keeps else np.full_like(x, 7))
                if name == "relu":
                    kernels.launch("relu", (3,), (64,), [total, wanted, x.size])
                else:
                    kernels.launch("smooth", (3,), (64,), [total, wanted, x.size, number])
                np.testing.assert_array_equal(y, wanted)
                assert np.isnan(y[3, 2]) and np.isfinite(y[6:]).all()
