"""Methods: how a plan is found, and what it is compared with.

| method    | plan                                                                       | optimal for                |
|-----------|----------------------------------------------------------------------------|----------------------------|
| dynamic   | a grid for every layer, by elimination (Jia et al. 2018)                   | the additive cost, proved  |
| mcmc      | grids and ranks, by a walk over simulated plans (Jia et al. 2019)          | nothing: the best seen     |
| uniform, data, model, owt, fc-only                         see `baselines`             | among themselves           |

Every result is shown beside the baselines.  The additive cost errs by some ten per cent (Jia et al. 2018,
Table 4, on machines that were measured): a gain below that is not called one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.placed import check_scheme
from gridnn.plan.baselines import BASELINES, Schemes, candidates, price_all, uniform
from gridnn.plan.exact.eliminate import cheapest, cost_of
from gridnn.plan.problem import Degrees, Job, Problem, space
from gridnn.plan.reduce import reduced

METHODS = ("dynamic", *BASELINES, "mcmc")
MODEL_ERROR = 0.10
"""Relative error of predicted seconds below which two plans are the same."""
MATRIX_CHOICES = 500
"""Up to that many candidates a layer all their pairs are priced."""


@dataclass(frozen=True)
class Found:
    """A plan, and what it was compared with.

    Attributes
    ----------
    step_s
        Seconds a step by the additive cost: each layer waits for its slowest rank, nothing overlaps.
    lower_s
        What no plan of the space can beat; equal to `step_s` where it is proved optimal.
    search_s
        What the method took, cost tables included, the baselines not.
    baselines
        Seconds a step of the known plans, by the same cost.
    core
        Nodes the network folds to (Jia et al. 2018: K), 0 where nothing was folded.
    candidates, priced
        Grids of all layers together, and those whose pairs were priced.
    """

    method: str
    schemes: Mapping[str, Scheme]
    step_s: float
    lower_s: float
    search_s: float
    baselines: Mapping[str, float]
    core: int = 0
    candidates: int = 0
    priced: int = 0
    memory_bytes: float = 0.0
    notes: Sequence[str] = field(default=())

    @property
    def runner_up(self) -> tuple[str, float]:
        """The cheapest baseline."""
        others = {m: s for m, s in self.baselines.items() if m != self.method} or dict(self.baselines)
        return min(others.items(), key=lambda entry: entry[1])

    @property
    def margin(self) -> float:
        """How much less a step takes than with the cheapest baseline, relative to that."""
        other = self.runner_up[1]
        return (other - self.step_s) / other if other else 0.0

    @property
    def verdict(self) -> str:
        """The margin in words."""
        name, seconds = self.runner_up
        if abs(self.margin) < 1e-9:
            return f'as fast as "{name}"'
        words = f'{abs(self.margin):.1%} {"faster" if self.margin > 0 else "slower"} than "{name}" ({seconds:.4g} s)'
        if abs(self.margin) < MODEL_ERROR:
            words += f": less than the model's error of {MODEL_ERROR:.0%}, so not a difference to count on"
        return words


def search(
    job: Job, method: str = "dynamic", *, pins: Mapping[str, Scheme] | None = None, memory_bytes: float | None = None,
    every: bool = False,
) -> Found:  # fmt: skip
    """Return the plan of a method other than mcmc, which `soap` has.

    Parameters
    ----------
    pins
        Schemes of layers that are not to be chosen (dynamic only).
    memory_bytes
        What a rank has (dynamic only): parameters, gradients, optimizer state and kept activations must fit.
    every
        All sizes up to P instead of powers of two or divisors.

    Raises
    ------
    InputError
        For an unknown method, pins that cannot be, a limit that nothing fits, or processes that no layer can use.
    """
    if method not in METHODS:
        raise InputError(f'method "{method}" is not known; use one of {", ".join(METHODS)}')
    if method != "dynamic" and (pins or memory_bytes is not None):
        raise InputError(
            f'method "{method}" has no choice left for pins or a memory limit; use --method dynamic'
        )
    plans = candidates(job)
    if method == "dynamic":
        found, seconds = layerwise(job, pins, memory_bytes, every)
        baselines = {**_prices(job, plans, without=("uniform",)), "uniform": seconds}
        return replace(found, baselines=baselines)
    started_s = time.perf_counter()
    plan, seconds = uniform(job) if method == "uniform" else _cheapest(job, plans[method])
    spent_s = time.perf_counter() - started_s
    schemes = {name: Scheme(GridShape(degrees)) for name, degrees in plan.items()}  # type: ignore[arg-type]
    return Found(method, schemes, seconds, seconds, spent_s, _prices(job, plans))


def layerwise(
    job: Job, pins: Mapping[str, Scheme] | None = None, memory_bytes: float | None = None,
    every: bool = False,
) -> tuple[Found, float]:  # fmt: skip
    """Return what the method "dynamic" finds, beside no baselines, and the seconds of the best uniform plan.

    Raises
    ------
    InputError
        As `search`.
    """
    fixed = check_pins(job, pins or {})
    extra = [plan for several in candidates(job).values() for plan in several]
    found = _dynamic(job, extra, fixed, memory_bytes, every)
    best, seconds = uniform(job)
    if seconds < found.step_s and not fixed and memory_bytes is None:
        # One grid for all may cut features by space axes, which the space of a layer leaves out: let them in.
        found = _dynamic(job, [*extra, best], fixed, memory_bytes, every)
    return found, seconds


def _dynamic(
    job: Job, extra: Sequence[Schemes], pins: Mapping[str, Degrees], memory_bytes: float | None,
    every: bool,
) -> Found:  # fmt: skip
    started_s = time.perf_counter()
    grids = space(
        job, every=every, extra={n.name: [p[n.name] for p in extra] for n in job.network.nodes}, pins=pins
    )
    problem = Problem(job, grids)
    _check_use(job, problem)
    start = [] if pins else [problem.choice(plan) for plan in extra]
    choice, cost, lower, core, priced, notes = _optimum(problem, start, memory_bytes)
    memory = float(sum(vector[c] for vector, c in zip(problem.memory_bytes, choice, strict=True)))
    return Found(
        "dynamic", problem.schemes(choice), cost, lower, time.perf_counter() - started_s, {}, core,
        sum(map(len, problem.candidates)), priced, memory, notes,
    )  # fmt: skip


def check_pins(job: Job, pins: Mapping[str, Scheme]) -> dict[str, Degrees]:
    """Return the grids of pinned layers.

    Raises
    ------
    InputError
        For a layer the network has not, or a scheme that cannot be.
    """
    names = {node.name for node in job.network.nodes}
    for name, scheme in pins.items():
        if name not in names:
            shown = ", ".join(node.name for node in job.network.nodes[:8])
            raise InputError(
                f"pin {name}: network {job.network.name} has no such layer; its layers are {shown}, ..."
            )
        check_scheme(name, scheme, job.per_pass, job.procs)
        if scheme.first:
            raise InputError(
                f"pin {name}={scheme}: the additive cost starts every grid at rank 0; leave @{scheme.first} out, or "
                "use --method mcmc"
            )
    return {name: scheme.grid.sizes for name, scheme in pins.items()}


def _prices(
    job: Job, plans: Mapping[str, Sequence[Schemes]], without: Sequence[str] = ()
) -> dict[str, float]:
    """Return the seconds of a step of every baseline."""
    named = [(name, plan) for name, several in plans.items() for plan in several]
    found: dict[str, float] = {}
    for (name, _), seconds in zip(named, price_all(job, [plan for _, plan in named]), strict=True):
        found[name] = min(found.get(name, seconds), seconds)
    if "uniform" not in without:
        found["uniform"] = uniform(job)[1]
    return found


def _cheapest(job: Job, plans: Sequence[Schemes]) -> tuple[Schemes, float]:
    return min(zip(plans, price_all(job, plans), strict=True), key=lambda entry: entry[1])


def _optimum(
    problem: Problem, start: Sequence[tuple[int, ...]], memory_bytes: float | None
) -> tuple[tuple[int, ...], float, float, int, int, tuple[str, ...]]:
    """Return choice, cost, lower bound, core, candidates whose pairs were priced, and what is to be said."""
    every = sum(map(len, problem.candidates))
    if max(map(len, problem.candidates)) <= MATRIX_CHOICES:
        graph = problem.graph
        best = cheapest(graph, memory_limit=memory_bytes)
        notes = (
            ()
            if best.gap_s == 0
            else (f"at most {best.gap_s:.3g} s a step from the optimum within the limit",)
        )
        return best.choice, cost_of(graph, best.choice), best.cost - best.gap_s, best.core, every, notes
    found = reduced(problem, start, memory_limit=memory_bytes)
    notes = () if found.gap_s == 0 else (f"at most {found.gap_s:.3g} s a step from the optimum: not proved",)
    return found.choice, found.cost, found.lower, found.core, found.active, notes


def _check_use(job: Job, problem: Problem) -> None:
    most = max(int(np.max(grids.sizes)) for grids in problem.candidates)
    if most == 1 < job.procs:
        raise InputError(
            f"{job.procs} processes: no layer of {job.network.name} can be cut into a divisor of that with a batch of "
            f"{job.per_pass}; take a number with small factors, such as {1 << (job.procs.bit_length() - 1)}, or a "
            "larger batch"
        )
