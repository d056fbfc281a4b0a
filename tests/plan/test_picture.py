"""Pictures of plans: whole, legible, and saying what the plan says."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from functools import cache
from itertools import pairwise

import pytest

from gridnn.cost.machine import load_machine
from gridnn.cost.traffic import received
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.zoo import usual
from gridnn.plan.explain.boxes import MOST, boxes
from gridnn.plan.explain.drawing import BACK, FRONT, HUES, PART, STYLE, grid_drawing
from gridnn.plan.explain.picture import picture
from gridnn.plan.explain.tell import bytes_text
from gridnn.plan.explain.why import Explanation, explain
from gridnn.plan.problem import Job
from tests.support.nets import build

SVG = "{http://www.w3.org/2000/svg}"
GRIDS = ("n4", "n2 k2", "h2 w2", "k4")


@cache
def mixed(name: str, change: float = 0.3) -> Explanation:
    """A network on grids that change now and then."""
    network = usual(name) if name in ("resnet101", "inception_v3") else build(name)
    return _explained(network, change)


def _explained(network: Network, change: float, grids: tuple[str, ...] = GRIDS) -> Explanation:
    draw, plan = random.Random(5), {}
    grid = grids[0]
    for node in network.nodes:
        grid = draw.choice(grids) if draw.random() < change else grid
        plan[node.name] = Scheme(GridShape.parse(grid))
    return explain(Job(network, load_machine("p100-cluster"), 4, 16), plan, exact=False, rivals=False)


CASES = [
    ("residual", 0.3),
    ("inception", 0.5),
    ("unet", 0.9),
    ("linear", 0.0),
    ("inception_v3", 0.03),
    ("resnet101", 0.0),
]


def rects(text: str, style: str) -> list[tuple[float, float, float, float]]:
    found = ET.fromstring(text).iter(f"{SVG}rect")
    return [
        (float(r.get("x", 0)), float(r.get("y", 0)), float(r.get("width", 0)), float(r.get("height", 0)))
        for r in found
        if style in (r.get("class") or "").split()
    ]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_every_layer_is_in_one_box_of_its_grid(name, change):
    found = mixed(name, change)
    drawn, arrows = boxes(found)
    assert sorted(i for box in drawn for i in box.layers) == list(range(len(found.layers)))
    assert all(found.layers[i].scheme == box.scheme for box in drawn for i in box.layers)
    assert sum(box.compute_s + box.comm_s for box in drawn) == pytest.approx(found.step_s)
    # An arrow for every edge between boxes, all of them downwards.
    of = {found.layers[i].name: at for at, box in enumerate(drawn) for i in box.layers} | {"input": -1}
    edges = {(of[i], of[node.name]) for node in found.job.network.nodes for i in node.inputs}
    assert {(a.source, a.target) for a in arrows} == {(a, b) for a, b in edges if a != b}
    assert all(arrow.source < arrow.target for arrow in arrows)


@pytest.mark.parametrize(("name", "change"), CASES[:4])
def test_arrows_and_boxes_carry_all_bytes_of_the_edges(name, change):
    found = mixed(name, change)
    drawn, arrows = boxes(found)
    total = 0
    for edge in found.placed.edges:
        if edge.exchange is not None:
            ends = edge.exchange.source, edge.exchange.target
            total += 4 * max(received(*ends, r)[1] + received(*ends[::-1], r)[1] for r in range(4))
    assert sum(a.moved_bytes for a in arrows) + sum(box.inner_bytes for box in drawn) == total
    assert change == 0 or total > 0


@pytest.mark.parametrize(("name", "change"), CASES)
def test_the_picture_is_whole_and_nothing_overlaps(name, change):
    found = mixed(name, change)
    drawn, arrows = boxes(found)
    text = picture(found)
    root = ET.fromstring(text)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    shown = rects(text, "box")
    assert len(shown) == len(drawn)
    for (_, y, _, tall), (_, below, _, _) in pairwise(shown):
        assert y + tall < below
    everything = [r for style in ("box", "band", "work", "talk") for r in rects(text, style)]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in everything)
    bands = rects(text, "band")
    assert all(a[1] + a[3] <= b[1] + 0.1 for a, b in pairwise(bands))
    assert all(any(b[1] <= y and y + tall <= b[1] + b[3] for b in bands) for _, y, _, tall in shown)
    texts = [t.text or "" for t in root.iter(f"{SVG}text")]
    grids = "".join(t.text or "" for t in root.iter(f"{SVG}text") if "grid" in (t.get("class") or "").split())
    assert all(str(box.scheme) in grids for box in drawn)
    assert all(any(t.startswith(bytes_text(a.moved_bytes)) for t in texts) for a in arrows if a.moved_bytes)
    head = " ".join(texts[:3])
    assert all(
        part in head for part in (found.job.network.name, "batch 16", "4 processes", "p100-cluster", "a step")
    )


@pytest.mark.parametrize(("name", "change"), CASES)
def test_lines_that_pass_by_share_no_lane(name, change):
    downs: list[tuple[float, float, float]] = []
    for found in re.finditer(
        r'd="M[\d.]+ ([\d.]+) H([\d.]+) q-5 0 -5 5 V([\d.]+)', picture(mixed(name, change))
    ):
        downs.append((float(found[2]), float(found[1]), float(found[3])))
    downs.sort()
    assert downs or change == 0
    for (x, _, end), (other, start, _) in pairwise(downs):
        assert x != other or end < start


@pytest.mark.parametrize("name", ["resnet101", "inception_v3"])
def test_long_networks_stay_legible(name):
    network = usual(name)
    plan = {node.name: Scheme(GridShape.parse("n4")) for node in network.nodes}
    found = explain(Job(network, load_machine("h100"), 4, 16), plan, exact=False, rivals=False)
    assert 10 < len(boxes(found)[0]) <= MOST
    assert len(boxes(found, 8)[0]) <= 8


def test_names_from_files_are_only_text():
    net = Builder('<script>alert("&")</script>', (4, 6, 6))
    x = net.conv(net.input, 4, 3, pad=1, name='a<b>&"c"\x00\x1b]]>')
    network = net.done(net.cross_entropy(net.global_pool(x)))
    text = picture(_explained(network, 0.0))
    root = ET.fromstring(text)
    assert not list(root.iter(f"{SVG}script"))
    assert any('a<b>&"c"' in (t.text or "") for t in root.iter(f"{SVG}text"))


def test_nothing_comes_from_elsewhere():
    text = picture(mixed("residual"))
    assert text.count("http") == 1 and 'xmlns="http://www.w3.org/2000/svg"' in text
    assert not re.search(r"@import|@font-face|href|<image|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in STYLE and "@media screen" in STYLE


def test_a_grid_is_drawn_with_a_line_for_every_cut():
    """A path step a cut, as many as there is room for."""
    assert len(grid_drawing(GridShape.parse("1"), 0, 0)) == 1  # the block, uncut

    def cuts(grid: str) -> int:
        return grid_drawing(GridShape.parse(grid), 0, 0)[-1].count("M")

    assert cuts("h4") == cuts("w4") == cuts("k4") == cuts("n4") == cuts("c4") == cuts("d4") == 3
    assert cuts("n2 k2 c2 h2 w2") == 5 and cuts("n1024") == (FRONT + BACK) // PART - 1


def test_more_grids_than_colours_are_told_apart_by_name():
    net = Builder("many", (1024,))
    x = net.input
    grids = [f"n{1 << i} k{1 << j}" for i in range(4) for j in range(4)][1:]
    for i in range(len(grids)):
        x = net.linear(x, 1024, name=f"fc{i}")
    network = net.done(net.squared_error(x))
    schemes = [Scheme(GridShape.parse(grid.replace("n1 ", "").replace(" k1", ""))) for grid in grids]
    plan = {node.name: scheme for node, scheme in zip(network.nodes, [*schemes, schemes[0]], strict=True)}
    text = picture(explain(Job(network, load_machine("h100"), 64, 64), plan, exact=False, rivals=False))
    assert len(schemes) > len(HUES) and all(f">{scheme}</text>" in text for scheme in schemes)
