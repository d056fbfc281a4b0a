"""What is stored in bfloat16: kernels compute in float32 and round once, plain operations widen, sums stay wide.

Every result is held to float64 on the numbers that are stored.  Rounding once is wrong by 2^-8 of a number at most;
what float32 is wrong by before it, in parts of the largest element, is `NEAR`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import layer_norm as cpu_layer_norm
from gridnn.compute.cpu import norm as cpu_norm
from gridnn.compute.cpu import pointwise as cpu_pointwise
from gridnn.compute.cpu import pool as cpu_pool
from gridnn.compute.cpu import softmax as cpu_softmax
from gridnn.compute.cpu import upsample as cpu_upsample
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import layer_norm, norm, pointwise, pool, softmax, upsample
from gridnn.compute.gpu.pieces import accumulate, pack, pieces_of, unpack
from gridnn.compute.gpu.source import Kernel, Parameter, read_source
from gridnn.compute.gpu.source import pack as pack_arguments
from gridnn.compute.random import Draw
from gridnn.compute.storage import UNIT, bfloat16, wide_of, words
from gridnn.geometry.interval import Interval
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened
from tests.compute.gpu.conftest import Launch

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
NARROW = bfloat16()
NEAR = 2e-6
SHAPE = (3, 5, 4, 6)
SAME = Window((3, 3), (1, 2), (1, 1), (1, 0), (1, 1))
WIDE = Window((17, 17), (2, 2), (1, 1), (8, 8), (8, 8))
"""Of more elements than an index of one byte tells apart."""


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...] = SHAPE, seed: int = 1) -> Arrays:
    return np.random.default_rng(seed).standard_normal(shape).astype(NARROW)


def wide(array: Arrays) -> Arrays:
    return array.astype(np.float64)


def held(calls: Calls, found: Any, wanted: Arrays) -> None:
    """Hold a result to numbers that it was rounded from, as its dtype lets it."""
    assert calls.engine.holds(found) and found.shape == wanted.shape
    values, size = wide(found.view(np.ndarray)), float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0))
    rounding = UNIT if found.dtype == NARROW else 0.0
    np.testing.assert_allclose(values, wanted, rtol=rounding, atol=NEAR * (1 + size))
    assert calls.device.waits == 0


TIES = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF]
"""Two that go to the even one, below and above, and both sides of one."""
ENDS = [0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x80000001, 1]
"""Infinities, what rounds to one, and what is next to zero."""
COPIES = """
extern "C" __global__ void narrow(const wide* x, real* y) { y[threadIdx.x] = rounded(x[threadIdx.x]); }
extern "C" __global__ void widen(const real* x, wide* y) { y[threadIdx.x] = widened(x[threadIdx.x]); }
"""


def test_kernels_round_as_numpy_does(module: Launch) -> None:
    kernels = module("pointwise", NARROW, text=read_source("pointwise") + COPIES)
    some = np.random.default_rng(3).integers(0, 1 << 32, 503, np.uint32)
    bits = np.concatenate([np.array(TIES + ENDS, np.uint32), some])
    x = bits.view(np.float32)
    x = np.where(np.isnan(x), np.float32(1), x)
    y = np.zeros(x.shape, NARROW)
    kernels.launch("narrow", (1,), (x.size,), [x, y])
    np.testing.assert_array_equal(words(y), words(x.astype(NARROW)))
    back = np.zeros(x.shape, np.float32)
    kernels.launch("widen", (1,), (x.size,), [y, back])
    np.testing.assert_array_equal(back, y.astype(np.float32))
    none = np.full(2, np.nan, np.float32)
    kernels.launch("narrow", (1,), (2,), [none, y])
    assert np.isnan(wide(y[:2])).all()


def test_what_is_wide() -> None:
    assert wide_of(NARROW) == np.float32 and wide_of(np.float64) == np.float64 == wide_of("float64")
    assert words(np.ones(3, NARROW)).dtype == np.uint16 and words(np.ones(3)).dtype == np.float64
    assert wide(np.array([1 + UNIT, 1 + 1.01 * UNIT], np.float32).astype(NARROW)).tolist() == [
        1,
        1 + 2 * UNIT,
    ]


def test_a_device_computes_with_no_narrow_array(calls: Calls) -> None:
    """As the tests' device has it: what CuPy makes of such an expression is not asked."""
    x = calls.block(drawn())
    for expression in (
        lambda: x + x, lambda: x * 2, lambda: x == x, lambda: operator.iadd(x, x), lambda: np.maximum(x, 0),
        lambda: np.concatenate([x, x]),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="widen it first"):
            expression()


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "sigmoid", "silu"])
def test_nonlinearities(calls: Calls, name: str) -> None:
    x, dy = drawn(), drawn(seed=2)
    y = pointwise.activate(calls.engine, name, calls.block(x))
    held(calls, y, cpu_pointwise.activate(CPU, name, wide(x)))
    kept = x if pointwise.KEEPS[name] == "x" else words(y.view(np.ndarray)).view(NARROW)
    dx = pointwise.activate_backward(calls.engine, name, calls.block(kept), calls.block(dy))
    held(calls, dx, cpu_pointwise.activate_backward(CPU, name, wide(kept), wide(dy)))


@pytest.mark.parametrize("relu", [False, True])
def test_sums_and_bias(calls: Calls, relu: bool) -> None:
    engine, (a, b, c), bias = (
        calls.engine,
        [drawn(seed=s) for s in (1, 2, 3)],
        np.linspace(-1, 1, 5, dtype=np.float32),
    )
    held(calls, pointwise.add(engine, [calls.block(a), calls.block(b)], relu=relu),
         cpu_pointwise.add(CPU, [wide(a), wide(b)], relu=relu))  # fmt: skip
    y = calls.block(a)
    assert pointwise.add_bias(engine, y, calls.plain(bias), relu=relu) is y
    held(calls, y, cpu_pointwise.add_bias(CPU, wide(a), wide(bias), relu=relu))
    db, wanted = calls.plain(np.ones(5, np.float32)), np.ones(5)
    masked = pointwise.bias_gradient(engine, calls.block(b), db, calls.block(c) if relu else None)
    held(calls, masked, cpu_pointwise.bias_gradient(CPU, wide(b), wanted, wide(c) if relu else None))
    held(calls, db, wanted)


def test_dropout(calls: Calls) -> None:
    x, draw = drawn(), Draw(3, "dropout:d", (6, *SHAPE[1:]), ((2, 5), (0, 5), (0, 4), (0, 6)), 1, 0.4)
    found, kept = pointwise.dropout_forward(calls.engine, calls.block(x), draw)
    held(calls, found, cpu_pointwise.dropout_forward(CPU, wide(x), draw)[0])
    held(
        calls,
        pointwise.dropout_backward(calls.engine, calls.block(x), kept, draw),
        wide(found.view(np.ndarray)),
    )


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm(calls: Calls, relu: bool) -> None:
    engine, x, dy = calls.engine, drawn(), drawn(seed=2)
    gamma, beta = (np.random.default_rng(s).standard_normal(5).astype(np.float32) for s in (3, 4))
    mean, variance = np.linspace(-0.5, 0.5, 5), np.ones(5)
    sums = norm.moments(engine, calls.block(x), calls.plain(mean))
    held(calls, sums, cpu_norm.moments(CPU, wide(x), mean))
    count, there = x.size // 5, [calls.plain(mean), calls.plain(variance)]
    statistics = norm.statistics(engine, sums, count, there[0], there[1], 0.1, 1e-5)
    wanted = cpu_norm.statistics(CPU, cpu_norm.moments(CPU, wide(x), mean), count, mean, variance, 0.1, 1e-5)
    affine = [calls.plain(gamma), calls.plain(beta)]
    y = norm.apply(engine, calls.block(x), statistics, *affine, relu=relu)
    held(calls, y, cpu_norm.apply(CPU, wide(x), wanted, wide(gamma), wide(beta), relu=relu))
    mask, known = (y, wide(y.view(np.ndarray))) if relu else (None, None)
    back = norm.backward_sums(engine, calls.block(x), statistics, calls.block(dy), mask)
    wanted_back = cpu_norm.backward_sums(CPU, wide(x), wanted, wide(dy), known)
    held(calls, back, wanted_back)
    dx = norm.backward_apply(
        engine, calls.block(x), statistics, affine[0], calls.block(dy), back, count, mask
    )
    held(
        calls,
        dx,
        cpu_norm.backward_apply(CPU, wide(x), wanted, wide(gamma), wide(dy), wanted_back, count, known),
    )


def test_layer_norm(calls: Calls) -> None:
    engine, x, dy = calls.engine, drawn(), drawn(seed=2)
    gamma, beta = (np.random.default_rng(s).standard_normal(SHAPE[1:]).astype(np.float32) for s in (3, 4))
    count, exact = x.size // 3, (wide(gamma), wide(beta))
    statistics = layer_norm.statistics(engine, layer_norm.moments(engine, calls.block(x)), count, 1e-5)
    wanted = cpu_layer_norm.statistics(CPU, cpu_layer_norm.moments(CPU, wide(x)), count, 1e-5)
    affine = [calls.block(p[None])[0] for p in (gamma, beta)]
    held(calls, layer_norm.apply(engine, calls.block(x), statistics, *affine),
         cpu_layer_norm.apply(CPU, wide(x), wanted, *exact))  # fmt: skip
    sums = layer_norm.backward_sums(engine, calls.block(x), statistics, affine[0], calls.block(dy))
    wanted_sums = cpu_layer_norm.backward_sums(CPU, wide(x), wanted, exact[0], wide(dy))
    held(calls, sums, wanted_sums)
    dx = layer_norm.backward_apply(
        engine, calls.block(x), statistics, affine[0], calls.block(dy), sums, count
    )
    held(
        calls, dx, cpu_layer_norm.backward_apply(CPU, wide(x), wanted, exact[0], wide(dy), wanted_sums, count)
    )
    both = layer_norm.parameter_gradients(engine, calls.block(x), statistics, calls.block(dy))
    for found, each in zip(
        both, cpu_layer_norm.parameter_gradients(CPU, wide(x), wanted, wide(dy)), strict=True
    ):
        assert found.dtype == np.float32
        held(calls, found, each)


@pytest.mark.parametrize("window", [SAME, WIDE], ids=["kernel", "by taps"])
def test_maxima(calls: Calls, window: Window) -> None:
    x = drawn()
    y, saved = pool.max_forward(calls.engine, calls.block(x), window)
    wanted, won = cpu_pool.max_forward(CPU, wide(x), window)
    assert y.dtype == NARROW
    np.testing.assert_array_equal(wide(y.view(np.ndarray)), wanted)
    np.testing.assert_array_equal(saved.view(np.ndarray), won)
    dy = drawn(wanted.shape, 2)
    dx = pool.max_backward(calls.engine, calls.block(dy), saved, window, x.shape)
    held(calls, dx, cpu_pool.max_backward(CPU, wide(dy), won, window, x.shape))
    found, at = pool.max_space(calls.engine, calls.block(x))
    best, where = cpu_pool.max_space(CPU, wide(x))
    held(calls, found, best)
    np.testing.assert_array_equal(at.view(np.ndarray), where)
    spread = pool.max_space_backward(calls.engine, found, at, x.shape)
    held(calls, spread, cpu_pool.max_space_backward(CPU, best, where, x.shape))


@pytest.mark.parametrize("count_pad", [False, True])
def test_averages(calls: Calls, count_pad: bool) -> None:
    x = drawn()
    y = pool.average_forward(calls.engine, calls.block(x), SAME, count_pad=count_pad)
    wanted = cpu_pool.average_forward(CPU, wide(x), SAME, count_pad=count_pad)
    held(calls, y, wanted)
    dy = drawn(wanted.shape, 2)
    held(calls, pool.average_backward(calls.engine, calls.block(dy), SAME, x.shape, count_pad=count_pad),
         cpu_pool.average_backward(CPU, wide(dy), SAME, x.shape, count_pad=count_pad))  # fmt: skip
    sums = pool.sum_space(calls.engine, calls.block(x))
    assert sums.dtype == np.float32
    held(calls, sums, cpu_pool.sum_space(CPU, wide(x)))
    few = drawn(SHAPE[:2], 4)
    held(
        calls,
        pool.spread_space(calls.engine, calls.plain(few), SHAPE),
        cpu_pool.spread_space(CPU, wide(few), SHAPE),
    )


def test_cross_entropy(calls: Calls) -> None:
    engine, x, labels = calls.engine, drawn(), np.random.default_rng(3).integers(0, 9, (3, 4, 6))
    top = softmax.block_max(engine, calls.block(x))
    assert top.dtype == np.float32  # it is compared over ranks
    best = cpu_softmax.block_max(CPU, wide(x))
    held(calls, top, best)
    sums = softmax.block_sums(engine, calls.block(x), top, calls.plain(labels), 2)
    wanted = cpu_softmax.block_sums(CPU, wide(x), best, labels, 2)
    held(calls, sums, wanted)
    np.testing.assert_array_equal(
        softmax.best_class(calls.block(x), top, 2).view(np.ndarray), cpu_softmax.best_class(wide(x), best, 2)
    )
    weight = np.full(labels.shape, 0.3)
    dx = softmax.gradient(
        engine, calls.block(x), top, sums[0], calls.plain(labels), 2, 9, 0.1, calls.plain(weight)
    )
    held(calls, dx, cpu_softmax.gradient(CPU, wide(x), best, wanted[0], labels, 2, 9, 0.1, weight))


def test_upsampling(calls: Calls) -> None:
    x, dy = drawn(), drawn((3, 5, 8, 18), 2)
    zeros: dict[str, Any] = {"out_start": (0, 0), "in_start": (0, 0)}
    for linear in (False, True):
        words_: dict[str, Any] = zeros | (
            {"in_size": (4, 6), "out_size": (8, 18)} if linear else {"factor": (2, 3)}
        )
        name = "linear" if linear else "nearest"
        there, back = (operator.attrgetter(f"{name}_{way}") for way in ("forward", "backward"))
        held(calls, there(upsample)(calls.engine, calls.block(x), out_extent=(8, 18), **words_),
             there(cpu_upsample)(CPU, wide(x), out_extent=(8, 18), **words_))  # fmt: skip
        held(calls, back(upsample)(calls.engine, calls.block(dy), in_extent=(4, 6), **words_),
             back(cpu_upsample)(CPU, wide(dy), in_extent=(4, 6), **words_))  # fmt: skip


def test_pieces(calls: Calls) -> None:
    """Packed bit for bit; where three meet, added up in float32 and rounded once."""
    engine, x = calls.engine, drawn()
    whole = tuple(Interval(0, extent) for extent in SHAPE)
    boxes = [
        (*whole[:2], Interval(0, 2), whole[3]), (*whole[:3], Interval(4, 6)),
        (*whole[:2], Interval(1, 2), Interval(3, 6)),
    ]  # fmt: skip
    pieces = pieces_of(engine, boxes, whole)
    buffer, array = calls.device.empty(pieces.elements, NARROW), calls.block(x)
    pack(engine, array, pieces, buffer)
    for box, part in zip(boxes, pieces.within(buffer), strict=True):
        np.testing.assert_array_equal(words(part.view(np.ndarray)), words(x[tuple(slice(*i) for i in box)]))
    back = calls.block(np.zeros(SHAPE, NARROW))
    unpack(engine, back, pieces, buffer)
    wanted = wide(x)
    for box in boxes:
        at = tuple(slice(*i) for i in box)
        np.testing.assert_array_equal(wide(back.view(np.ndarray))[at], wide(x)[at])
        wanted[at] += wide(x)[at]
    into = calls.block(x.astype(np.float32))
    for target in (array, into):  # bfloat16, and float32 to which bfloat16 is added
        accumulate(engine, target, pieces, buffer)
        held(calls, target, wanted)


def test_numbers_are_told_in_what_is_computed_in() -> None:
    kernel = Kernel("f", (Parameter("x", "pointer"), Parameter("share", "wide"), Parameter("n", "int")))
    _, share, n = pack_arguments(kernel, [None, 0.1, 3], NARROW)
    assert (share.dtype, n.dtype) == (np.float32, np.int32) and share == np.float32(0.1)
    assert pack_arguments(kernel, [None, 0.1, 3], np.dtype(np.float64))[1].dtype == np.float64
