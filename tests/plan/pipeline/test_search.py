"""Search: tables are the prices of stages, and what is found is what it says, fits, and is near the best there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from gridnn.cost.machine import load_machine
from gridnn.errors import InputError
from gridnn.geometry.grid import Scheme
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network
from gridnn.network.placed import place_network
from gridnn.network.stages import cut_network, ranks_of
from gridnn.plan.job import Job
from gridnn.plan.pipeline.costs import PipelineCost, StageCost, Transfer
from gridnn.plan.pipeline.memory import pipeline_memory
from gridnn.plan.pipeline.runcost import runs_of
from gridnn.plan.pipeline.runs import Runs, masked_later, units_of
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.search import Pipelined, best_pipelines, passes_of, sizes_of
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost
from tests.cost.test_tables import RATES, TWO_LEVELS, plain, residual, translator

SCHEDULES = ("gpipe", "1f1b", "delayed")


def deep() -> Network:
    net = Builder("deep", (4, 16, 16))
    x = net.max_pool(net.relu(net.conv(net.input, 16, 3, pad=1)), 2)
    x = net.relu(net.conv(x, 32, 3, pad=1))
    x = net.relu(net.linear(net.flatten(x), 96))
    return net.done(net.cross_entropy(net.linear(net.relu(net.linear(x, 64)), 16)))


def check(job: Job, found: dict[str, Pipelined]) -> None:
    """A plan is what it says: placed on its ranks, priced, simulated."""
    for name, plan in found.items():
        assert plan.schedule.name == name
        mine = replace(job, passes=plan.schedule.passes)
        assert sum(plan.ranks) == job.procs and len(plan.ranks) == plan.stages.count == plan.schedule.stages
        used = ranks_of(plan.stages, plan.schemes)
        begins = np.cumsum([0, *plan.ranks])
        for k, ranks in enumerate(used):
            assert begins[k] == ranks.start and ranks.stop <= begins[k + 1]
        placed = place_network(job.network, plan.schemes, mine.per_pass, job.procs)
        cost = pipeline_cost(placed, plan.stages, job.machine, 4, mine.passes, states=job.states)
        assert cost == plan.cost and plan.step_s == simulate(plan.schedule, cost).step_s
        held = pipeline_memory(plan.schedule, cost, job.states)
        assert plan.memory_bytes == max(each.total_bytes for each in held)


@pytest.mark.parametrize(("overlap", "narrow"), [(1.0, 0), (0.5, 0), (1.0, 2)])
@pytest.mark.parametrize("network", [plain(), residual(), translator()], ids=lambda n: n.name)
def test_the_run_of_all_units_is_the_price_of_the_plan(network, overlap, narrow):
    job = Job(network, replace(RATES, overlap=overlap), 4, 32, passes=2, activation_bytes=narrow)
    runs = runs_of(job, [1, 2, 4])
    for g, procs in enumerate(runs.groups):
        placed = place_network(network, runs.schemes[g], job.per_pass, procs)
        stages = cut_network(network, [network.nodes[0].name])
        (whole,) = pipeline_cost(placed, stages, job.machine, job.widths, job.passes).stages
        for name in ("forward_s", "backward_s", "update_s", "weight_bytes", "input_bytes"):
            run = getattr(runs, name)[0, len(runs.units), g]
            assert run == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12), name
        kept = runs.kept_bytes[0, len(runs.units), g]
        words = (
            0 if network.input_shape[0] > 1 else whole.input_bytes
        )  # an embedding keeps none, the tables do
        assert kept == whole.kept_bytes + words


@pytest.mark.parametrize("network", [plain(), residual(), deep()], ids=lambda n: n.name)
def test_runs_are_the_prices_of_stages(network):
    """Cut anywhere in two, a group of one rank costs what the tables say, and one of two nearly; so does a replay."""
    job = Job(network, RATES, 4, 32, passes=2)
    runs = runs_of(job, [1, 2])
    for (g, q), cut in product(enumerate(runs.groups), range(1, len(runs.units))):
        stages = cut_network(network, [runs.units[cut]])
        schemes = {n: Scheme(runs.schemes[g][n].grid, q * k) for n, k in stages.of.items()}
        cost = pipeline_cost(
            place_network(network, schemes, job.per_pass, 2 * q), stages, RATES, 4, job.passes
        )
        for stage, (i, j) in zip(cost.stages, ((0, cut), (cut, len(runs.units))), strict=True):
            assert runs.forward_s[i, j, g] == pytest.approx(stage.forward_s, rel=1e-9 if q == 1 else 0.02)
            assert runs.backward_s[i, j, g] == pytest.approx(stage.backward_s, rel=1e-9 if q == 1 else 0.02)
            # A bucket of all layers is one message, buckets of stages are some: the share of an alpha.
            assert runs.update_s[i, j, g] == pytest.approx(stage.update_s, rel=1e-9, abs=(q - 1) * 2e-6)
            assert runs.weight_bytes[i, j, g] == stage.weight_bytes
            assert runs.input_bytes[i, j, g] == stage.input_bytes
            assert stage.kept_bytes <= runs.kept_bytes[i, j, g] <= stage.kept_bytes + stage.input_bytes
        later = cut_network(network, [runs.masked_later[cut]])
        schemes = {n: Scheme(runs.schemes[g][n].grid, q * k) for n, k in later.of.items()}
        cost = pipeline_cost(
            place_network(network, schemes, job.per_pass, 2 * q), later, RATES, 4, job.passes
        )
        again = (runs.forward_s - runs.spared_s)[0, cut, g]
        assert cost.stages[0].replay_s == pytest.approx(again, rel=1e-9 if q == 1 else 0.02)
        arrives = runs.arrive_s[cut, len(runs.units), g]
        moved = sum(t.forward_s for t in cost.transfers)  # of the later cut: the same output
        assert moved / 4 < arrives < 4 * moved  # whoever sends, and in how many pieces, is not in the tables


@pytest.mark.parametrize("name", ["sequential", "gpipe", "1f1b", "delayed", "local"])
@pytest.mark.parametrize("form", ["replay", "stash"])
def test_the_cost_of_equal_stages_is_their_simulated_step(name, form):
    units, passes = 3, 5
    ends = np.arange(units + 1.0)
    size = (ends[None, :] - ends[:, None])[..., None]
    work, none = {"forward_s": 2.0 * size, "backward_s": 3.0 * size, "update_s": 0.5 * size}, 0 * size
    runs = Runs(("a", "b", "c"), (1,), ({},), ("a", "b", "c"), **work, spared_s=0.25 * size, arrive_s=none,
                weight_bytes=8 * size, kept_bytes=4 * size, input_bytes=size, worst_bytes=none)  # fmt: skip
    schedule = Schedule(name, units, passes, form)
    fill, slow = runs.stages(schedule)
    at = [(k, k, k + 1, 0) for k in range(units)]
    cost = PipelineCost(
        (StageCost(2.0, 3.0, 0.5, 8, 4, 1, spared_s=0.25),) * units,
        tuple(Transfer(k, k + 1, 0.0, 0.0, 0, 0) for k in range(units - 1)),
    )
    predicted = sum(fill[cell] for cell in at) + max(slow[cell] for cell in at)
    assert predicted == pytest.approx(simulate(schedule, cost).step_s, rel=1e-9)
    # A limit leaves out the stages that need more, and the first needs most.
    needs = [float(runs.needs_bytes(schedule, k)[cell[1:]]) for k, cell in enumerate(at)]
    assert needs[0] == max(needs)
    _, limited = runs.stages(schedule, needs[0] - 1)
    assert [np.isfinite(limited[cell]) for cell in at] == [need < needs[0] for need in needs]


def test_behind_a_stage_that_replays_a_cut_lies_before_the_relu_of_a_product():
    network = plain()
    units = units_of(network)
    assert masked_later(network, units) == (units[0], units[1], relu_before(network, units[2]))
    network = residual()  # behind batch norm, whose gradient needs its output anyway, a cut stays where it is
    assert masked_later(network, units_of(network)) == units_of(network)
    job = Job(plain(), RATES, 2, 32, 4)
    replay, stash = (
        best_pipelines(job, ("delayed",), groups=(1, 1), form=form)["delayed"].stages.first[1]
        for form in ("replay", "stash")
    )
    assert replay in masked_later(job.network, units) and stash in units


def relu_before(network, name):
    at = [node.name for node in network.nodes].index(name)
    assert network.nodes[at - 1].spec == s.Activation("relu")
    return network.nodes[at - 1].name


def test_units_begin_with_what_multiplies_and_hold_layers_that_share_weights():
    assert units_of(plain()) == ("conv1", "linear1", "linear2")
    assert units_of(zoo.usual("alexnet")) == (
        "conv1",
        "conv2",
        "conv3",
        "conv4",
        "conv5",
        "fc6",
        "fc7",
        "fc8",
    )
    network = translator()
    starts = [[n.name for n in network.nodes].index(u) for u in units_of(network)]
    at = {n.name: sum(s <= i for s in starts) for i, n in enumerate(network.nodes)}
    assert all(at[a] == at[b] for a, b in network.tied.items())


@pytest.mark.parametrize(
    ("network", "machine", "procs"),
    [(deep(), RATES, 3), (deep(), TWO_LEVELS, 6), (residual(), TWO_LEVELS, 8)],
    ids=["deep 3", "deep 6", "residual 8"],
)
def test_what_is_found_is_what_it_says(network, machine, procs):
    job = Job(network, machine, procs, 8)
    check(job, best_pipelines(job, SCHEDULES))


@pytest.mark.parametrize("machine", [RATES, TWO_LEVELS], ids=lambda m: m.name)
@pytest.mark.parametrize(("procs", "passes"), [(3, 4), (4, 8)])
def test_what_is_found_is_near_the_best_of_all_cuts_and_groups(machine, procs, passes):
    """Every cut and every group of ranks simulated: the tables' shortlist misses at most a few per cent."""
    job = Job(deep(), machine, procs, 64, passes)
    runs = runs_of(job, range(1, procs))
    best = dict.fromkeys(SCHEDULES, np.inf)
    for count in range(2, procs + 1):
        for cuts in combinations(range(1, len(runs.units)), count - 1):
            for names, groups in product((runs.units, runs.masked_later), product(runs.groups, repeat=count)):
                stages = cut_network(job.network, [names[i] for i in cuts])
                if sum(groups) != procs:
                    continue
                schemes = {
                    n: Scheme(runs.schemes[runs.groups.index(groups[k])][n].grid, sum(groups[:k]))
                    for n, k in stages.of.items()
                }
                placed = place_network(job.network, schemes, job.per_pass, procs)
                cost = pipeline_cost(placed, stages, machine, 4, passes)
                for name in (n for n in SCHEDULES if names is runs.units or n == "delayed"):
                    seconds = simulate(Schedule(name, count, passes), cost).step_s
                    best[name] = min(best[name], seconds)
    for name, plan in best_pipelines(job, SCHEDULES).items():
        assert best[name] * (1 - 1e-9) <= plan.step_s <= 1.05 * best[name], name


def test_more_passes_are_tried_only_where_they_change_nothing_but_time():
    assert passes_of(Job(deep(), RATES, 4, 16), "gpipe") == (2, 4, 8, 16)
    assert passes_of(Job(deep(), RATES, 4, 16), "delayed") == (1, 2, 4, 8, 16)
    assert passes_of(Job(deep(), RATES, 4, 15), "1f1b") == (3, 5, 15)
    assert passes_of(Job(deep(), RATES, 4, 16, 8), "gpipe") == (8,)
    assert passes_of(Job(residual(), RATES, 4, 16), "gpipe") == (1,)  # batch norm
    found = best_pipelines(Job(deep(), RATES, 4, 64))
    assert found["gpipe"].schedule.passes > 1


def test_stages_and_groups_that_are_given_are_kept():
    job = Job(deep(), RATES, 6, 32, 4)
    found = best_pipelines(job, SCHEDULES, stages=3)
    assert all(plan.stages.count == 3 for plan in found.values())
    given = best_pipelines(job, SCHEDULES, groups=(3, 2, 1))
    assert all(plan.ranks == (3, 2, 1) for plan in given.values())
    check(job, given)
    one = best_pipelines(job, ("gpipe",), stages=1)["gpipe"]
    assert one.ranks == (6,) and one.cost.transfers == ()
    free = best_pipelines(job, SCHEDULES)
    assert all(free[n].step_s <= 1.01 * found[n].step_s for n in SCHEDULES)


def test_groups_sizes():
    assert sizes_of(8, 7, every=False) == [1, 2, 4] and sizes_of(6, 5, every=True) == [1, 2, 3, 4, 5]
    assert sizes_of(12, 11, every=False) == [1, 2, 3, 4, 6, 8]


def test_a_memory_limit_is_kept_and_costs():
    job = Job(deep(), RATES, 4, 256, 8)
    free = best_pipelines(job, SCHEDULES)
    assert free["1f1b"].memory_bytes < free["gpipe"].memory_bytes  # fewer passes are open
    limit = 0.8 * free["gpipe"].memory_bytes
    tight = best_pipelines(job, ("gpipe",), memory_bytes=limit)["gpipe"]
    assert tight.memory_bytes <= limit and tight.step_s >= 0.99 * free["gpipe"].step_s
    lean = 1.05 * free["1f1b"].memory_bytes
    assert best_pipelines(job, ("1f1b",), memory_bytes=lean)["1f1b"].memory_bytes <= lean
    with pytest.raises(InputError, match=r"no pipeline fits in 1e-05 GB.*leanest found for schedule gpipe"):
        best_pipelines(job, memory_bytes=1e4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": 6}, "6 stages: network deep has .* layers in 5 units"),
        ({"stages": 0}, "0 stages"),
        ({"stages": 5}, "5 stages on 4 processes"),
        ({"groups": (2, 1)}, "groups of 2, 1 ranks are 3 together, but there are 4"),
        ({"groups": (4, 0)}, "at least one rank"),
        ({"groups": (2, 2), "stages": 3}, "one group for each stage"),
        ({"schedules": ("fast",)}, 'schedule "fast" is not known'),
    ],
)
def test_what_cannot_be_asked(options, words):
    with pytest.raises(InputError, match=words):
        best_pipelines(Job(deep(), RATES, 4, 16, 2), **options)


def test_jobs_without_a_pipeline():
    with pytest.raises(InputError, match="1 processes, and 5 units"):
        best_pipelines(Job(deep(), RATES, 1, 16))
    with pytest.raises(InputError, match="batch 4 in 8 passes"):
        best_pipelines(Job(deep(), RATES, 4, 4, 8))


def test_alexnet_on_eight_ranks_gains_from_a_pipeline_on_slow_links():
    """And takes seconds to plan: three schedules, passes, stages, groups and cuts."""
    job = Job(zoo.usual("alexnet"), load_machine("p100-cluster"), 8, 256, 8)
    found = best_pipelines(job, ("gpipe", "1f1b"))
    check(job, found)
    data = Schedule("sequential", 1, 8)
    uncut = best_pipelines(job, ("gpipe",), stages=1)["gpipe"]
    assert simulate(data, uncut.cost).step_s == pytest.approx(uncut.step_s)
    assert found["gpipe"].step_s < uncut.step_s
