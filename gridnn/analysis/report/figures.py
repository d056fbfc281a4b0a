"""Charts for the browser: what plotly.js is told, as plain values that JSON can hold.

    plotly_figure(chart)  ->  {"data": [traces], "layout": {...}, "config": {...}}
    Plotly.newPlot(element, figure)

| chart   | traces                                                                                  |
|---------|-----------------------------------------------------------------------------------------|
| `Bars`  | a bar trace a series, stacked within its `stack`; one of texts for the marks             |
| `Lines` | a scatter trace a series; verticals are shapes with a label                              |
| `Map`   | one heatmap of numbers of names; a trace without points a name, for the legend           |
| `Lanes` | a bar trace a kind, lying, from `base` on                                                |

Colours, patterns and ticks are those of `gridnn.analysis.draw`.  Numbers are the chart's own; what is shown when one
points at them, with its unit, stands beside them as `customdata`.  Title and caption are the page's to show, since
plotly breaks no lines: they are in `layout.meta`.  Backgrounds are transparent and greys in the middle, so that a
figure can be read on white and on black; a page may still set `font.color`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gridnn.analysis import looks
from gridnn.analysis.chart import Bars, Chart, Lanes, Lines, Map
from gridnn.analysis.report.axes import GREY, axis_of, number_axis, plain, value_axis

Figure = dict[str, Any]
# plotly.js 4 offers by itself to send a chart to a server of its makers: a page of ours sends nothing anywhere.
_CONFIG = {
    "responsive": True, "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
    "toImageButtonOptions": {"format": "svg"},
}  # fmt: skip


def plotly_figure(chart: Chart) -> Figure:
    """Return a chart as a figure of plotly.js: its data, layout and config."""
    if isinstance(chart, Bars):
        data, layout = _bars(chart)
    elif isinstance(chart, Lines):
        data, layout = _lines(chart)
    elif isinstance(chart, Map):
        data, layout = _map(chart)
    else:
        data, layout = _lanes(chart)
    meta = {"title": chart.title, "caption": chart.caption}
    return {"data": data, "layout": {**_layout(), **layout, "meta": meta}, "config": dict(_CONFIG)}


def _layout() -> Figure:
    return {
        "autosize": True, "height": 400, "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "inherit", "size": 13, "color": GREY},
        # The empty title is a strip above the names, for plotly's buttons.
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom",
                   "title": {"text": "&nbsp;", "side": "top"}},
        "showlegend": True,
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": GREY},
        "hoverlabel": {"font": {"family": "inherit"}, "namelength": -1},
    }  # fmt: skip


def _bars(chart: Bars) -> tuple[list[Figure], Figure]:
    names, unit, stacks = looks.names_of(chart), looks.unit_of(chart.y_label), looks.stacks_of(chart)
    colour, order, x = looks.colours(names), looks.order_of(names), _escaped(chart.x)
    data: list[Figure] = []
    for stack, parts in stacks.items():
        for part in parts:
            where = f"{stack}, {part.name}" if stack and len(stacks) > 1 else part.name
            trace: Figure = {
                "type": "bar", "name": plain(part.name), "x": x, "y": [_finite(v) for v in part.values],
                "offsetgroup": stack, "legendgroup": part.name,
                "showlegend": all(t["legendgroup"] != part.name for t in data),
                "customdata": [_number(v, unit) for v in part.values],
                "hovertemplate": f"%{{x}}<br>{plain(where)}: %{{customdata}}<extra></extra>",
                "marker": _marker(colour[part.name], order[part.name]),
            }  # fmt: skip
            data.append(trace)
        if len(stacks) > 1 and stack:  # which stack is which, above its last part
            data[-1] |= {"text": [plain(stack)] * len(x), "textposition": "outside", "textangle": -90,
                         "textfont": {"size": 10}, "cliponaxis": False}  # fmt: skip
    tops = [max(h) for h in zip(*(looks.heights(s, len(x)) for s in stacks.values()), strict=True)]
    marks, notes = looks.marks_of(chart), list[Figure]()
    crowded = sum(map(len, marks)) > 60  # on a telephone they would stand on each other
    if crowded:
        notes = [
            {"x": at, "y": top, "text": plain(mark), "textangle": -90, "showarrow": False, "yanchor": "bottom",
             "yshift": 3, "font": {"size": 11}}
            for at, top, mark in zip(range(len(x)), tops, marks, strict=True) if mark
        ]  # fmt: skip
    elif any(marks):
        data.append({
            "type": "scatter", "mode": "text", "x": x, "y": tops, "text": _escaped(marks), "showlegend": False,
            "textposition": "top center", "hoverinfo": "skip", "cliponaxis": False, "textfont": {"size": 11},
        })  # fmt: skip
    top = max(tops, default=0.0) * (1.4 if crowded else 1.25 if len(stacks) > 1 else 1.1)
    x_axis = {**axis_of(chart.x_label), "type": "category", "showgrid": False}
    y_axis = {**number_axis(chart.y_label, max(tops, default=0.0), False), "range": [0, top or 1.0]}
    return data, {"barmode": "stack", "bargap": 0.25, "xaxis": x_axis, "yaxis": y_axis, "annotations": notes}


def _lines(chart: Lines) -> tuple[list[Figure], Figure]:
    names, unit, x_unit = looks.names_of(chart), looks.unit_of(chart.y_label), looks.unit_of(chart.x_label)
    colour, order = looks.colours(names), looks.order_of(names)
    where = [looks.number(x, x_unit) for x in chart.x]
    data: list[Figure] = [
        {
            "type": "scatter", "mode": "lines" if series.dashed else "lines+markers",
            "name": plain(series.name), "x": list(chart.x), "y": [_finite(v) for v in series.values],
            "customdata": [[at, _number(v, unit)] for at, v in zip(where, series.values, strict=True)],
            "hovertemplate": f"{plain(chart.x_label)} %{{customdata[0]}}<br>{plain(series.name)}: "
            "%{customdata[1]}<extra></extra>",
            "line": {"color": colour[series.name], "width": 2, "dash": "dash" if series.dashed else "solid"},
            "marker": {"symbol": looks.SYMBOLS[order[series.name]], "size": 7}, "connectgaps": False,
        }
        for series in chart.series
    ]  # fmt: skip
    values = [v for trace in data for v in trace["y"] if v is not None]
    y_axis = number_axis(chart.y_label, max(values, default=1.0), chart.log_y, min(values, default=0.0))
    if not chart.log_y:
        y_axis["rangemode"] = "tozero"
    shapes = [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
            "line": {"color": GREY, "width": 1, "dash": "dot"},
            "label": {"text": plain(text), "textposition": "end", "textangle": -90, "xanchor": "right",
                      "yanchor": "bottom", "font": {"size": 11}},
        }
        for x, text in chart.uprights
    ]  # fmt: skip
    x_axis = value_axis(chart.x_label, chart.x, chart.log_x)
    return data, {"xaxis": x_axis, "yaxis": y_axis, "shapes": shapes, "hovermode": "closest"}


def _map(chart: Map) -> tuple[list[Figure], Figure]:
    names = looks.names_of(chart)
    colour, number = looks.colours(names), {name: at for at, name in enumerate(names)}
    units = looks.unit_of(chart.x_label), looks.unit_of(chart.y_label)
    hover = [
        [
            f"{plain(chart.x_label)} {looks.number(x, units[0])}<br>"
            f"{plain(chart.y_label)} {looks.number(y, units[1])}<br>"
            f"<b>{plain(chart.cells[row][column])}</b>"
            + (f"<br>{_lines_of(chart.texts[row][column])}" if chart.texts else "")
            for column, x in enumerate(chart.x)
        ]
        for row, y in enumerate(chart.y)
    ]
    log_x, log_y = chart.log_x and min(chart.x) > 0, chart.log_y and min(chart.y) > 0
    # A step a name: plotly's scales run from 0 to 1.
    scale = [[(at + end) / len(names), colour[name]] for at, name in enumerate(names) for end in (0, 1)]
    data: list[Figure] = [{
        "type": "heatmap", "x": list(looks.edges(chart.x, log_x)), "y": list(looks.edges(chart.y, log_y)),
        "z": [[number[name] for name in row] for row in chart.cells], "zmin": -0.5, "zmax": len(names) - 0.5,
        "colorscale": scale, "showscale": False, "customdata": hover, "hovertemplate": "%{customdata}<extra></extra>",
        "xgap": 1, "ygap": 1,
    }]  # fmt: skip
    if chart.texts:
        data.append(_cell_texts(chart, colour))
    data += [
        {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": plain(name),
         "marker": {"symbol": "square", "size": 12, "color": colour[name]}, "hoverinfo": "skip"}
        for name in names
    ]  # fmt: skip
    bare = {"showgrid": False, "zeroline": False}
    x_axis, y_axis = value_axis(chart.x_label, chart.x, log_x), value_axis(chart.y_label, chart.y, log_y)
    legend = {**_layout()["legend"], "itemclick": False, "itemdoubleclick": False}
    return data, {"xaxis": {**x_axis, **bare}, "yaxis": {**y_axis, **bare}, "legend": legend}


def _cell_texts(chart: Map, colour: dict[str, str]) -> Figure:
    """Return the texts of cells as a trace of points: a heatmap's own stand off the middle on logarithmic axes."""
    room = 60 / len(chart.x)  # letters that a cell has on a telephone
    cells = [
        (x, y, text, colour[name])
        for y, names, texts in zip(chart.y, chart.cells, chart.texts, strict=True)
        for x, name, text in zip(chart.x, names, texts, strict=True) if 0 < len(text) <= room
    ]  # fmt: skip
    x, y, texts, colours = (list(part) for part in zip(*cells, strict=True)) if cells else ([], [], [], [])
    return {
        "type": "scatter", "mode": "text", "x": x, "y": y, "text": _escaped(texts), "showlegend": False,
        "hoverinfo": "skip", "textfont": {"size": 11, "color": [looks.on(c) for c in colours]},
    }  # fmt: skip


def _lanes(chart: Lanes) -> tuple[list[Figure], Figure]:
    kinds, data, few = looks.names_of(chart), list[Figure](), len(chart.spans) < 400
    colour, order = looks.colours(kinds), looks.order_of(kinds)
    for kind in kinds:
        spans = [span for span in chart.spans if span.kind == kind]
        data.append({
            "type": "bar", "orientation": "h", "name": plain(kind), "y": _escaped([s.lane for s in spans]),
            "base": [s.start_s for s in spans], "x": [s.end_s - s.start_s for s in spans], "width": 0.78,
            "customdata": [
                f"{plain(s.name or kind)}<br>{plain(s.lane)}, {plain(kind)}<br>"
                f"{_number(s.end_s - s.start_s, 's')} from {_number(s.start_s, 's')}" for s in spans
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
            "marker": _marker(colour[kind], order[kind]) if few else {"color": colour[kind], "line": {"width": 0}},
        })  # fmt: skip
        if few:
            data[-1] |= {"text": _escaped([s.name for s in spans]), "textposition": "inside", "textangle": 0,
                         "insidetextanchor": "middle", "constraintext": "inside"}  # fmt: skip
    last = max((span.end_s for span in chart.spans), default=1.0)
    y_axis = {
        **axis_of(""), "type": "category", "categoryorder": "array", "categoryarray": _escaped(chart.lanes),
        "range": [len(chart.lanes) - 0.5, -0.5], "showgrid": False, "dtick": 1,
    }  # fmt: skip
    layout = {"barmode": "overlay", "xaxis": number_axis("", last, False, unit="s"), "yaxis": y_axis,
              "hovermode": "closest", "height": 130 + 24 * max(4, len(chart.lanes))}  # fmt: skip
    return data, layout


def _marker(colour: str, order: int) -> Figure:
    pattern = {"shape": looks.PATTERNS[order], "fillmode": "overlay", "fgcolor": "rgba(255,255,255,0.75)", "size": 7,
               "solidity": 0.15}  # fmt: skip
    return {"color": colour, "line": {"width": 0}, **({"pattern": pattern} if looks.PATTERNS[order] else {})}


def _number(value: float | None, unit: str) -> str:
    return "none" if value is None else looks.number(value, unit)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _escaped(texts: Sequence[str]) -> list[str]:
    return [plain(text) for text in texts]


def _lines_of(text: str) -> str:
    return plain(text).replace("\n", "<br>")
