"""Tables: what every analysis returns.  Columns with units, rows of plain values, totals and notes.

    Table.records()    [{"layer": "conv1", "seconds": 0.012}, ...]     for notebooks and data frames
    Table.as_json()    {"title", "units", "rows", "totals", "notes"}   for programs
    Table.csv()        a header line and a line a row                  for spreadsheets
    Table.lines()      aligned columns with units for people           for terminals

Values are kept exact and in base units (s, bytes, flops); only `lines` rounds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from gridnn.plan.explain.tell import bytes_text, time_text

Cell = str | int | float | bool | None
UNITS = ("", "s", "bytes", "flops", "ratio", "count")
"""Units of columns: "" is a text or a number shown as it is, "ratio" a number of three digits."""


@dataclass(frozen=True)
class Column:
    """A column: its key in records and JSON, its unit, its head on a terminal (the key, if left out).

    `about` is a sentence for who does not know the word; a column that is `hidden` is not shown to people.
    """

    key: str
    unit: str = ""
    head: str = ""
    about: str = ""
    hidden: bool = False

    @property
    def title(self) -> str:
        """What people read."""
        return self.head or self.key


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns.

    Attributes
    ----------
    totals
        A row for all of them, or None.
    notes
        Sentences a reader of the numbers must know.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    totals: tuple[Cell, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in (*self.rows, *filter(None, [self.totals])))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, key: str) -> tuple[Cell, ...]:
        """Return the cells of a column."""
        at = [c.key for c in self.columns].index(key)
        return tuple(row[at] for row in self.rows)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return the cells of a column of numbers; none of them may be missing."""
        return tuple(float(cell) for cell in self.column(key))  # type: ignore[arg-type]

    def records(self) -> list[dict[str, Cell]]:
        """Return every row as a mapping from keys to cells."""
        return [self.record(row) for row in self.rows]

    def record(self, row: Sequence[Cell]) -> dict[str, Cell]:
        """Return one row (or the totals) as a mapping."""
        return dict(zip((c.key for c in self.columns), row, strict=True))

    def where(self, keep: Callable[[dict[str, Cell]], bool]) -> Table:
        """Return the table with the rows for which `keep` is true, without totals."""
        rows = tuple(row for row in self.rows if keep(self.record(row)))
        return Table(self.title, self.columns, rows, None, self.notes)

    def as_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold: a number that is not finite is None."""
        found: dict[str, Any] = {
            "title": self.title,
            "units": {c.key: c.unit for c in self.columns if c.unit},
            "rows": [_finite(r) for r in self.records()],
        }
        if self.totals is not None:
            found["totals"] = _finite({k: v for k, v in self.record(self.totals).items() if v is not None})
        if self.notes:
            found["notes"] = list(self.notes)
        return found

    def csv(self) -> str:
        """Return the rows as comma-separated values, keys first; totals and notes are left out."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([c.key for c in self.columns])
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return out.getvalue()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the cells as people read them."""
        shown = [i for i, c in enumerate(self.columns) if not c.hidden]
        head = "".join(f"<th>{escape(self.columns[i].title)}</th>" for i in shown)
        rows = [[self._text(i, row[i]) for i in shown] for row in self.rows]
        if self.totals is not None:
            rows.append([self._text(i, self.totals[i], ".") for i in shown])
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def lines(self) -> list[str]:
        """Return lines for a terminal: texts to the left, numbers to the right, totals under a rule."""
        shown = [i for i, c in enumerate(self.columns) if not c.hidden]
        heads = [self.columns[i].title for i in shown]
        body = [[self._text(i, row[i]) for i in shown] for row in self.rows]
        last = [] if self.totals is None else [[self._text(i, self.totals[i], ".") for i in shown]]
        widths = [max(map(len, cells)) for cells in zip(heads, *body, *last, strict=True)]
        left = [all(isinstance(r[i], str | None) for r in self.rows) for i in shown]

        def line(cells: Sequence[str]) -> str:
            pairs = zip(cells, widths, left, strict=True)
            return "  ".join(c.ljust(w) if at else c.rjust(w) for c, w, at in pairs).rstrip()

        rule = "  ".join("-" * w for w in widths)
        head = [self.title, ""] if self.title else []
        notes = [f"note: {note}" for note in self.notes]
        return [
            *head, line(heads), rule, *map(line, body), *([rule, line(last[0])] if last else []),
            *(["", *notes] if notes else []),
        ]  # fmt: skip

    def _text(self, at: int, cell: Cell, nothing: str = "-") -> str:
        return "" if cell is None and nothing == "." else cell_text(cell, self.columns[at].unit)


def cell_text(cell: Cell, unit: str = "") -> str:
    """Return a cell as people read it."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and not math.isfinite(cell):
        return "inf" if cell > 0 else "-"
    if unit == "s":
        return time_text(cell) if cell else "0 s"
    if unit == "bytes":
        return bytes_text(cell)
    if unit == "flops":
        return flops_text(cell)
    if unit == "ratio":
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.6g}"


def flops_text(count: float) -> str:
    """Return operations in three digits and their unit."""
    for power, unit in ((15, "Pflop"), (12, "Tflop"), (9, "Gflop"), (6, "Mflop"), (3, "kflop")):
        if abs(count) >= 10**power:
            return f"{count / 10**power:.3g} {unit}"
    return f"{count:.3g} flop"


def _finite(record: dict[str, Cell]) -> dict[str, Cell]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
