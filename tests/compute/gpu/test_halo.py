"""Boxes of a block to and from one buffer: what slices do, in one launch for all neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.compute.gpu.conftest import Launch

STRIDES = np.dtype([("of", np.int64, 5)])
PIECE = np.dtype([("start", np.int64), ("lo", np.int32, 5), ("extent", np.int32, 5)], align=True)
ORDER = (0, 2, 3, 4, 1)  # of a box in a buffer: N D H W C
Box = Sequence[tuple[int, int]]

# (N, C, D, H, W): strips, corners that meet in one element, an empty box, all of it.
SHAPE = (2, 3, 2, 5, 6)
BOXES: list[Box] = [
    [(0, 2), (0, 3), (0, 2), (0, 1), (0, 6)],
    [(0, 2), (0, 3), (0, 2), (0, 5), (5, 6)],
    [(0, 1), (1, 3), (0, 2), (0, 2), (4, 6)],
    [(0, 2), (0, 3), (1, 1), (0, 5), (0, 6)],
    [(0, 2), (0, 3), (0, 2), (0, 5), (0, 6)],
]


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(*ends) for ends in box)


def described(array: np.ndarray[Any, Any], boxes: Sequence[Box]) -> tuple[Any, Any, int]:
    """Return the strides, the pieces, and the elements of a buffer of some boxes, one after the other, with gaps."""
    pieces, start = np.zeros(len(boxes), PIECE), 3
    for piece, box in zip(pieces, boxes, strict=True):
        piece["start"], piece["lo"] = start, [lo for lo, _ in box]
        piece["extent"] = [hi - lo for lo, hi in box]
        start += int(piece["extent"].prod()) + 1
    strides = np.array([(tuple(s // array.itemsize for s in array.strides),)], STRIDES)
    return strides, pieces.view(np.uint8), start


@pytest.fixture(params=["channels innermost", "planes", "a margin around"])
def array(request: pytest.FixtureRequest) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(5).standard_normal(SHAPE)
    if request.param == "planes":
        return values
    margin = (0, 0, 1, 2, 1) if request.param == "a margin around" else (0,) * 5
    n, c, *space = (extent + 2 * m for extent, m in zip(SHAPE, margin, strict=True))
    frame = np.full((n, *space, c), np.nan).transpose(0, 4, 1, 2, 3)
    inner = frame[tuple(slice(m, m + extent) for m, extent in zip(margin, SHAPE, strict=True))]
    inner[...] = values
    return inner


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pack_and_unpack(module: Launch, array: np.ndarray[Any, Any], dtype: Any) -> None:
    array = array.astype(dtype)
    strides, pieces, size = described(array, BOXES)
    buffer = np.full(size, -1, dtype)
    kernels = module("halo", dtype)
    kernels.launch("pack", (2, len(BOXES)), (32,), [array, strides, pieces, buffer])
    wanted, table = np.full(size, -1, dtype), pieces.view(PIECE)
    for box, piece in zip(BOXES, table, strict=True):
        there = array[slices(box)].transpose(ORDER).reshape(-1)
        wanted[piece["start"] : piece["start"] + there.size] = there
    np.testing.assert_array_equal(buffer, wanted)
    back = np.zeros(SHAPE, dtype)
    strides = described(back, BOXES)[0]
    kernels.launch("unpack", (2, len(BOXES)), (32,), [back, strides, pieces, buffer])
    np.testing.assert_array_equal(back, array)


def test_what_is_given_back_adds_up(module: Launch, array: np.ndarray[Any, Any]) -> None:
    """In one order, so bit for bit, where five pieces meet in one element."""
    strides, pieces, size = described(array, BOXES)
    buffer = np.random.default_rng(6).standard_normal(size)
    wanted = array.copy()
    for box, piece in zip(BOXES, pieces.view(PIECE), strict=True):
        extent = piece["extent"][list(ORDER)]
        part = buffer[piece["start"] : piece["start"] + extent.prod()].reshape(extent)
        wanted[slices(box)] += part.transpose(0, 4, 1, 2, 3)
    module("halo").launch("accumulate", (3, len(BOXES)), (64,), [array, strides, pieces, len(BOXES), buffer])
    np.testing.assert_array_equal(array, wanted)


def test_what_is_lent_and_given_back_are_adjoint(module: Launch) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal(SHAPE), np.zeros(SHAPE)
    strides, pieces, size = described(x, BOXES)
    lent, given = np.zeros(size), rng.standard_normal(size)
    kernels = module("halo")
    kernels.launch("pack", (1, len(BOXES)), (64,), [x, strides, pieces, lent])
    kernels.launch("accumulate", (1, len(BOXES)), (64,), [y, strides, pieces, len(BOXES), given])
    assert lent @ given == pytest.approx(float((x * y).sum()), rel=1e-12)
