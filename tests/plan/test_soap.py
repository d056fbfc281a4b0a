"""Random walks over plans: they find what only layers beside each other can give, keep pins, and repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gridnn.cost.machine import BEST, Level, Machine
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.graph import Builder, Network
from gridnn.network.zoo import build as build_zoo
from gridnn.plan.problem import Job
from gridnn.plan.simulate.build import simulate_plan
from gridnn.plan.soap import mcmc_search
from gridnn.plan.units import MOST_GRIDS, MOST_OFFSETS, candidates_of, units_of
from tests.plan.jobs import uniform
from tests.support.nets import build

SLOW = Machine("slow", "s", "d", 1e10, 1e-9, 1e-6, 1 << 30, (Level("network", 0, 1e-5, 5e-8),), BEST)
"""Ranks between which a byte takes as long as five hundred operations."""


def branches(width: int = 512) -> Network:
    """Two towers of heavy layers on a light stem, joined by a sum."""
    net = Builder("branches", (16,))
    x = net.linear(net.input, 16, bias=False, name="stem")
    ends = []
    for side in ("left", "right"):
        y = net.relu(net.linear(x, width, bias=False, name=f"{side}1"))
        ends.append(
            net.linear(
                net.relu(net.linear(y, width, bias=False, name=f"{side}2")), 16, bias=False, name=f"{side}3"
            )
        )
    return net.done(net.squared_error(net.add(*ends, name="sum")))


def test_branches_beside_each_other_win_over_data_parallelism() -> None:
    """O of SOAP: cutting a layer costs sums of 256 k weights or of its activations, one rank alone computes twice."""
    job = Job(branches(), SLOW, 2, 64)
    starts = [uniform(job.network, grid) for grid in ("n2", "k2", "1")]
    found = mcmc_search(job, starts, 3, proposals=2000)
    assert found.starts_s == tuple(simulate_plan(job, start).cost_s for start in starts)
    assert found.step_s < 0.55 * min(found.starts_s)
    sides = [{found.schemes[f"{side}{i}"] for i in (1, 2, 3)} for side in ("left", "right")]
    assert sorted(sides, key=str) == [{Scheme(GridShape(), 0)}, {Scheme(GridShape(), 1)}]
    # While one branch computes, so does the other.
    tasks = [t for t in found.timeline if t.operation in ("left2", "right2") and t.phase == "forward"]
    (a, b) = sorted((t.start_ns, t.end_ns, t.device) for t in tasks)
    assert b[0] < a[1] and {a[2], b[2]} == {"rank 0", "rank 1"}
    assert found.timeline.makespan_ns == round(1e9 * found.step_s)
    assert simulate_plan(job, found.schemes).cost_s == found.step_s


def test_the_same_seed_walks_the_same_way() -> None:
    job = Job(build("inception"), SLOW, 3, 4)
    starts = [uniform(job.network, "n3"), uniform(job.network, "1")]
    first, again, other = (
        mcmc_search(job, starts, seed, proposals=150, random_starts=1) for seed in (5, 5, 6)
    )
    assert (first.schemes, first.step_s) == (again.schemes, again.step_s)
    curve = [[(b.start, b.proposal, b.cost_s) for b in found.walk.curve] for found in (first, again)]
    counts = [(f.walk.proposals, f.walk.accepted, f.walk.given_up) for f in (first, again, other)]
    assert curve[0] == curve[1] and counts[0] == counts[1] != counts[2]
    assert 0 < first.walk.acceptance < 1
    costs = [b.cost_s for b in first.walk.curve]
    assert costs == sorted(costs, reverse=True) and first.walk.cost_s == costs[-1]


@pytest.mark.parametrize("name", ["residual", "unet", "batch-norm", "linear-chain"])
def test_a_search_is_no_worse_than_its_starts(name: str) -> None:
    """Also where the starts disagree on what keeps together, and with grids that are no powers of two."""
    job = Job(build(name), SLOW, 3, 5)
    mixed = {n: Scheme(GridShape(), i % 3) for i, n in enumerate(uniform(job.network, "1"))}
    starts = [uniform(job.network, "n3"), mixed]
    found = mcmc_search(job, starts, 0, proposals=60)
    assert found.step_s <= min(found.starts_s)
    # A ReLU that may stand elsewhere masks by itself in a walk, in the layer before it in a plan.
    assert found.step_s <= 1.01 * found.walk.cost_s


def test_pins_hold_what_they_name() -> None:
    job = Job(build("residual"), SLOW, 2, 4)
    names = [node.name for node in job.network.nodes]
    conv = next(n for n in names if n.startswith("conv"))
    norm = next(n for n in names if n.startswith("batch_norm"))
    pins = {conv: Scheme(GridShape.of(h=2)), norm: Scheme(GridShape(), 1)}
    start = {name: Scheme(GridShape(), i % 2) for i, name in enumerate(names)}
    found = mcmc_search(job, [start], 1, proposals=300, pins=pins)
    assert {name: found.schemes[name] for name in pins} == pins != {name: start[name] for name in pins}
    assert found.starts_s == (simulate_plan(job, {**start, **pins}).cost_s,)
    assert found.step_s < found.starts_s[0]  # and nothing else is held


def test_what_keeps_together() -> None:
    network = build("residual")
    job, at = Job(network, SLOW, 2, 4), {node.name: i for i, node in enumerate(network.nodes)}
    nodes = network.nodes
    leaders = units_of(job, [uniform(network, "n2")], {})
    followers = [i for i, leader in enumerate(leaders) if leader != i]
    assert {type(nodes[i].spec).__name__ for i in followers} == {"BatchNorm", "Activation"}
    for i in followers:
        assert leaders[i] == leaders[at[nodes[i].inputs[0]]]
    # A start that has them apart keeps them apart; so does a pin of one of the two.
    norm = next(node for node in nodes if type(node.spec).__name__ == "BatchNorm")
    apart = uniform(network, "n2") | {norm.name: Scheme(GridShape.of(k=2))}
    assert units_of(job, [uniform(network, "n2"), apart], {})[at[norm.name]] == at[norm.name]
    pin = {norm.name: Scheme(GridShape.of(n=2))}
    assert units_of(job, [uniform(network, "n2")], pin)[at[norm.name]] == at[norm.name]
    relu = next(i for i in followers if leaders[i] == leaders[at[norm.name]] and i != at[norm.name])
    assert units_of(job, [uniform(network, "n2")], pin)[relu] == at[norm.name]  # it costs nothing there
    host = {nodes[leaders[at[norm.name]]].name: Scheme(GridShape.of(n=2))}
    assert units_of(job, [uniform(network, "n2")], host)[at[norm.name]] == at[norm.name]


def test_layers_that_share_weights_move_as_one() -> None:
    network = build_zoo("rnnlm", (1, 8), 30, hidden=16, pieces=2)
    job = Job(network, SLOW, 2, 4)
    starts = [uniform(network, "n2")]
    leaders = units_of(job, starts, {})
    names = [node.name for node in network.nodes]
    assert any(node.shared for node in network.nodes)
    for i, node in enumerate(network.nodes):
        if node.shared:
            assert leaders[i] == leaders[names.index(node.shared)]
    found = mcmc_search(job, starts, 0, proposals=40)
    assert all(found.schemes[n.name] == found.schemes[n.shared] for n in network.nodes if n.shared)


def test_candidates_are_grids_at_multiples_of_their_size() -> None:
    network = branches(64)
    job = Job(network, SLOW, 8, 8)
    starts = [uniform(network, "n2") | {"left2": Scheme(GridShape.of(k=3), 5)}]
    leaders = units_of(job, starts, {})
    found = candidates_of(job, leaders, starts, {})
    at = [node.name for node in network.nodes].index("left2")
    schemes = found[at].schemes
    assert Scheme(GridShape.of(k=3), 5) in schemes  # of the start
    others = [x for x in schemes if x.grid != GridShape.of(k=3)]
    assert all(x.first % x.grid.size == 0 and x.ranks.stop <= 8 for x in others)
    assert {x.first for x in others if x.grid == GridShape.of(k=2)} == {0, 2, 4, 6}
    assert len(set(schemes)) == len(schemes)
    # All offsets of a grid together are as likely as the grid is cheap.
    weight = dict(zip(schemes, found[at].weights, strict=True))
    total = {g: sum(w for x, w in weight.items() if x.grid == g) for g in {x.grid for x in others}}
    assert max(total.values()) == pytest.approx(1) and min(total.values()) > 0
    assert weight[Scheme(GridShape.of(k=2), 4)] == weight[Scheme(GridShape.of(k=2))]


def test_a_large_space_is_cut_to_a_part_that_holds_the_starts() -> None:
    network = build_zoo("resnet20", (4, 32, 32), 16)
    job = Job(network, replace(SLOW, layer_s=1e-5), 64, 64)
    starts = [uniform(network, "n2")]
    leaders = units_of(job, starts, {})
    for unit, found in candidates_of(job, leaders, starts, {}).items():
        assert len({x.grid for x in found.schemes}) <= MOST_GRIDS + 1
        by_grid = np.unique([str(x.grid) for x in found.schemes], return_counts=True)[1]
        assert by_grid.max() <= MOST_OFFSETS + 1
        assert starts[0][network.nodes[unit].name] in found.schemes


def test_bad_input_is_refused() -> None:
    job = Job(build("linear"), SLOW, 2, 4)
    start = uniform(job.network, "n2")
    with pytest.raises(InputError, match=r"no such layer; known: first"):
        mcmc_search(job, [start], 0, proposals=1, pins={"fc6": Scheme(GridShape())})
    with pytest.raises(InputError, match="start 3 processes"):
        mcmc_search(job, [start], 0, proposals=1, pins={"first": Scheme(GridShape.of(n=2), 1)})
    with pytest.raises(InputError, match="has no scheme"):
        mcmc_search(job, [{"first": Scheme(GridShape())}], 0, proposals=1)
    with pytest.raises(InputError, match="budget"):
        mcmc_search(job, [start], 0)
