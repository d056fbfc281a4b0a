"""An explanation in words: tables for a terminal of 100 columns, and the same as plain values for JSON.

where the seconds go        a row a layer: computing, edges in, sums, by the search's tables
what a rank receives        a row a layer that moves anything: bytes by collective, exact
what came second            a row a layer: the next best grid, what it costs more, why, and when it would win
in words                    the dearest layers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from gridnn.cost.price import Movement, PlanPrice
from gridnn.plan.explain.rival import OCTAVES
from gridnn.plan.explain.why import Explanation, LayerExplanation, Rival

DEAREST = 3
COLLECTIVES = {
    "halo": "halo", "repartition": "repartition", "allgather": "gather", "reduce_scatter": "scatter",
    "allreduce": "all-reduce",
}  # fmt: skip
_NAME, _GRID = 20, 14


def lines(explanation: Explanation) -> list[str]:
    """Return an explanation as lines of at most 100 columns (longer only where names are)."""
    job, price = explanation.job, explanation.price
    head = [
        f"{job.network.name}, batch {job.batch}" + (f" in {job.passes} passes" if job.passes > 1 else "")
        + f", {job.procs} processes of {job.machine.name}: {time_text(explanation.step_s)} a step, nothing overlapping"
    ]  # fmt: skip
    if price is not None:
        head.append(
            f"exact traffic: {time_text(price.step_s)}, {time_text(price.overlapped_s)} with overlap, "
            f"{bytes_text(price.received_bytes)} received by the busiest rank"
        )
    sections = [head, _seconds(explanation)]
    if price is not None:
        sections += [_received(explanation, price), _totals(price)]
    sections += [
        _second(explanation),
        _in_words(explanation),
        [f"note: {note}" for note in explanation.notes],
    ]
    return [line for section in sections if section for line in ("", *section)][1:]


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as values that `json` writes; seconds and bytes of a step and a rank."""
    job, price = explanation.job, explanation.price
    exact = None
    if price is not None:
        exact = {
            "step_s": price.step_s, "overlapped_s": price.overlapped_s, "received_bytes": price.received_bytes,
            "ranks": list(price.ranks),
        }  # fmt: skip
    return {
        "network": job.network.name, "digest": job.network.digest, "machine": job.machine.name, "procs": job.procs,
        "batch": job.batch, "passes": job.passes, "step_s": explanation.step_s, "exact": exact,
        "rivals_at": {"bandwidth": [2.0**-OCTAVES, 2.0**OCTAVES], "batch": list(explanation.batches)},
        "notes": list(explanation.notes), "layers": [_layer_json(layer) for layer in explanation.layers],
    }  # fmt: skip


def _layer_json(layer: LayerExplanation) -> dict[str, Any]:
    rival = layer.rival
    return {
        "name": layer.name, "kind": layer.kind, "grid": str(layer.scheme), "seconds": layer.seconds,
        "compute_s": layer.compute_s, "settle_s": layer.settle_s, "statistics_s": layer.statistics_s,
        "gradients_s": layer.gradients_s, "edges": [{"from": name, "seconds": x} for name, x in layer.edges_s],
        "memory_bytes": layer.memory_bytes,
        "movements": None if layer.movements is None else [m._asdict() for m in layer.movements],
        "next_best": None if rival is None else {
            "grid": str(rival.scheme), "more_s": rival.more_s, "more_bytes": rival.more_bytes,
            "because": rival.because, "growth": [{"part": part, "seconds": x} for part, x in rival.growth],
            "wins_at": asdict(rival.flip),
        },
    }  # fmt: skip


def _seconds(explanation: Explanation) -> list[str]:
    """Return the table of seconds; a dot is nothing."""
    factor, unit = scale(max(layer.seconds for layer in explanation.layers))
    heads = ["all", "%", "compute", "edges in", "settle", "statistics", "gradients"]
    rows = [_row(f"{unit} of a step", "grid", heads)]

    def cells(layers: Sequence[LayerExplanation]) -> list[str]:
        parts = ("seconds", "compute_s", "moved_in_s", "settle_s", "statistics_s", "gradients_s")
        found = [sum(getattr(layer, part) for layer in layers) for part in parts]
        share = f"{100 * found[0] / (explanation.step_s or 1):.1f}"
        return [f"{found[0] * factor:.1f}", share, *(f"{x * factor:.1f}" if x else "." for x in found[1:])]

    rows += [_row(layer.name, str(layer.scheme), cells([layer])) for layer in explanation.layers]
    return [*rows, _row("all", "", cells(explanation.layers))]


def _received(explanation: Explanation, price: PlanPrice) -> list[str]:
    """Return the table of bytes by collective, of layers that move anything."""
    rows = [_row("received in a step", "grid", [*COLLECTIVES.values(), "time"])]
    for layer in explanation.layers:
        if layer.movements:
            by = {c: sum(m.received_bytes for m in layer.movements if m.collective == c) for c in COLLECTIVES}
            cells = [bytes_text(n) if n else "." for n in by.values()]
            spent_s = sum(m.seconds for m in layer.movements)
            rows.append(_row(layer.name, str(layer.scheme), [*cells, time_text(spent_s)]))
    return rows if len(rows) > 1 else ["nothing is received: all ranks have what they need"]


def _totals(price: PlanPrice) -> list[str]:
    """Return a line for every direction and collective."""
    found: dict[tuple[str, str], list[Movement]] = {}
    for layer in price.layers:
        for movement in layer.movements:
            found.setdefault((movement.direction, movement.collective), []).append(movement)
    return [
        f"{way:9}{COLLECTIVES[collective]:12}{sum(m.messages for m in moved):>8,} messages "
        f"{bytes_text(sum(m.received_bytes for m in moved)):>10} {time_text(sum(m.seconds for m in moved)):>10}"
        for (way, collective), moved in sorted(found.items())
    ]


def _second(explanation: Explanation) -> list[str]:
    """Return the table of rivals."""
    low, high = explanation.batches
    rows = [
        _rival_row("next best", "grid", "next best", "takes more", "because of", "links", "batch"),
        *(
            _rival_row(layer.name, str(layer.scheme), *_rival_cells(layer.rival))
            for layer in explanation.layers
        ),
    ]
    about = (
        "one layer changes, all others stay; links, batch: where it wins, or a dot; looked at: "
        f"1/{2**OCTAVES} to {2**OCTAVES} times the bandwidth of all links, batches from {low} to {high}"
    )
    return [*rows, *_wrapped(f"({about})")]


def _rival_cells(rival: Rival | None) -> list[str]:
    if rival is None:
        return ["."] * 5
    flip = rival.flip
    links = "." if flip.bandwidth is None else f"x {flip.bandwidth:.3g}"
    batch = "." if flip.batch is None else str(flip.batch)
    return [str(rival.scheme), time_text(rival.more_s), rival.because, links, batch]


def _in_words(explanation: Explanation) -> list[str]:
    dearest = sorted(explanation.layers, key=lambda layer: -layer.seconds)[:DEAREST]
    return [line for layer in dearest for line in _wrapped(_sentences(explanation, layer))]


def _sentences(explanation: Explanation, layer: LayerExplanation) -> str:
    share = 100 * layer.seconds / (explanation.step_s or 1)
    parts = [("computing", layer.compute_s), *((f"input from {name}", x) for name, x in layer.edges_s)]
    parts += [("sums over input channels or space", layer.settle_s), ("statistics", layer.statistics_s)]
    parts += [("sums of gradients", layer.gradients_s)]
    spent = ", ".join(f"{name} {time_text(x)}" for name, x in sorted(parts, key=lambda p: -p[1]) if x)
    text = f"{layer.name} ({layer.kind}) on {layer.scheme} takes {time_text(layer.seconds)}, {share:.0f} %: {spent}."
    rival = layer.rival
    if rival is None:
        return text
    if rival.more_s < 0:
        text += f" On {rival.scheme} it would take {time_text(-rival.more_s)} less"
        return text + (f" and {bytes_text(rival.more_bytes)} more memory." if rival.more_bytes > 0 else ".")
    text += f" Next best is {rival.scheme}, {time_text(rival.more_s)} more"
    worse = [f"{name} {time_text(x)}" for name, x in rival.growth if x > 0][:2]
    better = [f"{name} {time_text(-x)}" for name, x in rival.growth[::-1] if x < 0][:1]
    text += (f": more for {', '.join(worse)}" if worse else "") + (
        f", less for {better[0]}" if better else ""
    )
    wins = [f"with links {rival.flip.bandwidth:.3g} times as fast"] if rival.flip.bandwidth else []
    wins += [f"at a batch of {rival.flip.batch}"] if rival.flip.batch else []
    return text + (f"; it would win {' or '.join(wins)}." if wins else ".")


def _wrapped(text: str, width: int = 100) -> Iterator[str]:
    """Yield a text in lines, the later indented."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = f"   {word}"
        else:
            line = f"{line} {word}" if line else word
    yield line


def _row(name: str, grid: str, cells: Sequence[str]) -> str:
    widths = [9, 6, 9, 9, 9, 11, 11] if len(cells) == 7 else [11, 12, 11, 11, 11, 9]
    text = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{cut(name, _NAME):{_NAME}} {cut(grid, _GRID):{_GRID}}{text}"


def _rival_row(name: str, grid: str, rival: str, more: str, because: str, bandwidth: str, batch: str) -> str:
    row = f"{cut(name, 16):16} {cut(grid, 12):12} {cut(rival, 12):12}{more:>10}  {cut(because, 28):28}"
    return f"{row}{bandwidth:>9}{batch:>9}"


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters: its start and its end."""
    if len(text) <= width:
        return text
    return f"{text[: (width - 1) // 2]}…{text[len(text) - width // 2 :]}"


def scale(seconds: float) -> tuple[float, str]:
    """Return the factor and the name of the unit in which a time is between 1 and 1000, s at most."""
    if seconds < 1e-3:
        return 1e6, "us"
    return (1e3, "ms") if seconds < 1 else (1.0, "s")


def time_text(seconds: float) -> str:
    """Return a time in three digits and its unit."""
    factor, unit = scale(abs(seconds))
    return (
        f"{seconds * factor:.3g} {unit}"
        if abs(seconds) * factor < 1000
        else f"{seconds * factor:,.0f} {unit}"
    )


def bytes_text(count: float) -> str:
    """Return bytes as the tables of a run have them: ``0 B``, ``1.5 KiB``, ``12.0 MiB``."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
