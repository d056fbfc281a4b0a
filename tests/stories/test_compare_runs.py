"""Training under several plans, then asking what became of their predictions."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gridnn.analysis.trace import MEASURED, PREDICTED, RANKS, lane_of
from gridnn.cli import main
from gridnn.cost.machine import load_machine
from tests.stories.job import finish

PLANS = ("n4", "k4", "c4", "h2 w2", "n2 k2", "n2 h2", "auto")
FEW = ("--set", "train.steps=7", "train.eval=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of seven runs on four ranks."""
    home = tmp_path_factory.mktemp("home")
    for plan in PLANS:
        finish(4, home, *FEW, "--plan", plan, run_dir=f"runs/{plan.replace(' ', '-')}")
    return home / "runs"


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["analyze", "compare", *words, "--json"]) == 0
    said = capsys.readouterr()
    assert not said.err
    found: list[dict[str, Any]] = json.loads(said.out)["tables"]
    return found


def test_seven_plans_on_four_ranks(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refit = tmp_path / "refit.toml"
    tables = answer(capsys, str(runs), "--write-machine", str(refit))
    of_runs, orders, _, layers, collectives, movements, residue = tables
    assert len(of_runs["rows"]) == len(PLANS) and of_runs["totals"]["equal"] is True
    for row in of_runs["rows"]:
        assert row["predicted_bytes"] == row["counted_bytes"] > 0
        assert row["predicted_s"] > 0 and row["measured_s"] > 0 and row["error"] > -1
    for row in [*collectives["rows"], *movements["rows"]]:
        assert row["equal"] is True and row["predicted_messages"] == row["counted_messages"]
        assert row["predicted_bytes"] == row["counted_bytes"]
    (order,) = orders["rows"]
    assert -1 <= order["tau"] <= 1 and order["plans"] == len(PLANS)
    # Every layer was seen to compute, and everything that was priced was seen to move.
    assert all(row["measured_s"] > 0 for row in layers["rows"] if row["predicted_s"])
    assert all(row["measured_s"] > 0 for row in movements["rows"] if row["predicted_s"])
    assert all(row["fitted"] > 0 for row in residue["rows"])
    # The machine that fits the parts of these runs is nearer to their steps than the one shipped.
    again = answer(capsys, str(runs), "--machine", str(refit))[0]["totals"]
    assert load_machine(str(refit)).name == "laptop-refit"
    assert again["error"] < of_runs["totals"]["error"] or of_runs["totals"]["error"] < 0.1


def test_the_trace_of_a_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    assert main(["analyze", "trace", str(runs / "n2-h2"), "-o", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    events = json.loads(path.read_text())["traceEvents"]
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            lanes.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], event["ts"] + event["dur"])
            )
    assert {(RANKS, lane_of(rank, lane)) for rank in range(4) for lane in (MEASURED, PREDICTED)} <= set(lanes)
    for lane in lanes.values():
        lane.sort()
        assert lane[0][0] >= 0
        assert all(a[1] <= b[0] + 1e-3 for a, b in pairwise(lane))


def test_a_run_that_kept_no_spans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish(2, tmp_path, *FEW, "run.trace_steps=0", "--plan", "n2")
    assert answer(capsys, str(folder))[0]["totals"]["equal"] is True
    assert main(["analyze", "trace", str(folder), "-o", str(tmp_path / "trace.json")]) == 2
    assert "run.trace_steps" in capsys.readouterr().err
