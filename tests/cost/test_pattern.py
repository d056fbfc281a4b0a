"""Patterns against exchanges that go through every rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.cost.sampled.pattern import pattern
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.layout import Layout, cut
from gridnn.network.placed import place_network
from gridnn.network.zoo import usual
from tests.geometry.draw import layouts, shapes


def check(source: Layout, target: Layout) -> bool:
    """Compare all that is known of an exchange; False where the pattern does not know."""
    found, truth = pattern(source, target), Exchange(source, target)
    if found is None:
        return False
    assert found.kind == truth.kind
    if truth.kind != "none":  # of nothing the axes are not asked
        assert found.axes == truth.axes
    for rank in range(max(source.scheme.ranks.stop, target.scheme.ranks.stop) + 1):
        assert found.group(rank) == truth.group(rank)
    return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_two_layouts_whose_grids_nest(data):
    shape = data.draw(shapes())
    source, target = data.draw(layouts(shape)), data.draw(layouts(shape))
    first = source.scheme.first
    known = check(source, replace(target, scheme=replace(target.scheme, first=first)))
    sizes = source.scheme.grid.size, target.scheme.grid.size
    powers = all(a & (a - 1) == 0 for a in sizes)
    assert known or not powers, "powers of two always nest"


def test_grids_that_do_not_nest_are_not_told():
    source = Layout(Scheme(GridShape.of(n=2)), (cut(12, GridShape.of(n=2), ("n",)),))
    target = Layout(Scheme(GridShape.of(n=3)), (cut(12, GridShape.of(n=3), ("n",)),))
    assert pattern(source, target) is None


GRIDS = (
    "n4",
    "k4",
    "n2 k2",
    "h2 k2",
    "h4",
    "n2 h2 w2",
    "c2 k2",
    "n2 k6",
    "n3 c4",
    "w3 k2",
    "n2 k2 c2",
    "k12",
    "h2 c4",
)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "rnntc"])
@pytest.mark.parametrize("grid", GRIDS)
def test_networks_on_one_grid(name, grid):
    network, scheme = usual(name), Scheme(GridShape.parse(grid))
    placed = place_network(network, {n.name: scheme for n in network.nodes}, 4, scheme.grid.size)
    inner = [i.exchange for x in placed.layers for i in x.placement.inner]
    for exchange in {
        *(e.exchange for e in placed.edges if e.exchange),
        *(x.settle for x in placed.layers),
        *inner,
    }:
        assert check(exchange.source, exchange.target)
        assert check(exchange.target, exchange.source)


@pytest.mark.parametrize("one", ["n8", "n4 k2", "k4 h2", "n4", "h2"])
@pytest.mark.parametrize("two", ["n2 k4", "k8", "c8", "n2 h2 w2", "n2"])
def test_networks_that_change_grids(one, two):
    network = usual("lenet")
    grids = [Scheme(GridShape.parse(g)) for g in (one, two)]
    schemes = {n.name: grids[i % 2] for i, n in enumerate(network.nodes)}
    placed = place_network(network, schemes, 8, 8)
    for edge in placed.edges:
        if edge.exchange is not None:
            assert check(edge.exchange.source, edge.exchange.target)
            assert check(edge.exchange.target, edge.exchange.source)
