"""Flip points: where one strategy becomes faster than another, as a map over two quantities.

    alpha x  16 | data   data   fc-only        the fastest strategy of every cell, and how far it is before the next;
              1 | data  |fc-only fc-only       between neighbours that differ, the point where both take as long
           1/16 | fc-only fc-only fc-only
                  1/16     1      16  beta x

A strategy is as fast as its best plan, and fixed plans are piecewise linear in alpha and beta, so a flip is where two
plans cross: few secants find it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from gridnn.analysis.chart import Map
from gridnn.analysis.rivals import Rivals, rivals
from gridnn.analysis.settings import LABELS, MACHINE, SHORT, job_at, title_of, values_of
from gridnn.analysis.strategies import HEADS, KNOWN, check_strategies
from gridnn.analysis.study import Study
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.moves import Floats
from gridnn.errors import InputError
from gridnn.network.source import Source
from gridnn.plan.search import MODEL_ERROR

RIVALS = KNOWN[:-1]
"""Strategies of a map: a plan layer by layer is never slower than those, so it would win everywhere."""
SIZE = 9
"""Cells along an axis of the machine's; fewer where every cell is another job."""
SAME = 1e-9
"""Relative difference of seconds that are the same."""
HALVINGS = 60
Steps = Callable[[float, float], tuple[Rivals, Floats]]


def flip_map(
    study: Study, procs: int, across: str = "beta", up: str = "alpha", strategies: Iterable[str] = RIVALS,
    size: int | None = None, values: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
    source: Source | str | None = None,
) -> tuple[Table, Map]:  # fmt: skip
    """Return where strategies take over from each other, and a map of the fastest.

    Parameters
    ----------
    across, up
        Two of alpha, beta, batch, image and procs.
    size
        Cells along an axis; left out, 9 over the machine, 5 where every cell is another job.
    values
        Of both axes, as in `sensitivity`; None for a series around the study's.
    source
        Where the network comes from, to build it for other images.

    Returns
    -------
    A row for each change of the fastest along `across`; and the map.  Over alpha and beta the change is a point, where
    both take as long; over whole numbers it is somewhere between two of them.

    Raises
    ------
    InputError
        If the two are one, or values or strategies cannot be.
    """
    if across == up:
        raise InputError(f"a map of {across} over itself; take two of {', '.join(LABELS)}")
    names = sorted(check_strategies(strategies), key=KNOWN.index)
    if len(names) < 2:
        raise InputError("a map compares strategies; give at least two")
    cells = size or (SIZE if {across, up} & set(MACHINE) else 5)
    factors = tuple(2.0**power for power in range(-(cells // 2), cells - cells // 2))
    if {across, up} <= set(MACHINE):
        factors = tuple(float(f) for f in np.exp2(np.linspace(-4, 4, cells)))
    x = values_of(study, procs, across, values[0], source, factors)[1]
    y = values_of(study, procs, up, values[1], source, factors)[1]
    steps = _steps(study, procs, across, up, names, source, x, y)
    winners, texts, rows = list[tuple[str, ...]](), list[tuple[str, ...]](), list[tuple[Cell, ...]]()
    for value in y:
        line = [steps(at, value) for at in x]
        winners.append(tuple(_winner(*here) for here in line))
        texts.append(tuple(_text(*here) for here in line))
        for (low, high), (below, above) in zip(pairwise(x), pairwise(line), strict=True):
            before, after = _winner(*below), _winner(*above)
            if before == after:
                continue
            if across not in MACHINE:
                rows.append((value, before, after, None, low, high, None))
                continue
            own, seconds = below[0], partial(_seconds, steps, value)
            for i, j, at, step_s in turns(seconds, own.of, low, high, below[1], above[1]):
                rows.append(
                    (value, *(_head(own.strategies[own.of[k]]) for k in (i, j)), at, low, high, step_s)
                )
    title = title_of(study, procs, across, up)
    columns = (
        Column("up", "", SHORT[up]), Column("before", "", "fastest below"), Column("after", "", "fastest above"),
        Column("at", "", SHORT[across], "where both take as long"),
        Column("low", "", "between"), Column("high", "", "and"),
        Column("step_s", "s", "step there"),
    )  # fmt: skip
    table = Table(
        f"{title}: where the fastest strategy changes over {LABELS[across]}", columns, tuple(rows),
        notes=tuple(_notes(winners, bool(rows), across)),
    )  # fmt: skip
    chart = Map(
        f"{title}: the fastest strategy", LABELS[across], LABELS[up], x, y, tuple(winners), tuple(texts),
        caption=f"How much the next takes longer; ~ less than {MODEL_ERROR:.0%}, about equal.",
    )  # fmt: skip
    return table, chart


def _notes(winners: Sequence[Sequence[str]], changes: bool, across: str) -> Iterator[str]:
    names = {name for row in winners for name in row}
    if len(names) == 1:
        yield f"{names.pop()} is the fastest everywhere."
    elif not changes:
        yield f"the fastest strategy does not change over {across}, only over the other axis of the map."
    yield (
        f"strategies within {MODEL_ERROR:.0%} of each other, the error of the model, are about equal: a flip between "
        "them is no reason to change."
    )


def _steps(
    study: Study, procs: int, across: str, up: str, names: Sequence[str], source: Source | str | None,
    x: Sequence[float], y: Sequence[float],
) -> Steps:  # fmt: skip
    """Return a function of both values: the rivals there and their seconds.  Each job is planned once."""
    jobs: dict[tuple[float, ...], Rivals] = {}
    machine = [(q, at) for q, at in ((across, 0), (up, 1)) if q in MACHINE]
    ends = {q: ((x, y)[at][0], 1.0, (x, y)[at][-1]) for q, at in machine}
    corners = [(a, b) for a in ends.get("alpha", (1.0,)) for b in ends.get("beta", (1.0,))]

    def steps(at: float, value: float) -> tuple[Rivals, Floats]:
        where = {across: at, up: value}
        key = tuple(v for q, v in where.items() if q not in MACHINE)
        if key not in jobs:
            rest = {q: v for q, v in where.items() if q not in MACHINE}
            jobs[key] = rivals(job_at(study, procs, rest, source), names, corners)
        return jobs[key], jobs[key].steps_s(where.get("alpha", 1.0), where.get("beta", 1.0))

    return steps


def _seconds(steps: Steps, value: float, at: float) -> Floats:
    return steps(at, value)[1]


def _winner(rivals_: Rivals, step_s: Floats) -> str:
    return _head(rivals_.strategies[rivals_.of[best(step_s)]])


def _text(rivals_: Rivals, step_s: Floats) -> str:
    """Return how much longer the next strategy takes, and which that is."""
    least, by = float(step_s.min()), rivals_.by_strategy(step_s)
    # Strategies that come to the same plan are not rivals: within the batch "domain" is "fc-only".
    others = [(float(s), n) for s, n in zip(by, rivals_.strategies, strict=True) if s > least * (1 + SAME)]
    if not others:
        return "all alike"
    seconds, name = min(others)
    margin = seconds / least - 1
    return f"{'~' if margin < MODEL_ERROR else ''}{margin:.0%}\nbefore {_head(name)}"


def _head(name: str) -> str:
    return HEADS.get(name, name)


def best(step_s: Floats) -> int:
    """Return the fastest plan; of those as fast the first, whose strategy is the simplest."""
    return int(np.flatnonzero(step_s <= step_s.min() * (1 + SAME))[0])


def turns(
    steps: Callable[[float], Floats], of: Sequence[int], low: float, high: float, below: Floats, above: Floats,
    depth: int = 8,
) -> Iterator[tuple[int, int, float, float]]:  # fmt: skip
    """Yield (plan before, plan after, where, seconds there) of every change of the fastest strategy between two points.

    Where the plans of the two ends take as long a third may be faster: it wins in between, and there are two changes.

    Parameters
    ----------
    steps
        Seconds of all plans at a point.
    of
        The strategy of each plan.
    below, above
        Seconds of all plans at `low` and `high`.
    """
    i, j = best(below), best(above)
    if of[i] == of[j]:
        return
    at, there = _crossing(steps, i, j, low, high, below, above)
    if depth and low < at < high and there.min() < min(there[i], there[j]) * (1 - 10 * SAME):
        yield from turns(steps, of, low, at, below, there, depth - 1)
        yield from turns(steps, of, at, high, there, above, depth - 1)
        return
    yield i, j, at, float(there[i])


def _crossing(
    steps: Callable[[float], Floats], i: int, j: int, low: float, high: float, below: Floats, above: Floats
) -> tuple[float, Floats]:
    """Return where two plans take as long, and the seconds of all there.

    Both are linear between few kinks, so the secant finds it in a step or two; an end that stays is given half its
    weight (the Illinois rule), so that kinks cannot hold it up.
    """
    left, right = float(below[i] - below[j]), float(above[i] - above[j])
    if left >= 0.0 or right <= 0.0:  # as fast at an end
        return (low, below) if left >= 0.0 else (high, above)
    at, there, side = low, below, 0
    for _ in range(HALVINGS):
        at = (low * right - high * left) / (right - left)
        there = steps(at)
        gap = float(there[i] - there[j])
        if abs(gap) <= SAME * float(there[i]):
            break
        if gap < 0:
            low, left, right = at, gap, right / 2 if side < 0 else right
            side = -1
        else:
            high, right, left = at, gap, left / 2 if side > 0 else left
            side = 1
    return at, there
