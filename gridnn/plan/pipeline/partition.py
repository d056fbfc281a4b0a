"""Partition: where to cut a chain of units into stages, and how many ranks each stage gets; the optimum of two tables.

Akintoye et al. 2022 (arXiv 2207.11019) partition a network layer-wise to balance devices and to move little between
them.  How they do it is not public; what is here is our reconstruction, exact for the cost below, and close to the
planner of PipeDream (Narayanan et al. 2019, section 3.1), which minimises the slowest stage alone.

    units       0   1   2   3   4   5   6          a stage is a run of units [i, j) on a group of q ranks
    stages      [ 0, 3 )|[ 3, 5 )|[ 5, 7 )         as its k-th: fill_s[k, i, j, q], slow_s[k, i, j, q]
    ranks          4        2        2             in all exactly P

    cost  =  sum of fill_s  +  largest slow_s      one pass through all stages, then the slowest for all passes after it

| rule    | minimises                                    | for                                            |
|---------|----------------------------------------------|------------------------------------------------|
| step    | the cost                                     | schedules with a flush: with few passes to a   |
|         |                                              | step a long pipeline does not pay              |
| slowest | the largest slow_s, then the sum of fill_s   | a rhythm without end; PipeDream's               |

The least sum of fill_s over partitions none of whose stages is slower than a limit is found by dynamic programming over
(stages, units, ranks), and the least slowest stage by the same with the largest for the sum.  With both the rule "step"
looks for the limit: sums only grow as it falls, so from what is found at one limit all slower ones are known.

    slowest stage      6 ......... 7.5 ......... 9 ------>          at 9 the sum is 20: cost 29, no better above
                       |  sum >= 20 | sum >= 20  |                  at least 26 and 27.5: look at 7.5, and
                       |     23     |            |                  at 7.5 it is 23, slowest 7: cost 30; below, 29

Half after half is looked at, the one with the least bound first, until no bound is below the best cost.  An entry that
cannot be (no memory, no such grid) is infinite.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError

Floats = NDArray[np.float64]
Combine = Callable[[Floats, Floats], Floats]
RULES = ("step", "slowest")


class Partition(NamedTuple):
    """Units cut into stages.

    Attributes
    ----------
    first
        First unit of each stage.
    ranks
        Of each stage.
    fill_s, slow_s
        Their sum and their largest over the stages.
    """

    first: tuple[int, ...]
    ranks: tuple[int, ...]
    fill_s: float
    slow_s: float

    @property
    def cost_s(self) -> float:
        """Predicted seconds of a step."""
        return self.fill_s + self.slow_s


def partition(
    fill_s: Floats, slow_s: Floats, groups: Sequence[int], procs: int, rule: str = "step", unit: int = 0,
    gap: float = 0.0,
) -> Partition | None:  # fmt: skip
    """Return the best partition into K stages on exactly `procs` ranks; None where there is none.

    Parameters
    ----------
    fill_s, slow_s : (K, U + 1, U + 1, G)
        Of the run of units [i, j) as stage k on a group of each size; what is not above 0 <= i < j is not read.
        Infinite where a run cannot be a stage.
    groups : (G,)
        Ranks of a group.
    rule
        Of `RULES`.
    unit
        Ranks of a node: a group that is no larger lies in one, a larger one begins with one.  0 where that is nothing
        to care for.
    gap
        Relative cost above the optimum at which the rule "step" may stop; 0 for the optimum itself.

    Raises
    ------
    InputError
        For an unknown rule, more stages than units, or more stages than ranks.
    """
    count, units = fill_s.shape[0], fill_s.shape[1] - 1
    if rule not in RULES:
        raise InputError(f'rule "{rule}" is not known; use one of {", ".join(RULES)}')
    if count > units:
        raise InputError(
            f"{count} stages of {units} units: a stage has at least one; ask for {units} or fewer"
        )
    if count > procs:
        raise InputError(
            f"{count} stages on {procs} ranks: a stage has at least one; ask for {procs} or fewer"
        )
    fill_s, slow_s = _runs_only(fill_s), _runs_only(slow_s)
    # Where one of the two cannot be, neither can the other.
    fill_s = np.where(np.isfinite(slow_s), fill_s, np.inf)
    slow_s = np.where(np.isfinite(fill_s), slow_s, np.inf)
    least = _best(slow_s, groups, procs, unit, np.maximum)
    if least is None:
        return None
    floor = _of(*least, fill_s, slow_s, groups).slow_s
    if rule == "slowest":
        return _lightest(fill_s, slow_s, groups, procs, unit, floor)
    best = _lightest(fill_s, slow_s, groups, procs, unit, np.inf)
    assert best is not None  # `least` is one
    # Slowest stages still to look at: what the cost is at least, from, to.
    todo = [(best.fill_s + floor, floor, _below(best.slow_s))]
    while todo and todo[0][0] < best.cost_s / (1 + gap):
        _, low, high = heapq.heappop(todo)
        found = _lightest(fill_s, slow_s, groups, procs, unit, high)
        if found is None or found.slow_s < low:
            continue
        best = min(best, found, key=lambda each: each.cost_s)
        middle, high = (low + found.slow_s) / 2, _below(found.slow_s)
        for ends in ((low, min(_below(middle), high)), (middle, high)):
            if ends[0] <= ends[1]:
                heapq.heappush(todo, (found.fill_s + ends[0], *ends))
    return best


def _below(seconds: float) -> float:
    return float(np.nextafter(seconds, -np.inf))


def fits(first: int, ranks: int, unit: int) -> bool:
    """Return whether a group lies in one node if it can, or else begins with one."""
    return not unit or first % unit == 0 or first % unit + ranks <= unit


def _lightest(
    fill_s: Floats, slow_s: Floats, groups: Sequence[int], procs: int, unit: int, limit: float
) -> Partition | None:
    """Return the partition with the least sum of fill_s among those with no stage slower than a limit."""
    found = _best(np.where(slow_s <= limit, fill_s, np.inf), groups, procs, unit, np.add)
    return None if found is None else _of(*found, fill_s, slow_s, groups)


def _best(
    costs: Floats, groups: Sequence[int], procs: int, unit: int, combine: Combine
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return first units and numbers of groups of the stages whose costs, combined, are least.

    `best[j, p]` is the least of the first stages that end at unit j and have p ranks together; one more stage [i, j) on
    q ranks makes it

        min over i < j and q  of  combine(best[i, p - q], costs[k, i, j, q])
    """
    count, ends = costs.shape[:2]
    best = np.full((ends, procs + 1), np.inf)
    best[0, 0] = -np.inf if combine is np.maximum else 0.0
    came: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for k in range(count):
        longer = np.full_like(best, np.inf)
        start, which = np.zeros(best.shape, np.int64), np.zeros(best.shape, np.int64)
        for g, ranks in enumerate(groups):
            if ranks > procs:
                continue
            # As many ranks as the stages before have is the first rank of this one.
            begins = [fits(rank, ranks, unit) for rank in range(procs + 1 - ranks)]
            before = np.where(begins, best[:, : procs + 1 - ranks], np.inf)
            every = combine(before[:, None, :], costs[k, :, :, g, None])  # (i, j, p - q)
            at = every.argmin(axis=0)
            value = np.take_along_axis(every, at[None], axis=0)[0]
            better = value < longer[:, ranks:]
            for into, new in ((longer, value), (start, at), (which, g)):
                into[:, ranks:] = np.where(better, new, into[:, ranks:])
        best = longer
        came.append((start, which))
    if not np.isfinite(best[-1, procs]):
        return None
    first, chosen, stop, left = list[int](), list[int](), ends - 1, procs
    for start, which in reversed(came):
        group = int(which[stop, left])
        stop, left = int(start[stop, left]), left - groups[group]
        first.append(stop)
        chosen.append(group)
    return tuple(reversed(first)), tuple(reversed(chosen))


def _of(
    first: tuple[int, ...], chosen: tuple[int, ...], fill_s: Floats, slow_s: Floats, groups: Sequence[int]
) -> Partition:
    """Return a partition with its costs."""
    stops = (*first[1:], fill_s.shape[1] - 1)
    cells = list(zip(range(len(first)), first, stops, chosen, strict=True))
    return Partition(
        first, tuple(groups[g] for g in chosen),
        float(sum(fill_s[cell] for cell in cells)), float(max(slow_s[cell] for cell in cells)),
    )  # fmt: skip


def _runs_only(costs: Floats) -> Floats:
    """Return costs that are infinite where [i, j) is no run."""
    ends = np.arange(costs.shape[1])
    return np.where((ends[:, None] < ends)[None, :, :, None], costs, np.inf)
