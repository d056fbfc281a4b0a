"""Which layers the known plans treat as fully connected, and recurrent networks against all of them."""

from __future__ import annotations

import pytest

from gridnn.cost.machine import load_machine
from gridnn.network import zoo
from gridnn.network.graph import Builder
from gridnn.network.placed import place_network
from gridnn.plan.baselines import candidates, fully_connected, uniform
from gridnn.plan.problem import Job
from gridnn.plan.search import search
from gridnn.plan.space import axis_limits
from tests.cost.test_tables import RATES


@pytest.mark.parametrize(
    ("network", "late"),
    [
        (zoo.usual("resnet50"), {"linear1", "loss"}),
        (
            zoo.usual("unet"),
            set(),
        ),  # its last convolution is of window 1, but not over the steps of a sequence
        (zoo.usual("rnntc", pieces=5), {"softmax", "loss"}),
        (zoo.usual("rnnlm", pieces=5), {"softmax", "loss"}),
        (zoo.usual("nmt"), {"combine", "tanh1", "softmax", "loss"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_linear_layers_over_steps_are_fully_connected(network, late):
    assert fully_connected(network) == late


def test_layers_that_share_weights_are_late_together_or_not_at_all():
    net = Builder("shared", (4, 6, 6))
    x = net.conv(net.input, 4, 1, name="early")
    x = net.linear(net.flatten(x), 16, name="one")
    x = net.add_layer(net.nodes[-1].spec, [net.linear(x, 144)], "two", shared="one")
    assert fully_connected(net.done(net.cross_entropy(x))) >= {"one", "linear2", "two"}
    net = Builder("shared", (4, 6, 6))
    x = net.conv(net.input, 4, 1, name="early")
    y = net.add_layer(net.nodes[0].spec, [net.conv(x, 4, 1)], "again", shared="early")
    assert fully_connected(net.done(net.cross_entropy(net.linear(net.flatten(y), 2)))) == {"linear1", "loss"}


def test_one_weird_trick_on_a_language_model():
    job = Job(zoo.usual("rnnlm", pieces=5), RATES, 8, 64)
    (owt,) = candidates(job)["owt"]
    assert owt["softmax"] == (1, 8, 1, 1, 1, 1)
    assert owt["embedding"] == owt["lstm1.1"] == owt["lstm2.4"] == (8, 1, 1, 1, 1, 1)


def test_limits_of_layers_in_sequences():
    network = zoo.usual("nmt", pieces=3)
    nodes = {n.name: n for n in network.nodes}

    def limits(name: str) -> dict[str, int]:
        return axis_limits(network, nodes[name], 64)

    assert limits("source") == {"n": 64, "k": 1024, "c": 32_000}
    assert limits("encoder1.1") == limits("encoder1.3") == {"n": 64, "k": 1024}
    assert limits("attention") == limits("keys") == {"n": 64, "k": 1024, "w": 40}
    assert limits("softmax") == {"n": 64, "k": 32_000, "c": 1024, "w": 40}


def test_layers_that_share_weights_have_the_smallest_limits_of_all():
    net = Builder("sizes", (4, 8, 8))
    x = net.conv(net.input, 4, 3, pad=1, name="wide")
    x = net.add_layer(net.nodes[0].spec, [net.max_pool(x, 2)], "narrow", shared="wide")
    network = net.done(net.cross_entropy(net.linear(net.flatten(x), 2)))
    for name in ("wide", "narrow"):
        node = next(n for n in network.nodes if n.name == name)
        assert axis_limits(network, node, 16) == {"n": 16, "k": 4, "c": 4, "h": 4, "w": 4}


@pytest.mark.parametrize("name", ["rnntc", "rnnlm", "nmt"])
@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize("procs", [4, 16])
def test_no_baseline_beats_the_search_on_recurrent_networks(name, pieces, procs):
    """64 samples a process, as Jia et al. 2019 measured."""
    network, batch = zoo.usual(name, pieces=pieces), 64 * procs
    for machine in ("k80-cluster", "p100-cluster"):
        job = Job(network, load_machine(machine), procs, batch)
        found = search(job)
        assert all(found.step_s <= seconds * (1 + 1e-12) for seconds in found.baselines.values())
        assert found.lower_s == pytest.approx(found.step_s, rel=1e-12)
        place_network(network, found.schemes, batch, procs)
        # Weights that each sample hardly uses are cut, not copied; as published, but by features, on all ranks.
        embeddings = [n.name for n in network.nodes if type(n.spec).__name__ == "Embedding"]
        assert all(found.schemes[e].grid["n"] < procs and found.schemes[e].grid["k"] > 1 for e in embeddings)
    if name == "nmt" and procs == 4:
        assert str(found.schemes["softmax"]) == "k4"  # by channel (Jia et al. 2019)
        assert found.step_s < 0.8 * found.baselines["data"]


def test_one_grid_for_a_network_in_pieces():
    network = zoo.build("rnnlm", (1, 8), 16, hidden=16, pieces=2)
    schemes, seconds = uniform(Job(network, RATES, 4, 16))
    assert len(set(schemes.values())) == 1
    assert seconds > 0
