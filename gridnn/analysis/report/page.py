"""Pages: contents as one HTML file that needs nothing else, not even a network.

| of the page        | from                                             | without scripts |
|--------------------|--------------------------------------------------|-----------------|
| words and tables   | `page.html.jinja`, filled in here                | there           |
| charts             | JSON of `figures.plotly_figure`, drawn by plotly | missing         |
| looks              | `page.css`: phone, desk, dark, print             | there           |
| sorting, themes    | `page.js`                                        | missing         |

What the browser may do is said in the page: run the two scripts whose hashes stand in its policy, and fetch nothing.
Texts come from files of others (names of layers in an ONNX file): the template escapes them, `_json` keeps them from
ending their script early.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from gridnn.analysis.chart import Chart
from gridnn.analysis.report.sections import Contents, Section
from gridnn.analysis.table import Cell, Table, cell_text
from gridnn.errors import InputError

INSTALL = 'pip install "gridnn[report]"'
LONG_TEXT = 32
"""Characters above which the cells of a column are wrapped."""


def check_report() -> None:
    """Refuse a page that could not be made, before work is done that would be lost.

    Raises
    ------
    InputError
        If plotly or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import plotly.offline  # noqa: F401
    except ImportError as error:
        raise InputError(f"the page needs the package {error.name}; {INSTALL}") from None


def page(contents: Contents) -> str:
    """Return the HTML of a page.

    Raises
    ------
    InputError
        If plotly or jinja2 is not installed.
    """
    check_report()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from gridnn.analysis.report.figures import plotly_figure

    charts = {name: _untitled(plotly_figure(chart)) for name, chart in contents.charts()}
    plotly, js = _script(get_plotlyjs()), _script(_asset("page.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    found: str = environment.from_string(_asset("page.html.jinja")).render(
        page=_view(contents), policy=_policy(plotly, js),
        css=Markup(_asset("page.css")), plotly=Markup(plotly), js=Markup(js),
        data=Markup(_json(contents.data())), charts=Markup(_json(charts)),
    )  # fmt: skip
    return found


def _asset(name: str) -> str:
    return (files("gridnn.analysis.report") / name).read_text(encoding="utf-8")


def _script(text: str) -> str:
    """Return a script as the browser sees it, for the hash to be that of the page."""
    found = text.replace("\r\n", "\n").replace("\r", "\n")
    assert "</script" not in found.lower() and "<!--" not in found
    return found


def _policy(*scripts: str) -> str:
    """Return the content security policy: these scripts, styles and pictures of the page itself, no network."""
    digests = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Plotly writes its styles as it draws; a picture that a reader saves is a blob.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _untitled(figure: dict[str, Any]) -> dict[str, Any]:
    """Return a figure without its title: the page has it above the chart, as words that wrap."""
    layout = {key: value for key, value in figure["layout"].items() if key not in ("title", "meta")}
    return {**figure, "layout": layout}


def _view(contents: Contents) -> dict[str, Any]:
    names = iter([name for name, _ in contents.charts()])
    tables = iter([name for name, _ in contents.tables()])
    return {
        "title": contents.title, "version": contents.version, "facts": contents.facts,
        "answers": contents.answers, "command": contents.command,
        "sections": [_section(section, names, tables) for section in contents.sections],
    }  # fmt: skip


def _section(section: Section, charts: Iterator[str], tables: Iterator[str]) -> dict[str, Any]:
    from markupsafe import Markup

    drawing = Markup(_scoped(section.drawing, f"#drawing-{section.key}")) if section.drawing else ""
    return {
        "key": section.key, "title": section.title, "text": section.text, "drawing": drawing,
        "charts": [
            {"name": next(charts), "title": c.title, "caption": c.caption, "label": _label(c)} for c in section.charts
        ],
        "tables": [(next(tables), _table(table)) for _, table in section.tables],
    }  # fmt: skip


def _label(chart: Chart) -> str:
    """Return what a reader who does not see a chart is told."""
    return " ".join(filter(None, (f"Chart: {chart.title}.", chart.caption, "The numbers are in the tables.")))


def _table(table: Table) -> dict[str, Any]:
    shown = [(at, column) for at, column in enumerate(table.columns) if not column.hidden]
    classes = [_class([row[at] for row in table.rows]) for at, _ in shown]

    def cells(row: tuple[Cell, ...], nothing: str = "-") -> list[dict[str, str]]:
        return [
            {
                "text": nothing if row[at] is None else cell_text(row[at], column.unit),
                "value": _value(row[at]), "class": name,
            }
            for (at, column), name in zip(shown, classes, strict=True)
        ]  # fmt: skip

    return {
        "title": table.title, "rows": [cells(row) for row in table.rows], "notes": table.notes,
        "totals": [] if table.totals is None else cells(table.totals, ""),
        "columns": [
            {"key": c.key, "title": c.title, "class": name} for (_, c), name in zip(shown, classes, strict=True)
        ],
        "about": [(c.title, c.about) for _, c in shown if c.about],
    }  # fmt: skip


def _class(cells: Sequence[Cell]) -> str:
    """Return how a column is set: numbers to the right, long texts wrapped."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    if not texts:
        return "number"
    return "text" if max(map(len, texts)) > LONG_TEXT else "word"


def _value(cell: Cell) -> str:
    """Return a cell exactly, as `Number` of a browser reads it; "" where there is none."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and math.isinf(cell):
        return "Infinity" if cell > 0 else "-Infinity"
    return str(cell) if isinstance(cell, str) else repr(cell)


def _scoped(svg: str, within: str) -> str:
    """Return a drawing whose style rules hold inside one element: on a page they would reach every other picture."""

    def rule(found: re.Match[str]) -> str:
        space, selectors = found[1], found[2]
        if selectors.startswith("@"):
            return found[0]
        return space + ", ".join(f"{within} {one.strip()}" for one in selectors.split(",")) + " {"

    start, end = svg.index("<style>") + len("<style>"), svg.index("</style>")
    style = re.sub(r"(\s*)([^{}\s][^{}]*?)\s*\{", rule, svg[start:end])
    return svg[:start] + style + svg[end:]
