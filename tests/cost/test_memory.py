"""Memory of recurrent networks, counted by hand: nothing executes them (for all others see tests/layers)."""

from __future__ import annotations

import pytest

from gridnn.cost.memory import MemoryUse, predict_memory, worst_moment
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Network
from gridnn.network.placed import PlacedNetwork, place_network
from gridnn.network.zoo import build

BATCH, STEPS, HIDDEN, WORDS = 2, 4, 6, 22
WEIGHTS = WORDS * HIDDEN + 4 * HIDDEN * (2 * HIDDEN + 1) + HIDDEN * WORDS + WORDS


def language_model(pieces: int = 1) -> Network:
    """Embedding, one LSTM, softmax over the words."""
    whole = build("rnnlm", (1, STEPS), WORDS, hidden=HIDDEN, pieces=pieces)
    second = {n.name for n in whole.nodes if n.name.startswith("lstm2")}
    last = {n: n.replace("lstm2", "lstm1") for n in second}
    nodes = [n for n in whole.nodes if n.name not in second]
    moved = [type(n)(n.name, n.spec, tuple(last.get(i, i) for i in n.inputs), n.shared) for n in nodes]
    return Network("one", whole.input_shape, tuple(moved))


def _placed(network: Network, grid: str) -> PlacedNetwork:
    scheme = Scheme(GridShape.parse(grid))
    schemes = dict.fromkeys((n.name for n in network.nodes), scheme)
    return place_network(network, schemes, BATCH, scheme.grid.size)


def memory(network: Network, grid: str, rank: int = 0) -> MemoryUse:
    return predict_memory(_placed(network, grid), rank, 4, 2)


def test_the_worst_moment_of_an_lstm() -> None:
    """The loss: words embedded, gates and cells, states, logits are kept, and the gradient of the logits is made."""
    state, logits = BATCH * STEPS * HIDDEN, BATCH * STEPS * WORDS
    found = memory(language_model(), "n1")
    assert found == MemoryUse(2 * 4 * WEIGHTS, 2 * 4 * WEIGHTS, 4 * (state + 5 * state + state + 2 * logits))


def test_gates_are_cut_and_inputs_are_whole() -> None:
    """By k: half of the gates; the embedded words whole, as they arrived, and the states whole for the softmax."""
    state, logits = BATCH * STEPS * HIDDEN, BATCH * STEPS * WORDS
    found = memory(language_model(), "k2")
    assert found.arrays_bytes == 4 * (state + 5 * state // 2 + state + 2 * logits // 2)
    assert found.parameters_bytes == 4 * WEIGHTS  # half of value and gradient


@pytest.mark.parametrize("grid", ["n1", "n2", "k2", "w2"])
def test_layers_that_share_weights_have_them_once(grid: str) -> None:
    whole, pieces = (memory(language_model(pieces), grid) for pieces in (1, 2))
    assert (whole.parameters_bytes, whole.state_bytes) == (pieces.parameters_bytes, pieces.state_bytes)


def test_attention_keeps_its_inputs_and_its_shares() -> None:
    """Longer keys: their steps are in the keys and in a share for each word of the translation."""
    sizes = [
        memory(build("nmt", (1, 2 * steps), 3, hidden=HIDDEN), "n1").arrays_bytes for steps in (40, 80, 120)
    ]
    # All else grows with the steps; the shares alone with their square.
    assert sizes[2] - 2 * sizes[1] + sizes[0] == 4 * BATCH * 2 * 40 * 40


def test_whose_arrays_are_alive_at_the_worst_moment() -> None:
    """The loss makes the gradient of the logits beside all that is kept: the LSTM has gates, cells and states."""
    state, logits = BATCH * STEPS * HIDDEN, BATCH * STEPS * WORDS
    network = language_model()
    loss, linear, embedding = network.nodes[-1].name, network.nodes[-2].name, network.nodes[0].name
    found = worst_moment(_placed(network, "n1"), 0, 4)
    assert (found.layer, found.direction) == (loss, "backward")
    sizes = {"lstm1": 6 * state, loss: logits, linear: logits, embedding: state}
    assert {name: count for name, count in found.arrays.items() if count} == {
        name: 4 * count for name, count in sizes.items()
    }
    assert next(iter(found.arrays)) == max(sizes, key=sizes.__getitem__)


@pytest.mark.parametrize("grid", ["n2", "k2", "h2", "c2"])
@pytest.mark.parametrize("name", ["resnet20", "alexnet"])
def test_arrays_of_the_worst_moment_are_those_predicted(name: str, grid: str) -> None:
    network = build(name, (3, 32, 32) if name == "resnet20" else (3, 227, 227), 10)
    placed = _placed(network, grid)
    for rank in range(2):
        found = worst_moment(placed, rank, 4)
        assert sum(found.arrays.values()) == predict_memory(placed, rank, 4, 0).arrays_bytes
        assert set(found.arrays) <= {node.name for node in network.nodes}
