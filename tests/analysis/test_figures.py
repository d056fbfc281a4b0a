"""Figures for the browser hold the numbers of the chart, and look as the drawn ones."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest

from gridnn.analysis import looks
from gridnn.analysis.chart import Bars, Chart, Lines, Series
from gridnn.analysis.draw import figure
from gridnn.analysis.report.figures import plotly_figure
from tests.analysis.charts import BARS, CHARTS, GROUPS, LANES, LINES, MAP


def told(chart: Chart) -> dict[str, Any]:
    """Return a figure as the browser gets it."""
    found: dict[str, Any] = json.loads(json.dumps(plotly_figure(chart), allow_nan=False))
    return found


def traces(chart: Chart, kind: str) -> list[dict[str, Any]]:
    return [trace for trace in told(chart)["data"] if trace["type"] == kind]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda c: c.title)
def test_what_all_figures_are(chart: Chart) -> None:
    found = told(chart)
    layout, config = found["layout"], found["config"]
    assert "width" not in layout
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert layout["font"]["family"] == "inherit"
    assert layout["meta"] == {"title": chart.title, "caption": chart.caption}
    assert config["responsive"]
    assert not config["showSendToCloud"]
    assert "http" not in json.dumps(found)


def test_bars_hold_their_numbers_and_names() -> None:
    found = traces(BARS, "bar")
    assert [tuple(t["y"]) for t in found] == [series.values for series in BARS.series]
    assert [t["name"] for t in found] == ["compute", "model &lt;&amp;&gt; halo", "batch communication"]
    assert {tuple(t["x"]) for t in found} == {BARS.x}
    assert found[1]["customdata"] == ["0 s", "4.53 s", "none"]
    colour = looks.colours(looks.names_of(BARS))
    assert [t["marker"]["color"] for t in found] == [colour[series.name] for series in BARS.series]
    (marks,) = traces(BARS, "scatter")
    assert marks["text"] == list(BARS.marks)
    assert marks["y"] == pytest.approx([66.8, 31.35, 0])
    assert told(BARS)["layout"]["barmode"] == "stack"


def test_marks_that_would_stand_on_each_other_stand_upright() -> None:
    x = tuple(f"{2**k} x {4096 // 2**k}" for k in range(13))
    part = Series("compute", tuple(float(k) for k in range(13)))
    chart = Bars("", "Pr x Pc", "seconds", x, (part,), ("1.0x (1.0x)",) * 12 + ("",))
    assert traces(chart, "scatter") == []
    notes = told(chart)["layout"]["annotations"]
    assert [(note["x"], note["y"], note["textangle"]) for note in notes] == [(k, k, -90) for k in range(12)]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (axes,) = figure([chart]).axes
    assert {text.get_rotation() for text in axes.texts if text.get_text()} == {90}


def test_stacks_side_by_side_share_a_legend() -> None:
    found = traces(GROUPS, "bar")
    assert [t["offsetgroup"] for t in found] == ["data", "data", "owt", "owt"]
    assert [t["showlegend"] for t in found] == [True, True, False, False]
    assert found[0]["marker"] == found[2]["marker"]
    assert [set(t.get("text", [""])) for t in found] == [{""}, {"data"}, {""}, {"owt"}]
    assert "owt, compute" in found[2]["hovertemplate"]


def test_lines_hold_their_numbers() -> None:
    found, layout = traces(LINES, "scatter"), told(LINES)["layout"]
    assert found[0]["y"] == [0.4, 0.12, None, None]
    assert [tuple(t["y"]) for t in found[1:]] == [series.values for series in LINES.series[1:]]
    assert all(tuple(t["x"]) == LINES.x for t in found)
    assert found[1]["customdata"][3] == ["512", "20 ms"]
    assert [t["line"]["dash"] for t in found] == ["solid", "solid", "dash"]
    assert layout["xaxis"]["type"] == layout["yaxis"]["type"] == "log"
    assert layout["xaxis"]["tickvals"] == [8, 32, 128, 512]
    assert layout["xaxis"]["ticktext"] == ["8", "32", "128", "512"]
    (upright,) = layout["shapes"]
    assert (upright["x0"], upright["x1"], upright["label"]["text"]) == (128, 128, "P = B")


def test_map_cells_have_the_colours_of_their_names() -> None:
    (heat,) = traces(MAP, "heatmap")
    colour, scale = looks.colours(looks.names_of(MAP)), heat["colorscale"]
    for cells, row in zip(heat["z"], MAP.cells, strict=True):
        for z, name in zip(cells, row, strict=True):
            at = (z - heat["zmin"]) / (heat["zmax"] - heat["zmin"])
            steps = [(a, b) for a, b in pairwise(scale) if a[0] <= at < b[0]]
            assert [{a[1], b[1]} for a, b in steps] == [{colour[name]}]
    assert len(heat["x"]) == len(MAP.x) + 1
    centres = [math.sqrt(a * b) for a, b in pairwise(heat["x"])]
    assert centres == pytest.approx(MAP.x)
    assert heat["customdata"][0][8] == "factor on beta 16<br>factor on alpha 0.0625<br><b>fc-only</b><br>1.2x"
    texts, *names = traces(MAP, "scatter")
    assert len(texts["text"]) == 27
    assert {t["name"]: t["marker"]["color"] for t in names} == colour


def test_lanes_hold_their_spans() -> None:
    found = [
        (lane, base, base + duration, trace["name"])
        for trace in traces(LANES, "bar")
        for lane, base, duration in zip(trace["y"], trace["base"], trace["x"], strict=True)
    ]
    assert sorted(found) == sorted((s.lane, s.start_s, pytest.approx(s.end_s), s.kind) for s in LANES.spans)
    layout = told(LANES)["layout"]
    assert layout["yaxis"]["categoryarray"] == list(LANES.lanes)
    assert layout["xaxis"]["ticksuffix"] == "s"


@pytest.mark.parametrize(
    ("label", "largest", "wanted"),
    [
        ("seconds", 0.5, {"tickformat": "~s", "ticksuffix": "s"}),
        ("seconds", 5000.0, {"tickformat": ",~r", "ticksuffix": " s"}),
        ("flops", 1e12, {"tickformat": "~s", "ticksuffix": "flop"}),
        ("efficiency", 1.0, {"tickformat": ",~r"}),
    ],
)
def test_axes_have_units(label: str, largest: float, wanted: dict[str, str]) -> None:
    axis = told(Lines("", "x", label, (1.0, 2.0), (Series("a", (1e-3, largest)),)))["layout"]["yaxis"]
    assert {key: axis[key] for key in wanted} == wanted


def test_an_axis_of_bytes_has_binary_ticks() -> None:
    axis = told(Lines("", "x", "bytes", (1.0, 2.0), (Series("a", (1e3, 1e9)),)))["layout"]["yaxis"]
    ticks = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert ticks["64 MiB"] == 64 * 2**20
