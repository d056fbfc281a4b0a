"""Formulas of collective algorithms over groups that spread over the levels of a machine.

With p ranks, n bytes, lg p = log2 p, on one level (Thakur, Rabenseifner, Gropp 2005, sections 3 and 4; Chan,
Heimlich, Purkayastha, van de Geijn 2007, sections 4 and 7), and the fold where p is no power of two:

| collective     | ring                      | recursive                                   | fold of recursive  |
|----------------|---------------------------|---------------------------------------------|--------------------|
| all-gather     | (p-1) a + (p-1)/p n b     | lg p a + (p-1)/p n b                        | none: Bruck        |
| reduce-scatter | (p-1) a + (p-1)/p n b     | lg p a + (p-1)/p n b                        | 2 a + (1+1/p) n b  |
| all-reduce     | 2 (p-1) a + 2 (p-1)/p n b | the less of  lg p (a + n b), doubling, and  | 2 a + 2 n b        |
|                |                           | 2 lg p a + 2 (p-1)/p n b, halves            |                    |

`hierarchical` is a reduce-scatter inside every unit, the same between units with what is left, and gathers back:
with m_l members in a unit of level l and q_l = m_l / m_(l-1), level l works on n / m_(l-1) bytes among q_l ranks.
There every rank has a share of its own, so all of a unit talk out at once; a ring goes in and out of a unit once.
Adding up is not priced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Hop(NamedTuple):
    """One level as a group uses it: latency, seconds of a byte when a unit's members all talk, or only one."""

    members: Floats  # of the group, in a unit of this level
    below: Floats  # in a unit of the level below
    crossed: NDArray[np.bool_]  # the group has ranks that share this level and none below
    alpha_s: float
    beta: Floats
    beta_ring: Floats

    @property
    def parts(self) -> Floats:
        """Units of the level below that meet here."""
        return np.ceil(self.members / self.below)


class Group(NamedTuple):
    """A group and the bytes of its collective."""

    hops: tuple[Hop, ...]
    procs: Floats
    nbytes: Floats


Algorithm = Callable[[Group], Floats]


def _ring(group: Group) -> Floats:
    """Return p - 1 steps of a p-th of the bytes, each as slow as the slowest link of the ring."""
    block = group.nbytes / group.procs
    step = np.zeros(())
    for hop in group.hops:
        step = np.maximum(step, np.where(hop.crossed, hop.alpha_s + block * hop.beta_ring, 0.0))
    return (group.procs - 1) * step


def _halving(group: Group) -> Floats:
    """Return halving of the distance, the nearest with the least bytes: blocks lie in the order of ranks."""
    block = group.nbytes / _floor_power(group.procs)
    total = np.zeros(())
    for hop in group.hops:
        most, least = _floor_power(hop.members), _floor_power(hop.below)
        total = total + np.log2(most / least) * hop.alpha_s + (most - least) * block * hop.beta
    return total


def _gather_recursive(group: Group) -> Floats:
    """Return doubling for powers of two, and Bruck's algorithm, in which every step has a rank that leaves its unit."""
    steps = np.ceil(np.log2(group.procs))
    bruck = np.zeros(())
    for hop in group.hops:
        slow = steps * hop.alpha_s + (1 - 1 / group.procs) * group.nbytes * hop.beta
        bruck = np.maximum(bruck, np.where(hop.crossed, slow, 0.0))
    return np.where(_is_power(group.procs), _halving(group), bruck)


def _scatter_recursive(group: Group) -> Floats:
    """Return halving; the ranks beyond a power of two hand in their buffer first and get their block last."""
    fold = _fold(group, group.nbytes) + _fold(group, group.nbytes / group.procs)
    return _halving(group) + fold


def _reduce_recursive(group: Group) -> Floats:
    """Return the less of doubling and of halves, halved first with the nearest (Rabenseifner), with the fold."""
    doubling, halves = np.zeros(()), np.zeros(())
    for hop in group.hops:
        most, least = _floor_power(hop.members), _floor_power(hop.below)
        steps = np.log2(most / least)
        doubling = doubling + steps * (hop.alpha_s + group.nbytes * hop.beta)
        halves = halves + 2 * (steps * hop.alpha_s + (1 / least - 1 / most) * group.nbytes * hop.beta)
    return np.minimum(doubling, halves) + 2 * _fold(group, group.nbytes)


def _fold(group: Group, nbytes: Floats) -> Floats:
    """Return a message between neighbours, for groups that are no power of two."""
    found, todo = np.zeros(()), ~_is_power(group.procs)
    for hop in group.hops:
        found = found + np.where(todo & hop.crossed, hop.alpha_s + nbytes * hop.beta, 0.0)
        todo = todo & ~hop.crossed
    return found


def _by_level(*formulas: Algorithm) -> Algorithm:
    """Return the algorithm that does each level by the cheapest of `formulas` with what the levels below left."""

    def seconds(group: Group) -> Floats:
        total = np.zeros(())
        for hop in group.hops:
            parts, one = hop.parts, np.ones(())
            alone = hop._replace(members=parts, below=one, beta_ring=hop.beta)
            flat = Group((alone,), parts, group.nbytes / hop.below)
            total = total + np.minimum.reduce(np.broadcast_arrays(*(f(flat) for f in formulas)))
        return total

    return seconds


def _reduce_ring(group: Group) -> Floats:
    return 2 * _ring(group)


def _is_power(count: Floats) -> NDArray[np.bool_]:
    return np.equal(_floor_power(count), count)


def _floor_power(count: Floats) -> Floats:
    _, exponent = np.frexp(count)  # exact, which a logarithm need not be
    power: Floats = np.ldexp(1.0, exponent - 1)
    return power


FORMULAS: dict[str, dict[str, Algorithm]] = {
    "allreduce": {
        "ring": _reduce_ring,
        "recursive": _reduce_recursive,
        "hierarchical": _by_level(_reduce_ring, _reduce_recursive),
    },
    "allgather": {
        "ring": _ring,
        "recursive": _gather_recursive,
        "hierarchical": _by_level(_ring, _gather_recursive),
    },
    "reduce_scatter": {
        "ring": _ring,
        "recursive": _scatter_recursive,
        "hierarchical": _by_level(_ring, _scatter_recursive),
    },
}
