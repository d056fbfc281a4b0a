"""Exchanges: every movement of gridnn, described as integers.

An exchange takes an array from a source layout to a target layout; a target element is the **sum** of all
source elements at the same global index.  That one rule covers what other systems list as cases:

| source          | target         | exchange                   | its transpose              |
|-----------------|----------------|----------------------------|----------------------------|
| at rest         | with halo      | halo exchange (borrow)     | halo sum (give back)       |
| at rest         | whole over k   | all-gather                 | reduce-scatter             |
| owed over c     | at rest        | reduce-scatter             | all-gather                 |
| at rest         | at rest        | repartition                | repartition                |

The transpose swaps source and target and is the adjoint.  A local overlap is never sent.  Where all pieces
of the pattern form one collective it is named so that MPI can use its best algorithm; the bytes received
are the same either way.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from gridnn.geometry.grid import AXES
from gridnn.geometry.interval import Box, overlap, volume
from gridnn.geometry.layout import Layout

Piece = tuple[int, Box]


@dataclass(frozen=True)
class Exchange:
    """Take an array from `source` boxes to `target` boxes, adding what overlaps."""

    source: Layout
    target: Layout

    def __post_init__(self) -> None:
        assert self.source.shape == self.target.shape, f"{self.source.shape} to {self.target.shape}"

    def transpose(self) -> Exchange:
        """Return the adjoint exchange; it shares what this one knows of the pattern."""
        return self._adjoint

    @cached_property
    def _adjoint(self) -> Exchange:
        other = Exchange(self.target, self.source)
        vars(other)["_adjoint"] = self
        vars(other)["_pairs"] = self._pairs
        vars(other)["groups"] = self.groups
        vars(other)["axes"] = self.axes
        return other

    @property
    def known(self) -> bool:
        """True once the pattern was found, or told."""
        return "kind" in vars(self)

    def tell(self, kind: str, axes: tuple[str, ...], groups: tuple[tuple[int, ...], ...]) -> None:
        """Take from who knows better what would be found by going through all ranks, for the transpose too.

        Parameters
        ----------
        groups
            Those of the ranks that will be asked about.
        """
        other = Exchange(self.target, self.source)
        swapped = {"allgather": "reduce_scatter", "reduce_scatter": "allgather"}.get(kind, kind)
        vars(self).update(kind=kind, axes=axes, groups=groups, _adjoint=other)
        vars(other).update(kind=swapped, axes=axes, groups=groups, _adjoint=self)

    @cached_property
    def _pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of ranks between which something moves, in either direction."""
        if self.source == self.target and self.source.at_rest:
            return ()
        return tuple((r, p) for r in self.target.scheme.ranks for p, _ in self.receives(r) if p != r)

    def receives(self, rank: int) -> list[Piece]:
        """Return (peer, box) of every piece that `rank` needs, its own included, peers ascending."""
        return list(self.source.meeting(self.target.box(rank))) if rank in self.target.scheme.ranks else []

    def sends(self, rank: int) -> list[Piece]:
        """Return (peer, box) of every piece that `rank` has for others or itself, peers ascending."""
        return list(self.target.meeting(self.source.box(rank))) if rank in self.source.scheme.ranks else []

    @property
    def ranks(self) -> list[int]:
        """World ranks that take part."""
        return sorted({*self.source.scheme.ranks, *self.target.scheme.ranks})

    @cached_property
    def kind(self) -> str:
        """Return none, allgather, reduce_scatter, halo or repartition."""
        if not self.groups:
            return "none"
        if all(self._gathers(group) for group in self.groups):
            return "allgather"
        if all(self.transpose()._gathers(group) for group in self.groups):
            return "reduce_scatter"
        same_ranks = self.source.scheme == self.target.scheme
        return "halo" if same_ranks and self.source.dims[:2] == self.target.dims[:2] else "repartition"

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Grid axes along which data moves; between two schemes, all axes that differ in what they cut."""
        if self.source.scheme == self.target.scheme:
            coords = {r: self.source.scheme.coords(r) for r in {*chain.from_iterable(self._pairs)}}
            pairs = [(coords[r], coords[p]) for r, p in self._pairs]
            return tuple(a for i, a in enumerate(AXES) if any(mine[i] != other[i] for mine, other in pairs))
        changed = {
            a
            for s, t in zip(self.source.dims, self.target.dims, strict=True)
            if s != t
            for a in (*s.axes, *t.axes)
        }
        moving = changed.union(self.source.uncut, self.target.uncut)
        return tuple(a for a in AXES if a in moving)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Sets of ranks connected by messages, each ascending; ranks without a message are in none."""
        leader: dict[int, int] = {}

        def find(rank: int) -> int:
            while leader.setdefault(rank, rank) != rank:
                rank = leader[rank]
            return rank

        for rank, peer in self._pairs:
            a, b = sorted((find(rank), find(peer)))
            leader[b] = a
        groups: dict[int, list[int]] = defaultdict(list)
        for rank in sorted(leader):
            groups[find(rank)].append(rank)
        return tuple(tuple(group) for group in groups.values())

    def group(self, rank: int) -> tuple[int, ...]:
        """Return the group of `rank`, empty when it neither sends nor receives."""
        return next((g for g in self.groups if rank in g), ())

    def _gathers(self, group: tuple[int, ...]) -> bool:
        """True when in `group` all want the same box and own disjoint parts (at rest) that make it up."""
        if not self.source.at_rest:
            return False
        want = self.target.box(group[0])
        parts = [self.source.box(r) for r in group]
        return (
            all(self.target.box(r) == want for r in group)
            and all(overlap(p, want) == p or volume(p) == 0 for p in parts)
            and sum(volume(p) for p in parts) == volume(want)
        )
