"""A pipelined plan in words: rows of its stages, sentences on its cuts and gradients, and the same as plain values.

stage  first  layers  ranks  grids    forward  backward  a step  waits  open  late  memory
0      conv1      12  0-3    n4       1.24 ms   2.51 ms   31 ms    8 %     2     1  1.2 GiB
1      fc6         9  4      1        0.11 ms   0.42 ms    9 ms   73 %     1     0  0.6 GiB
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gridnn.plan.explain.stages import MovedCut, Staged, StageRow
from gridnn.plan.explain.tell import bytes_text, cut, time_text
from gridnn.plan.pipeline.picture import picture
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.search import MODEL_ERROR

STAGES = (
    "stage", "first layer", "ranks", "grids", "layers", "forward", "backward", "update", "a step", "waits", "open",
    "late", "memory",
)  # fmt: skip
"""Heads of `stage_rows`; the first four are texts."""
CUTS = ("stage", "begins at", "moves", "to", "on", "a step", "than now", "then slowest", "memory")
"""Heads of `cut_rows`; the first five are texts."""
SHOWN_STEPS = 3
"""Steps of a schedule without a flush that a picture shows once it is full."""


def headline(staged: Staged) -> str:
    """Return what the plan is and takes, in one line."""
    job, plan = staged.job, staged.plan
    return (
        f"{job.network.name}, batch {job.batch} in {_many(job.passes, 'pass')}, {job.procs} processes of "
        f"{job.machine.name}: {schedule_text(plan.schedule)}, {time_text(plan.step_s)} a step"
    )


def schedule_text(schedule: Schedule) -> str:
    """Return a schedule in words, without its passes."""
    form = f" ({schedule.form})" if schedule.name == "delayed" else ""
    return f"{schedule.name}{form}, {_many(schedule.stages, 'stage')}"


def stage_rows(staged: Staged) -> list[tuple[str, ...]]:
    """Return a row for each stage, as `STAGES` names its cells; forward and backward are those of a pass."""
    return [_row(k, row) for k, row in enumerate(staged.stages)]


def _row(k: int, row: StageRow) -> tuple[str, ...]:
    seconds = (row.forward_s, row.backward_s, row.update_s, row.busy_s)
    return (
        str(k), cut(row.first, 20), ranks_text(row.ranks), cut(", ".join(row.grids), 20), str(row.layers),
        *map(time_text, seconds), percent(row.bubble), str(row.open), str(row.late),
        bytes_text(row.memory.total_bytes),
    )  # fmt: skip


def drawn(staged: Staged) -> list[str]:
    """Return the picture in text: one step, or of a schedule without a flush the steps that fill it, and some more."""
    line = staged.timeline
    if staged.schedule.exact:
        return picture(line)
    return picture(line, stop_s=min(line.stop_s, (staged.schedule.stages + SHOWN_STEPS) * line.step_s))


def gradients_text(schedule: Schedule) -> str:
    """Return which gradients a schedule updates by."""
    last = schedule.stages - 1
    if schedule.name == "delayed" and last:
        how = {
            "replay": "made by going forward again, from kept inputs, with the weights of step t (features replay)",
            "stash": "made with the weights of that step, which are kept (weight stashing)",
        }[schedule.form]
        return (
            f"late: at step t stage 0 of {schedule.stages} updates by the gradient of the batch of step t - {last}, "
            f"{how}; the last stage by that of step t; training is near that of one process, not the same"
        )
    if schedule.name == "local":
        return "of a loss that each stage has of its own: another objective than the network's"
    return "those of one process"


def slowest_text(staged: Staged) -> str:
    """Return which stage decides, and what the others wait."""
    row, line = staged.stages[staged.slowest], staged.timeline
    return (
        f"stage {staged.slowest} (from {row.first}) works longest: {time_text(row.busy_s)} of a step's "
        f"{time_text(line.step_s)}; stages wait {percent(line.bubble)} of it on the average, "
        f"the longest {percent(max(line.bubbles))}"
    )


def cut_rows(staged: Staged) -> list[tuple[str, ...]]:
    """Return a row for each cut moved to either side, as `CUTS` names its cells."""
    return [_cut_row(staged, moved) for moved in staged.cuts]


def _cut_row(staged: Staged, moved: MovedCut) -> tuple[str, ...]:
    more = moved.step_s / staged.plan.step_s - 1 if staged.plan.step_s else 0.0
    return (
        str(moved.stage), cut(staged.stages[moved.stage].first, 20), _layers(moved.layers), f"stage {moved.target}",
        cut(moved.grid, 12), time_text(moved.step_s), f"{100 * more:+.1f} %", f"stage {moved.slowest}",
        bytes_text(moved.memory_bytes),
    )  # fmt: skip


def cuts_text(staged: Staged) -> str:
    """Return what moving the cuts says of them."""
    if not staged.cuts:
        return ""
    best = min(staged.cuts, key=lambda moved: moved.step_s)
    gain_s = staged.plan.step_s - best.step_s
    if gain_s <= 1e-9 * staged.plan.step_s:
        return "moved by a layer and what follows it, to either side, no cut makes a step shorter"
    gain = gain_s / staged.plan.step_s
    text = f"stage {best.stage} from {best.begins} on would take {time_text(gain_s)} less a step ({percent(gain, 1)})"
    if gain < MODEL_ERROR:
        return (
            f"{text}: less than the model's error of {percent(MODEL_ERROR)}, so not a difference to count on"
        )
    return f'{text}; say so in "stages" of the plan, with grids of its ranks for {_layers(best.layers)}'


def as_json(staged: Staged) -> dict[str, Any]:
    """Return a pipelined plan as values that `json` writes; seconds and bytes of a step and a rank."""
    plan, line, schedule = staged.plan, staged.timeline, staged.plan.schedule
    return {
        "schedule": schedule.name, "form": schedule.form if schedule.name == "delayed" else None,
        "passes": schedule.passes, "exact": schedule.exact, "step_s": plan.step_s, "bubble": line.bubble,
        "slowest": staged.slowest, "memory_bytes": plan.memory_bytes,
        "stages": [_stage_json(row) for row in staged.stages],
        "transfers": [move._asdict() for move in plan.cost.transfers],
        "cuts": [_cut_json(moved) for moved in staged.cuts], "notes": list(staged.notes),
    }  # fmt: skip


def _stage_json(row: StageRow) -> dict[str, Any]:
    memory = {"memory_bytes": row.memory.total_bytes, "memory": row.memory._asdict()}
    return {
        "first": row.first, "layers": row.layers, "ranks": [row.ranks.start, row.ranks.stop], "grids": list(row.grids),
        "forward_s": row.forward_s, "backward_s": row.backward_s, "update_s": row.update_s, "busy_s": row.busy_s,
        "bubble": row.bubble, "open": row.open, "late": row.late, **memory,
    }  # fmt: skip


def _cut_json(moved: MovedCut) -> dict[str, Any]:
    return {
        "stage": moved.stage, "begins": moved.begins, "layers": list(moved.layers), "to": moved.target,
        "grid": moved.grid, "step_s": moved.step_s, "memory_bytes": moved.memory_bytes, "slowest": moved.slowest,
    }  # fmt: skip


def trace_events(staged: Staged) -> Iterator[dict[str, Any]]:
    """Yield the events of a Chrome trace, a lane a stage; times in microseconds."""
    yield {"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": "simulated pipeline"}}
    for k, (row, lane) in enumerate(zip(staged.stages, staged.timeline.lanes, strict=True)):
        about = {"pid": 1, "tid": k + 1}
        name = f"stage {k}: {row.first}, ranks {ranks_text(row.ranks)}"
        yield {"ph": "M", **about, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", **about, "name": "thread_sort_index", "args": {"sort_index": k}}
        for task, start_s, stop_s in lane.intervals:
            if stop_s > start_s:
                times = {"ts": start_s * 1e6, "dur": (stop_s - start_s) * 1e6}
                yield {"ph": "X", **about, "name": f"{task.verb} {task.number}", "cat": task.verb, **times}


def ranks_text(ranks: range) -> str:
    """Return ranks as ``2`` or ``0-3``."""
    return str(ranks.start) if len(ranks) == 1 else f"{ranks.start}-{ranks.stop - 1}"


def percent(part: float, digits: int = 0) -> str:
    """Return a part as ``12 %``."""
    return f"{100 * part:.{digits}f} %"


def _layers(names: Sequence[str]) -> str:
    return cut(names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)})", 28)


def _many(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "es" if word.endswith("s") else "s")
