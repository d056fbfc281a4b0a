"""What two plans of a network do differently, in lines.

layers                 first    second    computing            communicating
conv8 ... relu10 (7)   n16      n8 k2     12.1 ms   10.9 ms    1.7 ms   0.9 ms
fc6                    n16      k16        4.0 ms    1.2 ms    9.2 ms   0.2 ms
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gridnn.network.graph import Network
from gridnn.network.stages import cut_network, ranks_of
from gridnn.plan.explain.stagewords import ranks_text, schedule_text
from gridnn.plan.explain.tell import bytes_text, cut, time_text
from gridnn.plan.outcome import Outcome
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.plan import Plan


class _Change(NamedTuple):
    """Layers next to each other that go from one scheme to another."""

    layers: tuple[str, ...]
    before: str
    after: str


def difference(
    network: Network, a: Plan, b: Plan, outcomes: tuple[Outcome, Outcome] | None = None
) -> list[str]:
    """Return what plan `b` does differently from plan `a`, as lines of at most 100 columns.

    Parameters
    ----------
    network
        The network of `a`; its order is that of the lines.
    outcomes
        Of both plans (`outcome`): seconds of the layers that differ and of the step.  Without them only what the plan
        files predict.
    """
    lines = _jobs(a, b) + _stages(network, a, b)
    changes = _changes(network, a.schemes, b.schemes)
    changed = sum(len(change.layers) for change in changes)
    missing = [name for name in (*a.schemes, *b.schemes) if name not in a.schemes or name not in b.schemes]
    if missing:
        lines.append(f"{len(missing)} layers are in one plan only: {', '.join(missing[:3])}, ..."[:100])
    if changes:
        lines.append(f"{changed} of {len(network.nodes)} layers differ")
        lines.append(
            _row("layers", "first", "second", *(("computing", "", "moving", "") if outcomes else ()))
        )
        lines += [_row(_names(c), c.before, c.after, *_cells(c, outcomes)) for c in changes]
    elif not missing:
        lines.append("both give every layer the same grid on the same ranks")
    return lines + _totals(a, b, outcomes)


def _jobs(a: Plan, b: Plan) -> list[str]:
    """Return a line for everything by which the plans are for different jobs."""
    lines = []
    if a.digest != b.digest:
        lines.append(f"different networks: {a.network} ({a.digest}) and {b.network} ({b.digest})")
    for what, mine, theirs in (
        ("processes", a.procs, b.procs),
        ("batches", a.batch, b.batch),
        ("passes", a.passes, b.passes),
    ):
        if mine != theirs:
            lines.append(f"different {what}: {mine} and {theirs}")
    return lines


def _stages(network: Network, a: Plan, b: Plan) -> list[str]:
    """Return a line for the schedules if they differ, and one for each stage that does."""
    lines = []
    if _schedule(a) != _schedule(b):
        lines.append(f"schedule: {_schedule(a)} and {_schedule(b)}")
    if not a.stages and not b.stages:
        return lines
    ours, theirs = _stage_words(network, a), _stage_words(network, b)
    for k in range(max(len(ours), len(theirs))):
        pair = [each[k] if k < len(each) else "none" for each in (ours, theirs)]
        if pair[0] != pair[1]:
            lines.append(f"stage {k}: {pair[0]} and {pair[1]}")
    return lines


def _schedule(plan: Plan) -> str:
    if not plan.stages:
        return "no stages"
    return schedule_text(Schedule(plan.schedule, len(plan.stages), plan.passes, plan.form))


def _stage_words(network: Network, plan: Plan) -> list[str]:
    """Return where each stage of a plan begins, and its ranks; of a plan without stages, all of it as one."""
    names = {node.name for node in network.nodes}
    if not set(plan.stages) <= names or not names <= set(plan.schemes):
        return [f"from {name}" for name in plan.stages]  # a plan for another network
    stages = cut_network(network, plan.stages)
    ranks = ranks_of(stages, plan.schemes)
    return [f"from {name}, ranks {ranks_text(mine)}" for name, mine in zip(stages.first, ranks, strict=True)]


def _changes(network: Network, a: Mapping[str, object], b: Mapping[str, object]) -> list[_Change]:
    """Return the layers whose schemes differ; a run of equal changes is one."""
    runs: list[_Change] = []
    last = -2
    for at, node in enumerate(network.nodes):
        before, after = a.get(node.name), b.get(node.name)
        if before is None or after is None or before == after:
            continue
        names, ends = (node.name,), (str(before), str(after))
        if last == at - 1 and runs[-1][1:] == ends:
            runs[-1] = _Change((*runs[-1].layers, *names), *ends)
        else:
            runs.append(_Change(names, *ends))
        last = at
    return runs


def _names(change: _Change) -> str:
    names = change.layers
    if len(names) == 1:
        return cut(names[0], 34)
    return f"{cut(names[0], 11)} ... {cut(names[-1], 11)} ({len(names)})"


def _cells(change: _Change, outcomes: tuple[Outcome, Outcome] | None) -> Sequence[str]:
    if outcomes is None:
        return ()
    names = set(change.layers)
    layers = [[layer for layer in outcome.layers if layer.name in names] for outcome in outcomes]
    work_s = [sum(layer.compute_s for layer in found) for found in layers]
    talk_s = [sum(layer.comm_s for layer in found) for found in layers]
    return [time_text(seconds) for seconds in (*work_s, *talk_s)]


def _totals(a: Plan, b: Plan, outcomes: tuple[Outcome, Outcome] | None) -> list[str]:
    """Return what is predicted of the whole step: of the outcomes, and of the files where both have it."""
    lines = []
    if outcomes is not None:
        first, second = outcomes
        staged = [x for x in outcomes if x.pipelined_s is not None]
        if len(staged) != 1:  # one layer after the other says nothing beside stages that overlap
            lines.append(_total("step", time_text, first.step_s, second.step_s))
        if first.overlapped_s is not None and second.overlapped_s is not None and len(staged) < 2:
            lines.append(_total("with overlap", time_text, first.overlapped_s, second.overlapped_s))
        about = "" if first.exact and second.exact else " (estimated)"
        received = f"received by the busiest rank{about}"
        lines.append(_total(received, bytes_text, first.received_bytes, second.received_bytes))
        lines.append(_total("memory of a rank", bytes_text, first.memory_bytes, second.memory_bytes))
    for key in [key for key in a.predicted if key in b.predicted]:
        mine, theirs = a.predicted[key], b.predicted[key]
        if isinstance(mine, str) or isinstance(theirs, str):
            lines += [f"predicted for different {key}s: {mine} and {theirs}"] if mine != theirs else []
            continue
        lines.append(_total(f"predicted {key}", _writer(key), mine, theirs))
    return lines


def _writer(key: str) -> Callable[[float], str]:
    """Return how a number of a plan file is written, by the unit in its name."""
    if key.endswith("_s"):
        return time_text
    return bytes_text if "bytes" in key else "{:,}".format


def _total(name: str, write: Callable[[float], str], before: float, after: float) -> str:
    change = f" ({100 * (after - before) / before:+.1f} %)" if before and after != before else ""
    return f"{name}: {write(before)} and {write(after)}{change}"


def _row(layers: str, before: str, after: str, *cells: str) -> str:
    return f"{layers:34} {cut(before, 14):14} {cut(after, 14):14}{''.join(f'{cell:>9}' for cell in cells)}".rstrip()
