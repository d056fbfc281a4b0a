"""What commands say: tables for a terminal, and plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.problem import Job

GB = 10**9
LAYERS = ("layers", "grid", "Pr x Pc", "compute", "communication")
"""Heads of `layer_rows`."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return lines of aligned columns, the first `left` of them to the left."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        parts = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])]


def finite(value: Any) -> Any:
    """Return plain values with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def layer_rows(result: Outcome) -> list[tuple[str, ...]]:
    """Return a row for every run of layers with one scheme: layers, grid, Pr x Pc, seconds."""
    from gridnn.plan.explain.tell import time_text

    rows = []
    for scheme, run in groupby(result.layers, key=lambda layer: layer.scheme):
        layers = list(run)
        name = layers[0].name + (f" ... {layers[-1].name} ({len(layers)})" if len(layers) > 1 else "")
        grid, sums = scheme.grid, (sum(x.compute_s for x in layers), sum(x.comm_s for x in layers))
        rows.append((name, str(scheme), f"{grid.rows} x {grid.columns}", *map(time_text, sums)))
    return [*rows, ("all", "", "", time_text(result.compute_s), time_text(result.comm_s))]


def totals(job: Job, result: Outcome) -> list[str]:
    """Return lines on the seconds, bytes and memory of a plan."""
    from gridnn.plan.explain.tell import bytes_text, time_text

    estimated, memory = "" if result.exact else " (estimated)", job.machine.memory_bytes
    lines = []
    if result.overlapped_s is not None:
        lines.append(
            f"a run       {time_text(result.step_s)} a step by its exact traffic, nothing hidden; "
            f"{time_text(result.overlapped_s)} with overlap"
        )
    received = bytes_text(result.received_bytes)
    lines.append(f"bytes       {received} received in a step by the busiest process{estimated}")
    more = f", MORE than the {bytes_text(memory)} it has; try --memory {memory / GB:.3g}"
    lines.append(
        f"memory      {bytes_text(result.memory_bytes)} a process{estimated}"
        + (more if result.memory_bytes > memory else f" of {bytes_text(memory)}")
    )
    return lines
