"""``gridnn simulate``: what a plan costs, priced and simulated as it stands: nothing is searched."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gridnn.commands.show import LAYERS, finite, layer_rows, table, totals
from gridnn.commands.stages import layer_values, result_values, stage_lines
from gridnn.commands.words import (
    Say,
    add_plan,
    check_target,
    mismatch_lines,
    parser,
    read_job,
    with_mismatch,
    write_whole,
)
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job
    from gridnn.plan.simulate.simulator import Simulator

_EXAMPLES = """\
  gridnn simulate plan.json                              seconds, bytes and memory of a step
  gridnn simulate plan.json --machine h100               the same plan on another machine
  gridnn simulate plan.json --dtype bf16                 the same plan in compute.precision = "bf16"
  gridnn simulate plan.json --trace step.json            its timeline, for Perfetto or chrome://tracing
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Price and simulate a plan file, and write the timeline if asked to."""
    words = parser("simulate", "Say what a plan costs, without a search: edit a plan, and look.", _EXAMPLES)
    add_plan(words)
    words.add_argument("--trace", metavar="FILE.json", help="write the timeline of a step as a Chrome trace")
    arguments = words.parse_args(argv)
    from gridnn.plan.outcome import SIMULATED, outcome

    check_target(arguments.trace)
    job, plan = read_job(arguments.plan, arguments)
    if plan.stages:
        _staged(job, plan, arguments, say)
        return
    if arguments.trace and job.procs > SIMULATED:
        raise InputError(f"{job.procs} processes: a step is simulated up to {SIMULATED}; leave --trace out")
    result = outcome(job, plan.schemes)
    simulator = _simulator(job, plan) if job.procs <= SIMULATED else None
    if arguments.json:
        values = with_mismatch(_values(job, result, simulator), job, plan.dtype)
        say(json.dumps(finite(values), indent=2, allow_nan=False))
    else:
        for line in [*_lines(job, plan, result, simulator), *mismatch_lines(job, plan.dtype)]:
            say(line)
    if arguments.trace and simulator is not None:
        from gridnn.plan.simulate.timeline import timeline

        write_whole(arguments.trace, timeline(simulator).chrome_trace())
        if not arguments.json:
            say(f"\ntimeline written to {arguments.trace}")


def _staged(job: Job, plan: Plan, arguments: argparse.Namespace, say: Say) -> None:
    """Price and simulate a pipelined plan."""
    from gridnn.plan.explain.stages import explain_stages, pipeline_of, stage_outcome
    from gridnn.plan.explain.stagewords import as_json, trace_events

    found = pipeline_of(job, plan)
    staged, result = explain_stages(job, found, cuts=False), stage_outcome(job, found)
    if arguments.trace:
        events = list(trace_events(staged))
        write_whole(arguments.trace, json.dumps({"displayTimeUnit": "ms", "traceEvents": events}))
    if arguments.json:
        values = {
            "network": job.network.name, "machine": job.machine.name, "procs": job.procs, "batch": job.batch,
            **as_json(staged), **result_values(result), "simulated_s": found.step_s,
            "layers": layer_values(result, staged),
        }  # fmt: skip
        del values["cuts"]  # `gridnn explain` moves them
        say(json.dumps(finite(with_mismatch(values, job, plan.dtype)), indent=2, allow_nan=False))
        return
    for line in [*stage_lines(job, staged, result), *mismatch_lines(job, plan.dtype)]:
        say(line)
    if arguments.trace:
        say(f"\ntimeline written to {arguments.trace}")


def _simulator(job: Job, plan: Plan) -> Simulator:
    from gridnn.plan.simulate.build import simulate_plan

    return simulate_plan(job, plan.schemes)


def _values(job: Job, result: Outcome, simulator: Simulator | None) -> dict[str, Any]:
    """Return what is known as plain values; seconds and bytes of a step, bytes of a rank."""
    return {
        "network": job.network.name, "machine": job.machine.name, "procs": job.procs, "batch": job.batch,
        "step_s": result.step_s, "overlapped_s": result.overlapped_s,
        "simulated_s": None if simulator is None else simulator.cost_s,
        "compute_s": result.compute_s, "comm_s": result.comm_s, "bytes": result.received_bytes,
        "bytes_exact": result.exact, "memory_bytes": result.memory_bytes,
        "layers": {
            x.name: {"grid": str(x.scheme), "compute_s": x.compute_s, "comm_s": x.comm_s} for x in result.layers
        },
    }  # fmt: skip


def _lines(job: Job, plan: Plan, result: Outcome, simulator: Simulator | None) -> list[str]:
    from gridnn.plan.explain.tell import time_text

    lines = [
        f"{job.network.name}, batch {job.batch}, {job.procs} processes of {job.machine.name}: {plan.origin}", "",
        *table(LAYERS, layer_rows(result), left=3), "", *totals(job, result),
    ]  # fmt: skip
    if simulator is None:
        return [*lines, "(a step of so many processes is priced, not simulated)"]
    return [*lines, f"simulated   {time_text(simulator.cost_s)} a step, {simulator.work.tasks:,} tasks"]
