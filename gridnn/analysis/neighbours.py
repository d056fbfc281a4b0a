"""Neighbours of grids: where to look for the plan of a job when that of a job like it is known.

    n8 k2       itself; n16 k2, n8 k4, n8 k2 h2 (longer); n4 k2, n8 (shorter); n4 k4, n16, n4 k2 h2 (swapped: a prime of
                one axis goes to another); and what is longer than a swapped one

With P a power of two the prime is 2; other numbers of processes have several.  Near a plan for a larger batch is what
cuts all of the smaller one, and something else besides: n8 k2 with four samples is n4 k2, n4 k4, n4 k2 h2 ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from operator import le

import numpy as np

from gridnn.analysis.parts import Schemes
from gridnn.cost.grids import Grids
from gridnn.geometry.grid import AXES
from gridnn.plan.job import Degrees, Job
from gridnn.plan.space import axis_limits


def around(
    job: Job, starts: Sequence[Schemes], near: Sequence[Schemes], primes: Sequence[int]
) -> list[Grids]:
    """Return candidates of every layer: those of `starts`, and the neighbours of those of `near`.

    Layers that have the same grids share an object, so that what is alike is priced once.
    """
    limits: dict[str, dict[str, int]] = {}
    rows: dict[object, dict[Degrees, None]] = {}
    for node in job.network.nodes:
        limits[node.name] = axis_limits(job.network, node, job.per_pass)
    keys = {name: tuple(at.items()) for name, at in limits.items()}
    for node in job.network.nodes:
        here = rows.setdefault(keys[node.name], {})
        here.update(dict.fromkeys(plan[node.name] for plan in starts))
    known: dict[Degrees, list[Degrees]] = {}
    pairs = dict.fromkeys((keys[node.name], plan[node.name]) for node in job.network.nodes for plan in near)
    asked = [(key, grid) for key, wide in pairs for grid in _within(wide, dict(key).get("n", 1))]
    for key, grid in asked:
        here, limit = rows[key], dict(key)
        most = tuple(limit.get(a, 1) for a in AXES)
        # A grid that a uniform plan lent may cut space that the layer has not: it stays as it is.
        if grid[0] <= most[0] and job.procs % prod(grid) == 0:
            here[grid] = None
        if grid not in known:
            known[grid] = [g for g in _neighbours(grid, primes) if job.procs % prod(g) == 0]
        here.update(dict.fromkeys(g for g in known[grid] if all(map(le, g, most))))
    shared, same = dict[object, Grids](), dict[frozenset[Degrees], Grids]()
    at = {grid: i for i, grid in enumerate(dict.fromkeys(grid for found in rows.values() for grid in found))}
    every = Grids(np.array(list(at), dtype=np.int64))
    for owner, found in rows.items():
        grids = frozenset(found)
        if grids not in same:
            same[grids] = every.some(np.array([at[grid] for grid in found], dtype=np.int64))
        shared[owner] = same[grids]
    return [shared[keys[node.shared or node.name]] for node in job.network.nodes]


def _within(grid: Degrees, samples: int) -> Iterable[Degrees]:
    """Yield a grid, or where it cuts a larger batch, those that cut the samples and something else as often as it."""
    if grid[0] <= samples or grid[0] % samples:
        yield grid
        return
    rest = grid[0] // samples
    yield (samples, *grid[1:])
    yield from ((samples, *_times(grid, at, rest)[1:]) for at in range(1, len(grid)))


def _neighbours(grid: Degrees, primes: Sequence[int]) -> set[Degrees]:
    """Return a grid, those with one axis a prime longer or shorter, both, and with another prime besides."""
    other = swapped({grid}, primes)
    shorter = {_times(grid, i, 1, p) for i in range(len(grid)) for p in primes if grid[i] % p == 0}
    return {grid} | _longer({grid}, primes) | shorter | other | _longer(other, primes)


def _longer(grids: Iterable[Degrees], primes: Sequence[int]) -> set[Degrees]:
    return {_times(g, i, p) for g in grids for i in range(len(g)) for p in primes}


def swapped(grids: Iterable[Degrees], primes: Sequence[int]) -> set[Degrees]:
    """Return the grids that give a prime of one axis to another."""
    found = set()
    for grid in grids:
        for p in primes:
            for i in (i for i, size in enumerate(grid) if size % p == 0):
                less = _times(grid, i, 1, p)
                found |= {_times(less, j, p) for j in range(len(grid)) if j != i}
    return found


def _times(grid: Degrees, at: int, up: int, down: int = 1) -> Degrees:
    return (*grid[:at], grid[at] * up // down, *grid[at + 1 :])


def primes_of(number: int) -> list[int]:
    """Return the prime factors of a number, each once, ascending."""
    found, factor = [], 2
    while factor * factor <= number:
        if number % factor == 0:
            found.append(factor)
            while number % factor == 0:
                number //= factor
        factor += 1
    return [*found, number] if number > 1 else found
