"""Upsampling against definitions a row at a time, in blocks, and its adjoints."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from gridnn.compute.cpu.reference import upsample

from .loops import Array


def linear_matrix(size: int, out: int) -> Array:
    """Half-pixel linear interpolation of one dim, an exact row of weights for each output."""
    matrix = np.zeros((out, size))
    for o in range(out):
        centre = max(Fraction(2 * o + 1, 2) * Fraction(size, out) - Fraction(1, 2), Fraction(0))
        low = int(centre)
        matrix[o, low] += float(1 - (centre - low))
        matrix[o, min(low + 1, size - 1)] += float(centre - low)
    return matrix


def apply(x: Array, matrices: list[Array]) -> Array:
    for dim, m in enumerate(matrices, 2):
        x = np.moveaxis(np.tensordot(x, m, (dim, 1)), -1, dim)
    return x


def spans(extent: int, parts: int) -> list[tuple[int, int]]:
    """Uneven blocks of an extent, some of them empty."""
    edges = sorted({0, extent, *[extent * i * i // parts**2 for i in range(parts)]})
    return [*pairwise(edges), (extent, extent)]


@pytest.mark.parametrize(
    ("extents", "factor"), [((5,), (3,)), ((4, 3), (2, 1)), ((2, 3, 2), (1, 2, 3)), ((0, 3), (2, 2))]
)
def test_nearest_of_the_whole(extents: tuple[int, ...], factor: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, *extents))
    outs, zeros = tuple(n * f for n, f in zip(extents, factor, strict=True)), (0,) * len(extents)
    y = upsample.nearest_forward(x, factor=factor, out_start=zeros, in_start=zeros, out_extent=outs)
    assert y.shape == (2, 3, *outs)
    assert y.flags.c_contiguous
    for o in np.ndindex(*outs):
        i = tuple(a // f for a, f in zip(o, factor, strict=True))
        np.testing.assert_array_equal(y[(..., *o)], x[(..., *i)])
    dy = rng.standard_normal(y.shape)
    dx = upsample.nearest_backward(dy, factor=factor, out_start=zeros, in_start=zeros, in_extent=extents)
    assert dx.shape == x.shape
    assert dx.flags.c_contiguous
    np.testing.assert_allclose(np.vdot(dx, x), np.vdot(dy, y), rtol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_nearest_in_blocks(factor: int) -> None:
    """Blocks of the output that start inside a repeated row, from an input window with a spare row."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 2, 5))
    whole = np.repeat(x, factor, axis=2)
    dy, given_back = rng.standard_normal(whole.shape), np.zeros_like(x)
    for a, b in spans(5 * factor, 4):
        first = max(a // factor - 1, 0)
        block = x[:, :, first:]
        kw = {"factor": (factor,), "out_start": (a,), "in_start": (first,)}
        np.testing.assert_array_equal(
            upsample.nearest_forward(block, **kw, out_extent=(b - a,)), whole[:, :, a:b]
        )
        given_back[:, :, first:] += upsample.nearest_backward(dy[:, :, a:b], **kw, in_extent=block.shape[2:])
    np.testing.assert_allclose(given_back, dy.reshape(1, 2, 5, factor).sum(axis=3))


SIZES = [((5,), (10,)), ((7,), (5,)), ((1,), (4,)), ((3, 4), (6, 12)), ((2, 3, 2), (4, 3, 5))]


@pytest.mark.parametrize(("in_size", "out_size"), SIZES)
def test_linear_of_the_whole(in_size: tuple[int, ...], out_size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    x, zeros = rng.standard_normal((2, 3, *in_size)), (0,) * len(in_size)
    kw = {"in_size": in_size, "out_size": out_size, "out_start": zeros, "in_start": zeros}
    y = upsample.linear_forward(x, **kw, out_extent=out_size)
    matrices = [linear_matrix(a, b) for a, b in zip(in_size, out_size, strict=True)]
    np.testing.assert_allclose(y, apply(x, matrices), atol=1e-13)
    dy = rng.standard_normal(y.shape)
    dx = upsample.linear_backward(dy, **kw, in_extent=in_size)
    np.testing.assert_allclose(dx, apply(dy, [m.T for m in matrices]), atol=1e-13)
    assert y.flags.c_contiguous
    assert dx.flags.c_contiguous


@pytest.mark.parametrize(("size", "out"), [(5, 10), (7, 5), (4, 12), (1, 3)])
def test_linear_in_blocks(size: int, out: int) -> None:
    """Each block holds exactly the rows it needs; only the global borders clamp."""
    rng = np.random.default_rng(4)
    x, matrix = rng.standard_normal((2, 1, size)), linear_matrix(size, out)
    dy, given_back = rng.standard_normal((2, 1, out)), np.zeros_like(x)
    for a, b in spans(out, 4):
        row, following, _ = upsample.linear_rows(size, out, a, b - a)
        first, last = (int(row[0]), int(following[-1]) + 1) if b > a else (0, 0)
        kw = {"in_size": (size,), "out_size": (out,), "out_start": (a,), "in_start": (first,)}
        y = upsample.linear_forward(x[:, :, first:last], **kw, out_extent=(b - a,))
        np.testing.assert_allclose(y, x @ matrix[a:b].T, atol=1e-14)
        given_back[:, :, first:last] += upsample.linear_backward(
            dy[:, :, a:b], **kw, in_extent=(last - first,)
        )
    np.testing.assert_allclose(given_back, dy @ matrix, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 3, 3)])
def test_dtype_and_empty_blocks(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    kw = {"out_start": (0, 0), "in_start": (0, 0)}
    wide = (*shape[:2], 6, 6)
    for y in (
        upsample.nearest_forward(x, factor=(2, 2), **kw, out_extent=(6, 6)),
        upsample.linear_forward(x, in_size=(3, 3), out_size=(6, 6), **kw, out_extent=(6, 6)),
    ):
        assert y.shape == wide
        assert y.dtype == np.float32
    dy = np.ones(wide, np.float32)
    for dx in (
        upsample.nearest_backward(dy, factor=(2, 2), **kw, in_extent=(3, 3)),
        upsample.linear_backward(dy, in_size=(3, 3), out_size=(6, 6), **kw, in_extent=(3, 3)),
    ):
        assert dx.shape == shape
        assert dx.dtype == np.float32
