"""Flat intervals of a box: the boxes tile the run, in order, and are few."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gridnn.geometry.flat import flat_boxes
from gridnn.geometry.interval import Interval, volume, whole_box

EXTENTS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(st.data(), EXTENTS)
def test_boxes_tile_the_run_in_order(data: st.DataObject, extents: list[int]) -> None:
    size = prod(extents)
    start = data.draw(st.integers(0, size))
    run = Interval(start, data.draw(st.integers(start, size)))
    numbers = np.arange(size).reshape(extents)
    boxes = flat_boxes(extents, run)
    # Each box, read in the order of memory, and all of them one after another, is the run.
    read = [numbers[tuple(slice(*i) for i in box)].ravel() for box in boxes]
    assert np.concatenate([*read, np.empty(0, int)]).tolist() == list(range(*run))
    assert len(boxes) <= 2 * len(extents) - 1
    assert all(volume(box) for box in boxes)


def test_every_run_of_a_small_array() -> None:
    extents = (3, 2, 4)
    for start, stop in product(range(25), repeat=2):
        if start <= stop:
            covered = [
                index
                for box in flat_boxes(extents, Interval(start, stop))
                for index in product(*(range(*i) for i in box))
            ]
            assert [4 * (2 * a + b) + c for a, b, c in covered] == list(range(start, stop))


def test_the_most_boxes_there_can_be() -> None:
    assert len(flat_boxes((3, 3, 3), Interval(1, 26))) == 5


def test_whole_and_nothing() -> None:
    assert flat_boxes((4, 5), Interval(0, 20)) == [whole_box((4, 5))]
    assert flat_boxes((4, 5), Interval(7, 7)) == []
    assert flat_boxes((0, 5), Interval(0, 0)) == []
    # What begins and ends with rows is one box, however many rows.
    assert flat_boxes((4, 5), Interval(5, 15)) == [(Interval(1, 3), Interval(0, 5))]
