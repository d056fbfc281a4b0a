"""One simulated step as a timeline that a page can hold: some ranks, each with what it computes, receives and sends.

    rank 0      |forward conv1|forward conv2| ...        |backward ...|update|
    rank 0 in          |outputs moving|       |gradient sums|
    rank 0 out         ...
    rank 73     ...

Ranks are taken at even distances, the first and the last among them; tasks of one layer that follow each other at
once are one span, and of many spans the longest are kept.  What was left out is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gridnn.analysis.chart import Lanes, Span
from gridnn.analysis.table import Column, Table
from gridnn.geometry.grid import Scheme
from gridnn.plan.explain.tell import time_text
from gridnn.plan.job import Job
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.simulate.segment import Phase
from gridnn.plan.simulate.timeline import Timeline, timeline

RANKS, SPANS = 8, 2000
"""Ranks and spans of a timeline, at most: a browser draws that many at once."""
PLACES = 40_000
"""Layers times processes up to which a step is simulated here: some two seconds."""
WORDS = {
    Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.UPDATE: "update",
    Phase.SEND: "outputs moving", Phase.RETURN: "gradients moving", Phase.SUM: "gradient sums",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A simulated step: its seconds, its timeline, which devices work how long, and what the step waits for."""

    seconds: float
    lanes: Lanes
    busy: Table
    path: Table


def simulated_step(job: Job, schemes: Mapping[str, Scheme]) -> Step | None:
    """Return one step under a plan, or None where the job has too many processes and layers to simulate."""
    if job.procs * len(job.network.nodes) > PLACES:
        return None
    found = timeline(simulate_plan(job, schemes))
    return Step(
        found.makespan_ns / 1e9, lanes_of(found, job.procs), busy_of(found, job.procs), path_of(found)
    )


def shown_ranks(procs: int, most: int = RANKS) -> list[int]:
    """Return ranks at even distances, the first and the last among them."""
    count = min(procs, most)
    return sorted({round(at * (procs - 1) / max(1, count - 1)) for at in range(count)})


def lanes_of(found: Timeline, procs: int, ranks: int = RANKS, most: int = SPANS) -> Lanes:
    """Return the timeline of some ranks."""
    shown = shown_ranks(procs, ranks)
    names = [f"rank {rank}{end}" for rank in shown for end in ("", " in", " out")]
    # A machine may have streams that the ranks of a node share: with few of them all are worth seeing.
    shared = list(found.program.devices[3 * procs :])
    names += shared if len(shared) <= ranks else []
    spans = _spans(found, names)
    kept = sorted(spans, key=lambda s: s.start_s - s.end_s)[:most]
    kept.sort(key=lambda s: (names.index(s.lane), s.start_s))
    busy = {span.lane for span in kept}
    said = [f"{len(shown)} of {procs:,} ranks" if len(shown) < procs else "all ranks"]
    if len(spans) > len(kept):
        least_s = min(span.end_s - span.start_s for span in kept)
        said.append(f"{len(spans) - len(kept):,} spans of less than {time_text(least_s)} are left out")
    caption = "; ".join(said) + ". A rank computes; in and out are the two sides of its link."
    lanes = tuple(name for name in names if name in busy)
    return Lanes("One step, simulated", lanes, tuple(kept), caption)


def _spans(found: Timeline, names: list[str]) -> list[Span]:
    """Return the spans of some devices, tasks of one layer that follow each other at once as one."""
    at = {name: number for number, name in enumerate(found.program.devices)}
    wanted = np.isin(found.device, [at[name] for name in names]) & (found.end_ns > found.start_ns)
    places = np.nonzero(wanted)[0]
    places = places[np.lexsort((found.start_ns[places], found.device[places]))]
    spans: list[Span] = []
    for place in places.tolist():
        task, kind = found[place], WORDS[Phase(found.phase[place])]
        start_s, end_s = task.start_ns / 1e9, task.end_ns / 1e9
        last = spans[-1] if spans else None
        if last and (last.lane, last.name, last.kind, last.end_s) == (
            task.device,
            task.operation,
            kind,
            start_s,
        ):
            spans[-1] = Span(last.lane, last.start_s, end_s, last.name, kind)
        else:
            spans.append(Span(task.device, start_s, end_s, task.operation, kind))
    return spans


def busy_of(found: Timeline, procs: int) -> Table:
    """Return how long ranks and links work in a step: the least and the most busy of each sort."""
    whole, busy = found.makespan_ns / 1e9, list(found.busy_ns().values())
    sorts = {
        "ranks computing": busy[:procs], "links in": busy[procs : 2 * procs], "links out": busy[2 * procs : 3 * procs],
        "shared streams": busy[3 * procs :],
    }  # fmt: skip
    rows = []
    for name, times in sorts.items():
        if times:
            low, mean, high = min(times) / 1e9, sum(times) / len(times) / 1e9, max(times) / 1e9
            rows.append((name, len(times), low, mean, high, mean / whole if whole else None))
    columns = (
        Column("device", head="devices"),
        Column("number", "count"),
        Column("least_s", "s", "least busy"),
        Column("mean_s", "s", "mean"),
        Column("most_s", "s", "busiest"),
        Column("share", "ratio", "mean share of the step"),
    )
    return Table("How long devices work in the simulated step", columns, tuple(rows))


def path_of(found: Timeline) -> Table:
    """Return what the step waits for, task after task, added up over layers and kinds of work."""
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for task in found.critical_path():
        spent[task.operation, WORDS[Phase[task.phase.upper()]]] += (task.end_ns - task.start_ns) / 1e9
    whole = found.makespan_ns / 1e9
    rows = sorted(((*key, s, s / whole) for key, s in spent.items() if s > 0), key=lambda row: -row[2])
    columns = (
        Column("operation", head="layer or edge"),
        Column("work"),
        Column("seconds", "s", "on the path"),
        Column(
            "share",
            "ratio",
            "share of the step",
            "Shares add up to 1: each task starts as the one before it ends.",
        ),
    )
    return Table("What the step waits for: the longest chain of tasks", columns, tuple(rows))
