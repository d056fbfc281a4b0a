"""Pictures: what stands in them is what the chart says, whatever the settings of matplotlib are."""

from __future__ import annotations

import struct
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from gridnn.analysis import draw as module
from gridnn.analysis import looks
from gridnn.analysis.chart import COLOURS, Bars, Chart, Lines, Map, Series
from gridnn.analysis.draw import check_drawing, draw, figure
from gridnn.errors import InputError
from tests.analysis.charts import BARS, CHARTS, FACTORS, GROUPS, LANES, LINES, MAP
from tests.support.launch import ROOT, environment

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")

SVG = "{http://www.w3.org/2000/svg}"
WANTED: list[tuple[Chart, list[str]]] = [
    (
        BARS,
        [
            "Fig. 6d",
            "1 x 512",
            "2.1x (5.0x)",
            "model <&> halo",
            "One grid for every layer.",
            "60 s",
            "Pr x Pc",
        ],
    ),
    (GROUPS, ["owt", "4,096", "visible communication", "seconds a step"]),
    (LINES, ["layer-wise", "ideal", "P = B", "8", "32", "128", "512", "100 ms", "10 ms"]),
    (MAP, ["1/16", "16", "fc-only", "1.2x", "factor on alpha"]),
    (LANES, ["rank 1", "conv1", "fc6", "wait", "2 ms", "4 ms"]),
]


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(("chart", "wanted"), WANTED, ids=lambda v: v.title if hasattr(v, "title") else "")
def test_texts_of_a_picture_are_texts(chart: Chart, wanted: list[str]) -> None:
    found = texts(draw([chart], "svg"))
    assert [text for text in wanted if text not in found] == []


def test_heights_are_the_numbers() -> None:
    (axes,) = figure([BARS]).axes
    heights = [[bar.get_height() for bar in part] for part in axes.containers]
    assert heights == [pytest.approx([value or 0 for value in part.values]) for part in BARS.series]
    tops = [bar.get_y() + bar.get_height() for bar in axes.containers[-1]]
    assert tops == pytest.approx([66.8, 31.35, 0])
    lines = {
        line.get_label(): np.asarray(line.get_ydata()).tolist() for line in figure([LINES]).axes[0].lines
    }
    assert lines["layer-wise"] == list(LINES.series[1].values)
    assert lines["data"][:2] == [0.4, 0.12]


def test_bars_of_two_stacks_stand_side_by_side() -> None:
    (axes,) = figure([GROUPS]).axes
    at = [[(bar.get_x(), bar.get_x() + bar.get_width()) for bar in part] for part in axes.containers]
    assert at[0] == at[1]
    assert at[2] == at[3]
    assert at[1][0][1] <= at[2][0][0] < at[2][0][1] < at[0][1][0]


def test_png_has_its_size() -> None:
    found = draw([BARS, LINES], "png")
    assert found.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", found[16:24])
    assert width == 8 * 150
    assert height == pytest.approx(sum(figure([c]).get_figheight() for c in (BARS, LINES)) * 150, abs=2)


def test_same_charts_give_same_bytes_whatever_the_settings() -> None:
    before = draw(CHARTS, "svg")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "black"}):
        mine = dict(matplotlib.rcParams)
        assert draw(CHARTS, "svg") == before
        assert dict(matplotlib.rcParams) == mine
    assert b"<dc:date>" not in before


def test_nothing_heavy_is_loaded_before_a_picture_is_drawn_and_no_window_system_then() -> None:
    code = """
import sys
import gridnn.analysis.draw, gridnn.analysis.looks, gridnn.analysis.paint, gridnn.analysis.report.figures
import gridnn.analysis.paper, gridnn.commands.analyze.paper
assert not {"matplotlib", "plotly", "jinja2"} & set(sys.modules)
from tests.analysis.charts import CHARTS
gridnn.analysis.draw.draw(CHARTS, "png")
assert not {"matplotlib.pyplot", "tkinter"} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_charts_without_numbers_are_drawn() -> None:
    none = (Series("data", (None, None)),)
    empty = (
        Bars("none", "x", "seconds", ("a", "b"), none),
        Lines("none", "x", "seconds", (1.0, 2.0), none),
        Lines("one", "x", "efficiency", (3.0,), (Series("data", (0.0,)),), log_y=False),
        Map("one", "x", "y", (3.0,), (0.0,), (("data",),)),
    )
    for chart in empty:
        assert chart.title in texts(draw([chart], "svg"))


@pytest.mark.parametrize("path", ["a.pdf", "a", "png", "a.b/c"])
def test_other_pictures_are_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        check_drawing("fine.svg", path)


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"must end in \.png or \.svg"):
        draw(CHARTS, "pdf")
    with pytest.raises(InputError, match="no chart"):
        draw([], "png")
    check_drawing("a.PNG", "b.c.svg")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for call in (check_drawing, lambda: draw(CHARTS, "png"), lambda: figure(CHARTS)):
        with pytest.raises(InputError, match=r"pip install"):
            call()


# --- looks -----------------------------------------------------------------------------------------------------


def test_names_keep_their_colours() -> None:
    few, many = looks.colours(["data", "owt"]), looks.colours(["fc-only", "owt", "model", "dynamic", "data"])
    assert few == {name: many[name] for name in few}
    assert looks.colours(["layer-wise"])["layer-wise"] == many["dynamic"]
    odd = [f"plan-{k}.json" for k in range(7)] + ["data"]
    assert sorted(looks.colours(odd).values()) == sorted(COLOURS)
    assert looks.colours(odd)["data"] == few["data"]  # known words come first
    assert set(looks.colours([*odd, "nine", "ten"])) == {*odd, "nine", "ten"}
    assert looks.on("#0072b2") == "white"
    assert looks.on("#e69f00") == "black"


@pytest.mark.parametrize(
    ("label", "unit"),
    [
        ("seconds of an epoch", "s"), ("s", "s"), ("alpha (s)", "s"), ("step time", "s"), ("seconds per step", "s"),
        ("bytes a process", "bytes"), ("memory", "bytes"), ("flops", "flops"), ("processes", ""), ("batch", ""),
        ("factor on alpha", ""), ("alpha (factor)", ""), ("images/s", ""), ("samples a second", ""),
        ("time relative to data", ""), ("efficiency", ""),
    ],
)  # fmt: skip
def test_units_of_labels(label: str, unit: str) -> None:
    assert looks.unit_of(label) == unit


def test_numbers_and_ticks() -> None:
    assert looks.number(0.0223, "s") == "22.3 ms"
    assert looks.number(3e-6, "s") == "3 µs"
    assert looks.number(4096.0, "") == "4,096"
    assert looks.number(1572864, "bytes") == "1.5 MiB"
    assert looks.tick(0.5, "s", of=2.0) == "0.5 s"
    assert looks.tick(0.5, "s") == "500 ms"
    assert looks.tick(0, "s", of=2.0) == "0"
    assert [looks.tick(v, "") for v in (16384, 0.25)] == ["16,384", "0.25"]
    assert looks.ticks([8, 16, 6000, 32], "") == ((8, "8"), (16, "16"), (32, "32"))
    assert looks.ticks([8, 9, 10, 16], "") is None
    found = looks.ticks(FACTORS, "", most=5)
    assert found is not None
    assert [t.text for t in found] == ["1/16", "1/4", "1", "4", "16"]


def test_places_and_edges() -> None:
    gib = 2.0**30
    assert looks.byte_places(3.8 * gib, False)[:3] == (0, gib, 2 * gib)
    assert looks.byte_places(1.0, True)[:3] == (1, 4, 16)
    assert looks.edges([1, 4, 16], log=True) == pytest.approx((0.5, 2, 8, 32))
    assert looks.edges([0, 1, 3], log=False) == (-0.5, 0.5, 2, 4)
    low, high = looks.edges([8], log=True)
    assert low < 8 < high


def test_totals_stand_above_bars_that_have_no_marks() -> None:
    assert looks.marks_of(BARS) == BARS.marks
    plain = Bars("", "", "seconds", ("a", "b"), (Series("x", (1.0, None)), Series("y", (0.5, None))))
    assert looks.marks_of(plain) == ("1.5 s", "")
    assert looks.marks_of(GROUPS) == ("", "")
