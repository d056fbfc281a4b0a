"""Parts of a bucket: they end with layers, hold everything once, and are not too small."""

from __future__ import annotations

import random

import pytest

from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.buckets import Bucket, Entry, cut, plan_buckets
from gridnn.network.placed import place_network
from tests.support.nets import NETS, build

PLACED = place_network(build("conv3"), {n.name: Scheme(GridShape()) for n in build("conv3").nodes}, 4, 1)
SOME = PLACED.layers[0].placement.parameters[0]


def bucket(*entries: tuple[str, int]) -> Bucket:
    """Return a bucket of layers and sizes."""
    return Bucket((0, 1), True, [Entry(layer, SOME, size) for layer, size in entries])


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        (1, [("fc", 0, 110), ("conv3", 110, 140), ("conv2", 140, 160), ("conv1", 160, 165)]),
        (30, [("fc", 0, 110), ("conv3", 110, 140), ("conv1", 140, 165)]),
        (31, [("fc", 0, 110), ("conv2", 110, 160), ("conv1", 160, 165)]),
        (111, [("conv3", 0, 140), ("conv1", 140, 165)]),
        (1000, [("conv1", 0, 165)]),
    ],
)
def test_parts_end_with_layers(least: int, wanted: list[tuple[str, int, int]]) -> None:
    """A layer's parameters stay together; only the last part is smaller than asked for."""
    whole = bucket(("fc", 10), ("fc", 100), ("conv3", 30), ("conv2", 20), ("conv1", 5))
    assert [(part.layer, *part.interval) for part in cut(whole, least)] == wanted


def test_what_is_empty_waits_for_nobody() -> None:
    """Blocks of no elements are in no sum, and a bucket of such has none."""
    assert [(p.layer, *p.interval) for p in cut(bucket(("b", 0), ("a", 7), ("z", 0)), 7)] == [("a", 0, 7)]
    assert cut(bucket(("b", 0), ("a", 0)), 1) == cut(bucket(), 0) == []


@pytest.mark.parametrize("name", NETS)
def test_parts_of_planned_buckets_hold_all_of_them(name: str) -> None:
    """On grids that divide nothing, too."""
    network, rng = build(name), random.Random(name)
    placed = place_network(network, {n.name: Scheme(GridShape.parse("n3 k2")) for n in network.nodes}, 5, 6)
    order = [layer.node.name for layer in reversed(placed.layers)]
    for rank in range(6):
        for each in plan_buckets(placed, rank, 2000, 8):
            parts = cut(each, rng.randint(1, 300))
            ends = [0, *(part.interval.stop for part in parts)]
            assert [part.interval.start for part in parts] == ends[:-1]
            assert ends[-1] == each.size
            at = [order.index(part.layer) for part in parts]
            assert at == sorted(set(at))
            for part in parts:
                late = [e.layer for e in each.entries if order.index(e.layer) > order.index(part.layer)]
                assert sum(e.size for e in each.entries if e.layer in late) == each.size - part.interval.stop
