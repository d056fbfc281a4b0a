"""A plan that fits: what one rank finds alone, without a message, in bounded time.

    limit ----> ways to plan, one after the other ----> memory of each plan, all ranks ----> the first that fits
                  the run's own plan                        (`need`: integers)              or the least seen
                  stages of the run's schedule
                  a grid for each layer
                  the run's own plan in 2, 4, 8, ... passes
                  the least memory of every layer
                  stages of "1f1b"

Searches count what layers keep; what is predicted to be alive at the worst moment decides.  The ways run in a thread
that is waited for so long and then left to itself: a rank that has failed must not keep others until they take it for
stuck (`comm.timeout_s`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from gridnn.cost.machine import load_machine
from gridnn.cost.price import priced_ranks
from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.network.heads import head_schemes, with_heads
from gridnn.network.placed import check_scheme, place_network
from gridnn.network.stages import cut_network, ranks_of
from gridnn.plan import problem
from gridnn.plan.pipeline.schedule import EXACT, Schedule
from gridnn.plan.pipeline.search import best_pipelines, passes_of
from gridnn.plan.pipeline.weigh import WEIGHED, plan_of
from gridnn.plan.plan import Plan
from gridnn.plan.search import search
from gridnn.train.choose import Job, widths
from gridnn.train.console import bytes_text
from gridnn.train.need import in_stages
from gridnn.train.optimizer import states
from gridnn.train.sections import Config

SEARCH_S = 20.0
"""How long a search may take; a quarter of `comm.timeout_s`, if that is less."""
TRIES = 3
"""Searches of one way: each with a smaller limit, where what it found is predicted to need more."""


class Seen(NamedTuple):
    """A plan, and the bytes it is predicted to need on the rank that needs most."""

    plan: Plan
    needed: int


Find = Callable[[float], Seen]
"""Returns a plan within some bytes, and how many its search counted."""


class Looked(NamedTuple):
    """What a search came to.

    Parameters
    ----------
    fits, least : Seen or None
        The first plan that fits, and the one that needs least of all that were seen.
    seen : int
        How many plans were looked at.
    ended : bool
        False where time ended first.
    """

    fits: Seen | None
    least: Seen | None
    seen: int
    ended: bool


def needed_by(plan: Plan, job: Job, config: Config) -> int:
    """Return the bytes that a plan is predicted to need of the rank that needs most; of large jobs, of ranks priced.

    Raises
    ------
    InputError
        If the plan cannot be.
    """
    network, schemes, stages = job.network, plan.schemes, None
    looked = set(priced_ranks(plan.procs))
    if plan.stages:
        stages = cut_network(network, plan.stages)
        if plan.schedule == "local":
            network, stages = with_heads(network, stages)
            schemes = head_schemes(network, stages, schemes)
        looked |= {group.start for group in ranks_of(stages, schemes)}
    for name, scheme in schemes.items():
        check_scheme(name, scheme, plan.batch // plan.passes, plan.procs)
    placed = place_network(network, schemes, -(-plan.batch // plan.passes), plan.procs)
    schedule = Schedule(plan.schedule, 1 if stages is None else stages.count, plan.passes, plan.form)
    return max(in_stages(placed, stages, schedule, rank, config).total_bytes for rank in looked)


def look_for(job: Job, config: Config, limit: int, seconds: float | None = None) -> Looked:
    """Return a plan for the processes of a job that is predicted to fit, or the least that was found.  By one rank.

    Parameters
    ----------
    limit
        Bytes that a rank has.
    seconds
        That may be spent; None is `SEARCH_S`, or a quarter of what makes others call this rank stuck.
    """
    seconds = min(SEARCH_S, config.comm.timeout_s / 4) if seconds is None else seconds
    seen, broken = list[Seen](), list[BaseException]()

    def work() -> None:
        try:
            for _ in _plans(job, config, limit, seen):
                if seen[-1].needed <= limit:
                    return
        except BaseException as error:  # a bug, which whoever waits raises
            broken.append(error)

    # A daemon: what is not ready in time ends with the process.
    worker = threading.Thread(target=work, name="plan that fits", daemon=True)
    worker.start()
    worker.join(seconds)
    ended = not worker.is_alive()
    if broken:
        raise broken[0]
    found = seen[:]  # the thread may go on
    fits = next((each for each in found if each.needed <= limit), None)
    return Looked(fits, min(found, key=lambda each: each.needed, default=None), len(found), ended)


def _plans(job: Job, config: Config, limit: int, seen: list[Seen]) -> Iterator[None]:
    """Put plans into `seen`, the likely ones first; after each somebody may stop it."""
    own, machine = job.plan, load_machine(config.plan.machine)
    exact, piped = own.schedule in EXACT, bool(own.stages)
    asked = problem.Job(
        job.network, machine, own.procs, own.batch, config.train.accumulate,
        np.dtype(config.train.dtype).itemsize, states(config.train), widths(config).activation,
    )  # fmt: skip
    origin = f"within {bytes_text(limit)} of a rank, on machine {machine.name}"

    def plain(within: float) -> Seen:
        found = search(asked, memory_bytes=within if within < inf else None)
        told = {"step_s": found.step_s, "machine": machine.name}
        plan = replace(_alike(own, asked), schemes=found.schemes, origin=origin, predicted=told)
        return Seen(plan, int(found.memory_bytes))

    def stages_of(schedule: str) -> Find:
        def find(within: float) -> Seen:
            found = best_pipelines(asked, (schedule,), memory_bytes=within, form=own.form)[schedule]
            told = {"step_s": found.step_s, "machine": machine.name}
            made = plan_of(asked, found, origin, told)
            plan = replace(made, dtype=own.dtype, model=own.model, machine=own.machine)
            return Seen(plan, found.memory_bytes)

        return find

    tries = partial(_tries, job, config, limit, seen)

    # So that the least there is has a number: a plan that needs no less is no answer.
    yield from tries(lambda _: Seen(own, 0), limit, 1)
    if piped:
        yield from tries(stages_of(own.schedule), limit)
    if not exact:  # whatever else there is learns something else
        return
    # First without a limit: what the search counts may be far above what is alive at once.
    yield from tries(plain, inf)
    # Batch norm would see other batches.
    if not any(isinstance(node.spec, s.BatchNorm) for node in job.network.nodes):
        passes = 2 * own.passes
        while passes <= own.batch:
            yield from tries(partial(_split, own, passes), limit, 1)
            passes *= 2
    yield from tries(partial(_leanest, own, asked), limit, 1)
    # Last: it takes longest.  With batch norm and one pass stages would take turns.
    many = 1 < own.procs <= WEIGHED and passes_of(asked, "1f1b") != (1,)
    if many and own.schedule != "1f1b" and config.plan.schedule != "sequential":
        yield from tries(stages_of("1f1b"), limit)


def _tries(
    job: Job, config: Config, limit: int, seen: list[Seen], find: Find, within: float, most: int = TRIES
) -> Iterator[None]:  # fmt: skip
    """Search one way, then again within less, by what the search counted of a plan that needs so much."""
    for _ in range(most):
        try:
            plan, counted = find(within)
            needed = needed_by(plan, job, config)
        except InputError:  # nothing within that
            return
        seen.append(Seen(plan, needed))
        yield
        within = min(0.95 * within, limit / needed * counted)


def _split(own: Plan, passes: int, _: float) -> Seen:
    """Return a plan with its batch in more passes."""
    return Seen(replace(own, passes=passes, origin=f"{own.origin}; in {passes} passes", predicted={}), 0)


def _leanest(own: Plan, asked: problem.Job, _: float) -> Seen:
    """Return the plan in which every layer keeps as little as it can; what moves between them is not looked at."""
    known = problem.Problem(asked, problem.space(asked))
    choice = [int(np.argmin(vector)) for vector in known.memory_bytes]
    lean = replace(
        _alike(own, asked), schemes=known.schemes(choice), origin="the least memory of every layer"
    )
    return Seen(lean, 0)


def _alike(own: Plan, asked: problem.Job) -> Plan:
    """Return a plan for the same run, without stages."""
    return replace(own, schedule="sequential", form="replay", stages=(), passes=asked.passes, predicted={})
