"""Lower bounds against what plans move: no grid of a small layer is below, and some attain them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import inf

import pytest

from gridnn.cost.bounds.conv import WEIGHTED, product
from gridnn.cost.bounds.moved import best_grid, busiest, elements, moved_bytes, working
from gridnn.cost.bounds.step import step_bound
from gridnn.cost.traffic import predict_step, received
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.window import TransposedWindow, Window
from gridnn.network import spec as s
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import PlacedLayer, PlacedNetwork, place_network
from tests.support.factor import factorisations
from tests.support.laws import random_schemes


def linear(inputs: int, outputs: int) -> Network:
    net = Builder("linear", (inputs,))
    x = net.linear(net.linear(net.input, inputs, bias=False, name="first"), outputs, bias=False, name="layer")
    return net.done(net.squared_error(x))


def image(channels: int, extent: int, spec: s.Conv | s.ConvTranspose) -> Network:
    net = Builder("image", (channels, extent, extent))
    x = net.conv(net.input, channels, 1, bias=False, name="first")
    return net.done(net.squared_error(net.add_layer(spec, [x], "layer")))


def windows(kernel: int, stride: int = 1, pad: int = 0) -> tuple[Window, Window]:
    return (Window(kernel, stride, pad, pad),) * 2


SMALL = {
    "square": (linear(16, 16), ("n", "k", "c")),
    "wide": (linear(8, 64), ("n", "k", "c")),
    "odd": (linear(13, 7), ("n", "k", "c")),
    "same": (image(4, 8, s.Conv(8, windows(3, 1, 1), bias=False)), ("n", "k", "c", "h")),
    "odd stride": (image(5, 7, s.Conv(3, windows(3, 2, 1), bias=False)), ("n", "k", "c", "h", "w")),
    "skips": (image(4, 9, s.Conv(4, windows(1, 2), bias=False)), ("n", "k", "h")),
    "groups": (image(4, 8, s.Conv(8, windows(5, 1, 2), 2, bias=False)), ("n", "k", "h")),
    "depthwise": (image(6, 6, s.Conv(6, windows(3), 6, bias=False)), ("n", "k", "c")),
    "transposed": (image(4, 5, s.ConvTranspose(6, (TransposedWindow(3, 2),) * 2, bias=False)), ("n", "k", "c", "w")),
}  # fmt: skip


def placed_on(network: Network, grid: GridShape, before: GridShape, batch: int, procs: int) -> PlacedNetwork:
    schemes = {node.name: Scheme(before if node.name == "first" else grid) for node in network.nodes}
    return place_network(network, schemes, batch, procs)


def bound_of(placed: PlacedNetwork, layer: PlacedLayer) -> float:
    spec = layer.node.spec
    assert isinstance(spec, WEIGHTED)
    edge = placed.edges[layer.edges[0]]
    whole = product(spec, edge.need.shape, layer.placement.raw.shape)
    return step_bound(whole, working(layer), first=edge.exchange is None).step


def plans(network: Network, axes: tuple[str, ...], batch: int) -> Iterator[tuple[PlacedNetwork, PlacedLayer]]:
    for procs in (2, 3, 4, 6, 8, 12, 16):
        for sizes in factorisations(procs, axes):
            grid = GridShape.of(**sizes)
            if grid["n"] <= batch:
                for before in dict.fromkeys(
                    (grid, GridShape.of(n=procs) if procs <= batch else GridShape.of(k=procs))
                ):
                    placed = placed_on(network, grid, before, batch, procs)
                    yield placed, next(layer for layer in placed.layers if layer.node.name == "layer")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [16, 9])
def test_no_plan_moves_less_than_the_bound(name: str, batch: int) -> None:
    network, axes = SMALL[name]
    looked = 0
    for placed, layer in plans(network, axes, batch):
        least = bound_of(placed, layer)
        assert busiest(placed, layer, 1, 1).total >= least * (1 - 1e-9), (str(layer.scheme), placed.procs)
        looked += least > 0
    assert looked > 10 or name in ("depthwise", "skips")


@pytest.mark.parametrize(
    ("network", "grid", "before", "batch"),
    [
        (linear(8, 4), "n8", "n8", 64),  # 1D: the weights are the smallest array
        (linear(256, 8), "c4", "k4", 8),  # 1D: the output is
        (linear(8, 256), "k4", "n1 k4", 8),  # 1D: the input is
        (linear(64, 4), "n4 c4", "n4 k4", 64),  # 2D: blocks of the largest array, X
        (linear(64, 64), "k4 c4", "n4 k4", 4),  # 2D: blocks of W; the input is cut where k and c will be
        (linear(16, 16), "n2 k2 c2", "n4 k2", 16),  # 3D: a cube
        (image(4, 8, s.Conv(8, windows(2, 2), bias=False)), "n8", "n8", 16),  # a convolution without overlap
        (image(8, 4, s.Conv(8, windows(1), bias=False)), "n16", "n16", 64),
        (image(8, 6, s.Conv(8, windows(3), 8, bias=False)), "k4", "k4", 3),  # nothing has to move, nothing moves
    ],
)  # fmt: skip
def test_grids_that_attain_it(network: Network, grid: str, before: str, batch: int) -> None:
    shape = GridShape.parse(grid)
    placed = placed_on(network, shape, GridShape.parse(before), batch, shape.size)
    layer = next(layer for layer in placed.layers if layer.node.name == "layer")
    assert busiest(placed, layer, 1, 1).total == pytest.approx(bound_of(placed, layer))


def test_what_a_layer_moves_is_what_a_run_counts() -> None:
    """Added over ranks, where no input is shared; one rank's all-reduce depends on the buckets, all of them do not."""
    network, _ = SMALL["same"]
    rng = random.Random(2)
    for procs in (2, 4, 6):
        for schemes in (random_schemes(network, procs, 6, rng) for _ in range(8)):
            placed = place_network(network, schemes, 6, procs)
            for layer in placed.layers:
                if isinstance(layer.node.spec, WEIGHTED):
                    counted = sum(
                        volume.received_bytes
                        for rank in range(procs)
                        for key, volume in predict_step(placed, rank, 4, passes=3).items()
                        if key.layer == layer.node.name
                    )
                    assert moved_bytes(placed, layer, range(procs), 4, 3).sum() == pytest.approx(counted)
            for edge in placed.edges:
                if edge.exchange is not None:
                    found = elements(edge.exchange.source, edge.exchange.target, range(procs))
                    assert found.tolist() == [
                        received(edge.exchange.source, edge.exchange.target, r)[1] for r in range(procs)
                    ]


@pytest.mark.parametrize("name", ["square", "wide", "same", "depthwise"])
def test_the_best_grid_is_between_the_bound_and_all_plans(name: str) -> None:
    network, axes = SMALL[name]
    for procs in (4, 8, 16):
        moved: dict[str, float] = {}
        best = None
        for placed, layer in plans(network, tuple(a for a in axes if a in "nkc"), 16):
            if placed.procs == procs:
                best = best_grid(layer, procs, 1, 1)
                moved[str(layer.scheme)] = min(
                    moved.get(str(layer.scheme), inf), busiest(placed, layer, 1, 1).total
                )
                assert (
                    best is None or best[1] >= bound_of(placed, layer) * (1 - 1e-9) or working(layer) < procs
                )
        if best is not None and name != "depthwise":
            assert best[1] <= min(moved.values()) * (1 + 1e-9)
            assert str(best[0]) in moved


def test_no_best_grid_where_none_fits() -> None:
    network, _ = SMALL["odd"]
    placed = placed_on(network, GridShape.of(n=2), GridShape.of(n=2), 2, 2)
    layer = placed.layers[1]
    assert best_grid(layer, 17, 4, 1) is None
    found = best_grid(layer, 13, 4, 1)
    assert found is not None and str(found[0]) == "c13"
    assert best_grid(layer, 2, 4, 1, first=True) == (GridShape.of(k=2), 0.0)


def test_ranks_that_have_nothing_to_do_do_not_count() -> None:
    network, _ = SMALL["odd"]  # 7 outputs, 13 inputs
    placed = placed_on(network, GridShape.of(n=2, k=8), GridShape.of(n=16), 16, 16)
    assert working(placed.layers[1]) == 14
    placed = placed_on(network, GridShape.of(c=16), GridShape.of(n=16), 16, 16)
    assert working(placed.layers[1]) == 13
