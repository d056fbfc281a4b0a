"""Rivals: the plans of some strategies on any number of machines that differ in alpha and beta.

The communication of a fixed plan is homogeneous in alpha and beta: every formula is a sum of `alpha x something + beta
x something` under minima and maxima, so for factors x and y

    step(x, y) = compute + y comm(x / y, 1)

and a raster of 9 x 9 doublings asks for no more than 17 machines.  Plans to choose from are those of every strategy,
of "uniform" and "dynamic" those that are the best at corners, edges and centre of what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gridnn.analysis.parts import Plans, Schemes, alike, communication, gather, parts, scaled
from gridnn.analysis.strategies import KNOWN, Choice, families, layerwise_around, pick, uniform_rows
from gridnn.cost.moves import Floats
from gridnn.plan.job import Degrees, Job

SHORTLIST = 8
"""Grids of the uniform plan that are kept for each corner."""


@dataclass(frozen=True)
class Rivals:
    """The plans of some strategies for one job, and what their communication costs on machines asked for so far.

    Attributes
    ----------
    schemes, of : (plans,)
        The plans, and the number of each one's strategy.
    known
        Seconds of communication by alpha / beta, for beta as it is.
    """

    job: Job
    strategies: tuple[str, ...]
    schemes: tuple[Schemes, ...]
    plans: Plans
    of: tuple[int, ...]
    compute_s: Floats
    known: dict[float, Floats] = field(default_factory=dict)

    def steps_s(self, alpha: float, beta: float) -> Floats:
        """Return the seconds of a step of every plan, where messages and bytes take so many times as long."""
        ratio = alpha / beta
        if ratio not in self.known:
            self.known[ratio] = _on(self.job, self.plans, ratio)
        return self.compute_s + beta * self.known[ratio]

    def by_strategy(self, step_s: Floats) -> Floats:
        """Return the seconds of every strategy, its best plan's, from those of the plans."""
        found = np.full(len(self.strategies), np.inf)
        np.minimum.at(found, np.array(self.of), step_s)
        return found

    def choices(self, alpha: float, beta: float) -> dict[str, Choice]:
        """Return the plan of every strategy there, and what it is made of."""
        machine, found = scaled(self.job.machine, alpha, beta), dict[str, Choice]()
        now = parts(replace(self.job, machine=machine), self.plans)
        for number, name in enumerate(self.strategies):
            mine = np.flatnonzero(np.array(self.of) == number)
            best = int(mine[np.argmin(now.step_s[mine])])
            sure = name not in ("uniform", "dynamic")
            found[name] = Choice(name, self.schemes[best], pick(now, best), sure)
        return found


def rivals(
    job: Job, strategies: Sequence[str], corners: Sequence[tuple[float, float]], near: Sequence[Schemes] = ()
) -> Rivals:
    """Return the plans of some strategies.

    Parameters
    ----------
    corners
        Factors of alpha and beta between which they are to be compared.
    near
        Layer-wise plans of the job to look around in all corners; with none, that of the first corner.
    """
    known: dict[str, list[Schemes]] = dict(families(job, KNOWN if "dynamic" in strategies else strategies))
    probes = list(dict.fromkeys(corners))
    if {"uniform", "dynamic"} & set(strategies):
        names = [node.name for node in job.network.nodes]
        best = [[dict.fromkeys(names, grid) for grid in rows] for rows in _uniform(job, probes)]
        starts = [plan for several in known.values() for plan in several]
        known["uniform"] = list({str(plan[names[0]]): plan for several in best for plan in several}.values())
    if "dynamic" in strategies:
        known["dynamic"] = []
        for (alpha, beta), (first, *_) in zip(probes, best, strict=True):
            on = replace(job, machine=scaled(job.machine, alpha, beta))
            plan = layerwise_around(on, [*starts, first], near).degrees
            near = near or [plan]
            known["dynamic"].append(plan)
    named = [(at, plan) for at, name in enumerate(strategies) for plan in known[name]]
    plans = gather(job, [plan for _, plan in named])
    now = parts(job, plans)
    of = tuple(at for at, _ in named)
    schemes = tuple(plan for _, plan in named)
    return Rivals(job, tuple(strategies), schemes, plans, of, now.compute_s, {1.0: now.comm_s})


def _uniform(job: Job, probes: Sequence[tuple[float, float]]) -> Iterator[list[Degrees]]:
    """Yield the grids that are the best for all layers in each corner, the best first."""
    rows, _ = uniform_rows(job)
    plans = alike(job, rows)
    now = parts(job, plans)
    comm = {1.0: now.comm_s}
    for alpha, beta in probes:
        ratio = alpha / beta
        if ratio not in comm:
            comm[ratio] = _on(job, plans, ratio)
        best = np.argsort(now.compute_s + beta * comm[ratio], kind="stable")[:SHORTLIST]
        yield [rows[at] for at in best]


def _on(job: Job, plans: Plans, alpha: float) -> Floats:
    return communication(replace(job, machine=scaled(job.machine, alpha)), plans)
