"""Strategies: the plan each of them has for a job, found fast enough to ask for thousands of processes.

| strategy     | plan                                                                                          |
|--------------|-----------------------------------------------------------------------------------------------|
| data, model, owt, fc-only, uniform     `gridnn.plan.baselines`                                               |
| domain       n as far as the batch goes, the rest of the processes cut h and w; fully connected layers the    |
|              best k x n (Gholami et al. 2018, Fig. 10)                                                        |
| dynamic      layer-wise: a grid for every layer (`gridnn.plan.search`)                                        |

Up to `SEARCHED` processes the layer-wise plan is the planner's, proved optimal.  Beyond, plans are carried over: the
layer-wise plan of P / 2 says where to look at P, and an exact search over that neighbourhood is made again around
what it finds, until nothing changes:

    n64 k2   at P / 2   ->   n128 k2, n64 k4, n64 k2 h2, n32 k4, n64 k2 as it is, ...   at P

Such a plan is the best found, not proved.  (Against the full search of AlexNet at 64 to 4096 processes and of VGG-16 at
64 to 1024 it found the same seconds each time.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gridnn.analysis.neighbours import around, primes_of, swapped
from gridnn.analysis.parts import Parts, Schemes, alike, gather, parts, parts_of
from gridnn.analysis.study import STRATEGIES
from gridnn.errors import InputError
from gridnn.geometry.grid import AXES
from gridnn.plan.baselines import candidates, fully_connected, uniform_grids
from gridnn.plan.exact.eliminate import cheapest
from gridnn.plan.job import Degrees, Job
from gridnn.plan.problem import Problem
from gridnn.plan.search import layerwise
from gridnn.plan.space import axis_limits, degrees

KNOWN = (*STRATEGIES[:-1], "domain", STRATEGIES[-1])
"""Every strategy, the simplest first: of equal plans the simplest has the name."""
HEADS = {"dynamic": "layer-wise"}
"""What people read where it is another word."""
SEARCHED = 32
"""Processes up to which the layer-wise plan is searched for in the whole space."""
FEW_GRIDS = 400
"""Grids of the uniform plan up to which all of them are priced."""
ROUNDS = 8


@dataclass(frozen=True)
class Choice:
    """A strategy's plan for a job.

    Attributes
    ----------
    parts
        Of a step; arrays (1,).
    proved
        Whether it is the best of its kind; False: the best that was found.
    """

    strategy: str
    degrees: Schemes
    parts: Parts
    proved: bool = True

    @property
    def step_s(self) -> float:
        """Seconds of a step that hides nothing."""
        return float(self.parts.step_s[0])


def check_strategies(strategies: Iterable[str]) -> tuple[str, ...]:
    """Return strategies by the names of the planner, each once.

    Raises
    ------
    InputError
        For an unknown one, or none at all.
    """
    back = {head: name for name, head in HEADS.items()}
    found = tuple(dict.fromkeys(back.get(name, name) for name in strategies))
    for name in found:
        if name not in KNOWN:
            raise InputError(f'strategy "{name}" is not known; use some of {", ".join(KNOWN)}')
    if not found:
        raise InputError(f"no strategy is given; use some of {', '.join(KNOWN)}")
    return found


def choices(
    job: Job, strategies: Sequence[str], near: Sequence[Schemes] = (), rows: Sequence[Degrees] = (),
    found: Mapping[str, Choice] | None = None,
) -> dict[str, Choice]:  # fmt: skip
    """Return the plan of every strategy.

    Parameters
    ----------
    near
        Layer-wise plans to look around: of half the processes, another machine, or another batch.  With none,
        and more than `SEARCHED` processes, they are made.
    rows
        Grids to look for the uniform plan among and around; all of them, if there are none.
    found
        Those that are known already.

    Raises
    ------
    InputError
        For processes that no layer can use.
    """
    here = dict(found or {})
    wanted = set(strategies) - set(here)
    known = families(job, KNOWN if "dynamic" in wanted else wanted)
    here |= _cheapest(job, {name: known[name] for name in known if name in wanted})
    if wanted & {"uniform", "dynamic"} and "uniform" not in here:
        here["uniform"] = _uniform(job, rows)
    if "dynamic" in wanted:
        starts = [plan for several in known.values() for plan in several]
        here["dynamic"] = layerwise_around(job, [*starts, here["uniform"].degrees], near)
    return {name: here[name] for name in strategies}


def pick(several: Parts, at: int) -> Parts:
    """Return the parts of one plan."""
    one = slice(at, at + 1)
    return Parts(
        several.compute_s[one], several.comm_s[one], several.hidden_s[one], several.memory_bytes[one],
        several.busy[one],
    )  # fmt: skip


def families(job: Job, wanted: Iterable[str]) -> dict[str, list[Schemes]]:
    """Return the plans among which each strategy but "uniform" and "dynamic" has the cheapest."""
    known = {**candidates(job), "domain": list(_domain(job))}
    return {name: known[name] for name in known if name in set(wanted)}


def _cheapest(job: Job, known: Mapping[str, Sequence[Schemes]]) -> dict[str, Choice]:
    """Return the cheapest of every family."""
    named = [(name, plan) for name, several in known.items() for plan in several]
    if not named:
        return {}
    several = parts(job, gather(job, [plan for _, plan in named]))
    best: dict[str, int] = {}
    for at, (name, _) in enumerate(named):
        if name not in best or several.step_s[at] < several.step_s[best[name]]:
            best[name] = at
    return {name: Choice(name, named[at][1], pick(several, at)) for name, at in best.items()}


def _domain(job: Job) -> Iterator[Schemes]:
    """Yield plans that cut the batch first and space beyond it, with each k x n of fully connected layers."""
    late, steps = fully_connected(job.network), degrees(job.procs)
    limits = {node.name: axis_limits(job.network, node, job.per_pass) for node in job.network.nodes}
    rows = max(s for s in steps if s <= job.per_pass)
    rest = max(s for s in steps if s * rows <= job.procs)
    wide = {
        k: {
            name: _at_most({"k": k, "n": job.procs // k}, limits[name], steps)
            for name in limits
            if name in late
        }
        for k in (s for s in steps if job.procs % s == 0)
    }
    for high in (s for s in steps if rest % s == 0):
        early = {
            name: _at_most({"n": rows, "h": high, "w": rest // high}, limits[name], steps)
            for name in limits
            if name not in late
        }
        for fully in wide.values():
            yield {name: early[name] if name in early else fully[name] for name in limits}


def _at_most(sizes: Mapping[str, int], limits: Mapping[str, int], steps: Sequence[int]) -> Degrees:
    """Return the grid with these sizes, each no larger than what it cuts."""
    return tuple(
        max(s for s in steps if s <= min(sizes[a], limits[a])) if a in sizes and a in limits else 1
        for a in AXES
    )


def uniform_rows(job: Job, allowed: Iterable[Degrees] = ()) -> tuple[list[Degrees], bool]:
    """Return grids of which one for all layers is cheap, and whether that is all of them.

    Of many, those are left out that cut channels most: far beyond what layers have, and slow to price.
    """
    rows = list(allowed or uniform_grids(job))
    # Other sizes than powers of two are priced rank by rank.
    few, least = (FEW_GRIDS, 128) if job.procs & (job.procs - 1) == 0 else (FEW_GRIDS // 4, 16)
    if len(rows) <= few:
        return rows, True
    # Not fewer than that: networks without space have hardly any others.
    cap = max(least, sorted(k * c for _, k, c, *_ in rows)[few])
    return [row for row in rows if row[1] * row[2] <= cap], False


def promising(jobs: Sequence[Job], most: int = 16) -> list[Degrees]:
    """Return the grids that are the cheapest for all layers in one of some jobs on as many processes."""
    found = dict[Degrees, None]()
    for job in jobs:
        rows, _ = uniform_rows(job)
        step_s = parts(job, alike(job, rows)).step_s
        found.update(dict.fromkeys(rows[at] for at in np.argsort(step_s, kind="stable")[:most]))
    return list(found)


def _uniform(job: Job, rows: Sequence[Degrees]) -> Choice:
    """Return the cheapest plan of one grid; where not all are priced, with a look around what is found."""
    allowed = dict.fromkeys(uniform_grids(job))
    todo, proved = [row for row in rows if row in allowed], False
    if not todo:
        todo, proved = uniform_rows(job, allowed)
    best: tuple[Degrees, Parts] | None = None
    seen: set[Degrees] = set()
    while todo:
        several = parts(job, alike(job, todo))
        at = int(np.argmin(several.step_s))
        if best is not None and several.step_s[at] >= best[1].step_s[0]:
            break
        best = todo[at], pick(several, at)
        seen |= set(todo)
        todo = [g for g in swapped({best[0]}, primes_of(job.procs)) if g in allowed and g not in seen]
    assert best is not None
    return Choice("uniform", {node.name: best[0] for node in job.network.nodes}, best[1], proved)


def layerwise_around(job: Job, starts: Sequence[Schemes], near: Sequence[Schemes] = ()) -> Choice:
    """Return the layer-wise plan: around plans that are near; with none, searched for among all grids.

    Parameters
    ----------
    starts
        Plans that it is not to be slower than.
    near
        Layer-wise plans of half the processes, another machine, or another batch.
    """
    primes, plan = primes_of(job.procs), starts[0]
    if not near and (job.procs <= SEARCHED or primes[-1:] == [job.procs]):
        whole, _ = layerwise(job)
        plan = {name: scheme.grid.sizes for name, scheme in whole.schemes.items()}
        proved = whole.lower_s >= whole.step_s * (1 - 1e-9)
        return Choice("dynamic", plan, parts(job, gather(job, [plan])), proved)
    if not near:
        fewer = replace(job, procs=job.procs // primes[0])
        known = [plan for several in families(fewer, KNOWN).values() for plan in several]
        near = [layerwise_around(fewer, known).degrees]
    best, made = np.inf, None
    for _ in range(ROUNDS):
        problem = Problem(job, around(job, starts, near, primes))
        found = cheapest(problem.graph)
        if found.cost >= best * (1 - 1e-9):
            break
        best, made = found.cost, (problem, [[found.choice[owner]] for owner in problem.owner])
        plan = {name: scheme.grid.sizes for name, scheme in problem.schemes(found.choice).items()}
        if list(near) == [plan]:
            break
        near = [plan]
    assert made is not None
    return Choice("dynamic", plan, parts_of(made[0], np.array(made[1])), proved=False)
