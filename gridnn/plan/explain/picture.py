"""A picture of a plan: the network from top to bottom, a band for every stretch of one grid.

grid        network                          share of the step
+-----------------------------------------------------------+
| n8 k2    o--[ conv11 ... relu12 ]           ####//  12 %  |  band: one grid, and how it cuts a block
| (block)  |        | 1.6 MiB                               |  arrow with bytes: data that moves
+----------|--------|---------------------------------------+
| k16      +->[ linear1 ... relu14 ]          ##///    8 %  |  lines on the left pass other boxes by
+-----------------------------------------------------------+
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gridnn.geometry.grid import Scheme
from gridnn.plan.explain.boxes import MOST, Arrow, Box, boxes
from gridnn.plan.explain.drawing import HUES, grid_drawing, path, rect, svg, words
from gridnn.plan.explain.tell import bytes_text, cut, time_text
from gridnn.plan.explain.why import Explanation

MARGIN, LABEL, LANE = 16.0, 150.0, 12.0
BOX_WIDTH, BOX_HEIGHT, GAP, LINE = 300.0, 36.0, 12.0, 14.0
BAR, BAND_LEAST, HEAD = 200.0, 66.0, 58.0


@dataclass(frozen=True)
class Place:
    """Where a box stands: its top, the band it is in."""

    top: float
    band: int


@dataclass(frozen=True)
class Band:
    """A stretch of boxes of one grid."""

    scheme: Scheme
    top: float
    bottom: float


def picture(explanation: Explanation, most: int = MOST, about: str = "") -> str:
    """Return a picture of a plan as SVG, for light and dark screens and print.

    Parameters
    ----------
    most
        Boxes to draw at most, where layers of one grid can be drawn as one.
    about
        What stands below the title; left out, seconds of a step, one layer after the other.
    """
    found, arrows = boxes(explanation, most)
    places, bands = layout(found, arrows)
    passing = [a for a in arrows if a.target != a.source + 1]
    lanes = _lanes(passing)
    box_x = MARGIN + LABEL + LANE * (1 + max(lanes.values(), default=-1) + 1)
    bar_x = box_x + BOX_WIDTH + 20
    width = bar_x + BAR + 130 + MARGIN
    height = bands[-1].bottom + 108
    hues = {scheme: i % len(HUES) for i, scheme in enumerate(dict.fromkeys(box.scheme for box in found))}
    parts = list(_head(explanation, about))
    for band in bands:
        parts += _band(band, width, hues[band.scheme])
    for arrow in passing:
        parts.append(_pass_by(arrow, places, box_x, box_x - LANE * (1 + lanes[arrow])))
    for arrow in arrows:
        if arrow.target == arrow.source + 1:
            parts.append(_straight(arrow, places, box_x + 24))
    parts += _labels(explanation, found, arrows, places, box_x + 36)
    longest_s = max(box.compute_s + box.comm_s for box in found)
    for box, place in zip(found, places, strict=True):
        parts += _box(explanation, box, place, box_x)
        parts += _bar(explanation, box, place, bar_x, BAR / (longest_s or 1))
    parts += _legend(bands[-1].bottom + 22)
    return svg(width, height, f"plan of {explanation.job.network.name}", parts)


def layout(found: list[Box], arrows: list[Arrow]) -> tuple[list[Place], list[Band]]:
    """Return where boxes and bands stand; above a box is room for a line of text for each arrow that moves data."""
    labels = [sum(a.target == i and a.moved_bytes > 0 for a in arrows) for i in range(len(found))]
    places: list[Place] = []
    bands: list[Band] = []
    y = HEAD
    for i, box in enumerate(found):
        fresh = not i or found[i - 1].scheme != box.scheme
        if fresh and bands:  # a band has room for its grid
            y = max(y + GAP / 2, bands[-1].top + BAND_LEAST)
            bands[-1] = Band(bands[-1].scheme, bands[-1].top, y)
        if fresh:
            bands.append(Band(box.scheme, y, y))
        y += GAP + LINE * labels[i]
        places.append(Place(y, len(bands) - 1))
        y += BOX_HEIGHT
    bands[-1] = Band(bands[-1].scheme, bands[-1].top, max(y + GAP, bands[-1].top + BAND_LEAST))
    return places, bands


def _lanes(passing: list[Arrow]) -> dict[Arrow, int]:
    """Return the lane of every arrow that passes boxes by: short ones inside, none over another."""
    lanes: dict[Arrow, int] = {}
    for arrow in sorted(passing, key=lambda a: (a.target - a.source, a.source)):
        taken = {
            lane for other, lane in lanes.items()
            if other.source < arrow.target and arrow.source < other.target
        }  # fmt: skip
        lanes[arrow] = next(lane for lane in range(len(passing)) if lane not in taken)
    return lanes


def by_exact_traffic(explanation: Explanation) -> Explanation:
    """Return an explanation with seconds of exact traffic for those of tables, which know no first ranks."""
    if explanation.price is None:
        return explanation
    layers = tuple(
        replace(
            layer,
            compute_s=price.compute_s,
            settle_s=price.comm_s,
            statistics_s=0.0,
            gradients_s=0.0,
            edges_s=(),
        )
        for layer, price in zip(explanation.layers, explanation.price.layers, strict=True)
    )
    return replace(explanation, layers=layers)


def _head(explanation: Explanation, about: str) -> Iterator[str]:
    job, price = explanation.job, explanation.price
    yield words(
        MARGIN, 26, cut(f"{job.network.name} on {job.procs} processes of {job.machine.name}", 80), "ink title"
    )
    text = about or f"batch {job.batch}, {time_text(explanation.step_s)} a step with nothing overlapping"
    if price is not None and not about:
        text += f"; exact traffic: {time_text(price.step_s)}, with overlap {time_text(price.overlapped_s)}"
    yield words(MARGIN, 45, text, "dim")


def _band(band: Band, width: float, hue: int) -> Iterator[str]:
    yield rect(MARGIN / 2, band.top, width - MARGIN, band.bottom - band.top, f"band hue{hue}")
    yield from grid_drawing(band.scheme.grid, MARGIN + 2, band.top + 6)
    lines, x = [""], MARGIN + 46
    for word in str(band.scheme).split():
        if len(lines[-1]) + len(word) > 12:
            lines.append("")
        lines[-1] += f"{word} "
    for at, line in enumerate(lines):
        yield words(x, band.top + 20 + LINE * at, line.strip(), "ink grid")


def _box(explanation: Explanation, box: Box, place: Place, x: float) -> Iterator[str]:
    nodes, shapes = explanation.job.network.nodes, explanation.job.network.shapes
    names = [nodes[i].name for i in box.layers]
    text = names[0] if len(names) == 1 else f"{cut(names[0], 19)} … {cut(names[-1], 19)}"
    detail = "" if len(names) == 1 else f"{len(names)} layers, "
    first, made = nodes[box.layers[0]].inputs[0], shape_text(shapes[names[-1]])
    if box.inner_bytes:
        detail += f"{made}; {bytes_text(box.inner_bytes)} move inside"
    else:
        detail += f"{shape_text(shapes[first])} to {made}"
    yield rect(x, place.top, BOX_WIDTH, BOX_HEIGHT, "box", 5, ", ".join(names))
    yield words(x + 10, place.top + 15, cut(text, 42))
    yield words(x + 10, place.top + 29, cut(detail, 52), "dim small")


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as ``64x8x8``; that of a loss is a number."""
    return "x".join(map(str, shape)) or "a number"


def _bar(explanation: Explanation, box: Box, place: Place, x: float, scale: float) -> Iterator[str]:
    """Yield a bar as long as the box's seconds, computing and communicating, and the number behind it."""
    y, work, talk = place.top + 10, box.compute_s * scale, box.comm_s * scale
    if work > 0:
        yield rect(x, y, work, 16, "work", hint=f"computing {time_text(box.compute_s)}")
    if talk > 0:
        yield rect(x + work, y, talk, 16, "talk", hint=f"communicating {time_text(box.comm_s)}")
    seconds = box.compute_s + box.comm_s
    share = 100 * seconds / (explanation.step_s or 1)
    yield words(x + work + talk + 6, y + 12, f"{time_text(seconds)}, {share:.1f} %", "ink small")


def _straight(arrow: Arrow, places: list[Place], x: float) -> str:
    start = places[arrow.source].top + BOX_HEIGHT if arrow.source >= 0 else HEAD - 4
    style, tip = ("moves", "hot") if arrow.moved_bytes else ("line", "tip")
    return path(f"M{x:.1f} {start:.1f} V{places[arrow.target].top - 1:.1f}", style, tip)


def _pass_by(arrow: Arrow, places: list[Place], box_x: float, x: float) -> str:
    """Return a line that leaves a box to the left, goes down its lane, and enters a box from the left."""
    start = places[arrow.source].top + BOX_HEIGHT - 8 if arrow.source >= 0 else HEAD - 4
    end = places[arrow.target].top + 8
    style, tip = ("moves", "hot") if arrow.moved_bytes else ("line", "tip")
    steps = f"M{box_x:.1f} {start:.1f} H{x + 5:.1f} q-5 0 -5 5 V{end - 5:.1f} q0 5 5 5 H{box_x - 1:.1f}"
    return path(steps, style, tip)


def _labels(
    explanation: Explanation, found: list[Box], arrows: list[Arrow], places: list[Place], x: float
) -> Iterator[str]:
    """Yield what moves on every arrow, above the box it enters."""
    nodes = explanation.job.network.nodes
    for at, place in enumerate(places):
        moving = [a for a in arrows if a.target == at and a.moved_bytes]
        for line, arrow in enumerate(reversed(moving)):
            near = arrow.source == at - 1
            origin = "" if near else f" from {cut(nodes[found[arrow.source].layers[-1]].name, 30)}"
            y = place.top - 5 - LINE * line
            yield words(x, y, f"{bytes_text(arrow.moved_bytes)}{origin}", "bytes small")


def _legend(y: float) -> Iterator[str]:
    x = MARGIN
    yield rect(x, y, 26, 12, "work")
    yield words(x + 34, y + 10, "computing", "dim small")
    yield rect(x + 130, y, 26, 12, "talk")
    yield words(x + 164, y + 10, "communicating", "dim small")
    yield path(f"M{x + 290:.1f} {y + 6:.1f} h30", "moves", "hot")
    yield words(
        x + 328, y + 10, "data moves: bytes the busiest rank receives in a step, both ways", "dim small"
    )
    yield path(f"M{x:.1f} {y + 26:.1f} h26", "line", "tip")
    yield words(x + 34, y + 30, "data stays where it is", "dim small")
    text = "block: front height x width (h, w), to the back channels (k); "
    text += "strips: batch (n), summed channels (c), depth (d)"
    yield words(x, y + 52, text, "dim small")
    yield words(
        x, y + 68, "letters and numbers of a band are its grid: into how many parts each is cut", "dim small"
    )
