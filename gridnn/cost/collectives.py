"""Seconds of collectives on machines with levels; numbers, or whole arrays of them.

A group of ranks is described by its *members*: for each level, how many of the group are inside one unit of it.

    4 ranks a node, grid "n4 k4"            along k:    members (4, 4)     four neighbours on one node
      k: neighbours, n: one on each node    along n:    members (1, 4)     one rank on each of four nodes
                                            along n k:  members (4, 16)    all of four nodes

The formulas are in `algorithms`; which one a collective runs by is the machine's, and "best" is the least of all:
what a tuned library picks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gridnn.cost.algorithms import FORMULAS, Floats, Group, Hop
from gridnn.cost.machine import Machine
from gridnn.geometry.grid import AXES

Ints = NDArray[np.int64]
ENUMERATED_RANKS = 1 << 14
"""Largest grid that is gone through rank by rank where no closed formula holds."""
PIECE_S = 0.03
"""Seconds of a piece of a sum on the slowest links: so long, some times over, a halo may wait."""


def piece_bytes(beta_s_per_byte: float) -> int:
    """Return the bytes of a piece of a sum where the slowest links take so long for a byte."""
    return min(sys.maxsize, ceil(PIECE_S / beta_s_per_byte)) if beta_s_per_byte > 0 else sys.maxsize


def effective_beta(machine: Machine, level: int, procs: ArrayLike, shared: ArrayLike = 1) -> Floats:
    """Return seconds a byte takes on a level when all ranks of a job talk there at once.

    Parameters
    ----------
    procs
        Ranks of the job.
    shared
        Ranks of a unit below of which only one talks out: those of a ring that runs through it.

    Returns
    -------
    beta times max(1, streams out of one unit of the level below / links)
    """
    here = machine.levels[level]
    below = machine.levels[level - 1].ranks if level else 1
    streams = np.minimum(below, procs) / np.asarray(shared, dtype=float)
    beta: Floats = here.beta_s_per_byte * np.maximum(1.0, streams / (here.links or below))
    return beta


def allreduce_s(
    machine: Machine, members: Sequence[ArrayLike], nbytes: ArrayLike, procs: ArrayLike
) -> Floats:
    """Return the seconds of an all-reduce.

    Parameters
    ----------
    members
        Ranks of the group inside one unit of each level, from the inside out; the last is the group's size.
    nbytes
        Bytes of the whole buffer.
    procs
        Ranks of the job, all of which are taken to talk at once.

    Returns
    -------
    Seconds, of the shape to which members, nbytes and procs broadcast; 0 for a group of one or no bytes
    """
    return _seconds(machine, "allreduce", members, nbytes, procs)


def allgather_s(
    machine: Machine, members: Sequence[ArrayLike], nbytes: ArrayLike, procs: ArrayLike
) -> Floats:
    """Return the seconds of an all-gather of `nbytes` in total; see `allreduce_s`."""
    return _seconds(machine, "allgather", members, nbytes, procs)


def reduce_scatter_s(
    machine: Machine, members: Sequence[ArrayLike], nbytes: ArrayLike, procs: ArrayLike
) -> Floats:
    """Return the seconds of a reduce-scatter of a buffer of `nbytes`; see `allreduce_s`."""
    return _seconds(machine, "reduce_scatter", members, nbytes, procs)


def exchange_s(
    machine: Machine, messages: Sequence[ArrayLike], nbytes: Sequence[ArrayLike], procs: ArrayLike
) -> Floats:
    """Return the seconds of an exchange of pieces between ranks: a halo, a repartition.

    Parameters
    ----------
    messages, nbytes
        What the slowest rank receives over each level; sums of levels, because one process takes in all of it.
    """
    total = np.zeros(())
    for at, (count, size) in enumerate(zip(messages, nbytes, strict=True)):
        beta = effective_beta(machine, at, procs)
        total = total + machine.levels[at].alpha_s * np.asarray(count) + beta * np.asarray(size)
    return total


def _seconds(
    machine: Machine, collective: str, members: Sequence[ArrayLike], nbytes: ArrayLike, procs: ArrayLike
) -> Floats:
    speed = machine.speeds.get(collective, 1.0)
    group = _group(machine, members, np.asarray(nbytes, dtype=float) / speed, procs)
    how = machine.algorithms[collective]
    found = [work(group) for name, work in FORMULAS[collective].items() if how in (name, "best")]
    seconds = np.minimum.reduce(np.broadcast_arrays(*found)) if len(found) > 1 else found[0]
    return np.where((group.procs > 1) & (group.nbytes > 0), seconds, 0.0)


def _group(machine: Machine, members: Sequence[ArrayLike], nbytes: ArrayLike, procs: ArrayLike) -> Group:
    hops, below = [], np.ones(())
    for at, (level, count) in enumerate(zip(machine.levels, members, strict=True)):
        here = np.maximum(np.asarray(count, dtype=float), below)
        ring = effective_beta(machine, at, procs, below)
        hops.append(Hop(here, below, here > below, level.alpha_s, effective_beta(machine, at, procs), ring))
        below = here
    return Group(tuple(hops), below, np.asarray(nbytes, dtype=float))


def members(machine: Machine, ranks: Iterable[int]) -> tuple[int, ...]:
    """Return how many of a group of ranks are inside one unit of each level, from the inside out.

    Where units hold different numbers of them it is the largest.
    """
    ranks = tuple(ranks)
    return (*(max(Counter(rank // unit for rank in ranks).values()) for unit in machine.units), len(ranks))


def members_of(machine: Machine, degrees: Ints, axes: Sequence[str]) -> tuple[Ints, ...]:
    """Return how the groups along some axes of many grids spread over the levels.

    Parameters
    ----------
    degrees : (G, 6)
        Sizes of the axes n, k, c, d, h, w, one row a grid; ranks from 0 on, `n` slowest.
    axes
        The group of a rank are those that differ from it in these only.

    Returns
    -------
    For each level an array (G,): ranks of a group inside one unit, of the group that spreads furthest.  Exact, but for
    grids above `ENUMERATED_RANKS` whose units are not whole blocks of the grid: there it is the count of the
    largest block of the grid that fits a unit.
    """
    degrees = np.asarray(degrees, dtype=np.int64)
    strides = np.cumprod(degrees[:, ::-1], axis=1)[:, ::-1] // degrees
    moving = np.array([axis in axes for axis in AXES])
    found = []
    for unit in machine.units:
        inside = np.clip(unit // strides, 1, degrees)  # of every axis, where a unit is a block of the grid
        count = np.where(moving, inside, 1).prod(axis=1)
        # A unit is a block when it cuts through one axis at most, and that in equal parts.
        whole = (inside == 1) | ((unit % strides == 0) & (degrees % inside == 0))
        size, covers = degrees.prod(axis=1), inside.prod(axis=1)
        odd = ~(whole.all(axis=1) & ((covers == unit) | (unit >= size))) & (size <= ENUMERATED_RANKS)
        if odd.any():
            rows, back = np.unique(degrees[odd], axis=0, return_inverse=True)
            count[odd] = np.array([_widest(row, moving, unit) for row in rows])[back.reshape(-1)]
        found.append(count)
    return (*found, np.where(moving, degrees, 1).prod(axis=1))


def _widest(degrees: Ints, moving: NDArray[np.bool_], unit: int) -> int:
    """Return the members in the fullest unit of the group for which they are fewest, counted rank by rank."""
    ranks = np.arange(degrees.prod()).reshape(degrees)
    order = [*np.flatnonzero(~moving), *np.flatnonzero(moving)]
    groups = ranks.transpose(order).reshape(-1, degrees[moving].prod()) // unit
    groups.sort(axis=1)
    # Equal numbers stand together: the longest run of each row.
    run, best = np.ones(len(groups), np.int64), np.ones(len(groups), np.int64)
    for before, after in zip(groups.T[:-1], groups.T[1:], strict=True):
        run = np.where(before == after, run + 1, 1)
        best = np.maximum(best, run)
    return int(best.min())
