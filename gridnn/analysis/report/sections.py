"""What a page says, as values: sections of sentences, tables, charts and one drawing; no HTML, no browser.

    Contents
      facts      network, batch, processes, machine            beside the title
      answers    the sentences a reader takes home             above everything
      sections   key, title, text, tables, charts, drawing     in order, each with an entry in the table of contents

`Contents.data` is what ``gridnn analyze report --json`` says and what the page carries as JSON: the same tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gridnn.analysis.chart import Chart
from gridnn.analysis.table import Table


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes
    ----------
    key
        Its anchor, a word of letters and dashes.
    text
        Sentences, a paragraph each.
    tables
        By a word for each, such as "strong" and "weak"; the section's key is put before it.
    drawing
        SVG text that is ours, or "".
    """

    key: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    charts: tuple[Chart, ...] = ()
    drawing: str = ""


@dataclass(frozen=True)
class Contents:
    """A page.

    Attributes
    ----------
    facts
        Pairs of what and how much.
    command
        The command line that makes it again.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    sections: tuple[Section, ...]
    command: str
    version: str

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yield every table and its name on the page: "scaling-strong", "layers"."""
        for section in self.sections:
            for word, table in section.tables:
                yield f"{section.key}-{word}" if word else section.key, table

    def charts(self) -> Iterator[tuple[str, Chart]]:
        """Yield every chart and its name on the page: "chart-grids-1"."""
        for section in self.sections:
            for at, chart in enumerate(section.charts, 1):
                yield f"chart-{section.key}-{at}", chart

    def data(self) -> dict[str, Any]:
        """Return everything but charts and drawings as plain values; tables as their own commands give them."""
        return {
            "title": self.title,
            "gridnn": self.version,
            "command": self.command,
            "facts": dict(self.facts),
            "answers": list(self.answers),
            "tables": {name: table.as_json() for name, table in self.tables()},
        }
