"""Layer norm on a device: the kernels cut as no call cuts them, and the calls of `gridnn.compute.gpu.layer_norm`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import layer_norm as cpu
from gridnn.compute.cpu.reference import norm as reference
from gridnn.compute.gpu import layer_norm as gpu
from gridnn.compute.gpu.source import read_source
from gridnn.compute.gpu.sums import MOST_CHUNKS
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened
from tests.compute.gpu.conftest import Launch
from tests.support import shim

CUTS = pytest.mark.parametrize(
    ("samples", "size", "chunk", "warps"),
    [(1, 1, 1, 1), (3, 37, 10, 1), (2, 1000, 300, 8), (5, 64, 64, 2), (70, 33, 7, 1), (70, 33, 40, 2)],
)
"""Samples and their elements, elements (or samples) of a chunk, warps of a block."""
SHAPES = pytest.mark.parametrize(
    "shape",
    [
        (7, 5), (75, 3), (1, 700), (2, 33, 9), (2, 5, 14, 7), (2, 3, 2, 1, 5), (3, 2, 1, 600), (0, 3, 4), (2, 0, 4),
        (2, 3, 0),
    ],
)  # fmt: skip
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
WIDE = {np.float32: (1e-4, 2e-4), np.float64: (1e-10, 1e-10)}
"""Bounds where products are in float64 on the device, in the reference of the dtype of the data."""


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: tuple[int, ...], dtype: Any) -> tuple[Arrays, Arrays, Arrays, Arrays, Arrays]:
    """Return x, dy, mean and 1 / standard deviation (2, N), gamma and beta."""
    rng = np.random.default_rng(shape[0])
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gamma, beta = (rng.standard_normal(shape[1:]).astype(dtype) for _ in range(2))
    return x, dy, np.stack([rng.standard_normal(shape[0]), rng.uniform(0.5, 2, shape[0])]), gamma, beta


def of_samples(kernels: shim.Module, name: str, given: list[Any], cut: tuple[int, ...]) -> Arrays:
    """Return the sums of samples, made of chunks."""
    samples, size, chunk, warps = cut
    chunks = -(-size // chunk)
    partial, sums = np.full((chunks, 2, samples), np.nan), np.full((2, samples), np.nan)
    kernels.launch(name, (samples * chunks,), (32 * warps,), [*given, size, chunk, chunks, partial])
    kernels.launch("fold", (2,), (32,), [partial, chunks, sums.size, sums])
    return sums


def of_parameters(kernels: shim.Module, given: list[Any], cut: tuple[int, ...]) -> Arrays:
    """Return the sums of each element of a sample, made of chunks of samples: beta's and gamma's gradients."""
    samples, size, chunk, _ = cut
    chunks = -(-samples // chunk)
    partial, sums = np.full((chunks, 2, size), np.nan), np.full((2, size), np.nan)
    kernels.launch(
        "parameter_gradients", (-(-size // 32), chunks), (32, 8), [*given, samples, size, chunk, partial]
    )
    kernels.launch("fold", (2,), (32,), [partial, chunks, sums.size, sums])
    return sums


@DTYPES
@CUTS
def test_sums_of_every_cut(
    module: Launch, dtype: Any, samples: int, size: int, chunk: int, warps: int
) -> None:
    """In float64 whatever the data: what another cut finds differs by no more than rounding of that."""
    x, dy, (mean, inv_std), gamma, _ = drawn((samples, size), dtype)
    kernels, cut = module("layer_norm", dtype), (samples, size, chunk, warps)
    wide_x, wide_dy, wide_gamma = (array.astype(float) for array in (x, dy, gamma))
    found = of_samples(kernels, "moments", [x], cut)
    np.testing.assert_allclose(found, reference.sample_moments(wide_x), rtol=1e-12, atol=1e-12)
    found = of_samples(kernels, "backward_sums", [x, dy, mean, inv_std, gamma], cut)
    wanted = reference.sample_backward_sums(wide_x, mean, inv_std, wide_gamma, wide_dy)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)
    found = of_parameters(kernels, [x, dy, mean, inv_std], cut)
    of_gamma, of_beta = reference.sample_parameter_gradients(wide_x, mean, inv_std, wide_dy)
    np.testing.assert_allclose(found, [of_beta, of_gamma], rtol=1e-11, atol=1e-11)


@pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
def test_each_barrier_is_needed() -> None:
    """In one order of threads or another: in some, those that add up are the last to come anyway."""
    x, dy, (mean, inv_std), _, _ = drawn((6, 300), np.float64)
    cut, moments = (6, 300, 300, 4), reference.sample_moments(x)
    of_gamma, of_beta = reference.sample_parameter_gradients(x, mean, inv_std, dy)
    assert shim.barriers("layer_norm") == read_source("layer_norm").count("__syncthreads") == 2
    for number in range(2):
        right = []
        for order in shim.ORDERS:
            kernels = shim.Module("layer_norm", np.float64, order, without=number)
            right.append(np.allclose(of_samples(kernels, "moments", [x], cut), moments))
            gradients = of_parameters(kernels, [x, dy, mean, inv_std], cut)
            right.append(np.allclose(gradients, [of_beta, of_gamma]))
        assert not all(right), f"barrier {number} is not missed"


@DTYPES
@SHAPES
def test_moments(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x = drawn(shape, dtype)[0]
    found = gpu.moments(calls.engine, calls.block(x))
    calls.held(found, cpu.moments(CPU, x), (1e-11, 1e-11))


@pytest.mark.parametrize("samples", [0, 1, 300])
def test_statistics_in_one_launch(calls: Calls, samples: int) -> None:
    rng, count = np.random.default_rng(11), 40
    sums = np.stack([rng.standard_normal(samples), rng.uniform(5, 9, samples)])
    sums[1, : samples // 2] = 0  # below the square of the first: rounding took them there
    found = gpu.statistics(calls.engine, calls.plain(sums), count, 1e-5)
    for which, wanted in enumerate(cpu.statistics(CPU, sums, count, 1e-5)):
        calls.held(found[which], wanted, (1e-9, 1e-12))
    assert calls.device.launches == [("norm_statistics", "layer")] * (samples > 0)


@DTYPES
@SHAPES
def test_apply(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, _, statistics, gamma, beta = drawn(shape, dtype)
    wanted = cpu.apply(CPU, x, statistics, gamma, beta)
    vectors = [calls.plain(gamma), calls.plain(beta)]
    given, out = calls.block(x), calls.place(shape, dtype)
    assert gpu.apply(calls.engine, given, calls.plain(statistics), vectors[0], vectors[1], out=out) is out
    calls.held(out, wanted)
    calls.kept_margins()
    pair = (calls.plain(statistics[0]), calls.plain(statistics[1]))
    calls.held(gpu.apply(calls.engine, given, pair, vectors[0], vectors[1]), wanted)


@DTYPES
@SHAPES
def test_backward(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, dy, statistics, gamma, _ = drawn(shape, dtype)
    blocks, given = (calls.block(x), calls.block(dy)), calls.plain(statistics)
    scale = calls.engine.take(gamma) if gamma.ndim else calls.plain(gamma)  # as the arena holds it
    sums = cpu.backward_sums(CPU, x, statistics, gamma, dy)
    found = gpu.backward_sums(calls.engine, blocks[0], given, scale, blocks[1])
    calls.held(found, sums, WIDE[dtype])
    for count in (0, 90):
        wanted = cpu.backward_apply(CPU, x, statistics, gamma, dy, sums, count)
        dx = gpu.backward_apply(calls.engine, blocks[0], given, scale, blocks[1], calls.plain(sums), count)
        calls.held(dx, wanted, WIDE[dtype])
    gradients = gpu.parameter_gradients(calls.engine, blocks[0], given, blocks[1])
    for mine, wanted in zip(gradients, cpu.parameter_gradients(CPU, x, statistics, dy), strict=True):
        calls.held(mine, wanted, WIDE[dtype])


def test_vectors_of_another_type_are_cast_not_misread(order: str) -> None:
    calls, (x, _, statistics, gamma, beta) = Calls(order), drawn((3, 5, 4), np.float64)
    vectors = [calls.plain(v.astype(np.float32)) for v in (statistics[0], statistics[1], gamma, beta)]
    found = gpu.apply(calls.engine, calls.block(x), (vectors[0], vectors[1]), vectors[2], vectors[3])
    calls.held(found, cpu.apply(CPU, x, statistics, gamma, beta), (1e-5, 1e-5))


@pytest.mark.parametrize("shape", [(2, 3, 40, 50), (700, 3)])
def test_the_same_sums_in_every_order(shape: tuple[int, ...]) -> None:
    """Of samples that are cut, and of more samples than one chunk holds."""
    assert gpu.elements_of_a_chunk(6000, 2) < 6000
    x, dy, statistics, gamma, _ = drawn(shape, np.float32)
    found = []
    for order in shim.ORDERS:
        calls = Calls(order)
        given, blocks = calls.plain(statistics), (calls.block(x), calls.block(dy))
        made = (
            gpu.moments(calls.engine, blocks[0]),
            gpu.backward_sums(calls.engine, blocks[0], given, calls.plain(gamma), blocks[1]),
            *gpu.parameter_gradients(calls.engine, blocks[0], given, blocks[1]),
        )
        found.append([np.ascontiguousarray(sums.view(np.ndarray)).tobytes() for sums in made])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("samples", [1, 3, 1000])
@pytest.mark.parametrize("size", [1, gpu.LEAST_ELEMENTS + 1, 10**9])
def test_chunks_are_neither_many_nor_short(size: int, samples: int) -> None:
    chunk = gpu.elements_of_a_chunk(size, samples)
    assert chunk >= gpu.LEAST_ELEMENTS
    assert samples * -(-size // chunk) <= max(samples, MOST_CHUNKS)
