"""What measured seconds say of a machine file: its constants, fitted to the runs that were priced on it.

A price is linear in the constants as long as the same algorithms are the cheapest, and grows with all of them
alike, so the price of anything is the sum of what each constant adds to it (Euler's theorem):

    seconds   =   m1 * flops part  +  m2 * touch part  +  m3 * layer part                       a pass on a rank
    seconds   =   sum over levels of  m * alpha part  +  m' * beta part                         a movement on a rank

The multipliers m are those, none below nothing, for which the sum of (predicted - measured)^2 / measured is least
(Lawson and Hanson 1974, chapter 23), so a second counts as a second, whether in many short pieces or one long.  A weak
pull to 1 keeps constants of which the runs say nothing where the file has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gridnn.analysis.constants import (
    Constant,
    arithmetic_constants,
    dearer_machine,
    identity,
    movement_constants,
)
from gridnn.analysis.measured import Measured
from gridnn.analysis.observe import Seen, arithmetic_seen, movements_seen
from gridnn.analysis.runs import Run
from gridnn.analysis.table import Cell, Column, Table
from gridnn.cost.machine import Machine

Floats = NDArray[np.float64]
Runs = Sequence[tuple[Run, Measured | None]]
PULL = 3e-3
"""Weight of the pull to the file: a constant with a smaller share of the seconds than some of these stays there."""
FLOOR = 1e-3
"""Least multiplier, for a machine file has no constant of nothing."""
TURNS = 8
"""Most rounds of a fit in which other algorithms become the cheapest."""
ALIKE = 0.98
"""Cosine of two parts above which a fit does not tell them apart."""

_COLUMNS = (
    Column("constant", about="of the machine file"), Column("file", "", about="its value there"),
    Column("fitted", "", about="the value that fits these runs best"),
    Column("factor", "ratio", about="fitted / file"),
    Column("error", "ratio", "+-", "standard error of the fitted value, relative"),
    Column("share", "ratio", about="share of the predicted seconds that hang on it"),
    Column("explains", "ratio", about="share of the squared error that goes when this one alone is fitted"),
    Column("observations", about="medians that its part is in"),
    Column("known", about="how well these runs tell it"),
)  # fmt: skip


@dataclass(frozen=True)
class Residue:
    """The constants of a machine as runs would have them; `machine` is None where nothing was learned."""

    table: Table
    machine: Machine | None


@dataclass(frozen=True, eq=False)
class Fit:
    """Multipliers of some constants, and what is known of them, in their order.

    `before` and `after` are root mean square errors, each second weighted alike, relative.
    """

    factors: Floats
    errors: Floats
    shares: Floats
    explains: Floats
    counts: tuple[int, ...]
    known: tuple[str, ...]
    before: float
    after: float
    condition: float
    seen: int


def residue(runs: Runs) -> Residue:
    """Return what runs with measured spans say of their machine."""
    title = "What the residue says of the machine file"
    machines = {id(run.job.machine): run.job.machine for run, _ in runs}
    by_value = list(dict.fromkeys(identity(m) for m in machines.values()))
    traced = [(run, measured) for run, measured in runs if measured is not None]
    if len(by_value) > 1:
        names = ", ".join(dict.fromkeys(m.name for m in machines.values()))
        return Residue(Table(title, _COLUMNS, (), None, (
            f"the runs were planned on several machines ({names}): name one with --machine to hold all against it",
        )), None)  # fmt: skip
    if not traced:
        note = "no run has measured spans: train with run.trace_steps = 4, or more"
        return Residue(Table(title, _COLUMNS, (), None, (note,)), None)
    machine = runs[0][0].job.machine
    rows: list[tuple[Cell, ...]] = []
    notes, made = [f"machine: {machine.name} ({machine.date})"], machine
    if machine.profile is not None:
        notes.append("the machine has a measured profile of layers: its arithmetic is left alone")
    groups: list[tuple[str, Sequence[Constant], Seen]] = []
    if machine.profile is None:
        groups.append(("arithmetic", arithmetic_constants(machine), arithmetic_seen(traced)))
    groups.append(("movements", movement_constants(machine), movements_seen(traced)))
    for what, constants, seen in groups:
        notes += [f"{what}: {note}" for note in seen.notes]
        if not len(seen.seconds):
            notes.append(f"{what}: nothing was measured that could say anything")
            rows += [(c.name, c.value, c.value, 1.0, None, 0.0, 0.0, 0, "no: not seen") for c in constants]
            continue
        found = fit(seen, constants, machine)
        for constant, factor in zip(constants, found.factors.tolist(), strict=True):
            made = constant.dearer(made, factor)
        rows += _rows(constants, found)
        notes.append(
            f"{what}: root mean square error {found.before:.1%} with the file, {found.after:.1%} fitted, of "
            f"{found.seen} medians; condition {found.condition:.3g}"
        )
    steps = [(run.step_s, run.step_on(made), run.summary.step_s) for run, _ in runs]
    before, after = (_mean_error([(s[at], s[2]) for s in steps]) for at in (0, 1))
    notes.append(
        f"mean error of a whole step, nothing hidden: {before:.1%} with the file, {after:.1%} fitted"
    )
    learned = any(len(seen.seconds) for _, _, seen in groups)
    named = _named(made, [run for run, _ in runs]) if learned else None
    return Residue(Table(title, _COLUMNS, tuple(rows), None, tuple(notes)), named)


def fit(seen: Seen, constants: Sequence[Constant], machine: Machine) -> Fit:
    """Return the multipliers of some constants for which predictions come nearest to what was measured."""
    from scipy.optimize import nnls

    took, count = seen.seconds, len(constants)
    weight = 1 / np.sqrt(took * took.sum())
    target, factors = took * weight, np.ones(count)
    at_file = parts = _parts(seen, constants, machine)
    best, least, kept = factors, np.inf, parts
    for _ in range(TURNS):
        matrix = np.vstack([parts * weight[:, None], PULL * np.eye(count)])
        # x = m - FLOOR, so that nothing below the floor is found.
        right = np.concatenate([target, np.full(count, PULL)]) - matrix.sum(axis=1) * FLOOR
        new = nnls(matrix, right)[0] + FLOOR
        here = dearer_machine(machine, constants, new)
        now = _parts(seen, constants, here) / new  # by a multiplier of the file's constants
        miss = float(np.sum((now @ new * weight - target) ** 2))
        if miss < least:
            best, least, kept = new, miss, now
        if np.allclose(new, factors, rtol=1e-4):
            break
        factors, parts = new, now
    return _judged(seen, best, at_file * weight[:, None], kept * weight[:, None], target, constants)


def _judged(
    seen: Seen, factors: Floats, before: Floats, matrix: Floats, target: Floats, constants: Sequence[Constant]
) -> Fit:
    """Return a fit with what is known of its factors; matrices are weighted, by multipliers of the file's constants."""
    count, ones = len(factors), np.ones(len(factors))
    miss = target - matrix @ factors
    variance = float(miss @ miss) / max(1, len(target) - count)
    normal = matrix.T @ matrix + PULL**2 * np.eye(count)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(normal))) / factors
    old = target - before @ ones
    explains = np.zeros(count)
    for at, column in enumerate(before.T):
        if (size := float(column @ column)) > 0 and old @ old > 0:
            step = max(FLOOR - 1, float(column @ old) / size)
            explains[at] = 1 - float(np.sum((old - step * column) ** 2)) / float(old @ old)
    lengths = np.linalg.norm(matrix * factors, axis=0)
    sums = (matrix * factors * target[:, None]).sum(axis=0)
    shares = sums / max(sums.sum(), 1e-300)
    unit = matrix * factors / np.where(lengths > 0, lengths, 1)
    in_use = lengths > 3 * PULL
    cosines = unit.T @ unit - np.eye(count)
    known = []
    for at in range(count):
        twin = int(cosines[at].argmax())
        if not in_use[at]:
            known.append("no: not seen" if not lengths[at] else "no: too small a share")
        elif cosines[at, twin] > ALIKE and in_use[twin]:
            known.append(f"no: not told from {constants[twin].name}")
        elif len(target) <= int(in_use.sum()):
            known.append("no: too few observations")
        else:
            known.append("well" if errors[at] < 0.1 else "roughly" if errors[at] < 0.5 else "hardly")
    condition = float(np.linalg.cond(unit[:, in_use])) if in_use.any() else float("inf")
    counts = tuple(int(n) for n in (matrix > 0).sum(axis=0))
    rms = (float(np.sqrt(old @ old)), float(np.sqrt(miss @ miss)))
    return Fit(factors, errors, shares, explains, counts, tuple(known), *rms, condition, len(target))


def _rows(constants: Sequence[Constant], found: Fit) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for at, c in enumerate(constants):
        factor = 1 / float(found.factors[at]) if c.rate else float(found.factors[at])
        rows.append((
            c.name, c.value, c.value * factor, factor, float(found.errors[at]), float(found.shares[at]),
            float(found.explains[at]), found.counts[at], found.known[at],
        ))  # fmt: skip
    return rows


def _parts(seen: Seen, constants: Sequence[Constant], machine: Machine) -> Floats:
    """Return what each constant adds to every observation (observations, constants): exact derivatives.

    Prices are piecewise linear, so a difference is a derivative; within a piece the parts add up to the price.
    """
    step, base = 2.0**-20, seen.price(machine)
    return np.stack([(seen.price(c.dearer(machine, 1 + step)) - base) / step for c in constants], axis=1)


def _named(machine: Machine, runs: Sequence[Run]) -> Machine:
    """Return a machine with a name, a source and a date that say where its constants come from."""
    name = machine.name.removesuffix("-refit")
    shown = ", ".join(run.name for run in runs[:8]) + (f" and {len(runs) - 8} more" if len(runs) > 8 else "")
    newest = max(run.finished for run in runs)
    source = f"refit of {machine.name} ({machine.date}) to the runs {shown}"
    return replace(machine, name=f"{name}-refit", source=source, date=newest.isoformat())


def _mean_error(pairs: Sequence[tuple[float, float]]) -> float:
    found = [abs(predicted / measured - 1) for predicted, measured in pairs if measured]
    return sum(found) / len(found) if found else 0.0
