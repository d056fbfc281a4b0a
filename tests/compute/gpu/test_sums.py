"""Sums of each channel on a device: every barrier is needed, every cut of the rows gives the sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu.source import read_source
from gridnn.compute.gpu.sums import LEAST_ROWS, MOST_CHUNKS, channel_sums, rows_of_a_chunk
from tests.compute.gpu.calls import Arrays, Calls
from tests.compute.gpu.conftest import Launch
from tests.support import shim


def summed(kernels: shim.Module, x: Arrays, chunk: int, dtype: Any = np.float64) -> Arrays:
    samples, rows, channels = x.shape
    chunks = -(-rows // chunk)
    partial, sums = np.full((samples, chunks, channels), np.nan), np.full((samples, channels), np.nan, dtype)
    grid = (samples * chunks, -(-channels // 32))
    kernels.launch("channel_sums", grid, (32, 8), [x, None, None, rows, channels, chunk, chunks, partial])
    kernels.launch("fold", (2,), (32,), [partial, chunks, channels, sums.size, sums])
    return sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "chunk"), [((1, 1, 1), 1), ((2, 37, 5), 10), ((3, 64, 70), 64), ((1, 23, 33), 7)]
)
def test_sums_of_chunks(module: Launch, dtype: Any, shape: tuple[int, ...], chunk: int) -> None:
    x = np.random.default_rng(5).standard_normal(shape).astype(dtype)
    wanted = x.sum(axis=1, dtype=np.float64).astype(dtype)
    np.testing.assert_allclose(summed(module("sums", dtype), x, chunk, dtype), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
def test_each_barrier_is_needed() -> None:
    """In one order of threads or another: in reverse, those that add up are the last to come anyway."""
    x = np.random.default_rng(6).standard_normal((2, 37, 5))
    assert shim.barriers("sums") == read_source("sums").count("__syncthreads") > 0
    for number in range(shim.barriers("sums")):
        kernels = [shim.Module("sums", np.float64, order, without=number) for order in shim.ORDERS]
        right = [np.allclose(summed(k, x, 10), x.sum(axis=1)) for k in kernels]
        assert not all(right), f"barrier {number} is not missed"


@pytest.mark.parametrize("rows", [1, LEAST_ROWS, LEAST_ROWS + 1, LEAST_ROWS * MOST_CHUNKS + 1, 10**9])
@pytest.mark.parametrize("sums", [1, 3, 1000])
def test_chunks_are_neither_many_nor_short(rows: int, sums: int) -> None:
    chunk = rows_of_a_chunk(rows, sums)
    assert chunk >= LEAST_ROWS
    assert sums * -(-rows // chunk) <= max(sums, MOST_CHUNKS)


def test_many_chunks_of_a_sample(order: str) -> None:
    calls, x = Calls(order), np.random.default_rng(7).standard_normal((2, 3, 20, 21))
    assert rows_of_a_chunk(420, 2) < 420
    calls.held(channel_sums(calls.engine, calls.block(x), 2), x.sum(axis=(2, 3)))
    calls.held(channel_sums(calls.engine, calls.block(x), 1), x.sum(axis=(0, 2, 3))[None])
