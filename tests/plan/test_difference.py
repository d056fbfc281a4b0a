"""What two plans do differently."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gridnn.cost.machine import load_machine
from gridnn.geometry.grid import GridShape
from gridnn.network.zoo import usual
from gridnn.plan.explain.difference import difference
from gridnn.plan.outcome import outcome
from gridnn.plan.plan import Plan, parse_scheme, uniform_plan
from gridnn.plan.problem import Job

NETWORK = usual("alexnet")
NAMES = [node.name for node in NETWORK.nodes]
DATA = uniform_plan(NETWORK, GridShape.parse("n4"), 64, 4, "data")


def changed(**grids: str) -> Plan:
    return replace(
        DATA, schemes={**DATA.schemes, **{name: parse_scheme(grid) for name, grid in grids.items()}}
    )


def test_equal_plans_are_equal():
    assert difference(NETWORK, DATA, DATA) == ["both give every layer the same grid on the same ranks"]


def test_runs_of_equal_changes_are_one():
    at = NAMES.index("fc6")
    late = dict.fromkeys(NAMES[at : at + 3], "k4")
    lines = difference(NETWORK, DATA, changed(**late, loss="n2", **{NAMES[1]: "k4"}))
    assert lines[0] == f"5 of {len(NAMES)} layers differ"
    rows = [line.split() for line in lines[2:]]
    assert rows[0] == [NAMES[1], "n4", "k4"]
    assert rows[1] == [NAMES[at], "...", NAMES[at + 2], "(3)", "n4", "k4"]
    assert rows[2] == ["loss", "n4", "n2"] and len(rows) == 3
    # Changes that stand apart, or go elsewhere, are not joined.
    apart = difference(NETWORK, DATA, changed(**{NAMES[1]: "k4", NAMES[2]: "k2", NAMES[4]: "k2"}))
    assert len(apart) == 5


def test_the_same_grid_elsewhere_is_a_difference():
    assert "n2 @2" in difference(NETWORK, changed(loss="n2"), changed(loss="n2 @2"))[-1]


def test_plans_for_other_jobs_say_so_first():
    other = uniform_plan(usual("vgg16"), GridShape.parse("n8"), 128, 8, "other")
    lines = difference(NETWORK, DATA, other)
    assert lines[0].startswith("different networks: alexnet (") and "vgg16" in lines[0]
    assert lines[1:3] == ["different processes: 4 and 8", "different batches: 64 and 128"]
    assert "in one plan only" in lines[3] and all(len(line) <= 100 for line in lines)


def test_seconds_and_bytes_stand_side_by_side():
    job = Job(NETWORK, load_machine("p100-cluster"), 4, 64)
    second = changed(fc6="k4", fc7="k4")
    both = outcome(job, DATA.schemes), outcome(job, second.schemes)
    lines = difference(NETWORK, DATA, second, both)
    assert lines[1].split() == ["layers", "first", "second", "computing", "moving"]
    row = next(line for line in lines if line.startswith("fc6"))
    assert len(row.split()) == 11 and len(row) <= 100  # a name, two grids, four times with units
    step = next(line for line in lines if line.startswith("step: "))
    change = 100 * (both[1].step_s / both[0].step_s - 1)
    assert step.endswith(f"({change:+.1f} %)")
    assert any(line.startswith("received by the busiest rank: ") for line in lines)
    assert not any("estimated" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "values", "line"),
    [
        ("step_s", (0.02, 0.01), "predicted step_s: 20 ms and 10 ms (-50.0 %)"),
        ("bytes", (2048, 1024), "predicted bytes: 2.0 KiB and 1.0 KiB (-50.0 %)"),
        ("machine", ("laptop", "h100"), "predicted for different machines: laptop and h100"),
    ],
)
def test_what_the_files_predict_is_compared(key, values, line):
    first, second = (replace(DATA, predicted={key: value}) for value in values)
    assert difference(NETWORK, first, second)[-1] == line
    assert difference(NETWORK, first, DATA)[-1] != line
