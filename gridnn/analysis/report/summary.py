"""What a reader takes home, in sentences: the best strategy and its margin, how far it scales, where it stops."""

from __future__ import annotations

from typing import cast

from gridnn.analysis.strategies import HEADS
from gridnn.analysis.table import Table
from gridnn.plan.explain.tell import bytes_text, time_text
from gridnn.plan.job import Job
from gridnn.plan.outcome import Outcome
from gridnn.plan.search import MODEL_ERROR, Found

NAMES = {"dynamic": "a grid for each layer", "uniform": "one grid for all layers"}
HALF = 0.5
"""Parallel efficiency below which more processes are mostly wasted."""


def answers(job: Job, best: Found, shown: str, result: Outcome, strong: Table | None) -> tuple[str, ...]:
    """Return the sentences of the summary.

    Parameters
    ----------
    best
        The best plan, and the baselines beside it.
    shown, result
        Name and price of the plan that the page shows.
    strong
        The strong scaling study, if there is one.
    """
    found = [_winner(job, best)]
    if shown != best.method:
        times = result.step_s / best.step_s if best.step_s else 1.0
        found.append(
            f'This page shows the plan "{shown}" layer by layer: {time_text(result.step_s)} a step, '
            f"{times:.3g} times the best."
        )
    found.append(_costs(job, result))
    if strong is not None:
        found += _scales(job, strong)
    return tuple(found)


def _winner(job: Job, best: Found) -> str:
    name, seconds = best.runner_up
    rate = f"{time_text(best.step_s)} a step, {job.batch / best.step_s:,.0f} samples a second"
    if job.procs == 1:
        return f"One process: {rate}."
    if best.margin >= MODEL_ERROR:
        return (
            f"A grid for each layer is fastest: {rate}. That is {best.margin:.0%} less time than the next, "
            f"{NAMES.get(name, name)} ({time_text(seconds)})."
        )
    if best.margin > 1e-9:
        return (
            f"Take {NAMES.get(name, name)}: {time_text(seconds)} a step, {job.batch / seconds:,.0f} samples a second. "
            f"A grid for each layer would gain {best.margin:.1%} ({time_text(best.step_s)}), less than "
            f"the model's error of {MODEL_ERROR:.0%}."
        )
    return f"Take {NAMES.get(name, name)}: {rate}. No plan with a grid for each layer is faster."


def _costs(job: Job, result: Outcome) -> str:
    share = result.comm_s / result.step_s if result.step_s else 0.0
    text = (
        f"Communication is {share:.0%} of a step when nothing hides it"
        + ("" if result.overlapped_s is None else f" ({time_text(result.overlapped_s)} a step with overlap)")
        + f"; the busiest process receives {bytes_text(result.received_bytes)} and needs "
        f"{bytes_text(result.memory_bytes)} of memory"
    )
    if result.memory_bytes > job.machine.memory_bytes:
        return f"{text}: more than the {bytes_text(job.machine.memory_bytes)} it has."
    return f"{text}, of {bytes_text(job.machine.memory_bytes)}."


def _scales(job: Job, strong: Table) -> list[str]:
    """Return how far the layer-wise plan scales at a fixed batch, and where cutting the batch ends."""
    mine = [row for row in strong.records() if row["strategy"] == HEADS["dynamic"]]
    found = []
    if len(mine) > 1:
        counts = [cast(int, row["procs"]) for row in mine]
        steps_s = [cast(float, row["step_s"]) for row in mine]
        # Less than a thousandth is no gain.
        best = next(at for at, step_s in enumerate(steps_s) if step_s <= 1.001 * min(steps_s))
        still = best == len(mine) - 1
        text = (
            f"With a grid for each layer and the batch fixed at {job.batch:,}, a step gets faster up to "
            f"{counts[best]:,} processes{', the most looked at' if still else ' and no further'} "
            f"({time_text(steps_s[best])})"
        )
        wasted = [at for at, row in enumerate(mine) if cast(float, row["efficiency"]) < HALF]
        if wasted and wasted[0]:
            text += (
                f"; beyond {counts[wasted[0] - 1]:,} the parallel efficiency against {counts[0]:,} is below "
                f"{HALF:.0%}"
            )
        found.append(f"{text}.")
    ends = [note for note in strong.notes if note.startswith(("batch parallelism ends", "cutting beyond it"))]
    return found + [note[0].upper() + note[1:] for note in ends]
