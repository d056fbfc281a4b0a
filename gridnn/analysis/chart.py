"""Charts as values: what is drawn, not how.  `draw` makes PNG and SVG of them, `page` what a browser shows.

| chart   | for                                          | axes                                    |
|---------|----------------------------------------------|-----------------------------------------|
| `Bars`  | grids side by side, one stack of parts each  | names below, one number                 |
| `Lines` | scaling, sensitivity                         | numbers, each axis logarithmic if said  |
| `Map`   | who wins where                               | numbers both ways, a name in every cell |
| `Lanes` | timelines                                    | seconds, a lane a rank or link          |
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a900", "#7f7f7f")
"""Told apart by colour-blind eyes, on white and on black (Okabe and Ito 2008, its yellow darkened)."""


@dataclass(frozen=True)
class Series:
    """Numbers along the x axis of a chart; None where there is none.

    `stack` names the stack of bars that it is a part of; `dashed` marks what is a limit or ideal.
    """

    name: str
    values: tuple[float | None, ...]
    stack: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Bars:
    """Stacked bars, one for each name on the x axis (for each of its stacks, side by side).

    `marks` are texts above bars, such as "2.5x (9.7x)".
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[str, ...]
    series: tuple[Series, ...]
    marks: tuple[str, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Lines:
    """Lines over numbers; `uprights` are vertical lines with a text, such as (2048, "P = B")."""

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    series: tuple[Series, ...]
    log_x: bool = True
    log_y: bool = True
    uprights: tuple[tuple[float, str], ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Map:
    """A name in every cell of a raster: `cells[row][column]`, rows by y from below.

    `texts` are shown in the cells, or when one points at them.
    """

    title: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    cells: tuple[tuple[str, ...], ...]
    texts: tuple[tuple[str, ...], ...] = ()
    log_x: bool = True
    log_y: bool = True
    caption: str = ""


@dataclass(frozen=True)
class Span:
    """A bar on a lane of a timeline; `kind` gives it its colour."""

    lane: str
    start_s: float
    end_s: float
    name: str
    kind: str


@dataclass(frozen=True)
class Lanes:
    """A timeline."""

    title: str
    lanes: tuple[str, ...]
    spans: tuple[Span, ...]
    caption: str = ""


Chart = Bars | Lines | Map | Lanes
