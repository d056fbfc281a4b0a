"""Boxes of an array on a device to and from one buffer: the calls of `gridnn.compute.gpu.pieces`, against slices."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.memory import innermost
from gridnn.compute.gpu import pieces as gpu
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices
from tests.compute.gpu.calls import SETTINGS, Arrays, Calls, opened

SHAPES = pytest.mark.parametrize("shape", [(5, 6), (3, 4, 7), (2, 3, 5, 6), (2, 3, 4, 5, 6)])
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
OFFSET = 11
"""Of the origin in every dim: boxes are in global indices."""


@pytest.fixture(params=SETTINGS, ids=str)
def calls(request: pytest.FixtureRequest) -> Iterator[Calls]:
    yield from opened(request.param)


def origin_of(shape: tuple[int, ...]) -> Box:
    return tuple(Interval(OFFSET, OFFSET + n) for n in shape)


def drawn_boxes(shape: tuple[int, ...], count: int = 5) -> list[Box]:
    """Return boxes of which some meet, one is empty and one is all of the array."""
    rng, boxes = np.random.default_rng(len(shape)), list[Box]()
    for _ in range(count):
        starts = [int(rng.integers(0, n)) for n in shape]
        boxes.append(tuple(
            Interval(OFFSET + s, OFFSET + int(rng.integers(s + 1, n + 1))) for s, n in zip(starts, shape, strict=True)
        ))  # fmt: skip
    empty = tuple(Interval(i.start, i.start) if d == 1 else i for d, i in enumerate(boxes[0]))
    return [*boxes[:2], empty, *boxes[2:], origin_of(shape)]


def numbers(shape: Any, dtype: Any, seed: int) -> Arrays:
    found: Arrays = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return found


@SHAPES
@DTYPES
def test_pack(calls: Calls, shape: tuple[int, ...], dtype: Any) -> None:
    x, boxes, origin = numbers(shape, dtype, 1), drawn_boxes(shape), origin_of(shape)
    pieces = gpu.pieces_of(calls.engine, boxes, origin)
    assert pieces.elements == sum(prod(extents_of(box)) for box in boxes)
    buffer = calls.device.empty(pieces.elements, dtype)
    before = len(calls.device.launches)
    gpu.pack(calls.engine, calls.block(x), pieces, buffer)
    assert calls.device.launches[before:] == [("halo", "pack")]
    found = buffer.view(np.ndarray)
    wanted = [innermost(x[local_slices(box, origin)]).reshape(-1) for box in boxes]
    np.testing.assert_array_equal(found, np.concatenate(wanted))
    for part, box in zip(pieces.within(found), boxes, strict=True):
        np.testing.assert_array_equal(part, x[local_slices(box, origin)])


@SHAPES
@DTYPES
@pytest.mark.parametrize("kernel", ["unpack", "accumulate"])
@pytest.mark.parametrize("some", [(0, 7), (2, 5), (3, 3)], ids=str)
def test_into_an_array(
    calls: Calls, shape: tuple[int, ...], dtype: Any, kernel: str, some: tuple[int, int]
) -> None:  # fmt: skip
    """The bits of a loop over slices, where boxes meet too; what is in no box stays as it is."""
    origin, boxes = origin_of(shape), drawn_boxes(shape)
    if kernel == "unpack":  # boxes that do not meet: columns of the second dim
        boxes = [(origin[0], Interval(i.start + n, i.start + n + 1), *origin[2:])
                 for i in origin[1:2] for n in range(0, i.size, 2)]  # fmt: skip
    pieces = gpu.pieces_of(calls.engine, boxes, origin)
    host, wanted = numbers(pieces.elements, dtype, 2), numbers(shape, dtype, 3)
    array, before = calls.block(wanted), len(calls.device.launches)
    used = boxes[slice(*some)]
    getattr(gpu, kernel)(calls.engine, array, pieces.some(*some), calls.device.from_host(host))
    assert calls.device.launches[before:] == [("halo", kernel)] * bool(used)
    for box, part in list(zip(boxes, pieces.within(host), strict=True))[slice(*some)]:
        where = local_slices(box, origin)
        wanted[where] = part if kernel == "unpack" else wanted[where] + part
    np.testing.assert_array_equal(array.view(np.ndarray), wanted)
    calls.kept_margins()


@pytest.mark.parametrize(
    ("box", "origin", "said"),
    [
        ([(0, 3)], [(0, 3)], "an array of 1 dims.*three of them spatial"),
        ([(0, 3)] * 6, [(0, 3)] * 6, "an array of 6 dims"),
        ([(0, 3), (1, 4)], [(0, 3), (0, 3)], "is not within"),
        ([(1, 2), (1, 2)], [(1, 3), (2, 3)], "is not within.*give the overlap"),
    ],
)
def test_what_is_refused(calls: Calls, box: Any, origin: Any, said: str) -> None:
    place = tuple(Interval(*ends) for ends in origin)
    with pytest.raises(ValueError, match=said):
        gpu.pieces_of(calls.engine, [tuple(Interval(*ends) for ends in box)], place)
