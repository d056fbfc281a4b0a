"""Methods: what a searched plan promises, on machines and networks of the papers."""

from __future__ import annotations

from math import prod

import pytest

from gridnn.cost.machine import load_machine
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.plan.baselines import BASELINES, candidates, price_all, uniform, uniform_grids
from gridnn.plan.problem import Job
from gridnn.plan.search import MODEL_ERROR, Found, search
from tests.cost.test_tables import RATES, TWO_LEVELS, plain, residual

VGG = zoo.build("vgg16", (3, 224, 224), 1000)
ALEXNET = zoo.build("alexnet", (3, 227, 227), 1000)


def grids(found: Found, network: Network, kind: str) -> list[str]:
    return [str(found.schemes[n.name]) for n in network.nodes if type(n.spec).__name__ == kind]


@pytest.mark.parametrize("network", [residual(), plain()], ids=lambda n: n.name)
@pytest.mark.parametrize("machine", [RATES, TWO_LEVELS], ids=lambda m: m.name)
@pytest.mark.parametrize("procs", [1, 2, 3, 4, 6, 16])
def test_no_baseline_beats_the_searched_plan(network, machine, procs):
    found = search(Job(network, machine, procs, 48))
    assert set(found.baselines) == set(BASELINES)
    assert all(found.step_s <= seconds * (1 + 1e-12) for seconds in found.baselines.values())
    assert found.lower_s == pytest.approx(found.step_s, rel=1e-12)
    assert found.core == 1
    place_network(network, found.schemes, 48, procs)


def test_vgg_on_the_four_gpus_of_optcnn_has_the_published_strategy():
    """Jia et al. 2018, Table 5: convolutions by sample, fully connected layers by channel."""
    found = search(Job(VGG, load_machine("p100-cluster"), 4, 128))
    assert set(grids(found, VGG, "Conv")) <= {"n4", "n2 h2", "n2 w2", "h2 w2"}
    for name in grids(found, VGG, "Linear"):
        shape = GridShape.parse(name)
        assert shape["n"] == 1 and shape["k"] * shape["c"] in (2, 4)
    assert found.step_s < 0.9 * found.baselines["data"]


def test_one_weird_trick_and_data_parallelism_are_what_they_say():
    plans = candidates(Job(ALEXNET, RATES, 8, 64))
    late = {"fc6", "fc7", "fc8"}
    assert {plans["owt"][0][n] for n in late} == {(1, 8, 1, 1, 1, 1)}
    assert plans["owt"][0]["conv2"] == plans["data"][0]["fc6"] == (8, 1, 1, 1, 1, 1)
    assert {p["fc7"][:2] for p in plans["fc-only"]} == {(8, 1), (4, 2), (2, 4), (1, 8)}
    few = candidates(Job(ALEXNET, RATES, 64, 16))
    assert few["data"][0]["conv2"] == (16, 1, 1, 1, 1, 1)  # no more than there are samples


def test_the_uniform_grid_is_the_cheapest_of_all():
    job = Job(plain(), TWO_LEVELS, 4, 8)
    schemes, seconds = uniform(job)
    assert len(set(schemes.values())) == 1
    every = list(uniform_grids(job))
    assert len(every) == len(set(every)) and all(prod(g) == 4 for g in every)
    assert search(job, "uniform").step_s == seconds <= search(job, "data").step_s


def test_pins_hold_and_cost():
    job = Job(plain(), TWO_LEVELS, 4, 8)
    free = search(job)
    pinned = search(
        job, pins={"linear1": Scheme(GridShape.parse("h4")), "conv1": Scheme(GridShape.parse("k2"))}
    )
    assert str(pinned.schemes["linear1"]) == "h4" and str(pinned.schemes["conv1"]) == "k2"
    assert pinned.step_s > free.step_s


def test_a_memory_limit_is_kept():
    job = Job(plain(), TWO_LEVELS, 8, 64)
    free = search(job)
    limited = search(job, memory_bytes=0.7 * free.memory_bytes)
    assert limited.memory_bytes <= 0.7 * free.memory_bytes
    assert limited.step_s >= free.step_s
    with pytest.raises(InputError, match="leanest plan"):
        search(job, memory_bytes=100.0)


def test_a_small_gain_is_not_called_one():
    near = Found("dynamic", {}, 0.99, 0.99, 0.1, {"data": 1.0, "owt": 1.2})
    assert near.runner_up == ("data", 1.0) and near.margin == pytest.approx(0.01)
    assert "less than the model's error" in near.verdict
    far = Found("dynamic", {}, 0.5, 0.5, 0.1, {"data": 1.0})
    assert far.margin > MODEL_ERROR and "error" not in far.verdict and "50.0% faster" in far.verdict


def test_more_sizes_never_make_it_worse():
    job = Job(plain(), TWO_LEVELS, 6, 12)
    assert search(job, every=True).step_s <= search(job).step_s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "genetic"}, "method"),
        ({"method": "data", "pins": {"conv1": Scheme(GridShape())}}, "pins"),
        ({"pins": {"conv9": Scheme(GridShape())}}, "no such layer"),
        ({"pins": {"conv1": Scheme(GridShape.parse("n64"))}}, "processes"),
        ({"pins": {"conv1": Scheme(GridShape.parse("n2"), 2)}}, "rank 0"),
    ],
)
def test_what_cannot_be_asked(change, words):
    with pytest.raises(InputError, match=words):
        search(Job(plain(), RATES, 4, 8), **change)


def test_processes_that_no_layer_can_use():
    net = Builder("tiny", (2,))
    network = net.done(net.cross_entropy(net.linear(net.input, 2)))
    with pytest.raises(InputError, match="67 processes: no layer"):
        search(Job(network, RATES, 67, 3))
    assert (
        max(s.grid.size for s in search(Job(network, RATES, 7, 3)).schemes.values()) <= 4
    )  # powers of two as well
    with pytest.raises(InputError, match="at least 1"):
        Job(network, RATES, 0, 3)
    with pytest.raises(InputError, match="batch"):
        Job(network, RATES, 1, 5, passes=6)


@pytest.mark.parametrize(
    ("machine", "procs"), [("p100-cluster", 8), ("k80-cluster", 16), ("h100", 4), ("laptop", 2)]
)
@pytest.mark.parametrize("name", ["alexnet", "resnet20"])
def test_the_tables_of_a_search_are_the_prices_of_its_plans(name, machine, procs):
    network = zoo.usual(name)
    job = Job(network, load_machine(machine), procs, 32 * procs)
    for method in ("dynamic", "data", "owt", "uniform"):
        found = search(job, method)
        priced = price_plan(place_network(network, found.schemes, job.batch, procs), job.machine, 4)
        assert found.step_s == pytest.approx(priced.step_s, rel=0.03), method


def test_a_plan_costs_the_same_when_it_is_priced_again():
    """Layers that take over their producer's grid by name cut nothing else: `c` of a convolution is not `k`."""
    for network, machine, procs in ((ALEXNET, "p100-cluster", 8), (zoo.usual("resnet50"), "h100", 16)):
        job = Job(network, load_machine(machine), procs, 16 * procs)
        found = search(job)
        again = price_all(job, [{name: scheme.grid.sizes for name, scheme in found.schemes.items()}])
        assert again[0] == pytest.approx(found.step_s, rel=1e-12)
