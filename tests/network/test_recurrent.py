"""Recurrent networks as descriptions: shapes, weights and operations by hand, placements by enumeration."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import AXES, GridShape, Scheme
from gridnn.geometry.layout import Layout
from gridnn.geometry.window import Window
from gridnn.network import count
from gridnn.network import spec as s
from gridnn.network.buckets import plan_buckets
from gridnn.network.graph import Builder, Network, check_runs
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.placement import Placement, place
from gridnn.network.zoo import build, names, usual

GRIDS = [
    "n1", *(f"{a}{size}" for a in AXES for size in (2, 3)), *(f"{a}2 {b}3" for a, b in pairwise(AXES)),
    "n2 k2 c2", "k2 c2 w2", "n2 k2 c2 w2", "k11", "w11",
]  # fmt: skip
THREE = (Window(3, 1, 1, 1),)
BATCH, X = 5, (5, 6, 8)  # batch, features, steps


def uniform(network: Network, grid: str, batch: int = 6) -> PlacedNetwork:
    scheme = Scheme(GridShape.parse(grid))
    return place_network(
        network, dict.fromkeys((n.name for n in network.nodes), scheme), batch, scheme.grid.size
    )


def owners(layout: Layout) -> np.ndarray:
    owned = np.zeros(layout.shape, int)
    for rank in layout.scheme.ranks:
        owned[tuple(slice(*i) for i in layout.box(rank))] += 1
    return owned


KINDS: list[tuple[s.LayerSpec, tuple[tuple[int, ...], ...]]] = [
    (s.Embedding(11, 6), ((BATCH, 1, 8),)),
    (s.Embedding(11, 7, (3, 8)), ((BATCH, 1, 8),)),
    (s.LSTM(7), (X,)),
    (s.LSTM(7, (2, 5)), (X, (BATCH, 7, 4), (BATCH, 7, 4))),
    (s.LSTM(7, last=True), (X, (BATCH, 7), (BATCH, 7))),
    (s.Attention(), (X, (BATCH, 6, 5))),
    (s.Join(), (X, (BATCH, 6, 3), (BATCH, 6, 1))),
]


def placements(spec: s.LayerSpec, inputs: tuple[tuple[int, ...], ...]) -> list[tuple[Scheme, Placement]]:
    out = (BATCH, *s.out_shape(spec, tuple(i[1:] for i in inputs), "layer"))
    schemes = [Scheme(GridShape.parse(grid), first=at % 3) for at, grid in enumerate(GRIDS)]
    return [(scheme, place(spec, inputs, out, scheme)) for scheme in schemes]


@pytest.mark.parametrize(("spec", "inputs"), KINDS)
def test_placements(spec, inputs):
    for scheme, placed in placements(spec, inputs):
        assert placed.out.at_rest
        assert (owners(placed.out) == 1).all()
        owed = scheme.grid["c"] if isinstance(spec, s.Embedding) else 1
        assert (owners(placed.raw) == owed).all()
        for parameter in placed.parameters:
            uncut = prod(scheme.grid[a] for a in AXES if a not in "kc")
            assert (owners(parameter.layout) == uncut).all()
        # The work is cut evenly by what cuts the output: nothing is computed twice, nothing left out.
        total = count.multiply_adds(spec, placements(spec, inputs)[0][1], 0)
        assert sum(count.multiply_adds(spec, placed, r) for r in scheme.ranks) == total
        for need, shape in zip(placed.needs, inputs, strict=True):
            assert need.shape == shape


@pytest.mark.parametrize(("spec", "inputs"), KINDS)
def test_needs(spec, inputs):
    """What a rank's block reads, dim by dim, from the words of the kinds."""
    for scheme, placed in placements(spec, inputs):
        for rank in scheme.ranks:
            batch, *features = (set(range(*i)) for i in placed.raw.box(rank))
            if not all((batch, *features)):
                continue
            held = [[set(range(*i)) for i in need.box(rank)] for need in placed.needs]
            if isinstance(spec, s.Embedding):
                start = spec.steps[0] if spec.steps else 0
                assert held == [[batch, {0}, {t + start for t in features[1]}]]
            elif isinstance(spec, s.LSTM):
                steps, hidden = set(range(*(spec.steps or (0, X[2])))), set(range(7))
                assert held[0] == [batch, set(range(X[1])), steps]
                if len(inputs) > 1 and len(inputs[1]) == 3:  # the last step whole; as much as the cell, cut
                    assert held[1:] == [[batch, hidden, {inputs[1][2] - 1}], [batch, features[0], {0}]]
                elif len(inputs) > 1:
                    assert held[1:] == [[batch, hidden], [batch, features[0]]]
            elif isinstance(spec, s.Attention):
                assert held == [[batch, *features], [batch, features[0], set(range(5))]]
            else:
                joined = [(at, t) for at, i in enumerate(inputs) for t in range(i[2])]
                for at, hold in enumerate(held):
                    mine = {joined[t][1] for t in features[1] if joined[t][0] == at}
                    assert hold[2] == mine
                    assert hold[:2] == [batch, features[0]] or not mine


def test_hidden_states_are_gathered_before_each_step():
    spec = s.LSTM(7, (2, 8))
    placed = place(spec, (X,), (BATCH, 7, 6), Scheme(GridShape.parse("n2 k2 c2")))
    (inner,) = placed.inner
    assert (inner.times, inner.exchange.kind, inner.exchange.axes) == (5, "allgather", ("k", "c"))
    assert inner.exchange.source.shape == (BATCH, 7)
    assert inner.exchange.transpose().kind == "reduce_scatter"
    assert [k.shape for k in placed.kept] == [(BATCH, 5, 7, 6)]
    for grid in ("n4", "w3", "n2 w2"):  # batch only: every rank has all of its samples
        assert not place(spec, (X,), (BATCH, 7, 6), Scheme(GridShape.parse(grid))).inner
    # A single step gathers nothing, the state that it begins with came by an edge.
    assert not place(s.LSTM(7, (2, 3)), (X,), (BATCH, 7, 1), Scheme(GridShape.parse("k2"))).inner


def test_products_of_attention_are_summed_over_features():
    inputs, out = (X, (BATCH, 6, 5)), X
    placed = place(s.Attention(), inputs, out, Scheme(GridShape.parse("n2 k2 w2")))
    kinds = [(i.times, i.exchange.kind, i.exchange.axes) for i in placed.inner]
    assert kinds == [(1, "reduce_scatter", ("k",)), (1, "allgather", ("k",))]
    assert {i.exchange.source.shape for i in placed.inner} == {(BATCH, 8, 5)}
    assert not place(s.Attention(), inputs, out, Scheme(GridShape.parse("n2 w2"))).inner


def lstm(c: int, h: int) -> int:
    return 4 * h * (c + h + 1)


# By hand: embedding, LSTM layers, softmax; nmt: two embeddings, four LSTM layers, attention's 2H to H, softmax.
WEIGHTS = {
    "rnntc": 18_765 * 1024 + 4 * lstm(1024, 1024) + 1024 * 2 + 2,
    "rnnlm": 10_000 * 2048 + 2 * lstm(2048, 2048) + 2048 * 10_000 + 10_000,
    "nmt": 2 * 32_000 * 1024 + 4 * lstm(1024, 1024) + 2 * 1024**2 + 1024 * 32_000 + 32_000,
}
MULTIPLY_ADDS = {
    "rnntc": 40 * 4 * 8 * 1024**2 + 2048,
    "rnnlm": 40 * (2 * 8 * 2048**2 + 2048 * 10_000),
    "nmt": 40 * (4 * 8 * 1024**2 + 2 * 1024**2 + 1024 * 32_000 + 2 * 40 * 1024),
}


@pytest.mark.parametrize(("name", "pieces"), list(product(WEIGHTS, (1, 5, 7))))
def test_counts(name, pieces):
    network = usual(name, pieces=pieces)
    assert count.parameter_count(network) == WEIGHTS[name]
    assert count.flop_count(network) == 2 * MULTIPLY_ADDS[name]
    assert sum(isinstance(n.spec, s.LSTM) for n in network.nodes) == pieces * {"rnnlm": 2}.get(name, 4)
    out = {"rnntc": (2,), "rnnlm": (10_000, 40), "nmt": (32_000, 40)}[name]
    assert network.shapes[network.output] == out


def test_nmt_moves_what_was_published():
    """Jia et al. 2019 count 65.8 GB an iteration for data parallelism on 64 GPUs; sums of the gradients are all of it.

    Their attention differs a little from ours, so within 5 %.
    """
    weights, ranks = count.parameter_count(usual("nmt")), 64
    moved = (
        ranks * 2 * (ranks - 1) / ranks * weights * 4
    )  # all-reduce of float32: bytes received by all ranks
    assert moved == pytest.approx(65.8e9, rel=0.05)


@pytest.mark.parametrize("grid", ["n2 k2", "k2 c2", "w2 n2", "k3"])
def test_pieces_have_the_weights_of_the_whole(grid):
    """Weights that pieces share are there once, their gradients summed once; pieces pass the state on."""
    whole, pieces = (uniform(build("nmt", (1, 20), 11, hidden=6, pieces=p), grid) for p in (1, 3))
    for rank in range(whole.procs):
        sizes = [
            sorted((e.size, e.axes) for b in plan_buckets(placed, rank, 1 << 20, 4) for e in b.entries)
            for placed in (whole, pieces)
        ]
        assert sizes[0] == sizes[1]
    assert sum(len(x.placement.parameters) for x in pieces.layers) == sum(
        len(x.placement.parameters) for x in whole.layers
    )


def test_the_cell_stays_where_it_is_between_pieces():
    placed = uniform(build("rnnlm", (1, 12), 11, hidden=6, pieces=3), "n2 k2")
    at = {x.node.name: x for x in placed.layers}
    layer = at["lstm1.2"]
    x, hidden, cell = (placed.edges[e] for e in layer.edges)
    assert (x.producer, hidden.producer, cell.producer) == ("embedding", "lstm1.1", "lstm1.1")
    assert cell.exchange == Exchange(at["lstm1.1"].placement.out, cell.need)
    assert cell.exchange is not None and hidden.exchange is not None
    assert (cell.exchange.kind, cell.exchange.axes) == ("none", ())
    assert hidden.exchange.axes == ("k",)
    assert hidden.need.block_shape(0) == (3, 6, 1)


def test_shared_weights_have_one_scheme():
    network = build("rnnlm", (1, 12), 11, hidden=6, pieces=2)
    assert network.tied == {"lstm1.2": "lstm1.1", "lstm2.2": "lstm2.1"}
    schemes = {n.name: Scheme(GridShape.parse("n2")) for n in network.nodes}
    place_network(network, schemes | {n: Scheme(GridShape.parse("k2")) for n in ("lstm1.1", "lstm1.2")}, 4, 2)
    with pytest.raises(
        InputError, match=r"layers lstm2\.1 .*and lstm2\.2 .*share weights; give them one grid"
    ):
        place_network(network, schemes | {"lstm2.2": Scheme(GridShape.parse("k2"))}, 4, 2)


def test_descriptions_are_not_executed():
    described = {"rnntc", "rnnlm", "nmt"}
    for name in set(names()) - described:
        check_runs(usual(name))
    for name in described:
        with pytest.raises(InputError, match=f"network {name} is a description for planning only"):
            check_runs(usual(name))
    net = Builder("twins", (3, 5))
    x = net.add_layer(conv := s.Conv(3, THREE), [net.input], "a")
    x = net.add_layer(conv, [x], "b", shared="a")
    with pytest.raises(InputError, match="the first, b, shares weights"):
        check_runs(net.done(net.cross_entropy(x)))


@pytest.mark.parametrize(
    ("name", "shape", "chosen", "words"),
    [
        ("rnnlm", (3, 8, 8), {}, "needs words, an input of (1, steps)"),
        ("rnntc", (2, 8), {}, "needs words"),
        ("nmt", (1, 9), {}, "9 words; give an even number"),
        ("rnnlm", (1, 8), {"pieces": 9}, "9 pieces of 8 steps; use 1 to 8"),
        ("rnnlm", (1, 8), {"pieces": 0}, "0 pieces"),
        ("rnnlm", (1, 8), {"hidden": 0}, "at least 1"),
    ],
)
def test_bad_networks(name, shape, chosen, words):
    with pytest.raises(InputError) as error:
        build(name, shape, 10, **chosen)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("spec", "inputs", "words"),
    [
        (s.LSTM(4), ((3, 8, 8),), "needs sequences (features, steps)"),
        (s.LSTM(4, (3, 9)), ((3, 8),), "reads steps 3 to 9 of an input that has 8"),
        (s.LSTM(4), ((3, 8), (4, 8)), "hidden state and again for the cell"),
        (s.LSTM(4), ((3, 8), (5, 8), (5, 8)), "an LSTM of 4"),
        (s.LSTM(0), ((3, 8),), "hidden 0"),
        (s.Embedding(9, 4), ((3, 8),), "takes words (1, steps)"),
        (s.Embedding(0, 4), ((1, 8),), "vocabulary 0"),
        (s.Attention(), ((3, 8),), "queries and keys"),
        (s.Attention(), ((3, 8), (4, 8)), "queries and keys"),
        (s.Join(), ((3, 8), (4, 8)), "cannot join"),
    ],
)
def test_bad_layers(spec, inputs, words):
    with pytest.raises(InputError) as error:
        s.out_shape(spec, inputs, "odd")
    assert str(error.value).startswith("layer odd: ")
    assert words in str(error.value)


def test_bad_sharing():
    net = Builder("twins", (4, 5))
    net.conv(net.input, 4, 3, pad=1, name="a")
    for spec in (
        s.Conv(5, THREE),
        s.Conv(4, (Window(1),)),
        s.Conv(4, THREE, groups=2),
        s.LSTM(4),
    ):
        with pytest.raises(InputError, match="the weights of a are of another kind or shape"):
            net.add_layer(spec, ["a"], "b", shared="a")
    net.add_layer(s.Conv(4, (Window(3, 2),)), ["a"], "b", shared="a")  # another stride has the same weights
    for other in ("b", "c"):
        with pytest.raises(
            InputError, match=f"{other}, whose weights it shares, is no earlier layer with its own"
        ):
            net.add_layer(s.Conv(4, THREE), ["a"], "d", shared=other)
