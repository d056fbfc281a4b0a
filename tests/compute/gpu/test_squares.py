"""Squared norms on a device: each barrier is needed, every cut into chunks gives them, factors are the host's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.update import lars_rate
from gridnn.compute.gpu.source import read_source
from gridnn.compute.gpu.squares import CHUNK, ELEMENTS, Part, factors, parts_of, squares
from gridnn.train.schedule import clip_scale
from tests.compute.gpu.calls import Arrays, Calls
from tests.support import shim

SIZES = (700, 1, 0, ELEMENTS + 3)
"""Elements of each array; the third is on another rank."""
LARS = {"trust": 0.02, "decay": 0.1, "eps": 1e-8}


def arrays(dtype: Any) -> list[Arrays]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(size).astype(dtype) for size in SIZES]


def summed(kernels: shim.Module, given: list[Arrays], elements: int) -> Arrays:
    """Launch the kernels with chunks of so many elements."""
    cuts = [(a, at) for a in given for at in range(0, a.size, elements)]
    chunks = np.array(
        [(a.ctypes.data + at * a.itemsize, min(elements, a.size - at)) for a, at in cuts], CHUNK
    )
    counts = [-(-a.size // elements) for a in given]
    starts = np.cumsum([0, *counts], dtype=np.int32)
    partial, sums = np.full(len(cuts), np.nan), np.full(len(given), np.nan)
    kernels.launch("squares", (len(cuts),), (256,), [chunks.view(np.uint8), partial])
    kernels.launch("gather", (len(given),), (256,), [partial, starts, sums])
    return sums


def told(kernels: shim.Module, sums: Arrays, most: float) -> Arrays:
    found = np.full(2 + sums.size // 2, np.nan)
    kernels.launch("factors", (1,), (256,), [sums, sums.size // 2, most, *LARS.values(), found])
    return found


def wanted_of(sums: Arrays, most: float | None) -> Arrays:
    """Return what the host makes of squares (2 P)."""
    norms = np.sqrt(sums.reshape(-1, 2))
    norm = math.sqrt(float(sums[1::2].sum()))
    scale = clip_scale(norm, most)
    rates = [
        lars_rate(
            float(w), scale * float(g), trust=LARS["trust"], weight_decay=LARS["decay"], eps=LARS["eps"]
        )
        for w, g in norms
    ]
    return np.array([norm, scale, *rates])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("elements", [64, 300, ELEMENTS])
def test_squares_of_chunks(order: str, dtype: Any, elements: int) -> None:
    given = arrays(dtype)
    found = summed(shim.Module("squares", dtype, order), given, elements)
    wanted = [float(np.square(a, dtype=np.float64).sum()) for a in given]
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    assert found[2] == 0


@pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
def test_each_barrier_is_needed() -> None:
    """In one order of threads or another; the last one by factors, of which every thread reads the sum."""
    given, sums = arrays(np.float64), np.arange(1.0, 601.0)
    assert shim.barriers("squares") == read_source("squares").count("__syncthreads") == 2
    wanted, factored = [float(a @ a) for a in given], wanted_of(sums, 3.0)
    for number in range(2):
        kernels = [shim.Module("squares", np.float64, order, without=number) for order in shim.ORDERS]
        right = [
            np.allclose(summed(k, given, 300), wanted) and np.allclose(told(k, sums, 3.0), factored)
            for k in kernels
        ]
        assert not all(right), f"barrier {number} is not missed"


@pytest.mark.parametrize("most", [None, 0.5, 1e6])
def test_calls(order: str, most: float | None) -> None:
    """Parameters of other ranks have zeros, and those without elements or gradients have rate 1."""
    calls, rng = Calls(order), np.random.default_rng(6)
    given = {3: (1e-3, 2.0), 0: (3.0, 1.0), 1: (0.0, 1.0)}  # in any order; 2 and 4 are not here
    parts = [
        Part(index, *(calls.plain(rng.standard_normal(41 * (index + 1)) * scale) for scale in scales))
        for index, scales in given.items()
    ]
    found = squares(calls.engine, parts_of(calls.engine, parts, 5))
    wanted = np.zeros(10)
    for index, *pair in parts:
        wanted[2 * index : 2 * index + 2] = [float(np.square(a.view(np.ndarray)).sum()) for a in pair]
    calls.held(found, wanted)
    numbers = calls.engine.memory.zeros((7,), np.float64)
    factors(calls.engine, found, numbers, most=most, **LARS)
    calls.held(numbers, wanted_of(wanted, most))
    assert [numbers.view(np.ndarray)[2 + i] == 1.0 for i in range(5)] == [False, True, True, False, True]
    assert len(calls.device.launches) == 3


def test_a_rank_without_parameters(order: str) -> None:
    calls = Calls(order)
    calls.same(squares(calls.engine, parts_of(calls.engine, [], 3)), np.zeros(6))
    with pytest.raises(AssertionError, match="two parts of one parameter"):
        parts_of(calls.engine, [Part(1, calls.plain(np.ones(2)), calls.plain(np.ones(2)))] * 2, 3)
    with pytest.raises(AssertionError, match="flat contiguous"):
        parts_of(calls.engine, [Part(0, calls.plain(np.ones(4))[::2], calls.plain(np.ones(2)))], 1)


def test_gradients_that_are_no_numbers(order: str) -> None:
    """The norm says it; the host looks at it."""
    calls = Calls(order)
    for bad in (math.nan, math.inf):
        part = Part(0, calls.plain(np.ones(3)), calls.plain(np.array([1.0, bad, 2.0])))
        numbers = calls.engine.memory.zeros((3,), np.float64)
        factors(
            calls.engine, squares(calls.engine, parts_of(calls.engine, [part], 1)), numbers, most=1.0, **LARS
        )
        assert not math.isfinite(numbers.view(np.ndarray)[0])
