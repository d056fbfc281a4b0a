"""Pieces of a drawing as SVG text: shapes, escaped words, colours for light, dark and print, a grid as a cut block.

  +----+----+
 /    /    /|      front: height x width, cut by h and w
+----+----+ |      to the back: channels, cut by k
|    |    | +
|    |    |/
+----+----+
[ | | | |  ]       strips: batch cut by n; input channels cut by c; depth cut by d
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape

from gridnn.geometry.grid import GridShape

HUES = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#d6a800")
"""Colours of grids; a name stands beside every one."""
FRONT, BACK, STRIP = 24.0, 12.0, 5.0
"""Extents of the block."""
PART = 3.0
"""Least extent of a part: an axis of more is drawn as those that fit, its size stands beside."""

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

STYLE = """
  svg { color-scheme: light dark }
  .page { fill: #ffffff } .ink { fill: #1b1f24 } .dim { fill: #57606a }
  .box { fill: #ffffff; stroke: #57606a } .line { fill: none; stroke: #57606a }
  .moves { fill: none; stroke: #c2410c; stroke-width: 2 } .bytes { fill: #c2410c }
  .work { fill: #57606a } .talk { fill: url(#talk); stroke: #c2410c; stroke-width: .6 } .hatch { stroke: #c2410c }
  .head { fill: #57606a } .hot { fill: #c2410c } .face { fill: #ffffff; fill-opacity: .55; stroke: #1b1f24 }
  .cutting { fill: none; stroke: #1b1f24; stroke-width: .8 } .band { fill-opacity: .16; stroke-opacity: .5 }
  text { font-family: system-ui, sans-serif; font-size: 12px } .small { font-size: 10.5px } .tiny { font-size: 8px }
  .title { font-size: 15px; font-weight: 600 } .grid { font-weight: 600 }
  @media screen and (prefers-color-scheme: dark) {
    .page { fill: #16191d } .ink { fill: #e6e8ea } .dim { fill: #9aa4af } .box { fill: #22272d; stroke: #9aa4af }
    .line { stroke: #9aa4af } .work { fill: #9aa4af } .head { fill: #9aa4af } .moves { stroke: #fb923c }
    .bytes { fill: #fb923c } .talk { stroke: #fb923c } .hatch { stroke: #fb923c } .hot { fill: #fb923c }
    .face { fill: #16191d; stroke: #e6e8ea } .cutting { stroke: #e6e8ea } .band { fill-opacity: .28 }
  }
""" + "".join(f"  .hue{i} {{ fill: {hue}; stroke: {hue} }}\n" for i, hue in enumerate(HUES))

DEFS = (
    '<defs><pattern id="talk" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<path class="hatch" d="M-1 6 L6 -1" stroke-width="1.6"/></pattern>'
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0 1 L8 4 L0 7 z"/></marker>'
    '<marker id="hot" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="hot" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
)


def svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a whole picture; nothing in it comes from elsewhere."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" '
            f'height="{_n(height)}" role="img">',
            f"<title>{plain(title)}</title>",
            f"<style>{STYLE}</style>",
            DEFS,
            rect(0, 0, width, height, "page"),
            *parts,
            "</svg>\n",
        ]
    )


def plain(text: str) -> str:
    """Return a text as XML may hold it: names come from files of others."""
    return escape(_NOT_XML.sub("?", text), {'"': "&quot;"})


def words(x: float, y: float, text: str, style: str = "ink", end: bool = False) -> str:
    """Return a text that starts (or ends) at x, on the line y."""
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}"{anchor}>{plain(text)}</text>'


def rect(
    x: float, y: float, width: float, height: float, style: str, round_: float = 0, hint: str = ""
) -> str:
    """Return a rectangle; `hint` is shown by viewers that point."""
    corner = f' rx="{_n(round_)}"' if round_ else ""
    shape = f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"{corner}'
    return f"{shape}><title>{plain(hint)}</title></rect>" if hint else f"{shape}/>"


def path(steps: str, style: str, tip: str = "") -> str:
    """Return a path, with a tip (tip or hot) at its end."""
    end = f' marker-end="url(#{tip})"' if tip else ""
    return f'<path class="{style}" d="{steps}"{end}/>'


def grid_drawing(grid: GridShape, x: float, y: float) -> list[str]:
    """Return a block cut as a grid cuts an output, its upper left corner at (x, y); see the picture above."""
    left, top = x, y + BACK
    right, bottom = left + FRONT, top + FRONT
    faces = (
        f"M{_n(left)} {_n(top)} H{_n(right)} V{_n(bottom)} H{_n(left)} z "
        f"M{_n(left)} {_n(top)} l{BACK} -{BACK} h{FRONT} l-{BACK} {BACK} M{_n(right)} {_n(top)} l{BACK} -{BACK} "
        f"v{FRONT} l-{BACK} {BACK}"
    )
    lines = []
    for at in _cuts(grid["h"], FRONT):
        lines.append(f"M{_n(left)} {_n(top + at)} h{FRONT} l{BACK} -{BACK}")
    for at in _cuts(grid["w"], FRONT):
        lines.append(f"M{_n(left + at)} {_n(bottom)} v-{FRONT} l{BACK} -{BACK}")
    for at in _cuts(grid["k"], BACK):
        lines.append(f"M{_n(left + at)} {_n(top - at)} h{FRONT} v{FRONT}")
    found = [path(faces, "face")]
    below = bottom + 3
    for axis in ("n", "c", "d"):
        if grid[axis] > 1:
            found.append(rect(left, below, FRONT + BACK, STRIP, "face"))
            found.append(words(right + BACK + 2, below + STRIP, axis, "dim tiny"))
            lines += [f"M{_n(left + at)} {_n(below)} v{STRIP}" for at in _cuts(grid[axis], FRONT + BACK)]
            below += STRIP + 2
    return [*found, *([path(" ".join(lines), "cutting")] if lines else [])]


def _cuts(parts: int, extent: float) -> list[float]:
    shown = min(parts, int(extent / PART))
    return [extent * i / shown for i in range(1, shown)]


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
