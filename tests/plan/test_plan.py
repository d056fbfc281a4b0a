"""Plan files: what is written is read; what cannot be is refused in plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gridnn.cost.machine import load_machine
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.plan.plan import parse_scheme, read_plan, uniform_plan
from gridnn.plan.uniform import candidates, cheapest_uniform, factorisations
from tests.support.nets import build

NETWORK = build("residual")


def test_round_trip(tmp_path: Path) -> None:
    plan = uniform_plan(NETWORK, GridShape.parse("n2 h3"), 12, 6, "test")
    path = tmp_path / "plan.json"
    path.write_text(plan.dumps())
    again = read_plan(path, NETWORK, 12, 6)
    assert dict(again.schemes) == dict(plan.schemes) and again.summary == "n2 h3"


def test_star_and_first_rank(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2", "first": "k2 @2"}}')
    plan = read_plan(path, NETWORK, 8, 4)
    assert plan.schemes["first"] == Scheme(GridShape.parse("k2"), 2)
    assert plan.schemes["loss"] == Scheme(GridShape.parse("n2")) and plan.summary == "2 grids"
    assert str(plan.schemes["first"]) == "k2 @2"


BAD = {
    "not JSON": ("{", "is not JSON"),
    "not a plan": ("[]", "is not a plan"),
    "version": ('{"format": "gridnn-plan", "version": 9}', "has version 9; this gridnn reads version 1"),
    "unknown key": ('{"format": "gridnn-plan", "version": 1, "layer": {}}', "unknown key 'layer'"),
    "no layers": ('{"format": "gridnn-plan", "version": 1}', '"layers" must be a table'),
    "unknown layer": (
        '{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2", "frist": "k2"}}',
        "did you mean first",
    ),
    "missing layer": (
        '{"format": "gridnn-plan", "version": 1, "layers": {"first": "k2"}}',
        "has no grid; add it",
    ),
    "bad grid": ('{"format": "gridnn-plan", "version": 1, "layers": {"*": "q2"}}', 'cannot read "q2"'),
    "twice": ('{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2 n2"}}', "axis n is given twice"),
    "first": (
        '{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2 @x"}}',
        "after @ stands the first rank",
    ),
    "procs": (
        '{"format": "gridnn-plan", "version": 1, "procs": 8, "layers": {"*": "n2"}}',
        "it says 8, the run has 4",
    ),
    "network": (
        '{"format": "gridnn-plan", "version": 1, "digest": "00", "layers": {"*": "n2"}}',
        "is for another network",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_plan(path, NETWORK, 8, 4)
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.json", NETWORK, 8, 4)


def test_parse_scheme() -> None:
    assert parse_scheme("n4 h2 @ 3") == Scheme(GridShape.parse("n4 h2"), 3)


def test_factorisations() -> None:
    assert sorted((f["n"], f["k"]) for f in factorisations(6, ("n", "k"))) == [(1, 6), (2, 3), (3, 2), (6, 1)]
    assert len(list(factorisations(8, ("n", "k", "c", "h", "w")))) == 35


def test_cheapest_uniform_is_the_cheapest_and_uses_all_ranks() -> None:
    machine = load_machine()
    plan, priced = cheapest_uniform(NETWORK, 8, 1, 4, 4, machine)
    seconds = [p.step_s for _, p in priced]
    assert seconds == sorted(seconds) and len(priced) == len(candidates(NETWORK, 8, 4))
    assert plan.schemes["loss"].grid == priced[0][0] and priced[0][0].size == 4
    assert json.loads(plan.dumps())["layers"]["first"] == str(priced[0][0])


def test_candidates_cut_no_axis_beyond_its_largest_extent() -> None:
    for grid in candidates(NETWORK, 2, 8):
        assert grid["n"] <= 2 and grid["h"] <= 7 and grid["w"] <= 5 and grid["d"] == 1
