"""Intervals and the block distribution: blocks tile, in order, balanced."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gridnn.geometry.interval import (
    Interval,
    extents_of,
    local_slices,
    overlap,
    volume,
    whole_box,
)


@pytest.mark.parametrize("start", [0, 5])
def test_blocks_tile_and_are_balanced(start):
    for extent, parts in product(range(14), range(1, 9)):
        blocks = [Interval(start, start + extent).block(parts, i) for i in range(parts)]
        assert [i for b in blocks for i in range(*b)] == list(range(start, start + extent))
        sizes = [b.size for b in blocks]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1


def test_the_picture_of_the_module():
    assert [Interval(0, 10).block(4, i) for i in range(4)] == [(0, 3), (3, 6), (6, 8), (8, 10)]
    assert [Interval(0, 2).block(3, i) for i in range(3)] == [(0, 1), (1, 2), (2, 2)]


def test_intersection_is_that_of_sets():
    all_of = [Interval(a, b) for a, b in product(range(5), repeat=2)]
    for a, b in product(all_of, repeat=2):
        meet = a & b
        assert set(range(*meet)) == set(range(*a)) & set(range(*b))
        assert meet.size == len(range(*meet))
        assert meet.stop >= meet.start


def test_shift_and_scale():
    assert Interval(2, 5).shift(-3) == (-1, 2)
    assert Interval(2, 5).scale(4) == (8, 20)
    assert Interval(4, 2).size == 0


def test_boxes_select_elements():
    array = np.arange(60).reshape(3, 4, 5)
    origin = (Interval(1, 3), Interval(0, 4), Interval(2, 5))
    held = array[1:3, :, 2:5]
    box = overlap(origin, (Interval(0, 2), Interval(3, 9), Interval(3, 4)))
    assert extents_of(box) == (1, 1, 1)
    assert volume(box) == 1
    assert held[local_slices(box, origin)].item() == array[1, 3, 3]
    assert extents_of(whole_box((3, 4, 5))) == (3, 4, 5)
    assert volume(overlap(origin, (Interval(0, 1), Interval(0, 4), Interval(0, 5)))) == 0
