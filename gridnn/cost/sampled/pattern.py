"""What an exchange is, from coordinates instead of ranks: its collective, its axes, and the group of one rank.

`Exchange` goes through all ranks, exactly and for a run; a table of 10,000 processes cannot wait for that.  But boxes
are products, so who gives to whom is a product too.  The digits of a rank's number fall into *factors*, digits that
cut a dim together standing in one:

    Y on "n4 k2" at rest, wanted whole over k        rank = (n, k)      factor n       factor k
                                                     0 .. 7             0 -> 0         0 -> 0, 1
    dim N cut by n here and there                    n: slowest         1 -> 1         1 -> 0, 1
    dim K cut by k here, whole there                                    stays          moves

A factor *stays* where every coordinate meets at most itself.  The others, taken together, show the groups: their
connected coordinates, the same again for every coordinate of the factors that stay.  Between two grids the digits
are those of both: n16 is the digits (4, 4) beside "k4 n4".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from gridnn.cost.sampled.factors import Digit, Factor, Flags, Ints, digits_of, factors_of, joined
from gridnn.geometry.grid import AXES, Scheme
from gridnn.geometry.layout import Layout

MOST_MOVING = 1 << 12
"""Coordinates of the factors that move, all pairs of which are looked at."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """An exchange: `kind` and `axes` as `Exchange` has them, and `group`.

    Attributes
    ----------
    moving
        The factors that move, as one; None where nothing does.
    labels : (moving.size,)
        The connected part each coordinate is in, -1 for those without a message.
    """

    kind: str
    axes: tuple[str, ...]
    first: int
    ranks: int
    stay: tuple[Factor, ...]
    moving: Factor | None
    labels: Ints

    def group(self, rank: int) -> tuple[int, ...]:
        """Return the ranks connected with `rank` by messages, ascending; empty when it has none."""
        local = rank - self.first
        if self.moving is None or not 0 <= local < self.ranks:
            return ()
        label = self.labels[self.moving.at(local)]
        if label < 0 or not all(f.itself[f.at(local)] for f in self.stay):
            return ()
        offsets = self.moving.offsets()
        others = offsets[self.labels == label] + (rank - int(offsets[self.moving.at(local)]))
        return tuple(np.sort(others).tolist())


def pattern(source: Layout, target: Layout) -> Pattern | None:
    """Return what the exchange between two layouts is; None where digits do not tell it, or move too many at once."""
    digits = digits_of(source.scheme, target.scheme)
    if digits is None:
        return None
    factors = factors_of(source, target, digits)
    first, ranks = source.scheme.first, prod(d.size for d in digits)
    still = tuple(f for f in factors if f.stays)
    rest = [f for f in factors if not f.stays]
    if prod(f.size for f in rest) > MOST_MOVING:
        return None
    active = [f for f in rest if (f.meets & ~np.eye(f.size, dtype=bool)).any()]
    still += tuple(f for f in rest if f not in active)
    nothing = Pattern("none", (), first, ranks, still, None, np.zeros(0, dtype=np.int64))
    if not active or not all(f.itself.any() for f in still) or not all(f.meets.any() for f in active):
        return nothing
    moving, meets = joined(active)
    labels = _connected(meets)
    same = source.scheme == target.scheme
    if _gathers(source, still, moving, labels):
        kind = "allgather"
    elif _gathers(target, tuple(f.turned() for f in still), moving.turned(), labels):
        kind = "reduce_scatter"
    else:
        kind = "halo" if same and source.dims[:2] == target.dims[:2] else "repartition"
    axes = _moved(source.scheme, active) if same else _changed(source, target)
    return Pattern(kind, axes, first, ranks, still, moving, labels)


def _connected(meets: Flags) -> Ints:
    """Return the connected part of every coordinate, -1 for one that meets no other."""
    size = len(meets)
    # Coordinates that want alike stand for each other: a gather of p is p edges and not p squared.
    first: dict[bytes, int] = {}
    alike = np.array([first.setdefault(row.tobytes(), len(first)) for row in np.packbits(meets, axis=1)])
    _, example = np.unique(alike, return_index=True)
    rows, columns = np.nonzero(meets[example])
    wants = np.flatnonzero(meets.any(axis=1))
    ends = np.concatenate([columns, wants]), np.concatenate([rows, alike[wants]]) + size
    nodes = size + len(example)
    labels = _components(nodes, *ends)[:size]
    counts = np.bincount(labels)
    return np.where(counts[labels] > 1, labels, -1)


def _components(nodes: int, one: Ints, two: Ints) -> Ints:
    """Return the least node of each node's connected part (SciPy's takes longer to import than this to run)."""
    labels = np.arange(nodes)
    while ((a := labels[one]) != (b := labels[two])).any():
        least = np.minimum(a, b)
        np.minimum.at(labels, a, least)
        np.minimum.at(labels, b, least)
        while ((higher := labels[labels]) != labels).any():  # every node asks the one it points to
            labels = higher
    return labels


def _gathers(source: Layout, stay: Sequence[Factor], moving: Factor, labels: Ints) -> bool:
    """True when in every group all want the same box and own disjoint parts (at rest) that make it up."""
    if not source.at_rest:
        return False
    for factor in stay:
        for own, want in zip(factor.own, factor.want, strict=True):
            if ((own.start != want.start) | (own.stop != want.stop))[factor.itself].any():
                return False
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    leader = np.repeat(order[first], np.diff(np.append(first, len(order))))
    volume, wanted, inside = (np.ones(len(order), dtype=t) for t in (np.int64, np.int64, bool))
    for own, want in zip(moving.own, moving.want, strict=True):
        start, stop = want.start[leader], want.stop[leader]
        if ((want.start[order] != start) | (want.stop[order] != stop)).any():
            return False
        inside &= (own.start[order] >= start) & (own.stop[order] <= stop)
        volume *= np.maximum(own.stop - own.start, 0)[order]
        wanted *= np.maximum(stop - start, 0)
    return bool((inside | (volume == 0)).all() and (np.add.reduceat(volume, first) == wanted[first]).all())


def _moved(scheme: Scheme, active: Sequence[Factor]) -> tuple[str, ...]:
    """Return the axes along which something moves; digits are axes where both layouts are on one grid."""
    sizes, found = scheme.grid.sizes, list[str]()
    for at, axis in enumerate(AXES):
        digit = Digit(prod(sizes[at + 1 :]), sizes[at])
        for factor in active:
            if digit.size > 1 and digit in factor.digits:
                value = factor.coordinates(digit)
                if (factor.meets & (value[:, None] != value)).any():
                    found.append(axis)
    return tuple(found)


def _changed(source: Layout, target: Layout) -> tuple[str, ...]:
    """Return the axes that differ in what they cut, and those that cut nothing."""
    pairs = zip(source.dims, target.dims, strict=True)
    changed = {a for s, t in pairs if s != t for a in (*s.axes, *t.axes)}
    return tuple(a for a in AXES if a in {*changed, *source.uncut, *target.uncut})
