"""Operations on each element on a device: the calls of `gridnn.compute.gpu.pointwise`, against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import pointwise as cpu
from gridnn.compute.gpu import pointwise as gpu
from gridnn.compute.random import Draw
from gridnn.errors import InputError
from gridnn.geometry.interval import Interval
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened

SHAPES = pytest.mark.parametrize(
    "shape", [(3, 5), (2, 3, 7), (2, 5, 4, 3), (2, 3, 2, 1, 5), (0, 3, 4), (2, 0, 4)]
)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
RECTIFIED = pytest.mark.parametrize("relu", [False, True])


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...], dtype: Any, count: int = 1, spread: float = 2.0) -> list[Arrays]:
    rng = np.random.default_rng(8)
    return [(spread * rng.standard_normal(shape)).astype(dtype) for _ in range(count)]


@DTYPES
@SHAPES
@pytest.mark.parametrize("name", sorted(cpu.KEEPS))
def test_nonlinearities(calls: Calls, name: str, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy = drawn(shape, dtype, 2)
    y, given = cpu.activate(CPU, name, x), calls.block(x)
    out = calls.place(shape, dtype)
    assert gpu.activate(calls.engine, name, given, out=out) is out
    calls.held(out, y)
    calls.kept_margins()
    calls.held(gpu.activate(calls.engine, name, calls.block(x)), y)
    kept = x if gpu.KEEPS[name] == "x" else y
    dx = gpu.activate_backward(calls.engine, name, calls.block(kept), calls.block(dy))
    calls.held(dx, cpu.activate_backward(CPU, name, kept, dy))


@pytest.mark.parametrize("name", sorted(cpu.KEEPS))
def test_far_from_zero_there_are_no_surprises(order: str, name: str) -> None:
    calls, x = Calls(order), np.array([[-800, -30, -8, -0.0, 8, 30, 800]])
    y = cpu.activate(CPU, name, x)
    calls.held(gpu.activate(calls.engine, name, calls.block(x)), y, (1e-11, 0))
    kept = x if gpu.KEEPS[name] == "x" else y
    dx = gpu.activate_backward(calls.engine, name, calls.block(kept), calls.block(np.ones_like(x)))
    calls.held(dx, cpu.activate_backward(CPU, name, kept, np.ones_like(x)), (1e-11, 1e-16))


def test_a_nonlinearity_that_is_not_there_is_an_error(order: str) -> None:
    calls = Calls(order)
    with pytest.raises(KeyError):
        gpu.activate(calls.engine, "softplus", calls.block(np.ones((2, 3))))


@DTYPES
@SHAPES
@RECTIFIED
@pytest.mark.parametrize("count", [1, 2, 3])
def test_sums_of_arrays(calls: Calls, count: int, relu: bool, shape: tuple[int, ...], dtype: Any) -> None:
    arrays = drawn(shape, dtype, count)
    wanted = cpu.add(CPU, arrays, relu=relu)
    given = [calls.block(a) for a in arrays]
    calls.same(gpu.add(calls.engine, given, relu=relu), wanted)
    for before, array in zip(arrays, given, strict=True):
        calls.same(array, before)
    out = calls.place(shape, dtype)
    assert gpu.add(calls.engine, given, relu=relu, out=out) is out
    calls.same(out, wanted)
    calls.kept_margins()
    assert gpu.add(calls.engine, given, relu=relu, out=given[0]) is given[0]
    calls.same(given[0], wanted)


@DTYPES
@SHAPES
@RECTIFIED
@pytest.mark.parametrize("biased", [False, True])
def test_bias(calls: Calls, biased: bool, relu: bool, shape: tuple[int, ...], dtype: Any) -> None:
    (y,), (bias,) = drawn(shape, dtype), drawn(shape[1:2], dtype)
    given = calls.block(y)
    found = gpu.add_bias(calls.engine, given, calls.plain(bias) if biased else None, relu=relu)
    assert found is given
    calls.same(found, cpu.add_bias(CPU, y.copy(), bias if biased else None, relu=relu))
    calls.kept_margins()


@DTYPES
@SHAPES
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_a_bias(calls: Calls, masked: bool, shape: tuple[int, ...], dtype: Any) -> None:
    dy, y = drawn(shape, dtype, 2)
    (db,) = drawn(shape[1:2], dtype)
    mine = calls.plain(db)
    found = gpu.bias_gradient(calls.engine, calls.block(dy), mine, calls.block(y) if masked else None)
    calls.same(found, cpu.bias_gradient(CPU, dy, db, y if masked else None))
    calls.held(mine, db)


@DTYPES
@pytest.mark.parametrize(
    ("shape", "lo", "hi"),
    [((5, 7), (1, 2), (4, 7)), ((4, 6, 5), (1, 0, 2), (4, 5, 5)), ((4, 6, 5, 3), (1, 2, 3, 0), (3, 5, 5, 2)),
     ((2, 3, 3, 4, 5), (0, 1, 1, 0, 2), (2, 3, 2, 4, 5)), ((4, 6, 5), (4, 0, 0), (4, 6, 5))],
)  # fmt: skip
def test_dropout(calls: Calls, shape: Any, lo: Any, hi: Any, dtype: Any) -> None:
    box = tuple(Interval(a, b) for a, b in zip(lo, hi, strict=True))
    draw = Draw(11, "dropout:drop3", shape, box, 5, 0.4)
    x, dy = drawn(tuple(i.size for i in box), dtype, 2)
    y, kept = gpu.dropout_forward(calls.engine, calls.block(x), draw)
    wanted, mask = cpu.dropout_forward(CPU, x, draw)
    calls.same(y, wanted)
    assert kept is None
    calls.same(gpu.dropout_backward(calls.engine, calls.block(dy), kept, draw), dy * mask)


def test_dropout_of_everything_is_an_error(order: str) -> None:
    calls, draw = Calls(order), Draw(1, "dropout:drop", (2, 3), ((0, 2), (0, 3)), 0, 1.0)
    with pytest.raises(InputError, match="probability 1"):
        gpu.dropout_forward(calls.engine, calls.block(np.ones((2, 3))), draw)
