"""Seconds of an edge for every pair of grids of its two layers: t_X of Jia et al. 2018, Eq. 1, as a matrix.

A rank that wants the box T and owns the box S receives |T| - |S & T| elements forward; what it sends is received
backward, so both directions take the time of the rank that receives or sends most:

    t_X = 2 * ( alpha * steps + beta * max(received, sent) )

Boxes are products, so |S & T| is a product over dims, and a dim has few ways to be cut (`grids`).  With sizes that
are powers of two, a rank's coordinate along an axis is a field of bits of its number, and two ways of cutting a dim

    n4 of "n4 h2"    bits 2 1 .          same leading bits: blocks nest on every rank, |S & T| is the smaller
    n2 of "n2 k4"    bits 2 . .
    n4 of "k2 n4"    bits 1 0 .          other bits: some rank holds nothing of what it wants

either nest or leave some rank with nothing: one number stands for all ranks.  Other sizes are priced rank by rank.
What neighbours on the same node hold is |S' & T| with the bits inside a node struck off, so bytes split by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.collectives import allgather_s, effective_beta, reduce_scatter_s
from gridnn.cost.grids import Cut, Grids, Ints
from gridnn.cost.machine import Machine
from gridnn.cost.meeting import Counts, boxes, counted, lengths

Floats = NDArray[np.float64]
SAMPLE = 12
"""Ranks that are looked at where grids are not powers of two."""


TILE_PAIRS = 1 << 15
"""Pairs of grids (times ranks that are looked at) that are priced at once."""


class Moves:
    """Prices edges of one job on one machine; what dims of equal cuts have in common is kept.

    Parameters
    ----------
    procs
        Ranks of the job, all of which may talk at once.
    itemsize
        Bytes of an element.
    """

    def __init__(self, machine: Machine, procs: int, itemsize: int) -> None:
        self.machine, self.procs, self.itemsize = machine, procs, itemsize
        self.units = [level.ranks for level in machine.levels[:-1]]
        self.betas = [float(effective_beta(machine, level, procs)) for level in range(len(machine.levels))]
        self.ranks = np.unique(np.linspace(0, procs - 1, min(procs, SAMPLE)).astype(np.int64))
        self._held: dict[object, list[Floats]] = {}
        self._counts: dict[object, list[Floats]] = {}
        self._blocks: dict[object, Counts] = {}

    def seconds(
        self, source: Sequence[Cut], source_grids: Grids, target: Sequence[Cut], target_grids: Grids,
        target_copies: Ints, rows: Ints, columns: Ints,
    ) -> Floats:  # fmt: skip
        """Return the seconds a step spends on an edge, forward and backward, for pairs of grids.

        Parameters
        ----------
        source, target
            How the producer's output at rest and the consumer's need are cut under their grids.
        target_copies
            Ranks that want the same box, for each grid of the consumer.
        rows, columns
            Which grids of the producer and of the consumer: arrays that broadcast, to the shape of the result.
        """
        aligned = source_grids.aligned and target_grids.aligned and all(u & (u - 1) == 0 for u in self.units)
        ranks = None if aligned else self.ranks
        pairs = np.broadcast(rows, columns).size * (1 if ranks is None else len(ranks))
        if pairs > TILE_PAIRS and len(rows) > 1 and rows.ndim == 2:  # temporaries stay in the caches
            tiles = np.array_split(rows, min(len(rows), -(-pairs // TILE_PAIRS)))
            edge = source, source_grids, target, target_grids, target_copies
            return np.concatenate([self.seconds(*edge, tile, columns) for tile in tiles])
        held, total = self._overlaps(source, target, rows, columns, ranks)
        sizes, shared = (source_grids.sizes[rows], target_grids.sizes[columns]), target_copies[columns]
        own = held[
            0
        ]  # of the ranks that send: those that receive may be beyond the source's grid and own nothing
        held, total = self._present(held, total, *sizes, ranks)
        met, cover, meeting = self._neighbours(source, target, rows, columns, ranks)
        cover = cover * shared[..., None]
        if ranks is not None:  # ranks beyond the source's grid have nothing to send
            cover, own = cover * (ranks < sizes[0][..., None]), held[0]
        received = (total - held[0]).max(axis=-1)
        moves = received > 0
        sent = (cover - own).max(axis=-1)
        uneven = np.maximum(1, np.divide(sent, received, out=np.ones_like(sent), where=moves))
        seconds, latency = np.zeros_like(held[0]), np.zeros_like(held[0])
        for level, (inner, outer) in enumerate(zip(held, [*held[1:], total], strict=True)):
            elements = np.maximum(outer - inner, 0)
            seconds += elements * (self.betas[level] * self.itemsize)
            latency += elements * self.machine.levels[level].alpha_s
        # Latency is that of the levels that bytes cross, in proportion.
        alpha_s = np.divide(latency, total - held[0], out=np.zeros_like(latency), where=total > held[0]).max(
            axis=-1
        )
        blocks = np.prod([c.size[c.way[rows]] for c in source], axis=0)
        wants = meeting * shared
        gathers = (met == wants) & (blocks * met == total.max(axis=-1))
        steps = np.maximum(np.maximum(met, wants) - (own > 0).any(axis=-1), 1)
        steps = np.where(gathers, np.ceil(np.log2(np.maximum(met, 1))), steps)
        result = 2.0 * (alpha_s * steps + seconds.max(axis=-1) * uneven) * moves
        hoarded = [table.min(axis=-1) for table in held]
        plain = gathers & moves & (hoarded[0] > 0)
        if plain.any():  # all ranks of a group want its blocks: a collective, which enters a node once
            nbytes = total.max(axis=-1)[plain] * self.itemsize
            group = np.broadcast_to(met, plain.shape)[plain]
            inside = [np.minimum(np.rint(table[plain] / hoarded[0][plain]), group) for table in hoarded[1:]]
            collective = self.machine, [*inside, group], nbytes, self.procs
            result[plain] = allgather_s(*collective) + reduce_scatter_s(*collective)
        return np.asarray(result)

    def floor(
        self, source: Sequence[Cut], source_grids: Grids, target: Sequence[Cut], target_grids: Grids
    ) -> Floats:
        """Return what `seconds` is at least for each grid of the consumer, (G,): were all it can find at hand found.

        What a rank wants less the largest block that any grid of the producer with as many ranks has; and so for
        units of ranks, outer levels being the dearer: a collective brings a byte into a unit once, by all its links
        together.  0 where sizes are not powers of two.
        """
        levels = zip(self.machine.levels, [1, *self.units], strict=True)
        shared = [level.beta_s_per_byte / min(unit, level.links or unit) for level, unit in levels]
        betas = np.minimum.accumulate(shared[::-1])[::-1]
        total = np.prod([c.size[c.way] for c in target], axis=0).astype(float)
        if not (source_grids.aligned and target_grids.aligned and all(u & (u - 1) == 0 for u in self.units)):
            return np.zeros(len(total))
        seconds, inner = np.zeros(len(total)), None
        for level, unit in enumerate([1, *self.units]):
            blocks = np.ones(len(source_grids))
            for c in source:
                outside = (c.ways.bits >= unit.bit_length() - 1).sum(axis=1)
                blocks = blocks * (c.size if unit == 1 else -(-c.extent // 2**outside))[c.way]
            ranks = np.maximum(source_grids.sizes, unit)
            order = np.argsort(ranks, kind="stable")
            largest = np.maximum.accumulate(blocks[order][::-1])[
                ::-1
            ]  # of all grids with at least as many ranks
            at = np.searchsorted(ranks[order], target_grids.sizes)
            found = np.minimum(np.append(largest, 0.0)[at], total)
            if inner is not None:
                seconds += (found - inner) * betas[level - 1]
            inner = found if inner is None else np.maximum(found, inner)
        return np.asarray(2.0 * (seconds + (total - inner) * betas[-1]) * self.itemsize)

    def _overlaps(
        self, source: Sequence[Cut], target: Sequence[Cut], rows: Ints, columns: Ints, ranks: Ints | None
    ) -> tuple[list[Floats], Floats]:
        """Return |S & T|, |S' & T| for every unit S' of ranks, and |T|: arrays (*pairs, ranks)."""
        held: list[Floats] = []
        total = np.ones((1,))
        for s, t in zip(source, target, strict=True):
            i, j = s.way[rows], t.way[columns]
            found = self._table(self._held, self._shared, s, t, i, j, ranks)
            held = found if not held else [a * b for a, b in zip(held, found, strict=True)]
            total = total * (t.size[:, None] if ranks is None else lengths(t, ranks))[j]
        return held, np.broadcast_to(total, held[0].shape)

    def _table(
        self, known: dict[object, list[Floats]], count: Callable[..., list[Floats]], s: Cut, t: Cut, i: Ints, j: Ints,
        ranks: Ints | None,
    ) -> list[Floats]:  # fmt: skip
        """Return what `count` finds for pairs of ways (i, j): from tables of all pairs where many are wanted."""
        every = len(s.size), len(t.size)
        if np.broadcast(i, j).size < every[0] * every[1]:
            return count(s, t, i, j, ranks)
        key = (s.key, t.key, ranks is None)
        if key not in known:
            known[key] = count(s, t, np.arange(every[0])[:, None], np.arange(every[1]), ranks)
        if i.ndim == 2 and i.shape[1] == 1 and j.ndim == 1:  # all pairs of some rows and columns
            return [table.take(i[:, 0], axis=0).take(j, axis=1) for table in known[key]]
        return [table[i, j] for table in known[key]]

    def _shared(self, s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints | None) -> list[Floats]:
        return self._aligned(s, t, i, j) if ranks is None else self._by_rank(s, t, i, j, ranks)

    def _neighbour(self, s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints | None) -> list[Floats]:
        return counted(s, t, i, j, ranks, self._blocks)

    def _aligned(self, s: Cut, t: Cut, i: Ints, j: Ints) -> list[Floats]:
        """Return the least |S & T| and |S' & T| of one dim over all ranks, (*pairs, 1)."""
        tables, width = list[Floats](), max(s.ways.bits.shape[1], t.ways.bits.shape[1])
        mine, theirs = _wide(s.ways.bits, width), _wide(t.ways.bits, width)[j]
        for unit in [1, *self.units]:
            outside = np.where(mine >= unit.bit_length() - 1, mine, -1)
            size = -(-s.extent // 2 ** (outside >= 0).sum(axis=1)) if unit > 1 else s.size
            block = outside[i]
            nest = ((block == theirs) | (block < 0) | (theirs < 0)).all(axis=-1)
            if t.kind == "part":
                whole = np.asarray((outside < 0).all(axis=1))
                nest &= (t.ways.parts == 1)[j] | whole[i]
            tables.append((nest * np.minimum(size[i], t.size[j]))[..., None].astype(float))
        return tables

    def _by_rank(self, s: Cut, t: Cut, i: Ints, j: Ints, ranks: Ints) -> list[Floats]:
        """Return |S & T| and |S' & T| of one dim, (*pairs, R)."""
        (t_start, t_stop), tables = boxes(t, ranks), list[Floats]()
        for unit in [1, *self.units]:
            first = ranks // unit * unit
            starts, stops = zip(
                *(boxes(s, np.minimum(first + r, self.procs - 1)) for r in range(unit)), strict=True
            )
            start, stop = (
                np.min(starts, axis=0),
                np.max(stops, axis=0),
            )  # of the unit: one interval that holds all
            shared = np.minimum(stop[i], t_stop[j]) - np.maximum(start[i], t_start[j])
            tables.append(np.maximum(shared, 0).astype(float))
        return tables

    def _present(
        self, held: list[Floats], total: Floats, sources: Ints, targets: Ints, ranks: Ints | None
    ) -> tuple[list[Floats], Floats]:
        """Take out ranks that a grid does not have: they hold nothing, and want nothing."""
        if ranks is None:  # some rank of the target's grid is beyond the source's, or beyond its units
            units = zip([1, *self.units], held, strict=True)
            return [table * (targets <= np.maximum(sources, unit))[..., None] for unit, table in units], total
        wanted = ranks < targets[..., None]
        there = [wanted & (ranks // unit * unit < sources[..., None]) for unit in [1, *self.units]]
        return [table * here for table, here in zip(held, there, strict=True)], total * wanted

    def _neighbours(
        self, source: Sequence[Cut], target: Sequence[Cut], rows: Ints, columns: Ints, ranks: Ints | None
    ) -> tuple[Floats, Floats, Floats]:
        """Return pieces of a want, elements wanted of a block (a copy each counted), wants a block meets."""
        result = [np.ones(()), np.ones((1,)), np.ones(())]
        for s, t in zip(source, target, strict=True):
            found = self._table(self._counts, self._neighbour, s, t, s.way[rows], t.way[columns], ranks)
            result = [a * b for a, b in zip(result, found, strict=True)]
        return result[0], result[1], result[2]


def _wide(bits: Ints, width: int) -> Ints:
    return np.pad(bits, ((0, 0), (0, width - bits.shape[1])), constant_values=-1)
