"""Shards: parts of a distributed array with their layout; cut and gathered for tests, exports and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridnn.comm.world import Array, World
from gridnn.geometry.interval import extents_of, local_slices, whole_box
from gridnn.geometry.layout import Layout


@dataclass(frozen=True)
class Shard:
    """The part of a global array that one rank has: the array of its box in `layout`."""

    array: Array
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Global shape."""
        return self.layout.shape


def scatter(whole: Array, layout: Layout, rank: int) -> Shard:
    """Cut a rank's shard out of a global array that the rank has; no message."""
    box = layout.box(rank)
    return Shard(np.ascontiguousarray(whole[local_slices(box, whole_box(whole.shape))]), layout)


def gather(world: World, shard: Shard, owed: bool = False) -> Array:
    """Return the global array on every rank; for an owed value overlapping boxes are summed.  Collective."""
    out: Array = np.zeros(shard.shape, shard.array.dtype)
    seen: set[object] = set()
    for rank, array in enumerate(world.comm.allgather(shard.array)):
        box = shard.layout.box(rank)
        assert rank not in shard.layout.scheme.ranks or array.shape == extents_of(box), (
            f"rank {rank}: {array.shape} for {box}"
        )
        where = local_slices(box, whole_box(shard.shape))
        if owed:
            out[where] += array
        elif box not in seen:
            out[where] = array
        seen.add(box)
    return out
