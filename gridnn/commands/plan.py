"""``gridnn plan``: the best grids of a network's layers on a machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from gridnn.commands import stages
from gridnn.commands.plan_options import parse
from gridnn.commands.show import GB, LAYERS, finite, layer_rows, table, totals
from gridnn.commands.words import (
    Say,
    check_target,
    job_of,
    mismatch_lines,
    source_of,
    with_mismatch,
    write_whole,
)
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.geometry.grid import Scheme
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job
    from gridnn.plan.search import Found

IN_PLAN = ("network", "procs", "batch", "passes", "schedule", "form", "stages", "transfers", "layers")
"""What a plan file has in places of its own, or can be had from it."""


class _Answer(NamedTuple):
    """What was found: as plain values, in lines, and as a plan that can be written."""

    values: dict[str, Any]
    lines: list[str]
    plan: Plan


def main(argv: Sequence[str], say: Say) -> None:
    """Search, say what was found, and write it down if asked to."""
    arguments = parse(argv)
    schedule = stages.wanted(arguments)
    from gridnn.cost.machine import load_machine
    from gridnn.network.source import open_network

    check_target(arguments.output)
    source, machine = source_of(arguments), load_machine(arguments.machine)
    job = job_of(
        open_network(source),
        machine,
        arguments.procs,
        arguments.batch,
        arguments.passes,
        arguments.dtype,
    )
    if schedule is not None:
        answer = _staged(job, stages.best(job, schedule, arguments), arguments)
    else:
        answer = _unstaged(job, arguments)
    failure = _written(answer.plan, arguments.output)
    if arguments.json:
        layers = {name: str(scheme) for name, scheme in answer.plan.schemes.items()}
        values = with_mismatch(answer.values, job, arguments.dtype)
        say(json.dumps(finite({**values, "layers": layers}), indent=2, allow_nan=False))
    else:
        for line in [*answer.lines, *mismatch_lines(job, arguments.dtype)]:
            say(line)
        if arguments.output and failure is None:
            say(f"\nplan written to {arguments.output}")
    if failure is not None:
        raise failure


def _written(plan: Plan, path: str | None) -> InputError | None:
    """Write the plan if asked to; returns what went wrong: what was found is said all the same."""
    try:
        if path:
            write_whole(path, plan.dumps())
    except InputError as error:
        return error
    return None


def _unstaged(job: Job, arguments: argparse.Namespace) -> _Answer:
    """Return grids without stages; a pipeline where that was weighed and is faster."""
    from gridnn.plan.outcome import outcome
    from gridnn.plan.plan import Plan

    pins = _pins(arguments.pin)
    found = _walk(job, pins, arguments) if arguments.method == "mcmc" else _search(job, pins, arguments)
    result = outcome(job, found.schemes)
    limits = arguments.method != "dynamic" or pins or arguments.memory is not None or arguments.every
    if arguments.schedule == "auto" or (arguments.schedule is None and not limits and stages.cheap(job)):
        beside, words = stages.weighed(job, result)
        if arguments.schedule == "auto":
            if beside is not None:
                return _staged(job, beside, arguments)
            found = replace(found, notes=(*found.notes, words))
        elif beside is not None:
            found = replace(found, notes=(*found.notes, f"{words}; --schedule auto takes it"))
    values = predicted(job, found, result)
    pinned = f", {len(arguments.pin)} pinned" if arguments.pin else ""
    origin = f"gridnn plan: {found.method} on machine {job.machine.name}{pinned}"
    plan = Plan(
        job.network.name, job.network.digest, job.procs, job.batch, found.schemes, origin, passes=job.passes
    )
    return _Answer(values, _lines(job, found, result), _noted(plan, values, arguments))


def _staged(job: Job, beside: stages.Beside, arguments: argparse.Namespace) -> _Answer:
    """Return a pipelined plan."""
    from gridnn.plan.explain.stages import explain_stages, stage_outcome
    from gridnn.plan.pipeline.weigh import plan_of

    found, job = beside.found, replace(job, passes=beside.found.schedule.passes)
    staged, result = explain_stages(job, found, cuts=False), stage_outcome(job, found)
    values = stages.plan_values(job, beside, staged, result)
    del values["cuts"]  # `gridnn explain` moves them
    origin = (
        f"gridnn plan: {found.schedule.name} in {found.schedule.stages} stages on machine {job.machine.name}"
    )
    plan = plan_of(job, found, origin)
    return _Answer(values, stages.plan_lines(job, beside, staged, result), _noted(plan, values, arguments))


def _noted(plan: Plan, values: Mapping[str, Any], arguments: argparse.Namespace) -> Plan:
    """Return a plan with all that its file says beside the grids."""
    kept = {key: value for key, value in values.items() if key not in IN_PLAN}
    return replace(
        plan,
        predicted=finite(kept),
        dtype=arguments.dtype,
        model=source_of(arguments),
        machine=arguments.machine,
    )


def predicted(job: Job, found: Found, result: Outcome) -> dict[str, Any]:
    """Return what is known of a found plan as plain values; seconds and bytes of a step, bytes of a rank."""
    return {
        "method": found.method, "network": job.network.name, "machine": job.machine.name, "procs": job.procs,
        "batch": job.batch, "search_s": found.search_s, "step_s": found.step_s, "lower_s": found.lower_s,
        "run_s": result.step_s if result.exact else None, "overlapped_s": result.overlapped_s,
        "compute_s": result.compute_s, "comm_s": result.comm_s, "bytes": result.received_bytes,
        "bytes_exact": result.exact, "memory_bytes": result.memory_bytes, "baselines": dict(found.baselines),
        "margin": found.margin, "verdict": found.verdict, "core": found.core, "candidates": found.candidates,
        "priced": found.priced, "notes": list(found.notes),
    }  # fmt: skip


def _lines(job: Job, found: Found, result: Outcome) -> list[str]:
    from gridnn.plan.explain.tell import time_text

    passes = f" in {job.passes} passes" if job.passes > 1 else ""
    head = (
        f"{job.network.name}, batch {job.batch}{passes}, {job.procs} processes of {job.machine.name}: "
        f"method {found.method}"
    )
    cost = "simulated" if found.method == "mcmc" else "by the cost of the search: everything added up"
    known = {found.method: found.step_s, **found.baselines}
    beside = [
        (name, time_text(seconds), f"{seconds / found.step_s:.3f}" if found.step_s else "-")
        for name, seconds in sorted(known.items(), key=lambda entry: entry[1])
    ]
    return [
        head, "", *table(LAYERS, layer_rows(result), left=3), "",
        f"step        {time_text(found.step_s)} {cost}",
        *totals(job, result), "", *table(("method", "step", "times this"), beside), "",
        f"verdict     {found.verdict}", f"search      {_proof(found)}",
        *(f"note        {note}" for note in found.notes),
    ]  # fmt: skip


def _proof(found: Found) -> str:
    """Return what a search did and what that proves."""
    from gridnn.plan.explain.tell import time_text

    text = time_text(found.search_s)
    if found.candidates:
        text += (
            f"; {found.candidates:,} grids of all layers, {found.priced:,} priced in pairs; "
            f"the network folds to {found.core} {'layer' if found.core == 1 else 'layers'}"
        )
    if found.method != "dynamic":
        return text
    gap_s = found.step_s - found.lower_s
    if gap_s <= 1e-9 * found.step_s:
        return text + "; optimal for this cost, proved"
    return text + f"; at most {time_text(gap_s)} ({gap_s / found.step_s:.1%}) above the optimum"


def _search(job: Job, pins: Mapping[str, Scheme], arguments: argparse.Namespace) -> Found:
    from gridnn.plan.search import search

    if given := [
        f"--{key}" for key in ("seed", "proposals", "seconds") if getattr(arguments, key) is not None
    ]:
        raise InputError(f"{given[0]} is for --method mcmc; leave it out, or take that method")
    memory = None if arguments.memory is None else arguments.memory * GB
    return search(job, arguments.method, pins=pins, memory_bytes=memory, every=arguments.every)


def _walk(job: Job, pins: Mapping[str, Scheme], arguments: argparse.Namespace) -> Found:
    from gridnn.plan.walk import walk

    if arguments.memory is not None:
        raise InputError("method mcmc knows no memory limit; use --method dynamic")
    return walk(
        job, pins=pins, seed=arguments.seed or 0, proposals=arguments.proposals, seconds=arguments.seconds,
        every=arguments.every,
    )  # fmt: skip


def _pins(texts: Sequence[str]) -> dict[str, Scheme]:
    """Read pins such as ``fc6=k4``; of a layer given twice the later counts."""
    from gridnn.plan.plan import parse_scheme

    pins = {}
    for text in texts:
        # From the right: names out of an ONNX file may hold anything, grids hold no "=".
        name, equals, scheme = (part.strip() for part in text.rpartition("="))
        if not equals or not name or not scheme:
            raise InputError(f'pin "{text}": write a layer and its grid, such as --pin fc6="k4"')
        try:
            pins[name] = parse_scheme(scheme)
        except InputError as error:
            raise InputError(f"pin {name}: {error}") from None
    return pins
