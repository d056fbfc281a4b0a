"""Upsampling on a device: the calls of `gridnn.compute.gpu.upsample`, against the reference, whole and in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import upsample as cpu
from gridnn.compute.cpu.reference.upsample import linear_rows, nearest_rows
from gridnn.compute.gpu import upsample as gpu
from tests.compute.gpu.calls import CPU, SETTINGS, Arrays, Calls, opened

Ints = tuple[int, ...]
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SIZES = pytest.mark.parametrize("sizes", [(2, 3), (1, 33), (0, 3), (2, 0)], ids=str)
NEAREST = pytest.mark.parametrize(
    ("in_size", "factor"), [((7,), (3,)), ((5, 4), (2, 1)), ((3, 2, 5), (1, 3, 2)), ((1, 1), (4, 5)), ((0, 3), (2, 2))],
    ids=str,
)  # fmt: skip
LINEAR = pytest.mark.parametrize(
    ("in_size", "out_size"),
    [
        ((7,), (21,)), ((7,), (5,)), ((11,), (2,)), ((5, 4), (10, 4)), ((3, 2, 5), (3, 6, 7)), ((1, 1), (4, 1)),
        ((0, 3), (0, 6)),
    ],
    ids=str,
)  # fmt: skip


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def drawn(shape: Ints, dtype: Any) -> Arrays:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def cuts(extents: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield first rows and extents of uneven blocks, one of them empty."""
    dims = [[*pairwise((0, extent // 3, extent // 3, extent))] for extent in extents]
    for block in product(*dims):
        yield tuple(lo for lo, _ in block), tuple(hi - lo for lo, hi in block)


def read(rows: list[Arrays], spare: int, in_size: Ints) -> tuple[Ints, Ints]:
    """Return first rows and extents of a block of the input that holds rows, and spare ones around them."""
    los = [max(int(r.min()) - spare, 0) if r.size else 0 for r in rows]
    his = [min(int(r.max()) + 1 + spare, n) if r.size else spare for r, n in zip(rows, in_size, strict=True)]
    return tuple(los), tuple(hi - lo for lo, hi in zip(los, his, strict=True))


@DTYPES
@SIZES
@NEAREST
def test_nearest(calls: Calls, in_size: Ints, factor: Ints, sizes: Ints, dtype: Any) -> None:
    words: dict[str, Any] = {
        "factor": factor,
        "out_start": (0,) * len(factor),
        "in_start": (0,) * len(factor),
    }
    out_size = tuple(n * f for n, f in zip(in_size, factor, strict=True))
    x, dy = drawn((*sizes, *in_size), dtype), drawn((*sizes, *out_size), dtype)
    wanted = cpu.nearest_forward(CPU, x, **words, out_extent=out_size)
    given, out = calls.block(x), calls.place(wanted.shape, dtype)
    assert gpu.nearest_forward(calls.engine, given, **words, out_extent=out_size, out=out) is out
    calls.same(out, wanted)
    calls.kept_margins()
    calls.same(gpu.nearest_forward(calls.engine, given, **words, out_extent=out_size), wanted)
    dx = gpu.nearest_backward(calls.engine, calls.block(dy), **words, in_extent=in_size)
    calls.held(dx, cpu.nearest_backward(CPU, dy, **words, in_extent=in_size))


@DTYPES
@SIZES
@LINEAR
def test_linear(calls: Calls, in_size: Ints, out_size: Ints, sizes: Ints, dtype: Any) -> None:
    zeros = (0,) * len(in_size)
    words: dict[str, Any] = {"in_size": in_size, "out_size": out_size, "out_start": zeros, "in_start": zeros}
    x, dy = drawn((*sizes, *in_size), dtype), drawn((*sizes, *out_size), dtype)
    wanted = cpu.linear_forward(CPU, x, **words, out_extent=out_size)
    given, out = calls.block(x), calls.place(wanted.shape, dtype)
    assert gpu.linear_forward(calls.engine, given, **words, out_extent=out_size, out=out) is out
    calls.held(out, wanted)
    calls.kept_margins()
    calls.held(gpu.linear_forward(calls.engine, given, **words, out_extent=out_size), wanted)
    dx = gpu.linear_backward(calls.engine, calls.block(dy), **words, in_extent=in_size)
    calls.held(dx, cpu.linear_backward(CPU, dy, **words, in_extent=in_size))


@pytest.mark.parametrize("spare", [0, 1], ids=["what is read", "and a row around it"])
@NEAREST
def test_nearest_in_blocks(calls: Calls, in_size: Ints, factor: Ints, spare: int) -> None:
    """Blocks of the output that start within a repeated row; the gradients they give back add up to the whole's."""
    x, total = drawn((2, 3, *in_size), np.float64), np.zeros((2, 3, *in_size))
    out_size = tuple(n * f for n, f in zip(in_size, factor, strict=True))
    dy, zeros = drawn((2, 3, *out_size), np.float64), (0,) * len(factor)
    for out_start, out_extent in cuts(out_size):
        rows = [nearest_rows(f, o, e) for f, o, e in zip(factor, out_start, out_extent, strict=True)]
        in_start, in_extent = read(rows, spare, in_size)
        words: dict[str, Any] = {"factor": factor, "out_start": out_start, "in_start": in_start}
        inner, mine = box(in_start, in_extent), np.ascontiguousarray(dy[box(out_start, out_extent)])
        if not prod(x[inner].shape):
            continue
        wanted = cpu.nearest_forward(CPU, x[inner], **words, out_extent=out_extent)
        calls.same(
            gpu.nearest_forward(calls.engine, calls.block(x[inner]), **words, out_extent=out_extent), wanted
        )
        dx = gpu.nearest_backward(calls.engine, calls.block(mine), **words, in_extent=in_extent)
        calls.held(dx, cpu.nearest_backward(CPU, mine, **words, in_extent=in_extent))
        total[inner] += dx.view(np.ndarray)
    wanted = cpu.nearest_backward(CPU, dy, factor=factor, out_start=zeros, in_start=zeros, in_extent=in_size)
    np.testing.assert_allclose(total, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("spare", [0, 1], ids=["what is read", "and a row around it"])
@LINEAR
def test_linear_in_blocks(calls: Calls, in_size: Ints, out_size: Ints, spare: int) -> None:
    """Only the global borders clamp; the gradients that blocks give back add up to the whole's."""
    x, total = drawn((2, 3, *in_size), np.float64), np.zeros((2, 3, *in_size))
    dy, zeros = drawn((2, 3, *out_size), np.float64), (0,) * len(in_size)
    for out_start, out_extent in cuts(out_size):
        parts = zip(in_size, out_size, out_start, out_extent, strict=True)
        rows = [np.concatenate(linear_rows(*each)[:2]) for each in parts]
        in_start, in_extent = read(rows, spare, in_size)
        words: dict[str, Any] = {
            "in_size": in_size,
            "out_size": out_size,
            "out_start": out_start,
            "in_start": in_start,
        }
        inner, mine = box(in_start, in_extent), np.ascontiguousarray(dy[box(out_start, out_extent)])
        if not prod(x[inner].shape):
            continue
        wanted = cpu.linear_forward(CPU, x[inner], **words, out_extent=out_extent)
        calls.held(
            gpu.linear_forward(calls.engine, calls.block(x[inner]), **words, out_extent=out_extent), wanted
        )
        dx = gpu.linear_backward(calls.engine, calls.block(mine), **words, in_extent=in_extent)
        calls.held(dx, cpu.linear_backward(CPU, mine, **words, in_extent=in_extent))
        total[inner] += dx.view(np.ndarray)
    whole = {"in_size": in_size, "out_size": out_size, "out_start": zeros, "in_start": zeros}
    np.testing.assert_allclose(
        total, cpu.linear_backward(CPU, dy, **whole, in_extent=in_size), rtol=1e-11, atol=1e-12
    )


def test_an_output_reads_nothing_that_weighs_nothing(order: str) -> None:
    """A row in front of a spare one that is no number: the kernel needs it no more than the result does."""
    calls, x = Calls(order), drawn((1, 2, 3, 4), np.float64)
    zeros, wide = (0, 0), np.concatenate([x, np.full((1, 2, 1, 4), np.nan)], axis=2)
    words: dict[str, Any] = {"in_size": (4, 4), "out_size": (4, 8), "out_start": zeros, "in_start": zeros}
    found = gpu.linear_forward(calls.engine, calls.block(wide), **words, out_extent=(3, 8))
    wanted = cpu.linear_forward(
        CPU, x, in_size=(3, 4), out_size=(3, 8), out_start=zeros, in_start=zeros, out_extent=(3, 8)
    )
    calls.held(found, wanted)


def test_an_extent_of_many_rows_is_not_cut_to_32_bits(order: str) -> None:
    """Places are products of both extents: 2 out in is 2^40 here."""
    calls, size, out, start = Calls(order), 1 << 19, 1 << 20, (1 << 20) - 6
    row, following, _ = linear_rows(size, out, start, 6)
    first, stop = int(row[0]), int(following[-1]) + 1
    x, dy = drawn((1, 2, stop - first), np.float64), drawn((1, 2, 6), np.float64)
    words: dict[str, Any] = {
        "in_size": (size,),
        "out_size": (out,),
        "out_start": (start,),
        "in_start": (first,),
    }
    found = gpu.linear_forward(calls.engine, calls.block(x), **words, out_extent=(6,))
    calls.held(found, cpu.linear_forward(CPU, x, **words, out_extent=(6,)))
    dx = gpu.linear_backward(calls.engine, calls.block(dy), **words, in_extent=(stop - first,))
    calls.held(dx, cpu.linear_backward(CPU, dy, **words, in_extent=(stop - first,)))


def box(start: Ints, extent: Ints) -> tuple[slice, ...]:
    """Return the slices of a block of (N, C, *S)."""
    return (slice(None), slice(None), *(slice(a, a + n) for a, n in zip(start, extent, strict=True)))
