"""What a measurement on wires found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from hidden import Hidden
from outcome import Outcome, Peer
from regime import BATCH

from gridnn.analysis.compare import kendall_tau


def times(outcomes: Sequence[Outcome], peers: Sequence[Peer]) -> list[str]:
    """Return the table of step times, and how well they were predicted."""
    batch = next((o for o in outcomes if o.name == BATCH), None)
    fastest = min((p.measured_s for p in peers), default=None)
    rows = []
    for o in sorted(outcomes, key=lambda o: o.measured_s):
        rows.append([
            o.name, f"{o.measured_s:.3f}", f"{o.quickest_s:.3f} - {o.slowest_s:.3f}", f"{o.predicted_s:.3f}",
            f"{100 * o.error:+.1f} %", f"{o.apart_s:.3f}", _times(batch.measured_s if batch else None, o.measured_s),
            _times(fastest, o.measured_s),
        ])  # fmt: skip
    for p in peers:
        rows.append([f"PyTorch DDP, {p.layout}", f"{p.measured_s:.3f}", "", "", "", "",
                     _times(batch.measured_s if batch else None, p.measured_s),
                     _times(fastest, p.measured_s)])  # fmt: skip
    head = (
        "plan",
        "measured s",
        "of them",
        "predicted s",
        "error",
        "nothing hidden s",
        "over pure batch",
        "over DDP",
    )
    return [*table(head, rows), "", *_judged(outcomes)]


def traffic(outcomes: Sequence[Outcome], peers: Sequence[Peer]) -> list[str]:
    """Return the table of bytes of all runs of a plan, warm steps and starts included."""
    rows = [
        [o.name, f"{o.predicted_bytes:,}", f"{o.counted_bytes:,}", _yes(o.counted_bytes == o.predicted_bytes),
         f"{o.wire_bytes:,}", f"{100 * (o.wire_bytes / o.counted_bytes - 1):+.2f} %"]
        for o in outcomes
    ]  # fmt: skip
    rows += [
        [f"PyTorch DDP, {p.layout}, {p.made_steps} steps", "", "", "", f"{p.wire_bytes:,}", ""] for p in peers
    ]
    return table(("plan", "predicted", "counted", "equal", "interfaces sent", "more"), rows)


def hiding(found: Mapping[str, tuple[Hidden, Hidden]]) -> list[str]:
    """Return the table of hidden sums and halos, a row a plan and kind."""
    rows = [
        [name, kind, f"{h.alone_s:.3f}", f"{h.visible_s:.3f}", _percent(h.share), f"{h.beside_s:.3f}",
         _percent(h.could), f"{h.least_alone_s:.3f}", f"{h.least_visible_s:.3f}", _percent(h.least_share)]
        for name, both in found.items()
        for kind, h in zip(("gradient sums", "halos"), both, strict=True)
        if h.alone_s > 0
    ]  # fmt: skip
    head = ("plan", "of", "alone s", "visible s", "hidden", "arithmetic beside s", "could")
    return table((*head, "no late rank: alone s", "visible s", "hidden"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _judged(outcomes: Sequence[Outcome]) -> list[str]:
    if len(outcomes) < 2:
        return []
    medians, quickest = [o.measured_s for o in outcomes], [o.quickest_s for o in outcomes]
    wrong = [
        f"{a.name} / {b.name} ({100 * abs(a.measured_s / b.measured_s - 1):.0f} %)"
        for a, b in combinations(outcomes, 2)
        if (a.predicted_s - b.predicted_s) * (a.measured_s - b.measured_s) < 0
    ]
    lines = [f"{len(outcomes)} plans, {_agreement(outcomes, medians)}."]
    lines += [f"In the wrong order (measured apart by): {'; '.join(wrong)}."] * bool(wrong)
    lines += [f"Against the quickest step of each instead: {_agreement(outcomes, quickest)}."]
    turns = min(len(o.seen) for o in outcomes)
    if turns > 1:
        pairs = combinations(([o.turns_s[turn] for o in outcomes] for turn in range(turns)), 2)
        found = [tau for one, two in pairs if (tau := kendall_tau(one, two)) is not None]
        if found:
            lines += [f"One turn against another, which is how far the order repeats: tau {min(found):.3f}."]
    return lines


def _agreement(outcomes: Sequence[Outcome], measured: Sequence[float]) -> str:
    """Return how well predictions agree with seconds, by error and order."""
    predicted = [o.predicted_s for o in outcomes]
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    tau = kendall_tau(predicted, measured)
    mean = f"mean |error| {100 * sum(errors) / len(errors):.1f} %, worst {100 * max(errors):.1f} %"
    return f"{mean}, Kendall tau {'-' if tau is None else f'{tau:.3f}'}"


def _times(of: float | None, seconds: float) -> str:
    return "-" if of is None else f"{of / seconds:.2f}x"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _yes(true: bool) -> str:
    return "yes" if true else "NO"
