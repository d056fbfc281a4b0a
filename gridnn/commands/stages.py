"""What commands say of plans with stages, and how `gridnn plan` comes to one.

| --schedule          | --stages, --groups | answer                                                              |
|---------------------|--------------------|---------------------------------------------------------------------|
| left out            | none               | grids without stages; a note where a pipeline is faster (`cheap`)   |
| left out, auto      | some               | as 1f1b: exact, and few passes are open                             |
| auto                | none               | the faster of both                                                  |
| sequential          | none               | grids without stages                                                |
| sequential          | some               | the best pipelined plan with that schedule                          |
| gpipe 1f1b delayed  | any                | the same                                                            |
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple

from gridnn.commands.show import GB, LAYERS, layer_rows, table, totals
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.plan.explain.stages import Staged
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.pipeline.candidates import Pipelined
    from gridnn.plan.problem import Job

SCHEDULES = ("auto", "sequential", "gpipe", "1f1b", "delayed")
CHEAP_PROCS, CHEAP_UNITS = 8, 8
"""Processes and units (layers that multiply) up to which pipelines are weighed unasked: it takes about a second."""


class Beside(NamedTuple):
    """A pipelined plan beside one without stages.

    Attributes
    ----------
    plain_s
        Seconds of a step without stages; None where there is no such plan.
    verdict
        In words.
    search_s
        What the search for the pipeline took.
    """

    found: Pipelined
    plain_s: float | None
    verdict: str
    search_s: float

    @property
    def margin(self) -> float | None:
        """How much less a step takes than without stages, relative to that."""
        return 1 - self.found.step_s / self.plain_s if self.plain_s else None


def wanted(arguments: argparse.Namespace) -> str | None:
    """Return the schedule of the pipeline that a command line asks for; None where it asks for no pipeline as such.

    Raises
    ------
    InputError
        If options do not go together.
    """
    schedule, parts = arguments.schedule, arguments.stages is not None or arguments.groups is not None
    if arguments.form is not None and schedule != "delayed":
        raise InputError("--form is for --schedule delayed; leave it out, or take that schedule")
    if not parts and schedule in (None, "sequential"):
        return None
    for option in ("pin", "every"):
        if getattr(arguments, option):
            raise InputError(
                f"--{option} is for plans without stages; leave it out, or all that asks for stages"
            )
    if arguments.method != "dynamic":
        raise InputError(
            f"--method {arguments.method} knows no stages; leave it out, or all that asks for stages"
        )
    if given := [key for key in ("seed", "proposals", "seconds") if getattr(arguments, key) is not None]:
        raise InputError(f"--{given[0]} is for --method mcmc, which knows no stages; leave it out")
    if parts:
        return "1f1b" if schedule in (None, "auto") else str(schedule)
    if schedule == "auto" and arguments.memory is not None:
        raise InputError(
            "--schedule auto knows no memory limit; name a schedule, such as --schedule 1f1b, or leave --memory out"
        )
    return None if schedule == "auto" else str(schedule)


def best(job: Job, schedule: str, arguments: argparse.Namespace) -> Beside:
    """Return the best plan of a schedule beside the best without stages.

    Raises
    ------
    InputError
        If stages or groups cannot be, or nothing fits.
    """
    from gridnn.plan.pipeline.given import best_cut_at
    from gridnn.plan.pipeline.search import best_pipelines

    first, count = _stages(arguments.stages)
    if count == 1 or (first and tuple(first) == (job.network.nodes[0].name,)) or _one(arguments.groups):
        raise InputError(
            "a pipeline has 2 stages or more; ask for more, or leave --schedule, --stages and --groups out"
        )
    memory = None if arguments.memory is None else arguments.memory * GB
    form, started_s = arguments.form or "replay", time.perf_counter()
    if first:
        found = best_cut_at(job, first, schedule, form=form, groups=arguments.groups, memory_bytes=memory)
    else:
        found = best_pipelines(
            job, (schedule,), stages=count, groups=arguments.groups, form=form, memory_bytes=memory
        )[schedule]  # fmt: skip
    search_s = time.perf_counter() - started_s
    plain_s = _plain_s(job, memory)
    return Beside(found, plain_s, _verdict(found, plain_s), search_s)


def weighed(job: Job, result: Outcome) -> tuple[Beside | None, str]:
    """Return the pipeline that is faster than a plan without stages, None without one, and what was found in words."""
    from gridnn.plan.pipeline.weigh import weigh

    started_s, plain_s = (
        time.perf_counter(),
        result.step_s if result.overlapped_s is None else result.overlapped_s,
    )
    found = weigh(job, plain_s)
    if not found.wins or found.best is None:
        return None, found.words
    return Beside(
        found.best, plain_s, _verdict(found.best, plain_s), time.perf_counter() - started_s
    ), found.words


def cheap(job: Job) -> bool:
    """Return whether pipelines can be weighed by the way."""
    from gridnn.plan.pipeline.runs import units_of

    return 1 < job.procs <= CHEAP_PROCS and len(units_of(job.network)) <= CHEAP_UNITS


def plan_values(job: Job, beside: Beside, staged: Staged, result: Outcome) -> dict[str, Any]:
    """Return what is known of a found pipeline as plain values, under the names of plans without stages."""
    from gridnn.plan.explain.stagewords import as_json

    return {
        "method": "pipeline", "network": job.network.name, "machine": job.machine.name, "procs": job.procs,
        "batch": job.batch, "search_s": beside.search_s, "plain_s": beside.plain_s, "margin": beside.margin,
        "verdict": beside.verdict, **as_json(staged), **result_values(result),
    }  # fmt: skip


def result_values(result: Outcome) -> dict[str, Any]:
    """Return seconds and bytes of a step as plain values."""
    return {
        "step_s": result.step_s, "overlapped_s": result.overlapped_s, "compute_s": result.compute_s,
        "comm_s": result.comm_s, "bytes": result.received_bytes, "bytes_exact": result.exact,
        "memory_bytes": result.memory_bytes,
    }  # fmt: skip


def layer_values(result: Outcome, staged: Staged) -> dict[str, dict[str, Any]]:
    """Return what is known of each layer as plain values."""
    of = staged.plan.stages.of
    return {
        x.name: {"grid": str(x.scheme), "stage": of[x.name], "compute_s": x.compute_s, "comm_s": x.comm_s}
        for x in result.layers
    }


def plan_lines(job: Job, beside: Beside, staged: Staged, result: Outcome) -> list[str]:
    """Return what `gridnn plan` says of a pipeline."""
    from gridnn.plan.explain.tell import time_text

    return [
        *stage_lines(job, staged, result), "", f"verdict     {beside.verdict}",
        f"search      {time_text(beside.search_s)}; the fastest that was simulated of those that tables made shortest",
    ]  # fmt: skip


def stage_lines(job: Job, staged: Staged, result: Outcome) -> list[str]:
    """Return a pipelined plan as lines: stages, layers, the picture, and what a step takes."""
    from dataclasses import replace

    from gridnn.plan.explain.stagewords import (
        STAGES,
        drawn,
        gradients_text,
        headline,
        slowest_text,
        stage_rows,
    )
    from gridnn.plan.explain.tell import time_text

    bare = replace(result, overlapped_s=None)  # a step is simulated: no other counts
    return [
        headline(staged), "", *table(STAGES, stage_rows(staged), left=4), "",
        *table(LAYERS, layer_rows(result), left=3), "", *drawn(staged), "",
        f"step        {time_text(result.step_s)} simulated: stages at the same time, what moves between them beside",
        *_said("slowest", slowest_text(staged)), *totals(job, bare),
        *_said("gradients", gradients_text(staged.schedule)), *(f"note        {note}" for note in staged.notes),
    ]  # fmt: skip


def _said(what: str, text: str) -> list[str]:
    return wrap(f"{what:12}{text}", 110, subsequent_indent=" " * 12)


def _stages(text: str | None) -> tuple[Sequence[str], int | None]:
    """Return the first layers of stages, or how many there are."""
    if text is None or text.isdecimal():
        return (), None if text is None else int(text)
    first = [name.strip() for name in text.split(",")]
    if not all(first):
        raise InputError(
            f'stages "{text}": write how many, or the first layers of the stages, such as conv1,conv4'
        )
    return first, None


def _one(groups: Sequence[int] | None) -> bool:
    return groups is not None and len(groups) == 1


def _plain_s(job: Job, memory_bytes: float | None) -> float | None:
    """Return the seconds of a step of the best plan without stages; None if there is none."""
    from gridnn.plan.outcome import outcome
    from gridnn.plan.search import search

    try:
        result = outcome(job, search(job, memory_bytes=memory_bytes).schemes)
    except InputError:
        return None
    return result.step_s if result.overlapped_s is None else result.overlapped_s


def _verdict(found: Pipelined, plain_s: float | None) -> str:
    from gridnn.plan.explain.stagewords import percent
    from gridnn.plan.explain.tell import time_text
    from gridnn.plan.search import MODEL_ERROR

    if not plain_s:
        return "no plan without stages fits"
    gain = 1 - found.step_s / plain_s
    words = f"{percent(abs(gain), 1)} {'faster' if gain > 0 else 'slower'} than without stages ({time_text(plain_s)})"
    if abs(gain) < MODEL_ERROR:
        words += f": less than the model's error of {percent(MODEL_ERROR)}, so not a difference to count on"
    return words
