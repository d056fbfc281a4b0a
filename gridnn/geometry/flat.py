"""Flat intervals of a box: which boxes a run of an array's memory covers, in order.

An array of extents (3, 4) in memory, last dim fastest, and the run [2, 11) of its 12 elements:

     .  .  a  a        a   head: what is left of a row that the run enters in its middle      (0:1, 2:4)
     b  b  b  b        b   body: whole rows                                                   (1:2, 0:4)
     c  c  c  .        c   tail: the beginning of the row that it leaves in its middle        (2:3, 0:3)

Head and tail are runs of one row, so the same cut is made inside them, one dim less: a run of d dims is at most
2 d - 1 boxes.  They tile it, and each of them is one unbroken piece of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gridnn.geometry.interval import Box, Interval


def flat_boxes(extents: Sequence[int], run: Interval) -> list[Box]:
    """Return the boxes that a run of an array's elements covers, in the order of memory, none empty.

    Parameters
    ----------
    extents
        Of the array, the dim that changes fastest last.
    run
        Positions in the flat array, within ``[0, prod(extents))``.
    """
    assert run.start >= 0 and run.stop <= prod(extents), f"run {run} of an array of {tuple(extents)}"
    if run.size == 0:
        return []
    if len(extents) == 1:
        return [(run,)]
    row = prod(extents[1:])
    (first, head), (last, tail) = divmod(run.start, row), divmod(run.stop, row)
    if first == last:
        return _in_row(extents, first, Interval(head, tail))
    found: list[Box] = []
    if head:
        found += _in_row(extents, first, Interval(head, row))
        first += 1
    if first < last:
        found.append((Interval(first, last), *(Interval(0, e) for e in extents[1:])))
    return found + _in_row(extents, last, Interval(0, tail))


def _in_row(extents: Sequence[int], index: int, run: Interval) -> list[Box]:
    return [(Interval(index, index + 1), *box) for box in flat_boxes(extents[1:], run)]
