"""The method mcmc: walks from the plans that other methods find, and all of them beside it, simulated.

    dynamic, data, the fastest baseline, one at random  --walk-->  the best seen

Its seconds are simulated ones, with what overlaps overlapping; so are those of its baselines.  It proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import nan

from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.plan.baselines import BASELINES
from gridnn.plan.outcome import SIMULATED
from gridnn.plan.problem import Job
from gridnn.plan.search import Found, search
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.soap import mcmc_search

PROPOSALS = 1000
"""Of each start, where no budget is given: some seconds for a network of 50 layers on 16 processes."""


def walk(
    job: Job, *, pins: Mapping[str, Scheme] | None = None, seed: int = 0, proposals: int | None = None,
    seconds: float | None = None, every: bool = False,
) -> Found:  # fmt: skip
    """Return the best plan that walks from several starts visit, beside the baselines; all seconds are simulated.

    Parameters
    ----------
    pins
        Schemes of layers that are not to be chosen, first ranks included.
    seed
        The same seed and number of proposals: the same plan.
    proposals, seconds
        Budget of each start; `PROPOSALS` if there is none.
    every
        As `search`, for the start it makes.

    Raises
    ------
    InputError
        For more processes than are simulated, and as `search` and `mcmc_search`.
    """
    if job.procs > SIMULATED:
        raise InputError(
            f"{job.procs} processes: method mcmc simulates every step, up to {SIMULATED}; use --method dynamic"
        )
    started_s = time.perf_counter()
    pins = dict(pins or {})
    # The additive cost knows no first ranks: what is pinned elsewhere is free for the start, and put in place after.
    best = search(job, pins={name: scheme for name, scheme in pins.items() if not scheme.first}, every=every)
    known = {method: search(job, method).schemes for method in BASELINES}
    simulated = {method: simulate_plan(job, schemes).cost_s for method, schemes in known.items()}
    second = min(simulated, key=lambda method: simulated[method])
    starts = [dict(best.schemes)]
    starts += [s for s in (dict(known["data"]), dict(known[second])) if s not in starts]
    if proposals is None and seconds is None:
        proposals = PROPOSALS
    found = mcmc_search(job, starts, seed, proposals=proposals, seconds=seconds, pins=pins, random_starts=1)
    spent_s = time.perf_counter() - started_s
    result = found.walk
    notes = (
        f"seconds are simulated; from dynamic {found.starts_s[0]:.4g} s; {result.proposals} proposals of seed {seed}, "
        f"{result.acceptance:.0%} accepted",
    )
    return replace(
        best, method="mcmc", schemes=found.schemes, step_s=found.step_s, lower_s=nan, search_s=spent_s,
        baselines={**simulated, "dynamic": found.starts_s[0]}, core=0, candidates=0, priced=0, notes=notes,
    )  # fmt: skip
