"""Merge: neighbouring stages become one while what no longer moves between them outweighs what gets slower.

The second half of layer-wise partition and merging (Akintoye et al. 2022, arXiv 2207.11019).  Their rule is not public;
this one is our reconstruction.  It begins with every unit as a stage and works on the cost of `partition`, the sum of
fill_s and the largest slow_s of the stages:

    stages    a | b | c | d          merging b and c    saves   fill(b) + fill(c) - fill(bc)     transfers and all
    after     a | b   c | d                             rises   slowest after - slowest before

| while there are            | the pair with the largest saved - rise is merged                         |
|----------------------------|--------------------------------------------------------------------------|
| more stages than groups    | whatever it is: there is no rank for them (`forced`)                     |
| as many, or fewer          | as long as it is above 0                                                 |

What is promised, and tested: a merge that is not forced makes the predicted step shorter, by saved - rise; at the end
no merge of two neighbours would; one merge is the best there is.  With one pass a step and work that adds up, all
becomes one stage, and with transfers that cost nothing no merge is made unless forced: both are optimal.  In general a
greedy rule is not (of 900 random small chains and graphs it was best in 773): that is what `partition` is for, and
searches ask both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gridnn.errors import InputError
from gridnn.plan.pipeline.partition import Floats


class Merge(NamedTuple):
    """One merge.

    Attributes
    ----------
    at
        First unit of the second of the two stages.
    saved_s, rise_s
        What the sum of fill_s falls by, and what the slowest stage rises by.
    forced
        Made because there were more stages than groups.
    """

    at: int
    saved_s: float
    rise_s: float
    forced: bool


class Merged(NamedTuple):
    """The stages left, and how they came to be.

    Attributes
    ----------
    first
        First unit of each stage.
    cost_s
        Predicted seconds of a step.
    merges
        In their order.
    """

    first: tuple[int, ...]
    cost_s: float
    merges: tuple[Merge, ...]


def merge(fill_s: Floats, slow_s: Floats, groups: int) -> Merged:
    """Return the stages that merging leaves of single units.

    Parameters
    ----------
    fill_s, slow_s : (U + 1, U + 1)
        Of the run of units [i, j) as a stage; slow_s is infinite where a run cannot be one.
    groups
        Groups of ranks there are.

    Raises
    ------
    InputError
        If there is no group, a unit cannot be a stage, or stages can become no fewer as none of their runs can be one.
    """
    if groups < 1:
        raise InputError(f"{groups} groups of ranks: stages need at least one; give 1 or more")
    first, merges = list(range(len(fill_s) - 1)), list[Merge]()
    if not np.isfinite(slow_s[first, [*first[1:], len(first)]]).all():
        raise InputError("a single unit cannot be a stage; give a stage more memory or more ranks")
    while len(first) > 1:
        forced = len(first) > groups
        best = max(_merges(first, fill_s, slow_s, forced), key=lambda each: each.saved_s - each.rise_s)
        if forced and not np.isfinite(best.rise_s):
            raise InputError(
                f"{groups} groups of ranks: {len(first)} stages cannot be merged further, as none would fit in memory; "
                "give more memory, more ranks, or fewer passes open at once"
            )
        if not forced and not best.saved_s > best.rise_s:
            break
        merges.append(best)
        first.remove(best.at)
    stops = [*first[1:], len(fill_s) - 1]
    return Merged(tuple(first), float(fill_s[first, stops].sum() + slow_s[first, stops].max()), tuple(merges))


def _merges(first: list[int], fill_s: Floats, slow_s: Floats, forced: bool) -> list[Merge]:
    """Return what each merge of two neighbours would do."""
    stops = [*first[1:], len(fill_s) - 1]
    slow = slow_s[first, stops]
    before, found = slow.max(), []
    for k, (start, middle, stop) in enumerate(zip(first, first[1:], stops[1:], strict=False)):
        together = slow_s[start, stop]
        after = max([together, *slow[:k], *slow[k + 2 :]])
        saved_s = fill_s[start, middle] + fill_s[middle, stop] - fill_s[start, stop]
        found.append(Merge(middle, float(saved_s), float(after - before), forced))
    return found
