"""The layer-wise problem where layers share weights: one choice, and every cost of every layer in it, once."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.spec import Conv
from gridnn.network.zoo import build
from gridnn.plan.exact.costgraph import cost_of
from gridnn.plan.exact.eliminate import cheapest
from gridnn.plan.problem import Job, Problem, space
from tests.cost.test_tables import RATES, TWO_LEVELS, plain


def turning() -> Network:
    """Two pairs of layers that share weights, with edges both ways between the pairs and of one with itself."""
    net = Builder("turning", (8, 8, 8))
    a = net.conv(net.input, 8, 3, pad=1, name="a")
    b = net.conv(a, 8, 3, pad=1, bias=False, name="b")
    spec = {n.name: n.spec for n in net.nodes}
    assert isinstance(spec["a"], Conv)
    x = net.add_layer(spec["b"], [b], "b2", shared="b")
    x = net.add_layer(spec["a"], [x], "a2", shared="a")
    x = net.linear(net.global_pool(net.add(x, a)), 4)
    return net.done(net.cross_entropy(x))


NETWORKS = {
    "turning": turning,
    "rnnlm": lambda: build("rnnlm", (1, 9), 16, hidden=8, pieces=3),
    "nmt": lambda: build("nmt", (1, 8), 16, hidden=8, pieces=2),
}


def total(problem: Problem, choice: tuple[int, ...]) -> tuple[float, float]:
    """Seconds and bytes layer by layer and edge by edge: what the graph has merged."""
    own = [choice[owner] for owner in problem.owner]
    seconds = sum(layer.seconds[c] for layer, c in zip(problem.layers, own, strict=True))
    seconds += sum(problem.edge(p, c, n)[own[p], own[c]] for p, c, n in problem.edges)
    return float(seconds), float(
        sum(layer.memory_bytes[c] for layer, c in zip(problem.layers, own, strict=True))
    )


def draw(problem: Problem, rng: random.Random) -> tuple[int, ...]:
    sizes = [len(v) for v in problem.costs]
    return tuple(rng.randrange(size) for size in sizes)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("machine", "procs"), [(RATES, 4), (TWO_LEVELS, 8), (TWO_LEVELS, 6)])
def test_a_graph_has_every_cost_once(name, machine, procs, sample_seed):
    network, rng = NETWORKS[name](), random.Random(sample_seed)
    job = Job(network, machine, procs, 24, passes=2)
    problem = Problem(job, space(job))
    best = cheapest(problem.graph)
    for _ in range(50):
        choice = draw(problem, rng)
        seconds, size = total(problem, choice)
        assert cost_of(problem.graph, choice) == pytest.approx(seconds, rel=1e-12)
        assert sum(v[c] for v, c in zip(problem.memory_bytes, choice, strict=True)) == size
        assert best.cost <= seconds
    assert best.cost == pytest.approx(total(problem, best.choice)[0], rel=1e-12)


def test_the_cheapest_of_all_grids_is_found():
    """Every combination of grids on two processes, gone through one by one."""
    network = build("rnnlm", (1, 4), 16, hidden=8, pieces=2)
    job = Job(network, RATES, 2, 4)
    problem = Problem(job, space(job))
    every = product(*(range(len(vector)) for vector in problem.costs))
    least = min(total(problem, choice)[0] for choice in every)
    assert cheapest(problem.graph).cost == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_schemes_can_be_placed(name, sample_seed):
    network, rng = NETWORKS[name](), random.Random(sample_seed)
    job = Job(network, TWO_LEVELS, 8, 24)
    problem = Problem(job, space(job))
    for _ in range(20):
        choice = draw(problem, rng)
        schemes = problem.schemes(choice)
        place_network(network, schemes, 24, 8)
        assert all(schemes[name] == schemes[owner] for name, owner in network.tied.items())
        rows = [
            grids.degrees[choice[at]] for grids, at in zip(problem.candidates, problem.owner, strict=True)
        ]
        degrees = {node.name: tuple(row) for node, row in zip(network.nodes, rows, strict=True)}
        assert problem.choice(degrees) == choice


@pytest.mark.parametrize("name", NETWORKS)
def test_links_by_rows_and_columns_are_cut_from_the_whole_and_above_their_floors(name):
    job = Job(NETWORKS[name](), TWO_LEVELS, 8, 24)
    problem = Problem(job, space(job))
    positive = False
    for pair, floor in problem.floors.items():
        whole = problem.link(pair)
        rows, columns = np.arange(0, whole.shape[0], 2), np.arange(1, whole.shape[1], 3)
        assert problem.link(pair, rows, columns) == pytest.approx(whole[rows][:, columns], rel=1e-12)
        assert (floor <= whole.min(axis=0) * (1 + 1e-9)).all()
        positive = positive or bool((floor > 0).any())
    assert positive
    turned = [e for pair, edges in problem.links.items() for e in edges if problem.owner[e[0]] != pair[0]]
    assert bool(turned) == (name == "turning")


def test_weights_of_many_layers_are_summed_and_kept_once():
    """An LSTM in pieces has the gradient sums and the weights of the whole one."""
    grids, found = [GridShape.parse(g).sizes for g in ("n4", "k4", "n2 k2")], []
    for pieces in (1, 4):
        network = build("rnnlm", (1, 8), 16, hidden=8, pieces=pieces)
        job = Job(network, RATES, 4, 8, states=0)
        problem = Problem(job, space(job, extra={n.name: grids for n in network.nodes}))
        lstm = [i for i, n in enumerate(network.nodes) if n.name.startswith("lstm1")]
        at = [problem.candidates[lstm[0]].degrees.tolist().index(list(g)) for g in grids]
        found.append(np.sum([problem.layers[i].gradients_s[at] for i in lstm], axis=0))
        weights = 4 * 8 * (8 + 8 + 1) * 2 * 4
        inputs_and_gates = (8 + 5 * 8) * 8 * 8 * 4
        states = (pieces - 1) * 2 * 8 * 8 * 4  # each piece but the first keeps the state that it begins with
        alone = problem.candidates[lstm[0]].degrees.tolist().index([1] * 6)
        assert problem.memory_bytes[lstm[0]][alone] == weights + inputs_and_gates + states
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert (found[0][[0, 2]] > 0).all() and found[0][1] == 0


def test_pins_and_grids_of_layers_with_the_same_weights():
    network = build("rnnlm", (1, 8), 16, hidden=8, pieces=2)
    job = Job(network, RATES, 4, 8)
    n4, k4 = (4, 1, 1, 1, 1, 1), (1, 4, 1, 1, 1, 1)
    problem = Problem(job, space(job, pins={"lstm1.2": k4}))
    schemes = problem.schemes(cheapest(problem.graph).choice)
    assert schemes["lstm1.1"] == schemes["lstm1.2"] == Scheme(GridShape.parse("k4"))
    odd = (1, 1, 3, 1, 1, 1)
    candidates = space(job, extra={"lstm1.2": [odd]})
    assert all(
        (list(odd) in grids.degrees.tolist()) == node.name.startswith("lstm1")
        for node, grids in zip(network.nodes, candidates, strict=True)
    )
    with pytest.raises(InputError, match=r"share the weights of lstm1\.1 have one grid; pin them alike"):
        space(job, pins={"lstm1.1": n4, "lstm1.2": k4})
    other = space(job, pins={"lstm1.1": n4})[1]
    with pytest.raises(InputError, match=r"layers lstm1\.1 and lstm1\.2 share weights"):
        Problem(job, [*candidates[:2], other, *candidates[3:]])


def test_nothing_is_merged_where_nothing_is_shared():
    job = Job(plain(), RATES, 4, 16)
    problem = Problem(job, space(job))
    assert problem.owner == tuple(range(len(problem.nodes)))
    assert [len(cost) for cost in problem.costs] == [len(grids) for grids in problem.candidates]
    assert set(problem.links) == {(p, c) for p, c, _ in problem.edges}
