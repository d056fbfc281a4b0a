"""Random layouts: any grid up to eight ranks, any axes on any dims, halos, grains and idle ranks."""

from __future__ import annotations

from hypothesis import strategies as st

from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.layout import Dim, Layout, cut, part, windows
from gridnn.geometry.window import Window

SIZES = [
    (1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (2, 2), (2, 3), (3, 2), (4, 2), (2, 4), (2, 2, 2),
]  # fmt: skip


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    """Draw shapes of one to four dims, with prime extents and extents smaller than the grid."""
    return st.lists(st.sampled_from((1, 2, 3, 4, 5, 7)), min_size=1, max_size=4).map(tuple)


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    """Draw a grid of up to eight ranks that starts at one of the first four."""
    sizes = draw(st.sampled_from(SIZES))
    axes = draw(st.permutations(AXES))[: len(sizes)]
    return Scheme(GridShape.of(**dict(zip(axes, sizes, strict=True))), draw(st.integers(0, 3)))


@st.composite
def layouts(draw: st.DrawFn, shape: tuple[int, ...]) -> Layout:
    """Draw a layout; every axis cuts one dim or none, and some dims have halos or gaps."""
    scheme = draw(schemes())
    where = {a: draw(st.integers(-1, len(shape) - 1)) for a in scheme.grid.used}
    dims = [draw(dim(e, scheme.grid, [a for a in where if where[a] == at])) for at, e in enumerate(shape)]
    return Layout(scheme, tuple(dims))


@st.composite
def dim(draw: st.DrawFn, extent: int, grid: GridShape, axes: list[str]) -> Dim:
    """Draw a dim cut by `axes`: in plain blocks, in grains, with a halo, or as a part of a longer dim."""
    how = draw(st.sampled_from(("cut", "cut", "grain", "halo", "wide halo", "part")))
    if how == "grain":
        return cut(extent, grid, axes, grain=next(g for g in (3, 2, 1) if extent % g == 0))
    if how == "part":
        offset = draw(st.integers(0, 3))
        return part(cut(extent + 4, grid, axes), offset, extent)
    out = cut(extent, grid, axes)
    reach = {"halo": 1, "wide halo": 2}.get(how, 0)
    return windows(out, Window(2 * reach + 1, 1, reach, reach), extent) if reach else out
