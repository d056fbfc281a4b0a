"""Seconds of an edge for every pair of grids of its two layers: t_X of Jia et al. 2018, Eq. 1, as a matrix.

A rank that wants the box T and owns the box S receives |T| - |S & T| elements forward; what it sends is received
backward, so both directions take the time of the rank that receives or sends most:

    t_X = 2 * ( alpha * steps + beta * max(received, sent) )

What pairs of grids have in common is found by `overlaps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.collectives import allgather_s, effective_beta, reduce_scatter_s
from gridnn.cost.grids import Cut, Grids
from gridnn.cost.machine import Machine
from gridnn.cost.overlaps import Edge, Overlap, Overlaps
from gridnn.cost.patterns import Sketches
from gridnn.geometry.traffic import Widths

Floats = NDArray[np.float64]
SAMPLE = 12
"""Ranks that are looked at where grids are not powers of two."""
TILE_PAIRS = 1 << 15
"""Pairs of grids (times ranks that are looked at) that are priced at once: temporaries stay in the caches."""


class Moves:
    """Prices edges of one job on one machine; what dims of equal cuts have in common is kept.

    Parameters
    ----------
    procs
        Ranks of the job, all of which may talk at once.
    widths
        Bytes of elements.
    known
        What dims have in common, as far as it is known.
    """

    def __init__(self, machine: Machine, procs: int, widths: Widths, known: Sketches) -> None:
        self.machine, self.procs, self.widths, self.known = machine, procs, widths, known
        self.units = [level.ranks for level in machine.levels[:-1]]
        self.betas = [float(effective_beta(machine, level, procs)) for level in range(len(machine.levels))]
        self.ranks = np.unique(np.linspace(0, procs - 1, min(procs, SAMPLE)).astype(np.int64))
        self.overlaps = Overlaps(self.units, procs, self.ranks, known)

    def seconds(self, edges: Sequence[Edge]) -> list[Floats]:
        """Return the seconds a step spends on each of some edges, forward and backward, for its pairs of grids.

        Many edges are priced at once: most have so few pairs that numbers take no time beside asking for them.
        """
        nest = all(u & (u - 1) == 0 for u in self.units)
        found: list[list[Floats]] = [[] for _ in edges]
        for aligned in (True, False):
            most = TILE_PAIRS // (1 if aligned else len(self.ranks))
            batch: list[tuple[int, Edge]] = []
            pairs = 0
            for number, edge in enumerate(edges):
                for tile in edge.tiles(most) if (edge.aligned and nest) is aligned else ():
                    if pairs + prod(tile.shape) > most:
                        self._price(batch, aligned, found)
                        batch, pairs = [], 0
                    batch.append((number, tile))
                    pairs += prod(tile.shape)
            self._price(batch, aligned, found)
        return [
            (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(edge.shape)
            for edge, parts in zip(edges, found, strict=True)
        ]

    def _price(self, batch: Sequence[tuple[int, Edge]], aligned: bool, found: Sequence[list[Floats]]) -> None:
        """Price edges together, and put each one's seconds behind what is found of it."""
        if batch:
            tiles = [tile for _, tile in batch]
            every = self._seconds(self.overlaps.of(tiles, aligned), aligned)
            ends = np.cumsum([prod(tile.shape) for tile in tiles])[:-1]
            for (number, _), part in zip(batch, np.split(every, ends), strict=True):
                found[number].append(part)

    def _seconds(self, overlap: Overlap, aligned: bool) -> Floats:
        """Return the seconds of pairs of grids, (N,)."""
        met, shared = overlap.met, overlap.copies
        own = overlap.held[0]  # of the ranks that send
        held, total = self._present(overlap, aligned)
        cover = overlap.cover * shared[:, None]
        if not aligned:  # ranks beyond the source's grid have nothing to send
            cover, own = cover * (self.ranks < overlap.sources[:, None]), held[0]
        received = _most(total - held[0])
        moves = received > 0
        sent = _most(cover - own)
        uneven = np.maximum(1, np.divide(sent, received, out=np.ones_like(sent), where=moves))
        seconds, latency = np.zeros_like(held[0]), np.zeros_like(held[0])
        for level, (inner, outer) in enumerate(zip(held, [*held[1:], total], strict=True)):
            elements = np.maximum(outer - inner, 0)
            seconds += elements * (self.betas[level] * self.widths.activation)
            latency += elements * self.machine.levels[level].alpha_s
        # Latency is that of the levels that bytes cross, in proportion.
        alpha_s = _most(
            np.divide(latency, total - held[0], out=np.zeros_like(latency), where=total > held[0])
        )
        wants, largest = overlap.meeting * shared, _most(total)
        gathers = (met == wants) & (overlap.blocks * met == largest)
        steps = np.maximum(np.maximum(met, wants) - _any(own > 0), 1)
        steps = np.where(gathers, np.ceil(np.log2(np.maximum(met, 1))), steps)
        result = 2.0 * (alpha_s * steps + _most(seconds) * uneven) * moves
        hoarded = [_least(table) for table in held]
        plain = gathers & moves & (hoarded[0] > 0)
        if plain.any():  # all ranks of a group want its blocks: a collective, which enters a node once
            group = met[plain]
            inside = [np.minimum(np.rint(table[plain] / hoarded[0][plain]), group) for table in hoarded[1:]]
            result[plain] = sum(
                collective(self.machine, [*inside, group], largest[plain] * width, self.procs)
                for collective, width in (
                    (allgather_s, self.widths.moved("allgather")),
                    (reduce_scatter_s, self.widths.moved("reduce_scatter")),
                )
            )
        return np.asarray(result)

    def _present(self, overlap: Overlap, aligned: bool) -> tuple[list[Floats], Floats]:
        """Take out ranks that a grid does not have: they hold nothing, and want nothing."""
        units, sources, targets = [1, *self.units], overlap.sources, overlap.targets
        if aligned:  # some rank of the target's grid is beyond the source's, or beyond its units
            there = [(targets <= np.maximum(sources, unit))[:, None] for unit in units]
            return [table * here for table, here in zip(overlap.held, there, strict=True)], overlap.total
        wanted = self.ranks < targets[:, None]
        there = [wanted & (self.ranks // unit * unit < sources[:, None]) for unit in units]
        held = [table * here for table, here in zip(overlap.held, there, strict=True)]
        return held, overlap.total * wanted

    def floor(
        self, source: Sequence[Cut], source_grids: Grids, target: Sequence[Cut], target_grids: Grids
    ) -> Floats:  # fmt: skip
        """Return what `seconds` is at least for each grid of the consumer, (G,): were all it can find at hand found.

        What a rank wants less the largest block that any grid of the producer with as many ranks has; and so for
        units of ranks, outer levels being the dearer: a collective brings a byte into a unit once, by all its links
        together.  0 where sizes are not powers of two.
        """
        levels = zip(self.machine.levels, [1, *self.units], strict=True)
        shared = [level.beta_s_per_byte / min(unit, level.links or unit) for level, unit in levels]
        betas = np.minimum.accumulate(shared[::-1])[::-1]
        total = target_grids.volume(tuple(c.pattern for c in target))
        if not (source_grids.aligned and target_grids.aligned and all(u & (u - 1) == 0 for u in self.units)):
            return np.zeros(len(total))
        seconds, inner = np.zeros(len(total)), np.zeros(0)
        for level, unit in enumerate([1, *self.units]):
            blocks = np.ones(len(source_grids))
            for c in source:
                outside = (c.ways.bits >= unit.bit_length() - 1).sum(axis=1)
                blocks = blocks * (c.size if unit == 1 else -(-c.extent // 2**outside))[c.way]
            ranks = np.maximum(source_grids.sizes, unit)
            order = np.argsort(ranks, kind="stable")
            # Of all grids with at least as many ranks.
            largest = np.maximum.accumulate(blocks[order][::-1])[::-1]
            at = np.searchsorted(ranks[order], target_grids.sizes)
            found = np.minimum(np.append(largest, 0.0)[at], total)
            if level:
                seconds += (found - inner) * betas[level - 1]
            inner = np.maximum(found, inner) if level else found
        return np.asarray(2.0 * (seconds + (total - inner) * betas[-1]) * self.widths.activation)


def _most(by_rank: Floats) -> Floats:
    """Return the most of all ranks, (N,); to reduce an axis of one takes longer than all the rest."""
    return by_rank[:, 0] if by_rank.shape[1] == 1 else by_rank.max(axis=1)


def _least(by_rank: Floats) -> Floats:
    return by_rank[:, 0] if by_rank.shape[1] == 1 else by_rank.min(axis=1)


def _any(by_rank: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return by_rank[:, 0] if by_rank.shape[1] == 1 else np.asarray(by_rank.any(axis=1))
