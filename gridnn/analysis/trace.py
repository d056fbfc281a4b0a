"""The timeline of a run beside its prediction, as Chrome trace JSON, which Perfetto and chrome://tracing open.

    ranks              steps                      | step 2                            | step 3 ...
                       rank 0 measured (host)     | conv1 forward: compute | conv2 forward: halo | ...
                       rank 0 predicted (laptop)  | conv1 forward | conv2 forward | ...    the simulated step, again at
                       rank 1 measured (host)     ...                                      the start of every measured
                       rank 1 predicted (laptop)  ...                                      one
    links (predicted)  rank 0 in, rank 0 out, rank 1 in ...                                those that carry something

Of a run in stages the predicted lane of a rank is its stage in the simulated pipeline, a step in which that is full;
what moves between stages keeps no stage busy and has no lane.  Pieces of both lanes say which pass they belong to.

All measured lanes are on the clock of rank 0.  A predicted step longer than the measured one is drawn again only
where the last has ended, so that no two lie on each other.  Times are in microseconds from the first span.

chrome://tracing puts processes and lanes in the order of their sort indices; Perfetto knows none.  There the process
with the most pieces comes first, and in a process the lane that has its number, then the others by theirs.  Ranks that
were processes would be shuffled; so they are lanes of one process, and the numbers of the lanes say the order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.analysis.passes import passes_of, told_step
from gridnn.analysis.runs import Run, open_run
from gridnn.cost.machine import Machine
from gridnn.errors import InputError
from gridnn.plan.outcome import SIMULATED
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.simulate.timeline import Task, Timeline, timeline
from gridnn.train.spans import Place, Spans

RANKS, LINKS = 1, 2
"""Processes of the trace; 0 is the idle process of some viewers."""
STEPS = RANKS
"""The lane of the steps, the first of its process."""
MEASURED, PREDICTED = 0, 1
"""Lanes of a rank."""
MOST_NAMED = 3
"""Layers of a bucket that are named in full."""
_KINDS = {"send": "forward", "return": "backward", "sum": "gradients"}
Event = dict[str, Any]


def trace(run: str | Path, machine: str | Machine | None = None) -> str:
    """Return the timeline of the traced steps of a run, measured and predicted, as Chrome trace JSON.

    Parameters
    ----------
    run
        A run folder with measured spans.
    machine
        The machine of the prediction; None takes the one that the run was planned on.

    Raises
    ------
    InputError
        If the folder is no finished run, its run kept no spans, or its machine cannot be had.
    """
    opened = open_run(run, machine)
    spans = opened.spans
    if spans is None or not len(spans):
        raise InputError(
            f"the run in {opened.folder} kept no measured spans; train with run.trace_steps = 4, or more"
        )
    origin_ns = int(spans.start_ns.min())
    starts_ns = {
        step: int(spans.start_ns[spans.step == step].min()) - origin_ns
        for step in np.unique(spans.step).tolist()
    }
    events = [*_names(spans), *_steps(spans, origin_ns, starts_ns), *_measured(opened, spans, origin_ns)]
    about: dict[str, Any] = {
        "run": opened.name, "network": opened.plan.network, "plan": opened.plan.summary, "ranks": opened.job.procs,
        "batch": opened.job.batch, "machine": opened.job.machine.name, "measured_step_s": opened.summary.step_s,
        "clock_uncertainty_us": max(spans.uncertainty_ns, default=0) / 1e3,
    }  # fmt: skip
    if opened.cut_optimizer:
        about["note"] = "the predicted step sums whole gradients: it knows no train.cut_optimizer"
    if opened.timeline is not None:
        about["predicted_step_s"] = opened.timeline.step_s
        events += _staged(opened, spans, starts_ns)
    elif opened.job.procs <= SIMULATED:
        found = predicted_timeline(opened)
        about["predicted_step_s"] = found.makespan_ns / 1e9
        events += _predicted(found, spans, starts_ns, opened.job.machine.name)
    else:
        about["note"] = f"steps of more than {SIMULATED} ranks are not simulated: there is no predicted lane"
    return json.dumps({"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}, allow_nan=False)


def predicted_timeline(run: Run) -> Timeline:
    """Return the simulated step of a run without stages."""
    return timeline(simulate_plan(run.job, run.plan.schemes, run.bucket_bytes))


def lane_of(rank: int, lane: int) -> int:
    """Return the number of a rank's lane, `MEASURED` or `PREDICTED`; no process or other lane has it."""
    return LINKS + 1 + 2 * rank + lane


def _names(spans: Spans) -> Iterator[Event]:
    """Yield the names of the ranks, and their order."""
    yield from _process(RANKS, "ranks")
    yield from _lane(RANKS, STEPS, "steps")
    for rank, host in zip(spans.ranks, spans.hosts, strict=True):
        yield from _lane(RANKS, lane_of(rank, MEASURED), f"rank {rank} measured ({host})")


def _process(pid: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "pid": pid, "tid": pid, "name": "process_name", "args": {"name": name}}
    yield {"ph": "M", "pid": pid, "tid": pid, "name": "process_sort_index", "args": {"sort_index": pid}}


def _lane(pid: int, tid: int, name: str) -> Iterator[Event]:
    yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


def _stage_of(run: Run) -> list[int]:
    """Return the stage of every rank, -1 of one that has no part in any."""
    found = [0 if run.stages is None else -1] * run.job.procs
    for k, ranks in enumerate(run.ranks):
        for rank in ranks:
            found[rank] = k
    return found


def _measured(run: Run, spans: Spans, origin_ns: int) -> Iterator[Event]:
    """Yield every span."""
    passes = passes_of(spans, run.schedule, _stage_of(run)) if run.job.passes > 1 else [None] * len(spans)
    order = np.lexsort((spans.start_ns, spans.rank))
    columns = (
        spans.rank,
        spans.step,
        spans.phase,
        spans.place,
        spans.start_ns - origin_ns,
        spans.duration_ns,
    )
    for number, rank, step, phase, at, start_ns, duration_ns in zip(
        order.tolist(), *(c[order].tolist() for c in columns), strict=True
    ):
        of = passes[number]
        name, place = spans.phases[phase], spans.places[at]
        yield {
            "ph": "X", "pid": RANKS, "tid": lane_of(rank, MEASURED), "name": span_name(place, name), "cat": name,
            "ts": start_ns / 1e3, "dur": duration_ns / 1e3,
            "args": {"step": step, "layers": list(place.layers), "direction": place.direction}
            | ({} if of is None else {"pass": of.number, "of step": of.step}),
        }  # fmt: skip


def span_name(place: Place, phase: str) -> str:
    """Return what a span is called: "conv1 forward: compute"."""
    if not place.layers:
        return phase
    layers = ", ".join(place.layers[:MOST_NAMED])
    if more := len(place.layers) - MOST_NAMED:
        layers += f" and {more} more" if more > 0 else ""
    return f"{layers} {place.direction}: {phase}"


def _steps(spans: Spans, origin_ns: int, starts_ns: Mapping[int, int]) -> Iterator[Event]:
    """Yield every step, from the first rank that begins it to the last that ends it, or the next step begins."""
    ends_ns = spans.start_ns + spans.duration_ns - origin_ns
    following = [*starts_ns.values(), int(ends_ns.max())][1:]
    for (step, start_ns), next_ns in zip(starts_ns.items(), following, strict=True):
        end_ns = min(int(ends_ns[spans.step == step].max()), next_ns)
        yield {
            "ph": "X", "pid": RANKS, "tid": STEPS, "name": f"step {step}", "cat": "step", "ts": start_ns / 1e3,
            "dur": (end_ns - start_ns) / 1e3, "args": {"step": step},
        }  # fmt: skip


def _predicted(found: Timeline, spans: Spans, starts_ns: Mapping[int, int], machine: str) -> Iterator[Event]:
    """Yield the tasks of the predicted step on ranks and links, for every measured step that has room for it."""
    ranks = {f"rank {rank}": rank for rank in range(spans.procs)}
    tasks = [task for task in found if task.device and task.end_ns > task.start_ns]
    used = {task.device for task in tasks}
    lanes = dict[str, tuple[int, int]]()
    for at, device in enumerate(found.program.devices):
        if device not in ranks:
            if device in used:
                lanes[device] = LINKS, lane_of(spans.procs, at)
                yield from _lane(*lanes[device], device)
        elif ranks[device] in spans.ranks:  # a rank that was not looked at has no lane
            lanes[device] = RANKS, lane_of(ranks[device], PREDICTED)
            yield from _lane(*lanes[device], f"{device} predicted ({machine})")
    if any(pid == LINKS for pid, _ in lanes.values()):
        yield from _process(LINKS, "links (predicted)")
    free_ns = min(starts_ns.values())
    for step, start_ns in starts_ns.items():
        if start_ns >= free_ns:
            free_ns = start_ns + found.makespan_ns
            for task in tasks:
                if task.device in lanes:
                    yield _task(task, *lanes[task.device], start_ns, step)


def _staged(run: Run, spans: Spans, starts_ns: Mapping[int, int]) -> Iterator[Event]:
    """Yield what the stages do in the predicted step, for every measured step that has room for it."""
    line, stage_of = run.timeline, _stage_of(run)
    assert line is not None
    ranks = [rank for rank in spans.ranks if stage_of[rank] >= 0]
    for rank in ranks:
        words = f"rank {rank} predicted ({run.job.machine.name}, stage {stage_of[rank]})"
        yield from _lane(RANKS, lane_of(rank, PREDICTED), words)
    # Stages need not begin a step together, so each needs room for its own tasks only.
    lengths = (told_step(line, k, 0) for k in range(line.schedule.stages))
    longest_ns = max(int(1e9 * (tasks[-1].stop_s - tasks[0].start_s)) for tasks in lengths)
    free_ns = min(starts_ns.values())
    for step, start_ns in starts_ns.items():
        if start_ns < free_ns:
            continue
        free_ns = start_ns + longest_ns
        for k in range(line.schedule.stages):
            for verb, of, start_s, stop_s in told_step(line, k, step):
                args = {"step": step} | ({} if of is None else {"pass": of.number, "of step": of.step})
                for rank in ranks:
                    if stage_of[rank] == k and stop_s > start_s:
                        yield {
                            "ph": "X", "pid": RANKS, "tid": lane_of(rank, PREDICTED),
                            "name": verb if of is None else f"{verb} of pass {of.number}", "cat": f"predicted {verb}",
                            "ts": start_ns / 1e3 + 1e6 * start_s, "dur": 1e6 * (stop_s - start_s), "args": args,
                        }  # fmt: skip


def _task(task: Task, pid: int, tid: int, start_ns: int, step: int) -> Event:
    name = f"{task.operation} {_KINDS.get(task.phase, task.phase)}"
    return {
        "ph": "X", "pid": pid, "tid": tid, "name": name, "cat": f"predicted {task.phase}",
        "ts": (start_ns + task.start_ns) / 1e3, "dur": (task.end_ns - task.start_ns) / 1e3,
        "args": {"step": step, "operation": task.operation, "part": task.part},
    }  # fmt: skip
