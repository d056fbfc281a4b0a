"""Axes of plotly.js: ticks as `gridnn.analysis.draw` has them, numbers in units of their own however far one zooms."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from gridnn.analysis import looks

GREY = "#808080"
FAINT = "rgba(128,128,128,0.25)"
"""Lines of a grid; both can be seen on white and on black."""


def plain(text: str) -> str:
    """Return a text of which plotly shows every letter: it reads tags in texts, and knows &lt; but not &quot;."""
    return html.escape(text, quote=False)


def axis_of(label: str) -> dict[str, Any]:
    """Return an axis with a label, without numbers."""
    text = "<br>".join(map(plain, textwrap.wrap(label, 34)))
    return {
        "title": {"text": text, "standoff": 8}, "automargin": True, "gridcolor": FAINT,
        "linecolor": GREY, "zerolinecolor": FAINT, "tickcolor": GREY,
    }  # fmt: skip


def value_axis(label: str, values: Sequence[float], log: bool) -> dict[str, Any]:
    """Return an axis with ticks on powers of two if its values are such, or on all of a few."""
    log, unit = log and min(values, default=0.0) > 0, looks.unit_of(label)
    found = looks.ticks(values, unit) if log else None
    if found is None and log and len(values) <= 10:
        found = tuple(looks.Tick(v, looks.number(v, unit)) for v in values)
    if found is None:
        return number_axis(label, max(values, default=1.0), log, min(values, default=0.0))
    ticks = {"tickmode": "array", "tickvals": [t.value for t in found], "ticktext": [t.text for t in found]}
    return {**axis_of(label), "type": "log", **ticks}


def number_axis(
    label: str, largest: float, log: bool, least: float = 0.0, unit: str | None = None
) -> dict[str, Any]:
    """Return an axis whose numbers plotly writes in its unit, however far one zooms."""
    unit = looks.unit_of(label) if unit is None else unit
    axis: dict[str, Any] = {**axis_of(label), "type": "log" if log else "linear"}
    if log and least > 0 and largest / least > 200:
        axis["dtick"] = 1  # whole powers of ten
    elif log and least > 0 and largest / least > 10:
        axis["dtick"] = "D2"  # 1, 2 and 5: all digits would overlap
    if unit == "s":  # milliseconds, but no kiloseconds
        return axis | {
            "tickformat": "~s" if largest < 1000 else ",~r",
            "ticksuffix": "s" if largest < 1000 else " s",
        }
    if unit == "flops":
        return axis | {"tickformat": "~s", "ticksuffix": "flop"}
    if unit == "bytes" and largest > 0:  # plotly has no binary prefixes
        places = looks.byte_places(largest, log)
        texts = [looks.tick(at, unit, None if log else largest) for at in places]
        return axis | {"tickmode": "array", "tickvals": list(places), "ticktext": texts}
    return axis | {"tickformat": ",~r"}
