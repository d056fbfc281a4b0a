"""What pictures on paper and in the browser have in common: colours, patterns, units and ticks of charts.

A chart says its units in its labels: an axis whose label names seconds (or "s", "alpha", "bytes" ...) has its
numbers written in that unit, whatever the power of ten:

| label                    | value      | written  |
|--------------------------|------------|----------|
| seconds of an epoch      | 0.0223     | 22.3 ms  |
| bytes of a step          | 1572864    | 1.5 MiB  |
| processes                | 4096       | 4,096    |
| factor on beta           | 0.0625     | 1/16     |

A name has one colour in all charts, as far as eight colours go: known words have theirs, other names one that
their letters choose; where two names of a chart want the same, the later takes the next that is free.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from gridnn.analysis.chart import COLOURS, Bars, Chart, Lanes, Map, Series
from gridnn.analysis.table import cell_text

HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++", "|||")
"""Patterns of bars by their order, so that grey print tells them apart; `PATTERNS` are plotly's names of them."""
PATTERNS = ("", "/", ".", "\\", "x", "-", "+", "|")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Marks on lines by their order; `SYMBOLS` are plotly's names of them."""
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")

# The first word that a name has, in this order, is the one that counts.
_KNOWN = {
    "not hidden": 3, "ideal": 7, "limit": 7, "equal": 7, "hidden": 7, "idle": 7, "wait": 7, "data load": 7, "none": 7,
    "fc-only": 4, "dynamic": 2, "layer-wise": 2, "owt": 1, "uniform": 5, "halo": 4, "domain": 6, "compute": 5,
    "computation": 5, "update": 6, "redistribut": 6, "batch": 1, "model": 3, "data": 0, "communication": 3,
    "forward": 5, "backward": 2,
}  # fmt: skip
_UNITS = {
    "s": r"seconds?|time|alpha|latency", "bytes": r"bytes|memory|traffic", "flops": r"flops?|operations",
}  # fmt: skip
# Labels of what has no unit although a word of one is in it, or one that no power of ten suits.
_PLAIN = re.compile(r"\b(factors?|ratio|times|share|relative)\b|/s\b|\b(a|per) second\b", re.IGNORECASE)
_PREFIXES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "bytes": ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")),
    "flops": (
        (1e15, "Pflop"),
        (1e12, "Tflop"),
        (1e9, "Gflop"),
        (1e6, "Mflop"),
        (1e3, "kflop"),
        (1.0, "flop"),
    ),
}


class Tick(NamedTuple):
    """A place on an axis and what stands there."""

    value: float
    text: str


def names_of(chart: Chart) -> tuple[str, ...]:
    """Return what has a colour in a chart, each once, in order of appearance."""
    if isinstance(chart, Map):
        found: Iterable[str] = (name for row in chart.cells for name in row)
    elif isinstance(chart, Lanes):
        found = (span.kind for span in chart.spans)
    else:
        found = (series.name for series in chart.series)
    return tuple(dict.fromkeys(found))


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of every name of a chart."""
    wanted = {name: _wanted(name) for name in names}
    taken: dict[str, int] = {}
    for name in sorted(names, key=lambda n: not _word(n)):  # known words first
        free = [at % len(COLOURS) for at in range(wanted[name], wanted[name] + len(COLOURS))]
        taken[name] = next((at for at in free if at not in taken.values()), wanted[name])
    return {name: COLOURS[taken[name]] for name in names}


def on(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour (relative luminance, WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.25 else "black"


def order_of(names: Sequence[str]) -> dict[str, int]:
    """Return for every name the place of its pattern or mark."""
    return {name: at % len(HATCHES) for at, name in enumerate(dict.fromkeys(names))}


def unit_of(label: str) -> str:
    """Return the unit that an axis label says, one of `table.UNITS`: "s", "bytes", "flops" or ""."""
    if _PLAIN.search(label):
        return ""
    if label == "s" or "(s)" in label:
        return "s"
    first = re.split(r"[,;]", label, maxsplit=1)[0]
    return next((u for u, words in _UNITS.items() if re.search(rf"\b({words})\b", first, re.IGNORECASE)), "")


def number(value: float, unit: str) -> str:
    """Return a number of a chart as people read it, as tables have it."""
    whole = float(value).is_integer() and unit == ""
    return cell_text(int(value) if whole else value, unit).replace(" us", " µs")


def scale(largest: float, unit: str) -> tuple[float, str]:
    """Return what to divide the numbers of an axis by, and the name of the unit that they are in then."""
    found = _PREFIXES.get(unit)
    if found is None:
        return 1.0, ""
    largest = abs(largest)
    return next(((f, n) for f, n in found if largest >= f * (1 - 1e-9)), found[-1] if largest else found[0])


def tick(value: float, unit: str, of: float | None = None) -> str:
    """Return the text of a tick: in its own unit, or in that which suits `of`, the largest of the axis."""
    factor, name = scale(value if of is None else of, unit)
    text = f"{value / factor:,.6g}" if abs(value / factor) < 1e15 else f"{value / factor:.3g}"
    return f"{text} {name}" if name and value else text


def ticks(values: Sequence[float], unit: str, most: int = 10) -> tuple[Tick, ...] | None:
    """Return ticks on the values of an axis of powers of two, at most so many; None if they are no such powers.

    Powers below one are written 1/16.  Values between powers, such as a last 6000 after 4096, have no tick.
    """
    powers = sorted({float(v) for v in values if v > 0 and math.frexp(v)[0] == 0.5})
    if len(powers) < 2 or 2 * len(powers) <= len(set(values)):
        return None
    every = -(-len(powers) // most)
    # Counted from the value 1 where there is one: factors keep it on the axis.
    start = powers.index(1.0) % every if 1.0 in powers else 0
    return tuple(
        Tick(v, f"1/{1 / v:,.0f}" if v < 1 and not unit else tick(v, unit)) for v in powers[start::every]
    )


def byte_places(largest: float, log: bool, most: int = 6) -> tuple[float, ...]:
    """Return where the ticks of an axis of bytes stand: binary units have no round powers of ten.

    On a logarithmic axis these are the powers of 4, wherever the axis begins and ends.
    """
    if log:
        return tuple(4.0**power for power in range(31))
    factor, _ = scale(largest, "bytes")
    high = largest / factor or 1.0
    power = 10.0 ** math.floor(math.log10(high / most))
    step = factor * next(power * s for s in (1, 2, 2.5, 5, 10) if power * s * most >= high)
    return tuple(step * k for k in range(most + 1))


def edges(centres: Sequence[float], log: bool) -> tuple[float, ...]:
    """Return the borders of cells around their centres, half-way between neighbours (by ratio if `log`)."""
    at = [math.log(c) for c in centres] if log else list(centres)
    if len(at) == 1:
        at = [at[0] - math.log(2) / 2, at[0] + math.log(2) / 2] if log else [at[0] - 0.5, at[0] + 0.5]
        return tuple(math.exp(a) for a in at) if log else tuple(at)
    inner = [(a + b) / 2 for a, b in pairwise(at)]
    found = [2 * at[0] - inner[0], *inner, 2 * at[-1] - inner[-1]]
    return tuple(math.exp(a) for a in found) if log else tuple(found)


def stacks_of(chart: Bars) -> dict[str, tuple[Series, ...]]:
    """Return the series of every stack of a bar chart, from below."""
    found: dict[str, tuple[Series, ...]] = {}
    for series in chart.series:
        found[series.stack] = (*found.get(series.stack, ()), series)
    return found


def heights(stack: Sequence[Series], bars: int) -> tuple[float, ...]:
    """Return the height of each of the bars of a stack."""
    return tuple(sum(series.values[at] or 0.0 for series in stack) for at in range(bars))


def marks_of(chart: Bars) -> tuple[str, ...]:
    """Return the texts above the bars: those of the chart, or the totals where there is room for them."""
    if chart.marks:
        return chart.marks
    stacks, unit = stacks_of(chart), unit_of(chart.y_label)
    if len(stacks) > 1 or len(chart.x) > 12:
        return ("",) * len(chart.x)
    (stack,) = stacks.values()
    return tuple(number(h, unit) if h else "" for h in heights(stack, len(chart.x)))


def _wanted(name: str) -> int:
    word = _word(name)
    return _KNOWN[word] if word else zlib.crc32(name.encode()) % len(COLOURS)


def _word(name: str) -> str:
    return next((word for word in _KNOWN if word in name.lower()), "")
