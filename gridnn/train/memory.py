"""Memory of a device that a run is given: whether its plan fits before it starts, and what is said when it did not.

compute.memory_limit    prediction                      what happens
given                   of no rank above the limit      a line that says both
given                   of some rank above it           an error of all ranks, with a plan that fits
given or not            wrong: messages, margins and    an error of the rank that had no room: which layer it was,
                        kernels' own arrays are left    what it asked for, what is used, what was predicted
                        out (`cost.memory`)
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from gridnn.comm.agree import agreed
from gridnn.compute.gpu.engine import Engine as GpuEngine
from gridnn.compute.gpu.room import MemoryShortError
from gridnn.cost.machine import load_machine
from gridnn.cost.memory import MemoryUse, predict_memory
from gridnn.errors import InputError, RunError
from gridnn.layers.base import Layer
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.plan import problem
from gridnn.plan.pipeline.costs import StageCost
from gridnn.plan.pipeline.memory import stage_memory
from gridnn.plan.pipeline.stagecost import held_bytes
from gridnn.plan.plan import Plan
from gridnn.plan.search import search
from gridnn.train.choose import widths
from gridnn.train.console import bytes_text
from gridnn.train.optimizer import states
from gridnn.train.run import Run
from gridnn.train.sections import Config

TRIES = 3
"""Searches for a plan that fits: each with a smaller limit, where what it found is predicted to need more."""
_PASSES = {
    "forward": "forward",
    "judge": "forward",
    "backward": "backward",
    "gradient": "backward",
    "weigh": "weights",
}


class Place(NamedTuple):
    """Where in a step an error came from: a layer, and forward, backward or weights."""

    layer: str
    direction: str


def predicted(placed: PlacedNetwork, rank: int, config: Config) -> MemoryUse:
    """Return what a step takes of a rank's memory, the optimizer's state cut where the run cuts it."""
    own, kinds = widths(config), states(config.train)
    use = predict_memory(placed, rank, own, kinds)
    if not config.train.cut_optimizer:
        return use
    elements = 0
    for layer in placed.layers:
        for parameter in layer.placement.parameters:
            box = parameter.layout.box(rank)
            sharing = sum(parameter.layout.box(other) == box for other in layer.scheme.ranks)
            elements += -(-prod(i.size for i in box) // max(1, sharing))
    return replace(use, state_bytes=kinds * elements * own.parameter)


def _of_run(run: Run) -> MemoryUse:
    """Return what a step takes of this rank's memory, all passes that a pipeline has open at once."""
    job, rank = run.job, run.world.rank
    use = predicted(job.placed, rank, run.config)
    if job.stages is None:
        return use
    held = StageCost(0.0, 0.0, 0.0, *held_bytes(job.placed, rank, widths(run.config), 0))
    arrays = stage_memory(job.schedule, job.stage(rank), held, 0).total_bytes - held.weight_bytes
    return replace(use, arrays_bytes=arrays)


def check_fits(run: Run, keep: Path | None) -> str | None:
    """Return what is said of a plan that fits the device; None where no limit is given.  Collective.

    Parameters
    ----------
    keep
        Where a plan that fits is written, by rank 0, if the run's does not.

    Raises
    ------
    InputError
        On all ranks, if some rank is predicted to need more than its limit.
    """
    world, config, plan = run.world, run.config, run.job.plan
    mine = run.engine.room.limit_bytes if isinstance(run.engine, GpuEngine) else None
    limits = [limit for limit in world.comm.allgather(mine) if limit is not None]
    if not limits:
        return None
    limit = min(limits)
    uses = world.comm.allgather(_of_run(run))
    rank = max(range(world.size), key=lambda r: uses[r].total_bytes)
    needed, said = uses[rank], f"compute.memory_limit = {config.compute.memory_limit:g}"
    if needed.total_bytes <= limit:
        return f"memory: {_parts(needed)} predicted for rank {rank}, {bytes_text(limit)} for each ({said})"
    fitting = _search(run, limit)
    with agreed(world):
        advice = (
            "no plan that the search knows needs less than that: split the batch (train.accumulate), lower "
            "train.batch, or start more ranks"
        )
        if fitting is not None:
            advice = f"take the plan {_told(*fitting, keep)}"
            if keep is not None and world.rank == 0:
                write(keep, fitting[0].dumps())
        raise InputError(
            f'the plan "{plan.summary}" is predicted to need {_parts(needed)} on rank {rank}, and {said} leaves a rank '
            f"{bytes_text(limit)}; {advice}"
        )


def short(run: Run, error: MemoryShortError) -> RunError:
    """Return what is said of a rank whose device had no room in the midst of training.

    By this rank alone: the others wait for it, and are ended.
    """
    use, room = _of_run(run), error.room
    place = place_of(error.__traceback__)
    where = f"layer {place.layer}, {place.direction}" if place else "outside of all layers"
    most = (
        f"{bytes_text(room.total_bytes)} of the device, which other processes may use, too"
        if room.limit_bytes is None
        else f"{bytes_text(room.limit_bytes)} (compute.memory_limit)"
    )
    return RunError(
        f"{error.device} has no memory left ({where}): {bytes_text(error.asked_bytes)} were asked for, this rank's "
        f'arrays have {bytes_text(error.used_bytes)} of {most}.  For the plan "{run.job.plan.summary}" {_parts(use)} '
        "were predicted, without messages and what kernels need beside.  Split the batch further (train.accumulate "
        f"above {run.job.passes}), or let a smaller compute.memory_limit name a plan that needs less"
    )


def place_of(trace: TracebackType | None) -> Place | None:
    """Return the layer whose pass an error came from: the innermost one; None if there is none."""
    found = None
    for frame, _ in traceback.walk_tb(trace):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Layer) and frame.f_code.co_name in _PASSES:
            found = Place(owner.name, _PASSES[frame.f_code.co_name])
    return found


def write(path: Path, text: str) -> None:
    """Write a plan.

    Raises
    ------
    InputError
        If the disk does not take it.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the plan to {path}: {error.strerror}; name a file that can be written"
        ) from None


def _search(run: Run, limit: int) -> tuple[Plan, int] | None:
    """Return the fastest plan that is predicted to fit, and its bytes; None if none is found.  Collective.

    The search counts what a layer keeps, the prediction what is alive at the worst moment; the latter decides.
    """
    world, config, job = run.world, run.config, run.job
    machine, itemsize = load_machine(config.plan.machine), np.dtype(config.train.dtype).itemsize
    asked = problem.Job(
        job.network, machine, world.size, config.train.batch, job.passes, itemsize, states(config.train),
        widths(config).activation,
    )  # fmt: skip
    within = float(limit)
    for _ in range(TRIES):
        try:  # the same on all ranks: integers, and a clock that decides nothing
            found = search(asked, memory_bytes=within)
        except InputError:
            return None
        placed = place_network(job.network, found.schemes, asked.per_pass, world.size)
        needed = max(world.comm.allgather(predicted(placed, world.rank, config).total_bytes))
        if needed <= limit:
            origin = f"within {bytes_text(limit)} of a rank, on machine {machine.name}"
            told = {"step_s": found.step_s, "machine": machine.name}
            alike = replace(
                job.plan, schedule="sequential", form="replay", stages=()
            )  # the search has no stages
            return replace(alike, schemes=found.schemes, origin=origin, predicted=told), needed
        within *= min(0.95, limit / needed)
    return None


def _told(plan: Plan, needed: int, keep: Path | None) -> str:
    """Return a plan in words that can be given to a run."""
    needs = f"which is predicted to need {bytes_text(needed)}"
    if keep is not None:
        return f"that is written to {keep}, {needs}: --plan {keep}"
    if len(set(map(str, plan.schemes.values()))) == 1:
        return f'"{plan.summary}", {needs}: --plan "{plan.summary}"'
    return f"with {plan.summary} that --write-plan FILE writes, {needs}: --plan FILE"


def _parts(use: MemoryUse) -> str:
    """Return bytes in words, with what they are for."""
    parts = ((use.parameters_bytes, "parameters and gradients"), (use.state_bytes, "optimizer"),
             (use.arrays_bytes, "activations"))  # fmt: skip
    listed = ", ".join(f"{what} {bytes_text(count)}" for count, what in parts)
    return f"{bytes_text(use.total_bytes)} ({listed})"
