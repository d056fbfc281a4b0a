"""What an explanation says is so: by pricing the plan it speaks of, and the plans it compares it with."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from gridnn.cost.machine import load_machine
from gridnn.cost.traffic import predict_step
from gridnn.errors import InputError
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network import spec as s
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.zoo import usual
from gridnn.plan.baselines import price_all
from gridnn.plan.explain.rival import faster
from gridnn.plan.explain.tell import as_json, lines
from gridnn.plan.explain.why import Explanation, explain, movement_kind
from gridnn.plan.problem import Job, space
from gridnn.plan.search import search
from tests.support.nets import build

CASES = ["residual", "inception", "unet", "linear-chain", "global-average"]


def job_of(network: Network, machine: str = "p100-cluster", procs: int = 8, batch: int = 16) -> Job:
    return Job(network, load_machine(machine), procs, batch)


def plain(schemes):
    return {name: scheme.grid.sizes for name, scheme in schemes.items()}


def random_plan(job: Job, seed: int) -> dict[str, Scheme]:
    """A grid for every layer out of its space; long runs of one grid are as likely as changes."""
    draw, last, plan = random.Random(seed), None, {}
    for node, grids in zip(job.network.nodes, space(job), strict=True):
        rows = list(map(tuple, grids.degrees.tolist()))
        if last not in rows or draw.random() < 0.5:
            last = draw.choice(rows)
        plan[node.name] = Scheme(GridShape(last))
    return plan


@cache
def explained(name: str, seed: int = 0) -> Explanation:
    job = job_of(build(name))
    return explain(job, random_plan(job, seed), exact=False)


@cache
def searched() -> Explanation:
    """A network large enough to have a plan of several grids."""
    job = job_of(usual("vgg16"), "p100-cluster", 16, 128)
    return explain(job, search(job).schemes)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_parts_add_up_to_the_price_of_the_plan(name, seed):
    found = explained(name, seed)
    plan = {layer.name: layer.scheme.grid.sizes for layer in found.layers}
    assert found.step_s == pytest.approx(price_all(found.job, [plan])[0], rel=1e-12)
    inputs = {node.name: [i for i in node.inputs if i != "input"] for node in found.job.network.nodes}
    assert all([name for name, _ in layer.edges_s] == inputs[layer.name] for layer in found.layers)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_next_best_is_the_cheapest_plan_with_one_layer_changed(name, seed):
    found = explained(name, seed)
    plan = {layer.name: layer.scheme.grid.sizes for layer in found.layers}
    here_s = price_all(found.job, [plan])[0]
    for layer, grids in zip(found.layers, space(found.job), strict=True):
        others = [tuple(row) for row in grids.degrees.tolist() if tuple(row) != plan[layer.name]]
        priced = price_all(found.job, [{**plan, layer.name: other} for other in others])
        rival = layer.rival
        assert rival is not None
        assert rival.more_s == pytest.approx(min(priced) - here_s, rel=1e-6, abs=1e-9 * here_s)
        at = others.index(rival.scheme.grid.sizes)
        assert priced[at] == pytest.approx(min(priced), rel=1e-9)
        # Growth by part is where the difference comes from.
        assert sum(more for _, more in rival.growth) == pytest.approx(rival.more_s, abs=1e-8 * here_s)


def test_a_grid_is_not_its_own_rival_under_another_name():
    net = Builder("net", (8, 8, 8))
    x = net.conv(net.input, 16, 3, pad=1)
    network = net.done(net.cross_entropy(net.linear(net.global_pool(net.relu(x)), 10)))
    job = job_of(network, procs=4)
    plan = {node.name: Scheme(GridShape.parse("n2 k2")) for node in network.nodes}
    for name in ("n2 k2", "n2 c2"):  # a ReLU cuts its channels by both alike
        relu = explain(job, {**plan, "relu1": Scheme(GridShape.parse(name))}, exact=False).layers[1]
        assert relu.name == "relu1" and relu.rival is not None
        assert str(relu.rival.scheme) not in ("n2 k2", "n2 c2") and relu.rival.more_s > 0
    conv = explain(job, {**plan, "conv1": Scheme(GridShape.parse("k4"))}, exact=False).layers[0]
    assert conv.rival is not None and str(conv.rival.scheme) != "k4"


def test_rivals_win_where_it_is_said():
    found = searched()
    plan = {layer.name: layer.scheme.grid.sizes for layer in found.layers}

    def margin(job: Job, name: str, rival: Scheme) -> float:
        mine, theirs = price_all(job, [plan, {**plan, name: rival.grid.sizes}])
        return theirs - mine

    links, batches = 0, 0
    for layer in found.layers:
        rival = layer.rival
        assert rival is not None
        if factor := rival.flip.bandwidth:
            links += 1
            away = (
                1.02 if factor > 1 else 1 / 1.02
            )  # a little further from the machine as it is, and a little nearer
            for turn, sign in ((away, -1), (1 / away, 1)):
                job = replace(found.job, machine=faster(found.job.machine, factor * turn))
                assert np.sign(margin(job, layer.name, rival.scheme)) == sign
        if batch := rival.flip.batch:
            batches += 1
            nearer = batch * 2 if batch < found.job.batch else batch // 2
            assert margin(replace(found.job, batch=batch), layer.name, rival.scheme) < 0
            assert margin(replace(found.job, batch=nearer), layer.name, rival.scheme) > 0
    assert links >= 3 and batches >= 1
    low, high = found.batches
    assert low == max(grid[0] for grid in plan.values()) and high == 64 * found.job.batch


def fully_connected(width: int, procs: int, batch: int, grid: str, layer: str = "") -> Explanation:
    """One linear layer and its loss on a grid, the linear layer on one of its own if given."""
    net = Builder("net", (width,))
    network = net.done(net.squared_error(net.linear(net.input, width, name="fc")))
    plan = {"fc": Scheme(GridShape.parse(layer or grid)), "loss": Scheme(GridShape.parse(grid))}
    return explain(job_of(network, "k80-cluster", procs, batch), plan)


def test_gradients_are_what_a_cut_batch_pays_and_its_rival_saves():
    """By channels nothing is summed; by samples all of the weights are, 64 Mi of them."""
    fc = fully_connected(8192, 2, 2, "n2").layers[0]
    assert fc.gradients_s > 0.9 * fc.comm_s and fc.rival is not None
    assert fc.rival.more_s < 0 and fc.rival.growth[-1] == ("gradients", -fc.gradients_s)
    uncut = fully_connected(8192, 2, 2, "n2", "k2").layers[0]
    assert uncut.gradients_s == 0 and uncut.rival is not None and uncut.rival.because not in ("", "gradients")


def test_a_faster_rival_lost_by_memory_or_by_nothing():
    alone = fully_connected(4096, 4, 256, "k4", "1").layers[0].rival
    assert alone is not None and alone.more_s < 0 and alone.more_bytes < 0
    assert alone.because == "nothing: it is faster"
    # Samples cut: every rank has all weights, and few inputs to read.
    cut = fully_connected(256, 4, 4096, "n4", "k4").layers[0].rival
    assert cut is not None and str(cut.scheme) == "n4" and cut.more_s < 0
    assert cut.because == ("memory" if cut.more_bytes > 0 else "nothing: it is faster")


def test_shared_weights_and_other_first_ranks_are_noted():
    net = Builder("net", (8,))
    hidden = net.relu(net.linear(net.input, 8, name="first"))
    network = net.done(net.squared_error(net.add_layer(s.Linear(8), [hidden], "second", shared="first")))
    plan = {node.name: Scheme(GridShape.parse("n2"), 2) for node in network.nodes}
    found = explain(job_of(network, procs=4), plan)
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["first"].rival is None and by_name["second"].rival is None
    assert by_name["relu1"].rival is not None
    assert any("share weights" in note for note in found.notes)
    assert any("start at another rank than 0 (first: n2 @2)" in note for note in found.notes)


def test_exact_traffic_is_the_formula_of_a_run():
    found = searched()
    assert found.price is not None
    said = {(x.name, m.direction, m.collective, m.axes): m for x in found.layers for m in x.movements or ()}
    counted: dict[tuple[str, ...], set[int]] = {}
    for rank in range(found.job.procs):
        for key, count in predict_step(found.placed, rank, 4).items():
            counted.setdefault(tuple(key), set()).add(count.received_bytes)
    assert said.keys() == counted.keys()
    assert all(movement.received_bytes in counted[key] for key, movement in said.items())
    assert {m.direction for x in found.layers for m in x.movements or ()} >= {"forward", "backward"}


MOVES = ["n4 n4", "n4 k4", "n4 h4", "h4 h4", "k4 n4", "h4 n4", "h4 k4"]


@pytest.mark.parametrize(("source", "target"), [pair.split() for pair in MOVES])
def test_kinds_of_movement_agree_with_the_exchange(source, target):
    net = Builder("net", (8, 8, 8))
    x = net.relu(net.conv(net.input, 8, 3, pad=1))
    network = net.done(net.cross_entropy(net.linear(net.global_pool(net.conv(x, 8, 3, pad=1)), 4)))
    plan = {node.name: Scheme(GridShape.parse(source)) for node in network.nodes}
    placed = place_network(network, {**plan, "conv2": Scheme(GridShape.parse(target))}, 8, 4)
    edge = placed.edges[placed.layers[2].edges[0]]
    assert isinstance(edge.exchange, Exchange)
    if edge.exchange.kind != "none":
        said = movement_kind(edge.exchange.source, edge.exchange.target, 4)
        assert said == {"allgather": "gather"}.get(edge.exchange.kind, edge.exchange.kind)


def test_lines_and_json_say_all_of_it():
    found = searched()
    text = lines(found)
    assert max(map(len, text)) <= 100
    for layer in found.layers:
        rows = [line for line in text if line.split()[:1] == [layer.name]]
        assert rows and all(str(layer.scheme) in row for row in rows[:1])
    dearest = max(found.layers, key=lambda layer: layer.seconds)
    assert any(line.startswith(f"{dearest.name} (") for line in text)
    table = json.loads(json.dumps(as_json(found)))
    assert sum(layer["seconds"] for layer in table["layers"]) == pytest.approx(found.step_s)
    assert table["exact"]["received_bytes"] == found.price.received_bytes  # type: ignore[union-attr]
    assert [layer["name"] for layer in table["layers"]] == [node.name for node in found.job.network.nodes]
    without = as_json(explained("residual"))
    assert without["exact"] is None and without["layers"][0]["movements"] is None


def test_a_plan_that_does_not_fit_is_refused():
    job = job_of(build("residual"))
    plan = {node.name: Scheme(GridShape.parse("n32")) for node in job.network.nodes}
    with pytest.raises(InputError, match=r"wants grid n32 = 32 processes"):
        explain(job, plan)
    with pytest.raises(InputError, match="has no scheme"):
        explain(job, {})
