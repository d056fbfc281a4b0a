"""Tables keep exact values; only what people read is rounded."""

from __future__ import annotations

import csv
import json
import math

import pytest

from gridnn.analysis.table import Column, Table, cell_text, flops_text

COLUMNS = (
    Column("layer"),
    Column("took_s", "s", "time"),
    Column("moved", "bytes"),
    Column("secret", hidden=True),
)
TABLE = Table(
    "what happened",
    COLUMNS,
    (("conv1", 0.0123456789, 1536, 1), ("a, b", math.inf, None, 2)),
    ("all", 0.5, 1536, None),
    ("a note",),
)


def test_records_are_exact() -> None:
    assert TABLE.records()[0] == {"layer": "conv1", "took_s": 0.0123456789, "moved": 1536, "secret": 1}
    assert TABLE.numbers("secret") == (1.0, 2.0)
    assert TABLE.column("moved") == (1536, None)


def test_json_holds_no_infinity() -> None:
    found = json.loads(json.dumps(TABLE.as_json(), allow_nan=False))
    assert found["rows"][0]["took_s"] == 0.0123456789
    assert found["rows"][1]["took_s"] is None
    assert found["totals"] == {"layer": "all", "took_s": 0.5, "moved": 1536}
    assert found["units"] == {"took_s": "s", "moved": "bytes"}
    assert found["notes"] == ["a note"]


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(TABLE.csv().splitlines()))
    assert [row["layer"] for row in rows] == ["conv1", "a, b"]
    assert float(rows[0]["took_s"]) == 0.0123456789
    assert rows[1]["moved"] == ""


def test_lines_are_aligned_and_leave_out_what_is_hidden() -> None:
    lines = TABLE.lines()
    assert lines[0] == "what happened"
    assert lines[2].split() == ["layer", "time", "moved"]
    assert lines[4].split() == ["conv1", "12.3", "ms", "1.5", "KiB"]
    assert lines[-1] == "note: a note"
    assert "secret" not in "".join(lines)
    numbers = lines[4:6]
    assert len({line.rstrip()[-3:].strip() == "" for line in numbers}) == 1


def test_where_keeps_rows_and_drops_totals() -> None:
    found = TABLE.where(lambda row: row["layer"] == "conv1")
    assert len(found) == 1
    assert found.totals is None


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError):
        Table("", COLUMNS, (("conv1", 1.0),))


@pytest.mark.parametrize(
    ("cell", "unit", "text"),
    [
        (None, "s", "-"),
        (True, "", "yes"),
        (1234567, "count", "1,234,567"),
        (2.5, "ratio", "2.5"),
        (12345.6, "ratio", "12,346"),
        (math.inf, "ratio", "inf"),
        (math.nan, "s", "-"),
        (2_000_000_000, "flops", "2 Gflop"),
        (0.0, "s", "0 s"),
        (0.25, "", "0.25"),
    ],
)
def test_cells_as_people_read_them(cell: float | None, unit: str, text: str) -> None:
    assert cell_text(cell, unit) == text


def test_flops_have_units() -> None:
    assert [flops_text(10.0**power) for power in (0, 3, 6, 9, 12, 15)] == [
        "1 flop",
        "1 kflop",
        "1 Mflop",
        "1 Gflop",
        "1 Tflop",
        "1 Pflop",
    ]


def test_a_notebook_shows_it_escaped() -> None:
    html = Table("<t>", (Column("a"),), (("<b>",), ("c",)), None, ("x & y",))._repr_html_()
    assert "&lt;t&gt;" in html
    assert "&lt;b&gt;" in html
    assert "x &amp; y" in html
    assert html.count("<tr>") == 3
