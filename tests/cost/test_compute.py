"""Seconds of layers at other widths than what was measured: what scales, what stays, and that tables equal prices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gridnn.cost.compute import forward_work, masked_seconds, pass_seconds
from gridnn.cost.grids import Grids
from gridnn.cost.machine import BEST, Level, Machine
from gridnn.cost.price import price_plan
from gridnn.cost.profile import PASSES, Profile, Sample, work_of
from gridnn.cost.tables import CostTables
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.traffic import Widths
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import PlacedLayer, PlacedNetwork, place_network
from gridnn.plan.problem import Job
from gridnn.plan.search import search

RATES = Machine("rates", "test", "2026-11-22", 1e9, 1e-9, 1e-6, 1 << 30, (Level("all", 0, 0.0, 1e-12),), BEST)
BF16 = Widths(2, 4)
BATCH, RANKS = 8, 2


def network() -> Network:
    net = Builder("layers", (4, 8, 8))
    x = net.batch_norm(net.conv(net.input, 6, 3, pad=1, bias=False))
    x = net.max_pool(net.dropout(net.relu(net.conv(x, 8, 3, pad=1))), 2, 2)
    return net.done(net.cross_entropy(net.linear(net.flatten(x), 5)))


def placed() -> PlacedNetwork:
    found, scheme = network(), Scheme(GridShape.of(n=RANKS))
    return place_network(found, {node.name: scheme for node in found.nodes}, BATCH, RANKS)


def profile_of(layers: list[PlacedLayer], precision: str = "float32") -> Profile:
    """Each layer's first block, at 3, 5 and 7 microseconds."""
    samples = []
    for layer in layers:
        x, y = (a.block_shape(0) for a in (layer.placement.needs[0], layer.placement.raw))
        work = work_of(layer.node.spec, np.array([x]), np.array([y]))
        samples.append(Sample(work.family, x, y, int(work.flops[0]), int(work.elements[0]), 3e-6, 5e-6, 7e-6))
    return Profile("test", "2026-11-22", tuple(samples), precision)


def seconds(layer: PlacedLayer, machine: Machine) -> list[float]:
    return [pass_seconds(layer, 0, machine, p) for p in PASSES]


def test_by_rates_touched_elements_scale_and_products_stay() -> None:
    for layer in placed().layers[1:]:
        work, narrow = forward_work(layer, 0), RATES.at(BF16)
        wide_s, narrow_s = seconds(layer, RATES)[1], seconds(layer, narrow)[1]
        assert wide_s - narrow_s == pytest.approx(work.touched * RATES.touch_s_per_element / 2)
        assert narrow_s == pytest.approx(1e-6 + work.product_flops / 1e9 + work.touched * 0.5e-9)
        assert seconds(layer, narrow)[2] == seconds(layer, RATES)[2], "a product, or nothing"


@pytest.mark.parametrize(
    ("precision", "widths", "factor"),
    [
        ("float32", BF16, 0.5), ("tf32", BF16, 0.5), ("bf16", Widths(4, 4), 2.0), ("bf16", BF16, 1.0),
        ("float32", Widths(8, 8), 2.0), ("bfloat16", Widths(4, 4), 1.0), ("float32", Widths(4, 4), 1.0),
    ],
)  # fmt: skip
def test_by_the_profile_what_has_no_product_scales(precision: str, widths: Widths, factor: float) -> None:
    """Above what a pass takes however small it is; of a product nobody knows."""
    layers = list(placed().layers)
    measured = replace(RATES, profile=profile_of(layers, precision)).at(widths)
    for layer in layers[1:]:
        weighted = type(layer.node.spec).__name__ in ("Conv", "Linear")
        wanted = [3e-6, 5e-6, 7e-6] if weighted else [1e-6 + 2e-6 * factor, 1e-6 + 4e-6 * factor, 0]
        assert seconds(layer, measured) == pytest.approx(wanted), layer.node.name
    if factor == 1:
        assert seconds(layers[1], measured) == [3e-6, 5e-6, 0.0], "to the bit"
    short = replace(measured, layer_s=1e-5)  # a block that took less than most passes do
    assert seconds(layers[1], short)[:2] == [3e-6, 5e-6]


def test_rates_of_two_bytes_are_of_two_bytes() -> None:
    """Measured in bf16, activations cost what was measured and the update, of four bytes, twice that."""
    narrow = replace(RATES, element_bytes=2)
    of_job, relu = narrow.at(BF16), placed().layers[3]
    assert seconds(relu, of_job) == pytest.approx(seconds(relu, RATES))
    assert masked_seconds(relu, 0, of_job) == pytest.approx(masked_seconds(relu, 0, RATES))
    updates = [
        sum(layer.update_s for layer in price_plan(placed(), m, BF16, states=2).layers)
        for m in (of_job, RATES.at(BF16), RATES)
    ]
    assert updates[0] == pytest.approx(2 * updates[1]) and updates[1] == updates[2] > 0


@pytest.mark.parametrize("widths", [BF16, Widths(2, 2), Widths(4, 4), Widths(8, 8)])
@pytest.mark.parametrize("measured", [None, "float32", "bf16"])
def test_tables_are_prices(widths: Widths, measured: str | None) -> None:
    net, layers = network(), placed().layers
    machine = replace(RATES, profile=None if measured is None else profile_of(list(layers[1:4]), measured))
    machine = replace(machine, element_bytes=2 if measured == "bf16" else 4).at(widths)
    tables = CostTables(machine, BATCH, RANKS, widths, states=2)
    grids = Grids(np.array([GridShape.of(n=RANKS).sizes], np.int64))
    shapes, price = net.shapes, price_plan(placed(), machine, widths, states=2)
    for node, layer, told in zip(net.nodes, layers, price.layers, strict=True):
        inputs = [shapes[name] for name in node.inputs]
        first = node.inputs == (net.nodes[0].inputs[0],)
        found = tables.layer(node.spec, inputs, shapes[node.name], grids, first=first)
        assert found.compute_s[0] == pytest.approx(sum(seconds(layer, machine)) + told.update_s), node.name


def test_a_search_prices_by_width() -> None:
    """The planner's step in bf16 is shorter by half of what is touched and moved, and never by products."""
    net = network()
    found = {
        w: search(Job(net, RATES.at(w), RANKS, BATCH, activation_bytes=w.activation), "data").step_s
        for w in (Widths(4, 4), BF16)
    }
    touched = sum(
        forward_work(layer, 0).touched * (2 - (at == 0)) for at, layer in enumerate(placed().layers)
        if type(layer.node.spec).__name__ != "Activation"
    )  # fmt: skip
    saved_s = found[Widths(4, 4)] - found[BF16]
    assert 0.5e-9 * touched <= saved_s * (1 + 1e-9) < 0.7e-9 * touched
