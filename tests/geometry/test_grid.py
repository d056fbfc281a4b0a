"""Grids: text, coordinates, groups, and the errors of what cannot be read."""

from __future__ import annotations

from itertools import product

import pytest

from gridnn.errors import InputError
from gridnn.geometry.grid import AXES, GridShape, Scheme

GRIDS = [GridShape(sizes) for sizes in product((1, 2, 3), (1, 2), (1, 3), (1, 2), (1, 2), (1, 2))]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1", (1, 1, 1, 1, 1, 1)),
        ("n4 k2 h2", (4, 2, 1, 1, 2, 1)),
        ("h2, n4,k2", (4, 2, 1, 1, 2, 1)),
        (" w12 ", (1, 1, 1, 1, 1, 12)),
        ("n1 d3 c2", (1, 1, 2, 3, 1, 1)),
    ],
)
def test_parse(text, sizes):
    assert GridShape.parse(text).sizes == sizes


def test_text_round_trip():
    for grid in GRIDS:
        assert GridShape.parse(str(grid)) == grid
        assert GridShape.of(**{a: grid[a] for a in grid.used}) == grid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty grid", '"n2 k2"')),
        ("n2 x3", ('cannot read "x3"', "n k c d h w")),
        ("n0", ('cannot read "n0"', "size")),
        ("2n", ('cannot read "2n"',)),
        ("n-2", ('cannot read "n-2"',)),
        ("n2 n4", ("axis n is given twice",)),
        ("4", ('cannot read "4"',)),
    ],
)
def test_parse_refuses(text, words):
    with pytest.raises(InputError) as error:
        GridShape.parse(text)
    assert all(w in str(error.value) for w in words)


def test_of_refuses():
    with pytest.raises(InputError, match="axis q2"):
        GridShape.of(q=2)
    with pytest.raises(InputError, match="axis n0"):
        GridShape.of(n=0)


def test_ranks_and_coordinates_are_a_bijection():
    for grid in GRIDS:
        coords = [grid.coords(r) for r in range(grid.size)]
        assert [grid.rank(c) for c in coords] == list(range(grid.size))
        assert coords == list(product(*map(range, grid.sizes)))  # n slowest


def test_two_axis_view():
    grid = GridShape.parse("n3 k2 c2 h5")
    assert (grid.rows, grid.columns, grid.size) == (20, 3, 60)
    assert grid.used == ("n", "k", "c", "h")


@pytest.mark.parametrize("first", [0, 3])
def test_groups_partition_the_ranks(first):
    for grid in GRIDS[::11]:
        scheme = Scheme(grid, first)
        assert scheme.ranks == range(first, first + grid.size)
        for axes in ((), ("n",), ("k", "c"), ("n", "d", "h", "w"), AXES):
            moving = [AXES.index(a) for a in axes]
            groups = {scheme.group(r, axes) for r in scheme.ranks}
            assert sorted(r for g in groups for r in g) == list(scheme.ranks)
            for r in scheme.ranks:
                mine = scheme.group(r, axes)
                assert r in mine
                assert list(mine) == sorted(mine)
                still = {tuple(c for i, c in enumerate(scheme.coords(q)) if i not in moving) for q in mine}
                assert len(still) == 1


def test_scheme_text():
    assert str(Scheme(GridShape.parse("n2 k2"))) == "n2 k2"
    assert str(Scheme(GridShape.parse("n2"), 4)) == "n2 @4"
