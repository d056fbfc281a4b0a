"""A page made by hand: every kind of chart, cells of every kind, texts that try to break out of it."""

from __future__ import annotations

import math

from gridnn.analysis.chart import Bars, Lanes, Lines, Map, Series, Span
from gridnn.analysis.report.sections import Contents, Section
from gridnn.analysis.table import Column, Table
from gridnn.plan.explain.drawing import rect, svg, words

EVIL = '</script><script>document.title = "broken"</script><img src="http://example.invalid/x.png">'

TABLE = Table(
    "Layers",
    (
        Column("layer", about=f"who it is; {EVIL}"), Column("seconds", "s", "time"), Column("moved", "bytes"),
        Column("ratio", "ratio"), Column("fits"), Column("secret", hidden=True),
    ),
    (
        ("conv10", 0.1 + 0.2, 10, math.inf, True, 1), ("conv2", 1e-9, 1536, None, False, 2),
        ("fc1", None, 2**40, 0.5, True, 3), (EVIL, 2.5, 900, math.nan, None, 4),
    ),
    ("all", 2.8, None, None, None, None),
    ("a note", EVIL),
)  # fmt: skip
WORDS = Table("Words", (Column("a"), Column("b")), (("x", "9 of 10"), ("y", "10")))

BARS = Bars(
    "Bars",
    "grid",
    "seconds",
    ("1 x 4", "2 x 2"),
    (Series("compute", (1.0, 2.0)), Series("halo", (0.5, None))),
)
LINES = Lines(
    "Lines", "processes", "seconds", (8.0, 16.0, 32.0),
    (Series("data", (3.0, 2.0, None)), Series("model", (4.0, 3.0, 2.0)),
     Series("ideal", (3.0, 1.5, 0.75), dashed=True)),
    uprights=((16.0, "P = B"),), caption=EVIL,
)  # fmt: skip
MAP = Map(
    "Map",
    "factor on beta",
    "factor on alpha",
    (0.5, 1.0, 2.0),
    (1.0, 2.0),
    (("data", "data", "owt"), ("owt", "owt", "owt")),
)
LANES = Lanes(
    "Lanes", ("rank 0", "rank 1"),
    (Span("rank 0", 0.0, 1.0, "conv1", "forward"), Span("rank 1", 0.5, 2.0, "conv1", "backward")),
)  # fmt: skip
TRACES = {"chart-first-1": 2, "chart-first-2": 3, "chart-second-1": 1, "chart-second-2": 2}
"""Traces with points in them that each chart must show."""


def contents() -> Contents:
    """The page."""
    drawing = svg(60, 40, "a drawing", [rect(0, 0, 50, 30, "box"), words(4, 20, "text")])
    return Contents(
        "A page by hand", (("network", "by hand"), ("batch", "64")), ("The answer.", f"A second. {EVIL}"),
        (
            Section("first", "First section", ("A sentence.",), (("", TABLE),), (BARS, LINES), drawing),
            Section("second", "Second section", (), (("words", WORDS), ("again", TABLE)), (MAP, LANES)),
        ),
        "gridnn analyze report 'by hand' -o x.html", "1.2.3",
    )  # fmt: skip
