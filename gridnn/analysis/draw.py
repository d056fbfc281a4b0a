"""Charts drawn by matplotlib: a page of charts below each other, as PNG or SVG, or as a figure for a notebook.

    draw(charts, "svg")     bytes of a file: the same charts give the same bytes
    figure(charts)          matplotlib's Figure

matplotlib is loaded when something is drawn and not before.  Its settings, which belong to the user, are as they
were afterwards, and do not change what is drawn; there is no pyplot here, so no window either.
What every kind of chart looks like is in `paint`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gridnn.analysis.chart import Chart
from gridnn.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("png", "svg")
DPI = 150
WIDTH_IN = 8.0
_STYLE = {
    "font.size": 9, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#808080", "axes.linewidth": 0.7,
    "axes.axisbelow": True, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
    "xtick.color": "#808080", "xtick.labelcolor": "#222222", "ytick.color": "#808080", "ytick.labelcolor": "#222222",
    "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.frameon": False, "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "gridnn",
}  # fmt: skip


def check_drawing(*paths: str) -> None:
    """Refuse what cannot be drawn, before work is done that would be lost.

    Raises
    ------
    InputError
        If matplotlib is not installed, or the name of a picture ends neither in .png nor in .svg.
    """
    for path in paths:
        _check_kind(path.rsplit(".", 1)[-1].lower() if "." in path else "", path)
    if find_spec("matplotlib") is None:
        raise InputError(
            'pictures need matplotlib, which is not installed; try: pip install "gridnn[report]"'
        )


def draw(charts: Sequence[Chart], kind: str) -> bytes:
    """Return a picture of some charts below each other.

    Parameters
    ----------
    kind : str
        ``png`` (150 pixels an inch) or ``svg`` (texts as texts, which other programs can edit and search).

    Raises
    ------
    InputError
        If it is another kind, there is no chart, or matplotlib is not installed.
    """
    _check_kind(kind, f".{kind}")
    check_drawing()
    out = io.BytesIO()
    with _settings():
        found = _figure(charts)
        found.savefig(out, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def figure(charts: Sequence[Chart]) -> Figure:
    """Return a matplotlib figure of some charts below each other.

    Raises
    ------
    InputError
        If there is no chart, or matplotlib is not installed.
    """
    check_drawing()
    with _settings():
        return _figure(charts)


def _figure(charts: Sequence[Chart]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from gridnn.analysis.paint import height_in, paint

    if not charts:
        raise InputError("there is no chart to draw; give at least one")
    heights = [height_in(chart) for chart in charts]
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08)
    found = Figure(figsize=(WIDTH_IN, sum(heights)), facecolor="white", layout=layout)
    FigureCanvasAgg(found)
    panes = found.subplots(len(charts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for chart, axes in zip(charts, panes, strict=True):
        paint(axes, chart)
    return found


@contextmanager
def _settings() -> Iterator[None]:
    """Put the settings of matplotlib to ours for a while, whatever those of the user are."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield


def _check_kind(kind: str, path: str) -> None:
    if kind not in KINDS:
        raise InputError(f'picture "{path}": its name must end in .png or .svg, such as grids.svg')
