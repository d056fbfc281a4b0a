"""Layouts: boxes, owners, and who meets whom, against enumeration over all ranks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.interval import Box, Interval, overlap, volume
from gridnn.geometry.layout import Dim, Layout, _split, cut, part, whole, windows
from gridnn.geometry.window import Window
from tests.geometry.draw import layouts, shapes


def owners(layout: Layout) -> np.ndarray:
    """Count the ranks that hold each element."""
    count = np.zeros(layout.shape, int)
    for rank in layout.scheme.ranks:
        count[tuple(slice(*i) for i in layout.box(rank))] += 1
    return count


def test_the_picture_of_the_module():
    scheme = Scheme(GridShape.parse("n2 k2 c2"))
    layout = Layout(scheme, (cut(4, scheme.grid, ("n",)), cut(6, scheme.grid, ("k", "c"))))
    assert layout.dims[1].intervals == ((0, 2), (2, 3), (3, 5), (5, 6))
    assert layout.at_rest
    assert layout.box(5) == ((2, 4), (2, 3))
    assert layout.block_shape(5) == (2, 1)
    assert layout.box(8) == ((0, 0), (0, 0))


def test_cut_by_two_axes_tiles():
    for extent, a, b in product(range(12), (1, 2, 3), (1, 2, 3)):
        dim = cut(extent, GridShape.of(k=a, c=b), ("k", "c"))
        assert [i for s in dim.intervals for i in range(*s)] == list(range(extent))
        # The later axis is inside: what one k has is the block of the cut by k alone.
        outer = cut(extent, GridShape.of(k=a), ("k",)).intervals
        for i, mine in enumerate(outer):
            inner = dim.intervals[i * b : (i + 1) * b]
            assert sum(s.size for s in inner) == mine.size
            assert inner[0].start == mine.start


def test_cut_keeps_grains_together():
    dim = cut(5 * 12, GridShape.of(k=3), ("k",), grain=12)
    assert dim.intervals == ((0, 24), (24, 48), (48, 60))


def test_windows_and_part():
    out = cut(7, GridShape.of(h=3), ("h",))  # [0,3) [3,5) [5,7)
    assert windows(out, Window(3, 1, 1, 1), 7).intervals == ((0, 4), (2, 6), (4, 7))
    assert part(out, 2, 3) == Dim(3, ("h",), (Interval(0, 1), Interval(1, 3), Interval(0, 0)))
    for offset, extent in product(range(7), range(1, 7)):
        pieces = part(out, offset, min(extent, 7 - offset)).intervals
        assert [i + offset for p in pieces for i in range(*p)] == list(range(offset, min(7, offset + extent)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_meeting_is_the_loop_over_ranks(data):
    shape = data.draw(shapes())
    layout = data.draw(layouts(shape))
    box: Box = tuple(
        Interval(*sorted((data.draw(st.integers(0, e)), data.draw(st.integers(0, e))))) for e in shape
    )
    found = list(layout.meeting(box))
    loop = [(r, overlap(layout.box(r), box)) for r in layout.scheme.ranks]
    assert found == [(r, b) for r, b in loop if volume(b)]


ENDS = st.tuples(st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(intervals=st.lists(ENDS, max_size=6), ordered=st.booleans(), want=ENDS)
def test_intervals_that_are_met_are_looked_up_as_scanned(intervals, ordered, want):
    """In order or not, with empty ones between."""
    dim = Dim(10, ("k",), tuple(Interval(*i) for i in (sorted(intervals) if ordered else intervals)))
    sizes = [(i & Interval(*want)).size for i in dim.intervals]
    assert list(dim.meeting(Interval(*want))) == [at for at, size in enumerate(sizes) if size]
    assert dim.shared(Interval(*want)) == (sum(map(bool, sizes)), sum(sizes))


def test_many_blocks_are_cut_like_few():
    grid = GridShape.of(n=3000, k=2)
    dim = cut(7001, grid, ("n", "k"))
    assert len(dim.intervals) == 6000
    for part_of in (0, 1, 2999):
        outer = Interval(0, 7001).block(3000, part_of)
        assert dim.intervals[2 * part_of : 2 * part_of + 2] == (outer.block(2, 0), outer.block(2, 1))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_at_rest_is_one_owner_for_each_element(data):
    layout = data.draw(layouts(data.draw(shapes())))
    count = owners(layout)
    if layout.at_rest:
        assert (count == 1).all()
    plain = all(d.intervals == cut(d.extent, layout.scheme.grid, d.axes).intervals for d in layout.dims)
    if plain:
        assert (count == layout.copies).all()
        assert layout.at_rest == (layout.copies == 1)
    cutting = {a for d in layout.dims for a in d.axes}
    assert set(layout.uncut) == {a for a in AXES if layout.scheme.grid[a] > 1} - cutting


def test_halo_whole_and_short_layouts_are_not_at_rest():
    scheme = Scheme(GridShape.parse("k2"))
    rest = cut(4, scheme.grid, ("k",))
    assert Layout(scheme, (rest,)).at_rest
    halo, short = windows(rest, Window(3, 1, 1, 1), 4), Dim(4, ("k",), (Interval(0, 2), Interval(2, 3)))
    for dim in (whole(4), halo, short):
        assert not Layout(scheme, (dim,)).at_rest


def test_equal_data_is_an_equal_layout():
    scheme = Scheme(GridShape.parse("n2 h3"))
    assert cut(5, scheme.grid, ("k",)) == whole(5)
    one, other = (Layout(scheme, (cut(5, scheme.grid, axes),)) for axes in (("n",), ("n", "k")))
    assert one == other
    assert hash(one) == hash(other)


def test_an_axis_cuts_one_dim_only():
    scheme = Scheme(GridShape.parse("n2"))
    with pytest.raises(AssertionError, match="cuts two dims"):
        Layout(scheme, (cut(4, scheme.grid, ("n",)),) * 2)


@pytest.mark.parametrize("extent", [0, 1, 2, 7, 12])
def test_a_dim_is_split_as_intervals_are(extent):
    own = Interval(3, 3 + extent)
    for parts in range(1, 20):
        blocks = [own.block(parts, index) for index in range(parts)]
        assert _split(own, parts) == [b if b.size else Interval(0, 0) for b in blocks]
