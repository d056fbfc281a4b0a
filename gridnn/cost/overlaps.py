"""What the blocks of two layers' grids have in common, for pairs of grids: the integers that `moves` prices.

Boxes are products, so |S & T| is a product over dims, and a dim has few ways to be cut (`grids`).  With sizes that
are powers of two, a rank's coordinate along an axis is a field of bits of its number, and two ways of cutting a dim

    n4 of "n4 h2"    bits 2 1 .          same leading bits: blocks nest on every rank, |S & T| is the smaller
    n2 of "n2 k4"    bits 2 . .
    n4 of "k2 n4"    bits 1 0 .          other bits: some rank holds nothing of what it wants

either nest or leave some rank with nothing: one number stands for all ranks.  Other sizes are looked at rank by rank.
What neighbours on the same node hold is |S' & T| with the bits inside a node struck off, so bytes split by level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.grids import Cut, Grids, Ints
from gridnn.cost.meeting import boxes, counted, lengths
from gridnn.cost.patterns import Sketches

Floats = NDArray[np.float64]
Pairs = tuple[Ints, Ints]
SMALL_TABLE = 1 << 12
"""Pairs of ways up to which all are looked at, whichever are wanted: other edges want the others."""


@dataclass(frozen=True, eq=False)
class Edge:
    """Pairs of grids of two layers.

    Attributes
    ----------
    source, target
        How the producer's output at rest and the consumer's need are cut under their grids.
    copies
        Ranks that want the same box, for each grid of the consumer.
    rows, columns
        Which grids of the producer and of the consumer: arrays that broadcast.
    """

    source: Sequence[Cut]
    source_grids: Grids
    target: Sequence[Cut]
    target_grids: Grids
    copies: Ints
    rows: Ints
    columns: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array with an entry a pair."""
        return np.broadcast_shapes(self.rows.shape, self.columns.shape)

    @property
    def aligned(self) -> bool:
        """True when all sizes are powers of two."""
        return self.source_grids.aligned and self.target_grids.aligned

    def tiles(self, most: int) -> Sequence[Edge]:
        """Return the edge in parts of some rows, each of about so many pairs."""
        pairs = prod(self.shape)
        if pairs <= most or len(self.rows) < 2 or self.rows.ndim != 2:
            return [self]
        ends = self.source, self.source_grids, self.target, self.target_grids, self.copies
        parts = np.array_split(self.rows, min(len(self.rows), -(-pairs // most)))
        return [Edge(*ends, part, self.columns) for part in parts]


class Overlap(NamedTuple):
    """What pairs of grids have in common; R is 1 where one number stands for all ranks.

    Attributes
    ----------
    held : each (N, R)
        |S & T|, and |S' & T| for every unit S' of ranks.
    total, cover : (N, R)
        |T|; elements wanted of a rank's block, by one rank each.
    met, meeting, blocks : (N,)
        Blocks a want meets, wants a block meets, elements of the largest block.
    copies, sources, targets : (N,)
        Ranks that want the same; ranks of both grids.
    """

    held: tuple[Floats, ...]
    total: Floats
    cover: Floats
    met: Floats
    meeting: Floats
    blocks: Floats
    copies: Floats
    sources: Ints
    targets: Ints


class Asked(NamedTuple):
    """Pairs of ways of one dim: the way of the source and of the target, (N,) each."""

    s: Cut
    t: Cut
    i: Ints
    j: Ints


class Overlaps:
    """Finds overlaps; what dims of equal cuts have in common is kept.

    Parameters
    ----------
    units
        Ranks of the units of all levels but the last.
    procs
        Ranks of the job.
    ranks
        Those that are looked at where sizes are not powers of two.
    known
        What dims have in common, as far as it is known.
    """

    def __init__(self, units: Sequence[int], procs: int, ranks: Ints, known: Sketches) -> None:
        self.units, self.procs, self.ranks, self._known = [1, *units], procs, ranks, known
        self._here = tuple(units), procs

    def of(self, edges: Sequence[Edge], aligned: bool) -> Overlap:
        """Return the overlaps of the pairs of some edges, one edge behind the other.

        Parameters
        ----------
        aligned
            All sizes are powers of two, of units too: one number stands for all ranks.
        """
        pairs = _pairs(edges)
        dims = max(len(edge.source) for edge in edges)
        found = reduce(mul, (self._of_dim(edges, pairs, number, aligned) for number in range(dims)))
        *held, total, cover, met, meeting = found
        ends: list[list[NDArray[Any]]] = [[], [], [], []]
        for edge, (rows, columns) in zip(edges, pairs, strict=True):
            ends[0].append(edge.source_grids.volume(tuple(c.pattern for c in edge.source))[rows])
            ends[1].append(edge.copies[columns])
            ends[2].append(edge.source_grids.sizes[rows])
            ends[3].append(edge.target_grids.sizes[columns])
        at_ends = map(np.concatenate, ends)
        return Overlap(tuple(held), total, cover, met[:, 0], meeting[:, 0], *at_ends)

    def _of_dim(self, edges: Sequence[Edge], pairs: Sequence[Pairs], number: int, aligned: bool) -> Floats:
        """Return, for all pairs of grids, what depends on one dim of their arrays: (numbers, N, R)."""
        small = SMALL_TABLE if aligned else SMALL_TABLE // len(self.ranks)
        asked: dict[object, Asked] = {}
        kept: dict[object, Asked] = {}
        which: list[tuple[object, Ints]] = []  # the table of each edge, and where in it its pairs are
        for edge, (rows, columns) in zip(edges, pairs, strict=True):
            if number >= len(edge.source):  # arrays of others have more dims
                which.append((None, np.zeros(len(rows), np.int64)))
                continue
            s, t = edge.source[number], edge.target[number]
            every = len(s.size) * len(t.size)
            if every <= max(small, len(rows)):
                key: object = s.key, t.key, self._here
                which.append((key, s.way[rows] * len(t.size) + t.way[columns]))
                if key not in self._known.overlaps and key not in kept:
                    i, j = np.divmod(np.arange(every), len(t.size))
                    kept[key] = Asked(s, t, i, j)
            else:  # more pairs of ways than are wanted
                key = s, t, id(rows), id(columns)
                which.append((key, np.arange(len(rows))))
                asked[key] = Asked(s, t, s.way[rows], t.way[columns])
        found = self._of_ways([*kept.values(), *asked.values()], aligned)
        self._known.overlaps.update(zip(kept, found, strict=False))
        here = dict(zip(asked, found[len(kept) :], strict=True))
        here[None] = np.ones((len(self.units) + 4, 1, 1 if aligned else len(self.ranks)))
        start, tables, end = dict[object, int](), list[Floats](), 0
        for key in dict.fromkeys(key for key, _ in which):
            tables.append(here[key] if key in here else self._known.overlaps[key])
            start[key], end = end, end + tables[-1].shape[1]
        at = np.concatenate([start[key] + place for key, place in which])
        return (tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)).take(at, axis=1)

    def _of_ways(self, asked: Sequence[Asked], aligned: bool) -> list[Floats]:
        """Return what depends on a dim for pairs (i, j) of ways, for each dim asked for: (numbers, N, R).

        The numbers are |S & T|, |S' & T| of every unit, |T|, what is wanted of a block, what is met and what meets.
        """
        if not aligned:
            return [self._of_ranks(each) for each in asked]
        if not asked:
            return []
        every = self._nested(asked)
        tables = np.split(every, np.cumsum([len(each.i) for each in asked])[:-1], axis=1)
        for table, (s, t, i, j) in zip(tables, asked, strict=True):
            if not s.kind == t.kind == "plain":
                table[-3:] = counted(s, t, i, j, None, self._known.met)
        return [table[..., None] for table in tables]

    def _nested(self, asked: Sequence[Asked]) -> Floats:
        """Return the numbers of all dims that are asked for, one behind the other, where blocks are plain."""
        sources, targets = [each.s for each in asked], [each.t for each in asked]
        ways, others = [len(c.size) for c in sources], [len(c.size) for c in targets]
        i, j = _behind([each.i for each in asked], ways), _behind([each.j for each in asked], others)
        width = max(c.ways.bits.shape[1] for c in (*sources, *targets))
        mine, theirs = _bits(sources, width), _bits(targets, width)
        s_size, t_size = (np.concatenate([c.size for c in cuts]) for cuts in (sources, targets))
        extent = np.repeat([c.extent for c in sources], ways)
        part = np.repeat([c.kind == "part" for c in targets], others)
        split = part & (np.concatenate([c.ways.parts for c in targets]) > 1)
        numbers, wanted, block, total = [], theirs[j], s_size[i] + 0.0, t_size[j] + 0.0
        for unit in self.units:
            outside = np.where(mine >= unit.bit_length() - 1, mine, -1)
            size = -(-extent // 2 ** (outside >= 0).sum(axis=1)) if unit > 1 else s_size
            held = outside[i]
            nest = ((held == wanted) | (held < 0) | (wanted < 0)).all(axis=1)
            whole = np.asarray((outside < 0).all(axis=1))
            nest &= ~split[j] | whole[i]
            numbers.append(nest * np.minimum(size[i], total))
        plain = np.maximum(block, 1), np.maximum(total, 1)
        return np.stack([*numbers, total, block, np.ceil(plain[1] / plain[0]), np.ceil(plain[0] / plain[1])])

    def _of_ranks(self, asked: Asked) -> Floats:
        """Return the numbers of one dim, rank by rank."""
        s, t, i, j = asked
        wanted, met, meeting = counted(s, t, i, j, self.ranks, self._known.met)
        total = lengths(t, self.ranks)[j]
        numbers = *self._by_rank(s, t, i, j, self.ranks), total, wanted, met[:, None], meeting[:, None]
        return np.stack(np.broadcast_arrays(*numbers)).astype(float)

    def _by_rank(self, s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints) -> list[Floats]:
        """Return |S & T| and |S' & T| of one dim, (*pairs, R)."""
        (t_start, t_stop), tables = boxes(t, ranks), list[Floats]()
        for unit in self.units:
            first = ranks // unit * unit
            starts, stops = zip(
                *(boxes(s, np.minimum(first + r, self.procs - 1)) for r in range(unit)), strict=True
            )
            start, stop = (
                np.min(starts, axis=0),
                np.max(stops, axis=0),
            )  # one interval that holds all of a unit
            shared = np.minimum(stop[i], t_stop[j]) - np.maximum(start[i], t_start[j])
            tables.append(np.maximum(shared, 0).astype(float))
        return tables


def _pairs(edges: Sequence[Edge]) -> list[Pairs]:
    """Return the grids of both layers, pair by pair; the same objects for the same rows and columns."""
    known: dict[tuple[int, int], Pairs] = {}
    for edge in edges:
        key = id(edge.rows), id(edge.columns)
        if key not in known:
            rows, columns = np.broadcast_arrays(edge.rows, edge.columns)
            known[key] = rows.reshape(-1), columns.reshape(-1)
    return [known[id(edge.rows), id(edge.columns)] for edge in edges]


def _behind(indices: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    """Return indices into arrays of such sizes as indices into all of them, one behind the other."""
    starts = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([start + at for start, at in zip(starts, indices, strict=True)])


def _bits(cuts: Sequence[Cut], width: int) -> Ints:
    """Return the bits of all ways of some cuts, one behind the other."""
    found = np.full((sum(len(c.size) for c in cuts), width), -1)
    at = 0
    for c in cuts:
        bits = c.ways.bits
        found[at : at + len(bits), : bits.shape[1]] = bits
        at += len(bits)
    return found
