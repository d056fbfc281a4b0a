"""Patterns: which axes cut which dims of a layer's arrays and how, whatever grid the layer has.

Which axes cut a dim, and into which intervals, is asked of `place`, the one table of gridnn: with one axis in use
after the other, for the dims are independent of each other.  Two probes, a grid of twos and one of threes, say how:

    conv 3 x 3, dim H        probe h2: [0, 9) [7, 16)       -> "window", axes (h); other sizes are asked when wanted
    its output, dim K        probe k2 c2: [0, 4) [4, 8) ..  -> "plain", axes (k, c); all sizes are known

A *sketch* is a layer's patterns: of what it reads, computes and keeps.  It depends on shapes alone, so machines and
numbers of processes share it, and layers share the patterns of dims that are cut alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import prod

import numpy as np
from numpy.typing import NDArray

from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.interval import Interval
from gridnn.geometry.layout import Dim, Layout, cut
from gridnn.network import spec as s
from gridnn.network.placement import Placement, place

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Sizes = tuple[int, ...]
Shape = tuple[int, ...]
Blocks = tuple[Ints, Ints]
"""Starts and stops of the blocks of a dim."""
PROBE = Scheme(GridShape((2, 2, 2, 2, 2, 2)))
"""A grid that uses every axis: its layouts say which axes cut which dim."""
ODD = Scheme(GridShape((3, 3, 3, 3, 3, 3)))
"""Another: windows may cut like plain blocks where there are two, but then not where there are three."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """How one dim is cut.

    Attributes
    ----------
    probe
        The dim with all axes in use.
    kind
        "plain" (balanced blocks that tile the dim), "window" (blocks that may overlap) or "part" (pieces of the
        blocks of a longer dim, for a concatenation).
    """

    probe: Dim
    kind: str
    _placed: Callable[[Scheme], Dim]
    _blocks: dict[Sizes, Blocks] = field(default_factory=dict)
    _largest: dict[tuple[Sizes, bool], int] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that cut the dim, the later inside the earlier."""
        return self.probe.axes

    @property
    def extent(self) -> int:
        """Elements of the dim."""
        return self.probe.extent

    def blocks(self, sizes: Sizes, aligned: bool) -> Blocks:
        """Return starts and stops of the blocks.

        Parameters
        ----------
        sizes
            Of the axes.
        aligned
            All sizes are powers of two.
        """
        if self.kind == "part" and aligned:  # an axis inside another cuts as one of their product does
            sizes = (prod(sizes), *(1 for _ in sizes[1:]))
        if sizes not in self._blocks:
            scheme = Scheme(GridShape.of(**dict(zip(self.axes, sizes, strict=True))))
            # What no axis cuts is the same on any grid; on some a movement inside a layer is not made at all.
            found = (self._placed(scheme) if self.axes else self.probe).intervals
            self._blocks[sizes] = np.array([i.start for i in found]), np.array([i.stop for i in found])
        return self._blocks[sizes]

    def largest(self, degrees: Ints, aligned: bool) -> Ints:
        """Return the elements of the largest block for sizes of the axes (U, axes), (U,)."""
        if self.kind == "plain":
            size = np.full(len(degrees), self.extent)
            for column in degrees.T:
                size = -(-size // column)
            return size
        return np.array([self._most(tuple(row), aligned) for row in degrees.tolist()], dtype=np.int64)

    def _most(self, sizes: Sizes, aligned: bool) -> int:
        """Return the elements of the largest block."""
        if (sizes, aligned) not in self._largest:
            start, stop = self.blocks(sizes, aligned)
            self._largest[sizes, aligned] = int((stop - start).max())
        return self._largest[sizes, aligned]


Patterns = tuple[Pattern, ...]
"""Those of an array, dim by dim."""


@dataclass(frozen=True)
class Array:
    """An array of a layer: its patterns, and the axes that cut none of its dims."""

    dims: Patterns
    whole: tuple[str, ...]


@dataclass(frozen=True)
class Sketch:
    """A layer of certain shapes on any grid; see `network.placement.Placement` for what the arrays are.

    Attributes
    ----------
    owed
        For each of `weights`, whether its gradient is a sum over ranks.
    inner
        For each movement inside the layer how often it is made, the longer of its two ends, and the axes that move.
    """

    needs: tuple[Array, ...]
    raw: Array
    out: Array
    weights: tuple[Array, ...]
    owed: tuple[bool, ...]
    kept: tuple[Array, ...]
    inner: tuple[tuple[int, Patterns, tuple[str, ...]], ...]
    statistics: tuple[str, ...]


class Sketches:
    """The sketches of layers that were asked for so far, and what their dims have in common.

    Attributes
    ----------
    met
        What `meeting` finds for two ways to cut a dim.
    overlaps
        What `overlaps` finds for all ways to cut two dims.
    """

    def __init__(self) -> None:
        self._sketches: dict[object, Sketch] = {}
        self._patterns: dict[tuple[Dim, Dim], Pattern] = {}
        self.met: dict[object, tuple[int, int, Ints]] = {}
        self.overlaps: dict[object, Floats] = {}

    def of(self, spec: s.LayerSpec, inputs: Sequence[Shape], out: Shape) -> Sketch:
        """Return the sketch of a layer; shapes are those of the batch."""
        key = spec, tuple(inputs), out
        if key not in self._sketches:
            self._sketches[key] = self._sketch(*key)
        return self._sketches[key]

    def _sketch(self, spec: s.LayerSpec, inputs: tuple[Shape, ...], out: Shape) -> Sketch:
        known: dict[GridShape, Placement] = {}

        def placed(scheme: Scheme) -> Placement:
            if scheme.grid not in known:
                known[scheme.grid] = place(spec, inputs, out, scheme)
            return known[scheme.grid]

        def array(layout: Callable[[Placement], Layout]) -> Array:
            even, odd = layout(placed(PROBE)), layout(placed(ODD)).dims
            pairs = enumerate(zip(even.dims, odd, strict=True))
            dims = tuple(self._pattern(pair, partial(dim, layout, at)) for at, pair in pairs)
            return Array(dims, whole_axes(even))

        def dim(layout: Callable[[Placement], Layout], at: int, scheme: Scheme) -> Dim:
            return layout(placed(scheme)).dims[at]

        def arrays(layouts: Callable[[Placement], Sequence[Layout]]) -> tuple[Array, ...]:
            return tuple(array(partial(_one, layouts, at)) for at in range(len(layouts(placed(PROBE)))))

        probe, inner = placed(PROBE), []
        needs, raw, at_rest = arrays(lambda p: p.needs), array(lambda p: p.raw), array(lambda p: p.out)
        weights = arrays(lambda p: [w.layout for w in p.parameters])
        kept = arrays(lambda p: p.kept)
        # Last: on some grids a movement is not made, but what it moves is cut like what stands above.
        ends = zip(
            arrays(lambda p: [i.exchange.source for i in p.inner]),
            arrays(lambda p: [i.exchange.target for i in p.inner]),
            strict=True,
        )
        for each, (source, target) in zip(probe.inner, ends, strict=True):
            full = source if len(source.whole) > len(target.whole) else target
            moving = tuple(a for a in AXES if (a in source.whole) != (a in target.whole))
            inner.append((each.times, full.dims, moving))
        statistics = tuple(a for a in AXES if a in probe.statistics)
        owed = tuple(w.owed for w in probe.parameters)
        return Sketch(needs, raw, at_rest, weights, owed, kept, tuple(inner), statistics)

    def _pattern(self, pair: tuple[Dim, Dim], placed: Callable[[Scheme], Dim]) -> Pattern:
        # Blocks are linear in their number: who cuts alike in two ways does so in all.
        if pair not in self._patterns:
            self._patterns[pair] = Pattern(pair[0], _kind(*pair), placed)
        return self._patterns[pair]


@lru_cache(maxsize=2)
def sketches_of(network: str) -> Sketches:
    """Return the sketches of a network: what shapes decide is asked for once in a process."""
    return Sketches()


def whole_axes(layout: Layout) -> tuple[str, ...]:
    """Return the axes that cut no dim of a layout on the probe."""
    cutting = {a for d in layout.dims for a in d.axes}
    return tuple(a for a in AXES if a not in cutting)


def _one(layouts: Callable[[Placement], Sequence[Layout]], at: int, placement: Placement) -> Layout:
    return layouts(placement)[at]


def _kind(probe: Dim, odd: Dim) -> str:
    if all(d == cut(d.extent, on.grid, d.axes) for d, on in ((probe, PROBE), (odd, ODD))):
        return "plain"
    covered = Interval(min(i.start for i in probe.intervals), max(i.stop for i in probe.intervals))
    starts = [i.start for i in probe.intervals if i.size]
    tiles = sum(i.size for i in probe.intervals) >= covered.size and starts == sorted(starts)
    return "window" if tiles and prod(i.size > 0 for i in probe.intervals) else "part"
