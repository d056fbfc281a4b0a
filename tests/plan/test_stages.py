"""Pipelined plans explained: by pricing the plans that an explanation speaks of, and by the formulas of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from gridnn.cost.machine import load_machine
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.placed import place_network
from gridnn.network.stages import cut_network, ranks_of
from gridnn.network.zoo import usual
from gridnn.plan.explain.stages import Staged, explain_stages, pipeline_of, stage_outcome
from gridnn.plan.explain.stagewords import cut_rows, cuts_text, gradients_text, stage_rows
from gridnn.plan.job import Job
from gridnn.plan.outcome import outcome
from gridnn.plan.pipeline.candidates import Pipelined
from gridnn.plan.pipeline.given import best_cut_at
from gridnn.plan.pipeline.memory import pipeline_memory
from gridnn.plan.pipeline.schedule import Schedule
from gridnn.plan.pipeline.search import best_pipelines
from gridnn.plan.pipeline.weigh import pipelined, plan_of
from gridnn.plan.search import layerwise
from gridnn.train.choose import Job as RunJob
from gridnn.train.predicted import Predicted
from gridnn.train.sections import TrainSection

JOB = Job(usual("alexnet"), load_machine("p100-cluster"), 6, 64, passes=4)
FIRST = ("conv1", "conv3", "fc6")
GROUPS = {0: ("n2", 0), 1: ("n2", 2), 2: ("k2", 4)}


def schemes_of(stages, groups: Mapping[int, tuple[str, int]]) -> dict[str, Scheme]:
    return {name: Scheme(GridShape.parse(groups[k][0]), groups[k][1]) for name, k in stages.of.items()}


def by_hand(first: tuple[str, ...], schedule: str = "1f1b", form: str = "replay", **other: str) -> Pipelined:
    """Three stages of two ranks each, a grid for all layers of a stage but those named."""
    stages = cut_network(JOB.network, first)
    schemes = schemes_of(stages, GROUPS)
    schemes |= {name: Scheme(GridShape.parse(grid), schemes[name].first) for name, grid in other.items()}
    made = Schedule(schedule, stages.count, JOB.passes, form)
    return pipelined(JOB, stages, schemes, made, (2, 2, 2))


@cache
def explained(schedule: str = "1f1b") -> Staged:
    return explain_stages(JOB, by_hand(FIRST, schedule))


def test_rows_are_the_stages_of_the_plan():
    found = explained("delayed")
    plan, line = found.plan, found.timeline
    assert [row.first for row in found.stages] == list(FIRST)
    assert [(row.ranks.start, row.ranks.stop) for row in found.stages] == [(0, 2), (2, 4), (4, 6)]
    assert sum(row.layers for row in found.stages) == len(JOB.network.nodes)
    assert [row.late for row in found.stages] == [2, 1, 0]
    assert [row.open for row in found.stages] == [9, 5, 1]
    held = pipeline_memory(plan.schedule, plan.cost, JOB.states)
    assert [row.memory for row in found.stages] == list(held)
    for row in found.stages:
        assert row.bubble == pytest.approx(1 - row.busy_s / line.step_s)
    slowest = found.stages[found.slowest]
    assert slowest.busy_s == max(row.busy_s for row in found.stages)
    assert [len(row) for row in stage_rows(found)] == [13, 13, 13]


@pytest.mark.parametrize("schedule", ["1f1b", "delayed"])
def test_a_moved_cut_costs_what_that_plan_costs(schedule):
    found = explained(schedule)
    four, five = (
        ("conv4", "conv5") if schedule == "1f1b" else ("relu3", "relu4")
    )  # where a replay is spared more
    assert [(moved.stage, moved.begins, moved.target) for moved in found.cuts] == [
        (1, four, 0), (1, "conv2", 1), (2, "fc7", 1), (2, five, 2),
    ]  # fmt: skip
    for moved in found.cuts:
        first = tuple(moved.begins if k == moved.stage else name for k, name in enumerate(FIRST))
        there = by_hand(first, schedule)
        assert moved.grid == GROUPS[moved.target][0]
        assert moved.step_s == there.step_s and moved.memory_bytes == there.memory_bytes
        assert explain_stages(JOB, there, cuts=False).slowest == moved.slowest
        assert set(moved.layers) == {n for n, k in there.stages.of.items() if found.plan.stages.of[n] != k}


def test_layers_that_move_take_the_best_grid_of_their_stage():
    plan = by_hand(FIRST, conv5="k2", fc6="n2")
    moved = {(m.stage, m.target): m for m in explain_stages(JOB, plan).cuts}
    layers = moved[2, 1].layers
    steps = []
    for grid in ("n2", "k2"):  # both are those of layers in stage 1
        stages = cut_network(JOB.network, ("conv1", "conv3", moved[2, 1].begins))
        schemes = {**plan.schemes, **{name: Scheme(GridShape.parse(grid), 2) for name in layers}}
        steps.append(pipelined(JOB, stages, schemes, plan.schedule, plan.ranks).step_s)
    assert moved[2, 1].step_s == min(steps) < max(steps)


def test_a_stage_is_not_emptied():
    near = by_hand(("conv1", "conv2", "conv3"))
    places = {(moved.stage, moved.begins) for moved in explain_stages(JOB, near).cuts}
    assert places == {(2, "conv4")}  # what is between conv1, conv2 and conv3 is one unit each


def test_a_better_cut_is_named_and_is_better():
    poor = by_hand(("conv1", "fc6", "fc8"))
    found = explain_stages(JOB, poor)
    best = min(found.cuts, key=lambda moved: moved.step_s)
    assert best.step_s < 0.9 * poor.step_s
    assert f"from {best.begins} on would take" in cuts_text(found) and '"stages"' in cuts_text(found)
    first = tuple(best.begins if k == best.stage else name for k, name in enumerate(poor.stages.first))
    assert by_hand(first).step_s == best.step_s
    # And where it is poor for the other side, too: signs of all rows are those of the seconds.
    for row, moved in zip(cut_rows(found), found.cuts, strict=True):
        assert row[6].startswith("+" if moved.step_s >= poor.step_s else "-")


@pytest.mark.parametrize(
    ("schedule", "form"),
    [
        ("sequential", ""),
        ("gpipe", ""),
        ("1f1b", ""),
        ("delayed", "replay"),
        ("delayed", "stash"),
        ("local", ""),
    ],
)
def test_bytes_are_those_of_a_run(schedule, form):
    plan = by_hand(FIRST, schedule, form or "replay", conv4="h2", fc7="c2")
    found = stage_outcome(JOB, plan)
    placed = place_network(JOB.network, plan.schemes, JOB.per_pass, JOB.procs)
    run = RunJob(JOB.network, plan_of(JOB, plan, "test"), placed, JOB.passes, None, plan.stages)
    received = []
    for rank in range(JOB.procs):
        predicted = Predicted(run, TrainSection(batch=JOB.batch, accumulate=JOB.passes), JOB.procs, rank)
        loss = sum(
            v.received_bytes
            for key, v in predicted.step(20).items()
            if key.layer == "loss" and key.axes == "all"
        )
        received.append(predicted.step(20).received_bytes - loss)
    assert found.exact and found.received_bytes == max(received)


def test_a_step_is_the_simulated_one_and_layers_are_those_of_the_placed_plan():
    plan = by_hand(FIRST)
    found, bare = stage_outcome(JOB, plan), outcome(JOB, plan.schemes)
    assert found.step_s == found.overlapped_s == plan.step_s < bare.step_s
    assert found.layers == bare.layers and found.memory_bytes == plan.memory_bytes


def test_a_plan_of_a_file_is_the_same_pipeline():
    plan = by_hand(FIRST, "delayed", "stash")
    again = pipeline_of(JOB, plan_of(JOB, plan, "test"))
    assert (again.step_s, again.memory_bytes, again.ranks) == (plan.step_s, plan.memory_bytes, plan.ranks)
    assert again.schedule == plan.schedule and again.cost == plan.cost


def test_gradients_in_words():
    assert gradients_text(Schedule("1f1b", 3, 4)) == "those of one process"
    late = gradients_text(Schedule("delayed", 4, 1, "stash"))
    assert "t - 3" in late and "weight stashing" in late
    assert "replay" in gradients_text(Schedule("delayed", 2, 1))
    assert "another objective" in gradients_text(Schedule("local", 2, 1))


@pytest.mark.parametrize("schedule", ["gpipe", "delayed"])
def test_cuts_of_the_search_given_lead_to_its_plan(schedule):
    job = Job(usual("alexnet"), load_machine("h100"), 4, 64)
    best = best_pipelines(job, (schedule,), stages=2)[schedule]
    given = best_cut_at(job, best.stages.first, schedule)
    assert given.stages == best.stages and given.step_s <= best.step_s * (1 + 1e-9)


def test_given_cuts_are_kept_and_ranks_dealt_out_nearly_best():
    """Inside of a unit, too; beside all ways to deal out six ranks."""
    job = replace(JOB, passes=4)
    first = ("conv1", "relu2", "fc6")
    found = best_cut_at(job, first, "1f1b")
    assert found.stages.first == first and sum(found.ranks) == 6
    begins = [each.start for each in ranks_of(found.stages, found.schemes)]
    assert begins == [0, found.ranks[0], found.ranks[0] + found.ranks[1]]
    plans = {q: layerwise(replace(job, procs=q))[0].schemes for q in range(1, 5)}
    steps = []
    for a in range(1, 5):
        for b in range(1, 6 - a):
            sizes, starts = (a, b, 6 - a - b), (0, a, a + b)
            schemes = {n: Scheme(plans[sizes[k]][n].grid, starts[k]) for n, k in found.stages.of.items()}
            made = pipelined(job, found.stages, schemes, found.schedule, sizes)
            steps.append(made.step_s)
    assert min(steps) * (1 - 1e-9) <= found.step_s <= 1.02 * min(steps) < max(steps)
    fixed = best_cut_at(job, first, "1f1b", groups=(1, 4, 1))
    assert fixed.ranks == (1, 4, 1) and fixed.step_s >= found.step_s


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"first": ("conv1", "nowhere")}, "has no layer 'nowhere'"),
        ({"groups": (3, 3)}, r"2 groups of ranks \(3, 3\) for 3 stages"),
        ({"groups": (1, 1, 1)}, "are 3 together, but there are 6"),
        ({"groups": (0, 3, 3)}, "at least one rank"),
        ({"memory_bytes": 1e6}, "fits in 0.001 GB a rank"),
        ({"first": [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7"]}, "7 stages .* on 6 processes"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        best_cut_at(JOB, **{"first": FIRST, "schedule": "1f1b", **options})


def test_memory_that_is_given_is_kept():
    free = best_cut_at(JOB, FIRST, "gpipe")
    tight = best_cut_at(JOB, FIRST, "gpipe", memory_bytes=0.9 * free.memory_bytes)
    assert tight.memory_bytes <= 0.9 * free.memory_bytes and tight.step_s >= free.step_s
    assert all(a < b for a, b in pairwise(tight.stages.names.index(name) for name in tight.stages.first))
