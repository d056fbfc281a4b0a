"""Placed networks: shared edges, complete movements between any schemes, and refused schemes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.errors import InputError
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import volume
from gridnn.geometry.layout import Layout
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import PlacedNetwork, check_scheme, place_network
from tests.geometry.draw import schemes

PROCS = 11  # the largest drawn grid at the largest first rank


def branches() -> Network:
    """Build an inception-like block between a convolution and a classifier, with a residual connection."""
    net = Builder("branches", (2, 7, 5))
    stem = net.conv(net.input, 6, 3, pad=1, name="stem")
    one = net.conv(stem, 2, 1, name="one")
    three = net.conv(stem, 3, 3, pad=1, name="three")
    pool = net.conv(net.pool(stem, "average", 3, 1, 1, name="pool"), 1, 1, name="pooled")
    both = net.add(net.concat(one, three, pool, name="concat"), stem, name="sum")
    x = net.linear(net.flatten(net.relu(both, name="relu"), name="flatten"), 4, name="head")
    return net.done(net.cross_entropy(x))


def uniform(network: Network, text: str, batch: int = 6) -> PlacedNetwork:
    scheme = Scheme(GridShape.parse(text))
    return place_network(network, {n.name: scheme for n in network.nodes}, batch, scheme.grid.size)


def test_equal_needs_share_an_edge():
    placed = uniform(branches(), "n2 h2")
    users = {(e.producer, e.users) for e in placed.edges}
    # With h cut, `three` and the pool read one halo; `one` and the sum read the block itself.
    assert ("stem", ("one", "sum")) in users
    assert ("stem", ("three", "pool")) in users
    assert sum(e.producer == "stem" for e in placed.edges) == 2
    shared = next(e for e in placed.edges if e.users == ("three", "pool"))
    assert shared.exchange is not None
    assert (shared.owner, shared.exchange.kind) == ("three", "halo")
    # With k cut, both convolutions want all channels, the pool and the sum their own.
    users = {(e.producer, e.users) for e in uniform(branches(), "k2").edges}
    assert {("stem", ("one", "three")), ("stem", ("pool", "sum"))} <= users


def test_edges_are_numbered_and_belong_to_their_users():
    placed = uniform(branches(), "n2 k2")
    for layer in placed.layers:
        for number, producer, need in zip(layer.edges, layer.node.inputs, layer.placement.needs, strict=True):
            edge = placed.edges[number]
            assert (edge.producer, edge.need) == (producer, need)
            assert layer.node.name in edge.users
    assert [e.users for e in placed.edges if e.producer == "input"] == [("stem",)]


def test_a_layer_that_wants_an_input_twice_shares_the_edge():
    net = Builder("twice", (4,))
    x = net.linear(net.input, 4, name="a")
    network = net.done(net.squared_error(net.add(x, x, name="double")))
    placed = uniform(network, "n2")
    assert placed.layers[1].edges == (1, 1)
    assert placed.edges[1].users == ("double", "double")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_need_is_met_once_between_any_schemes(data):
    network = branches()
    chosen = {n.name: data.draw(schemes()) for n in network.nodes}
    placed = place_network(network, chosen, 8, PROCS)
    for layer in placed.layers:
        assert layer.scheme == chosen[layer.node.name]
        assert layer.settle == Exchange(layer.placement.raw, layer.placement.out)
    by_name = {layer.node.name: layer for layer in placed.layers}
    for edge in placed.edges:
        if edge.producer == "input":
            assert edge.exchange is None  # every rank reads what it needs
            continue
        assert edge.exchange is not None
        assert edge.exchange.source == by_name[edge.producer].placement.out
        assert edge.exchange.target == edge.need
        for rank in range(PROCS):
            pieces = [volume(box) for _, box in edge.exchange.receives(rank)]
            assert sum(pieces) == (volume(edge.need.box(rank)) if rank in edge.need.scheme.ranks else 0)
    for node in network.nodes:
        users = [e for e in placed.edges if node.name in e.users]
        assert {e.producer for e in users} == set(node.inputs)


def test_targets_of_class_numbers_have_no_class_dim():
    placed = uniform(branches(), "n2 k2 h2")
    assert placed.target.shape == (6,)
    assert [placed.target.box(r) for r in (0, 1, 2, 4)] == [((0, 2),), ((2, 3),), ((0, 2),), ((3, 5),)]
    assert placed.target.uncut == ("k",)  # every rank of a k group knows the class


def test_targets_per_pixel_and_of_squared_error():
    for pixels in (True, False):
        net = Builder("image", (3, 7, 5))
        x = net.conv(net.input, 4, 1)
        placed = uniform(net.done(net.cross_entropy(x) if pixels else net.squared_error(x)), "n2 k2 h3")
        assert placed.target.shape == ((6, 7, 5) if pixels else (6, 4, 7, 5))
        assert placed.target.at_rest != pixels
        assert isinstance(placed.target, Layout)
        assert placed.target.box(0)[-2:] == ((0, 3), (0, 5))


@pytest.mark.parametrize(
    ("grid", "first", "batch", "procs", "words"),
    [
        ("n8", 0, 16, 4, ("layer conv1 wants grid n8 = 8 processes", "there are 4", "start 8 processes")),
        ("n2", 3, 16, 4, ("grid n2 @3", "from rank 3", "start 5 processes")),
        ("n2", -1, 16, 4, ("from rank -1",)),
        ("n4 h2", 0, 3, 8, ("cuts the batch 4 ways", "only 3 samples", "n <= 3", "grid n4 h2")),
    ],
)
def test_schemes_that_cannot_be(grid, first, batch, procs, words):
    with pytest.raises(InputError) as error:
        check_scheme("conv1", Scheme(GridShape.parse(grid), first), batch, procs)
    assert all(w in str(error.value) for w in words), error.value


def test_place_network_refuses():
    network = branches()
    every = {n.name: Scheme(GridShape.parse("n2")) for n in network.nodes}
    with pytest.raises(InputError, match="layer three of network branches has no scheme"):
        place_network(network, {k: v for k, v in every.items() if k != "three"}, 4, 2)
    with pytest.raises(InputError, match="layer head cuts the batch 3 ways"):
        place_network(network, every | {"head": Scheme(GridShape.parse("n3"))}, 2, 4)


def test_degrees_above_other_extents_leave_empty_blocks():
    """Only the batch is refused: a linear layer on n3 h3 of 4 samples has ranks that wait."""
    placed = uniform(branches(), "n3 h3", batch=4)
    head = next(layer for layer in placed.layers if layer.node.name == "head")
    sizes = [volume(head.placement.out.box(r)) for r in range(9)]
    assert sizes.count(0) == 5
    assert sum(sizes) == 16
