"""What every kind of chart looks like on the axes of matplotlib.

    Title in bold                          o  legend at the right, outside,
    caption, grey                             in the order of the stack
    |  2.1x (5.0x)      marks above bars
    |  [///]            parts differ in colour and in pattern, lines in marks: for print in grey
    +-----------------  ticks on powers of two where the axis has such; numbers in units of their own

Only `draw` calls this, with its settings; matplotlib is loaded by then.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gridnn.analysis import looks
from gridnn.analysis.chart import Bars, Chart, Lanes, Lines, Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#666666"
_DARK = "#222222"
_PLOT_PT = 390.0  # about the width of the axes, legend and labels aside, in points
_BESIDE: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.01, 1.0),
    "borderaxespad": 0.0,
    "handlelength": 1.8,
}


def height_in(chart: Chart) -> float:
    """Return the height of a chart in inches."""
    caption = 0.16 * len(_caption(chart))
    if isinstance(chart, Map):
        return min(5.0, max(2.6, 1.1 + 0.32 * len(chart.y))) + caption
    if isinstance(chart, Lanes):
        return min(40.0, 1.2 + 0.23 * max(3, len(chart.lanes))) + caption
    return 3.1 + caption


def paint(axes: Axes, chart: Chart) -> None:
    """Draw a chart."""
    lines = _caption(chart)
    axes.set_title(chart.title, pad=6 + 11 * len(lines))
    if lines:
        axes.annotate("\n".join(lines), (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8, color=_GREY,
                      va="bottom", linespacing=1.25)  # fmt: skip
    if isinstance(chart, Bars):
        _bars(axes, chart)
    elif isinstance(chart, Lines):
        _lines(axes, chart)
    elif isinstance(chart, Map):
        _map(axes, chart)
    else:
        _lanes(axes, chart)
    axes.minorticks_off()
    axes.tick_params(length=3)


def _bars(axes: Axes, chart: Bars) -> None:
    stacks, colour = looks.stacks_of(chart), looks.colours(looks.names_of(chart))
    order, at = looks.order_of(looks.names_of(chart)), np.arange(len(chart.x))
    width, shown = 0.74 / len(stacks), dict[str, Any]()
    top, tops = np.zeros(len(chart.x)), {}
    for order_in, (stack, parts) in enumerate(stacks.items()):
        x, bottom = at + (order_in - (len(stacks) - 1) / 2) * width, np.zeros(len(chart.x))
        for part in parts:
            height = np.array([value or 0.0 for value in part.values])
            hatch = looks.HATCHES[order[part.name]]
            drawn = axes.bar(x, height, 0.94 * width, bottom, color=colour[part.name], hatch=hatch,
                             edgecolor="white", linewidth=0.4)  # fmt: skip
            shown.setdefault(part.name, drawn)
            bottom += height
        top, tops[stack] = np.maximum(top, bottom), (x, bottom)
    highest = float(top.max(initial=0.0)) or 1.0
    marks, slot = looks.marks_of(chart), _PLOT_PT / len(chart.x)
    widest = max(map(len, marks), default=0)
    size = 8.5 if widest * 5 < slot else 6.5
    upright = widest * 3.8 > slot  # beside each other they would not fit
    axes.set_ylim(0, highest * (1.35 if upright else 1.2 if len(stacks) > 1 else 1.1))
    axes.set_xlim(-0.6, len(chart.x) - 0.4)
    lift = 0.015 * highest
    if len(stacks) > 1:  # which stack is which
        for stack, (x, heights) in tops.items():
            for middle, total in zip(x.tolist(), heights.tolist(), strict=True):
                axes.text(middle, total + lift, stack if total else "", fontsize=6, ha="center", va="bottom",
                          rotation=90, color=_GREY)  # fmt: skip
        lift = 0.17 * highest
    for place, (total, mark) in enumerate(zip(top.tolist(), marks, strict=True)):
        axes.text(place, total + lift, mark, fontsize=size, ha="center", va="bottom", color=_DARK,
                  rotation=90 if upright else 0)  # fmt: skip
    long = sum(len(name) + 2 for name in chart.x) > 95
    axes.set_xticks(at, chart.x, rotation=35 if long else 0, ha="right" if long else "center")
    axes.tick_params(axis="x", bottom=False)
    axes.grid(False, axis="x")
    _number_axis(axes, "y", chart.y_label, highest)
    axes.set_xlabel(chart.x_label)
    if len(shown) > 1 or any(shown):
        names = list(shown)[::-1] if len(stacks) == 1 else list(shown)
        axes.legend([shown[name] for name in names], names, **_BESIDE)


def _lines(axes: Axes, chart: Lines) -> None:
    colour, order = looks.colours(looks.names_of(chart)), looks.order_of(looks.names_of(chart))
    log_x, log_y = chart.log_x and min(chart.x, default=1) > 0, chart.log_y
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    largest, least = 0.0, math.inf
    for series in chart.series:
        values = [math.nan if v is None or (log_y and v <= 0) else float(v) for v in series.values]
        finite = [v for v in values if math.isfinite(v)]
        largest, least = max([largest, *finite]), min([least, *finite])
        axes.plot(chart.x, values, color=colour[series.name], label=series.name, clip_on=False, linewidth=1.6,
                  linestyle="--" if series.dashed else "-", markersize=4.5, markeredgecolor="white",
                  markeredgewidth=0.5, marker="" if series.dashed else looks.MARKERS[order[series.name]])  # fmt: skip
    _ticks(axes, "x", chart.x, chart.x_label, log_x)
    if not log_y:
        axes.set_ylim(0, largest * 1.06 or 1.0)
    _number_axis(axes, "y", chart.y_label, largest, (least, largest) if log_y else None)
    for x, text in chart.uprights:
        axes.axvline(x, color=_GREY, linestyle=":", linewidth=1.0, zorder=1.5)
        axes.annotate(f"{text} ", (x, 1), (-2, 0), ("data", "axes fraction"), "offset points", rotation=90,
                      fontsize=7.5, color=_GREY, ha="right", va="top")  # fmt: skip
    axes.legend(**_BESIDE)


def _map(axes: Axes, chart: Map) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    names = looks.names_of(chart)
    colour, log_x, log_y = (
        looks.colours(names),
        chart.log_x and min(chart.x) > 0,
        chart.log_y and min(chart.y) > 0,
    )
    cells = np.array([[names.index(name) for name in row] for row in chart.cells])
    axes.pcolormesh(looks.edges(chart.x, log_x), looks.edges(chart.y, log_y), cells, edgecolors="white",
                    cmap=ListedColormap([colour[name] for name in names]), vmin=-0.5, vmax=len(names) - 0.5,
                    linewidth=0.8)  # fmt: skip
    for axis, values, label, log in (
        ("x", chart.x, chart.x_label, log_x),
        ("y", chart.y, chart.y_label, log_y),
    ):
        if log:
            (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        _ticks(axes, axis, values, label, log)
    room = _PLOT_PT / len(chart.x) / 3.6  # letters of size 6
    for row, y in enumerate(chart.y):
        for column, x in enumerate(chart.x):
            name, text = chart.cells[row][column], chart.texts[row][column] if chart.texts else ""
            lines = [line for line in (name, *text.split("\n")) if line]
            fits = [line for line in lines if len(line) <= room][: 2 if len(chart.y) <= 14 else 1]
            if fits:
                axes.text(x, y, "\n".join(fits), fontsize=6, ha="center", va="center", linespacing=1.1,
                          color=looks.on(colour[name]))  # fmt: skip
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.legend([Patch(color=colour[name]) for name in names], names, **_BESIDE)


def _lanes(axes: Axes, chart: Lanes) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    kinds, row = looks.names_of(chart), {lane: at for at, lane in enumerate(chart.lanes)}
    colour, order = looks.colours(kinds), looks.order_of(kinds)
    first = min((s.start_s for s in chart.spans), default=0.0)
    last = max((s.end_s for s in chart.spans), default=1.0)
    hatched = len(chart.spans) < 400
    for kind in kinds:
        boxes = [
            [(s.start_s, y - 0.38), (s.end_s, y - 0.38), (s.end_s, y + 0.38), (s.start_s, y + 0.38)]
            for s in chart.spans if s.kind == kind for y in [row[s.lane]]
        ]  # fmt: skip
        axes.add_collection(
            PolyCollection(boxes, facecolors=colour[kind], edgecolors="white", linewidths=0.4 if hatched else 0.0,
                           hatch=looks.HATCHES[order[kind]] if hatched else "")
        )  # fmt: skip
    for span in chart.spans:
        width = (span.end_s - span.start_s) / ((last - first) or 1.0) * _PLOT_PT
        if span.name and width > 3.9 * len(span.name) + 3:
            middle = (span.start_s + span.end_s) / 2
            plain = {"facecolor": colour[span.kind], "edgecolor": "none", "pad": 1.2} if hatched else None
            axes.text(middle, row[span.lane], span.name, fontsize=6, ha="center", va="center_baseline",
                      color=looks.on(colour[span.kind]), bbox=plain, clip_on=True)  # fmt: skip
    axes.set_xlim(min(first, 0.0), last)
    axes.set_ylim(len(chart.lanes) - 0.4, -0.6)
    axes.set_yticks(range(len(chart.lanes)), chart.lanes)
    axes.grid(False, axis="y")
    _number_axis(axes, "x", "time (s)", last)
    axes.set_xlabel("")
    axes.legend([Patch(facecolor=colour[k], edgecolor="white", hatch=looks.HATCHES[order[k]] if hatched else "")
                 for k in kinds], kinds, **_BESIDE)  # fmt: skip


def _ticks(axes: Axes, which: str, values: Sequence[float], label: str, log: bool) -> None:
    """Put ticks on powers of two; on the values themselves where these are few; or else on numbers as usual."""
    from matplotlib.ticker import NullFormatter, NullLocator

    unit, axis = looks.unit_of(label), axes.xaxis if which == "x" else axes.yaxis
    found = looks.ticks(values, unit) if log else None
    if found is None and len(values) <= 10 and log:
        found = tuple(looks.Tick(v, looks.number(v, unit)) for v in values)
    if found is None:
        _number_axis(axes, which, label, max(values), (min(values), max(values)) if log else None)
        return
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_ticks([t.value for t in found], [t.text for t in found])
    axis.set_label_text("\n".join(textwrap.wrap(label, 34)))


def _number_axis(
    axes: Axes, which: str, label: str, largest: float, log: tuple[float, float] | None = None
) -> None:
    """Write the numbers of an axis in its unit; `log` is the range of a logarithmic one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis, unit = axes.xaxis if which == "x" else axes.yaxis, looks.unit_of(label)
    axis.set_label_text("\n".join(textwrap.wrap(label, 34)))
    axis.set_minor_locator(NullLocator())
    if unit == "bytes" and largest > 0:
        low, high = axis.get_view_interval()
        places = [at for at in looks.byte_places(largest, log is not None) if low <= at <= high]
        every = 1 if log is None else -(-len(places) // 7)
        axis.set_major_locator(FixedLocator(places[::every]))
        axis.set_major_formatter(
            FuncFormatter(lambda value, _: looks.tick(value, unit, None if log else largest))
        )
        return
    if log is None:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: looks.tick(value, unit, largest)))
        return
    wide = log[0] > 0 and log[1] / log[0] > 200
    axis.set_major_locator(LogLocator(10, subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: looks.tick(value, unit)))


def _caption(chart: Chart) -> list[str]:
    return textwrap.wrap(chart.caption, 112)
