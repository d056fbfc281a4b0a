"""Plan files: what is written is read; what cannot be is refused in plain words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.source import Source
from gridnn.plan.plan import open_plan, parse_scheme, read_plan, uniform_plan
from tests.support.nets import build

NETWORK = build("residual")


def test_round_trip(tmp_path: Path) -> None:
    plan = uniform_plan(NETWORK, GridShape.parse("n2 h3"), 12, 6, "test")
    path = tmp_path / "plan.json"
    path.write_text(plan.dumps())
    again = read_plan(path, NETWORK, 12, 6)
    assert dict(again.schemes) == dict(plan.schemes) and again.summary == "n2 h3"


def test_a_plan_says_what_it_was_made_for(tmp_path: Path) -> None:
    source = Source("residual", (3, 7, 5), 10, {"width": 4})
    plan = uniform_plan(NETWORK, GridShape.parse("n2"), 12, 4, "test")
    plan = replace(plan, passes=3, dtype="float64", model=source, machine="h100", predicted={"step_s": 0.5})
    path = tmp_path / "plan.json"
    path.write_text(plan.dumps())
    file = open_plan(path)
    assert file.model == source
    assert file.plan(NETWORK) == replace(plan, origin="file plan.json")


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
    "batch": (
        '{"format": "gridnn-plan", "version": 1, "batch": 16, "layers": {"*": "n2"}}',
        "for another batch: it says 16, the run has 8; make a new plan, or remove 'batch'",
    ),
    "no number": (
        '{"format": "gridnn-plan", "version": 1, "batch": "8"}',
        "batch = '8'; write a whole number",
    ),
    "grid too large": (
        '{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2", "first": "n2 k4"}}',
        "plan file .*plan.json: layer first wants grid n2 k4 = 8 processes from rank 0, but there are 4",
    ),
    "off the end": (
        '{"format": "gridnn-plan", "version": 1, "layers": {"*": "n2", "first": "n2 k2 @1"}}',
        "layer first wants grid n2 k2 @1 = 4 processes from rank 1",
    ),
    "batch cut too often": (
        '{"format": "gridnn-plan", "version": 1, "procs": 4, "batch": 8, "layers": {"*": "n2", "first": "n3"}}',
        "layer first cuts the batch 3 ways .* has only 2 samples",
    ),
    "no model": (
        '{"format": "gridnn-plan", "version": 1, "model": {"nam": "x"}, "layers": {"*": "n2"}}',
        'is no network; it needs "name" of the zoo or "file"',
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
        read_plan(path, NETWORK, 8, 4, passes=4)
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.json", NETWORK, 8, 4)


def test_parse_scheme() -> None:
    assert parse_scheme("n4 h2 @ 3") == Scheme(GridShape.parse("n4 h2"), 3)
