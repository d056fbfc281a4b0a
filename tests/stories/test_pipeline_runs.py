"""Pipelined runs from end to end: curves, checkpoints, an end by a signal, the record and its analysis.

Outputs at the cut are larger than what MPI sends without asking the receiver (64 KiB a pass), and gradients have norms,
which all stages sum: whoever waits in the wrong place waits for ever here.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from gridnn.analysis.trace import MEASURED, PREDICTED, RANKS, lane_of
from gridnn.cli import main
from gridnn.train.checkpoint.folders import CHECKPOINTS, step_of, steps_in
from gridnn.train.record import read_summary, read_traffic
from tests.stories.job import finish, losses
from tests.support.launch import command, environment

STEPS, SAVED = 9, 6
JOB = (
    "train.batch=64", "train.accumulate=4", "train.dtype=float64", "train.lr=0.02", "train.schedule=constant",
    "train.clip_norm=1.0", "train.warmup_steps=2", "checkpoint.every_steps=3", "checkpoint.keep=9",
    'compute.choice="fixed"', "comm.timeout_s=20",
)  # fmt: skip
DELAYED = ("--plan", "1 | 1", "--set", *JOB, "plan.schedule=delayed")
EXACT = {"gpipe": (2, "1 | 1", 2), "1f1b": (3, "n2 | 1", 2), "sequential": (3, "1 | 1 | 1", 3)}
"""Ranks, plan and stages by schedule."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine steps on one process, and in stages by each schedule."""
    home = tmp_path_factory.mktemp("home")
    more = ("--set", *JOB, f"train.steps={STEPS}")
    finish(0, home, "--plan", "n1", *more, run_dir="runs/one")
    for schedule, (ranks, plan, _) in EXACT.items():
        finish(ranks, home, "--plan", plan, *more, f"plan.schedule={schedule}", run_dir=f"runs/{schedule}")
    finish(2, home, *DELAYED, f"train.steps={STEPS}", run_dir="runs/delayed")
    return home / "runs"


def cut(run: Path, folder: Path) -> Path:
    """Make the folder of a run that was killed in the step after its checkpoint of step `SAVED`."""
    shutil.copytree(run, folder / "run")
    run = folder / "run"
    (run / "summary.json").unlink()
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join(lines[: SAVED + 1]))
    for path in steps_in(run / CHECKPOINTS):
        if (step_of(path) or 0) > SAVED:
            shutil.rmtree(path)
    return run


@pytest.mark.parametrize("schedule", EXACT)
def test_exact_schedules_have_the_curve_of_one_process(runs: Path, schedule: str) -> None:
    found, one = read_summary(runs / schedule), read_summary(runs / "one")
    assert losses(runs / schedule) == pytest.approx(losses(runs / "one"), rel=1e-9)
    assert found.test_accuracy == one.test_accuracy and one.pipeline is None
    ranks, _, count = EXACT[schedule]
    assert found.pipeline is not None and found.ranks == ranks
    assert (found.pipeline.schedule, found.pipeline.passes, found.pipeline.form) == (schedule, 4, "")
    assert len(found.pipeline.stages) == count and sum(s.ranks for s in found.pipeline.stages) == found.ranks
    for stage in found.pipeline.stages:
        assert stage.staleness == 0 and 0 < stage.predicted_bubble < 1
        assert stage.bubble is not None and 0 < stage.bubble < 1


def test_the_record_of_a_delayed_run(runs: Path) -> None:
    """Stage 0 is late by one step, and the drains before checkpoints and the end lose none of its updates."""
    found, traffic = read_summary(runs / "delayed"), read_traffic(runs / "delayed")
    assert found.pipeline is not None and found.pipeline.form == "replay"
    assert [stage.staleness for stage in found.pipeline.stages] == [1, 0]
    assert losses(runs / "delayed")[0] == losses(runs / "one")[0] and len(losses(runs / "delayed")) == STEPS
    assert losses(runs / "delayed")[2:] != losses(runs / "one")[2:]
    for row in traffic.rows:
        assert row.predicted_bytes == row.counted_bytes and row.predicted_messages == row.counted_messages
    # What is predicted leaves out vectors, messages and workspaces: measured is more, but not twice as much.
    for name in ("one", *EXACT, "delayed"):
        told = read_summary(runs / name)
        assert 0.5 < told.predicted_memory_bytes / told.memory_bytes <= 1.0
    open_once = found.pipeline.stages[0].predicted_memory_bytes
    gpipe = read_summary(runs / "gpipe").pipeline
    assert gpipe is not None and gpipe.stages[0].predicted_memory_bytes > open_once


def test_a_delayed_run_goes_on_as_if_never_stopped(runs: Path, tmp_path: Path) -> None:
    run = cut(runs / "delayed", tmp_path)
    finish(2, tmp_path, *DELAYED, f"train.steps={STEPS}", "--resume", "auto")
    assert losses(run) == losses(runs / "delayed")
    assert read_summary(run).test_accuracy == read_summary(runs / "delayed").test_accuracy


def test_without_stages_it_goes_on_from_the_same_weights(runs: Path, tmp_path: Path) -> None:
    """All stages had made their update of each step: what follows is the same by any exact plan."""
    followed = []
    for name, ranks, words in (
        ("alone", 0, ("n1", "sequential")),
        ("piped", 3, ("1 | 1 | 1", "gpipe")),
    ):
        run = cut(runs / "delayed", tmp_path / name)
        state = json.loads((run / CHECKPOINTS / f"step-{SAVED:08}" / "state.json").read_text())
        assert (state["step"], state["updates"]) == (SAVED, SAVED)
        plan = ("--plan", words[0], "--set", *JOB, f"plan.schedule={words[1]}", f"train.steps={STEPS}")
        finish(ranks, tmp_path / name, *plan, "--resume", "auto")
        assert losses(run)[:SAVED] == losses(runs / "delayed")[:SAVED] and len(losses(run)) == STEPS
        followed.append(losses(run)[SAVED:])
    assert followed[0] == pytest.approx(followed[1], rel=1e-9)
    # The first loss after a drain is by weights without delay, in stages or not.
    assert followed[0][0] == pytest.approx(losses(runs / "delayed")[SAVED], rel=1e-9)


def test_it_is_judged_on_all_samples_by_the_weights_it_saved(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "delayed", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    run = finish(0, tmp_path, "--plan", "n1", "--set", *JOB, f"train.steps={STEPS}", "--resume", "auto")
    assert losses(run) == losses(runs / "delayed")
    assert read_summary(run).test_accuracy == read_summary(runs / "delayed").test_accuracy
    assert read_traffic(runs / "delayed").evaluations == 1


def test_a_signal_drains_saves_and_leaves(tmp_path: Path) -> None:
    words = ("--run-dir", "run", *DELAYED, "checkpoint.every_steps=0", "train.eval=false")
    program = [sys.executable, "-m", "gridnn.train", *words, "train.steps=100000"]
    job = subprocess.Popen(
        command(2, program), cwd=tmp_path, env=environment(2, {"XDG_CACHE_HOME": str(tmp_path / "cache")}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines, until_s = tmp_path / "run" / "steps.jsonl", time.monotonic() + 30
        while not (lines.exists() and lines.read_bytes().count(b"\n") > 4) and time.monotonic() < until_s:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.01)
        ranks = [p for p in psutil.Process(job.pid).children(recursive=True) if "gridnn.train" in p.cmdline()]
        ranks[-1].send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=30)
    finally:
        job.kill()
    assert "(SIGTERM); saved in run" in said, said
    saved = steps_in(tmp_path / "run" / CHECKPOINTS)
    (step,) = map(step_of, saved)
    assert len(losses(tmp_path / "run")) == step and f"left after step {step}:" in said
    more = (
        "--plan",
        "1 | 1",
        "--set",
        *JOB,
        "plan.schedule=delayed",
        "train.eval=false",
        f"train.steps={step + 3}",
    )
    resumed = finish(2, tmp_path, *more, "checkpoint.every_steps=0", "--resume", "auto")
    whole = finish(2, tmp_path, *more, f"checkpoint.every_steps={step}", run_dir="whole")
    assert losses(resumed) == losses(whole) and len(losses(whole)) == step + 3


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["analyze", "compare", *words, "--json"]) == 0
    said = capsys.readouterr()
    assert not said.err
    found: list[dict[str, Any]] = json.loads(said.out)["tables"]
    return found


def test_schedules_are_compared(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {table["title"]: table["rows"] for table in answer(capsys, str(runs))}
    rows = {row["run"]: row for row in tables["Runs"]}
    assert set(rows) == {"one", "delayed", *EXACT}
    plans = {name: json.loads((runs / name / "plan.json").read_text())["predicted"] for name in rows}
    for name, row in rows.items():
        assert row["equal"] is True and row["predicted_bytes"] == row["counted_bytes"]
        assert row["predicted_s"] == pytest.approx(plans[name]["step_s"]) and row["measured_s"] > 0
    by = {row["run"]: row for row in tables["Schedules beside each other"]}
    assert by["one"]["schedule"] == "none" and "predicted_bubble" not in {
        k for k, v in by["one"].items() if v
    }
    assert {name: row["late"] for name, row in by.items()} == dict.fromkeys(("one", *EXACT), 0) | {
        "delayed": 1
    }
    assert {name for name, row in by.items() if not row["exact"]} == {"delayed"}
    for name, row in by.items():
        assert row["samples_per_s"] == pytest.approx(64 / rows[name]["measured_s"])
        assert row["accuracy"] == read_summary(runs / name).test_accuracy
    for name in (*EXACT, "delayed"):
        assert (
            by[name]["predicted_bubble"] == pytest.approx(plans[name]["bubble"]) or name == "1f1b"
        )  # n2 | 1: by rank
        assert 0 < by[name]["bubble"] < 1
    assert len(tables["Stages of pipelined runs"]) == 2 + 2 + 3 + 2
    # A layer that is gone through again is predicted so; layers of the last stage are not.
    twice = {row["layer"]: row["forward_s"] for row in tables["Passes of every layer in a step"]
             if row["run"] == "delayed"}  # fmt: skip
    once = {row["layer"]: row["forward_s"] for row in tables["Passes of every layer in a step"]
            if row["run"] == "gpipe"}  # fmt: skip
    first = json.loads((runs / "delayed" / "plan.json").read_text())["stages"][1]
    assert twice["conv1"] == pytest.approx(2 * once["conv1"]) and twice[first] == pytest.approx(once[first])


@pytest.mark.parametrize("name", ["delayed", "1f1b"])
def test_the_trace_of_a_pipelined_run(runs: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace.json"
    assert main(["analyze", "trace", str(runs / name), "-o", str(path)]) == 0
    table = json.loads(path.read_text())
    found = read_summary(runs / name)
    assert table["otherData"]["predicted_step_s"] == pytest.approx(found.predicted_step_s)
    late = {0: 1} if name == "delayed" else {}
    events = [e for e in table["traceEvents"] if e["ph"] == "X"]
    assert {e["pid"] for e in events} == {RANKS}  # links are part of no lane
    for rank in range(found.ranks):
        told = [e for e in events if e["tid"] == lane_of(rank, PREDICTED)]
        seen = [e for e in events if e["tid"] == lane_of(rank, MEASURED) and e["cat"] == "compute"]
        for lane, back in ((told, "predicted backward"), (seen, None)):
            passes = {
                (e["args"]["pass"], e["args"]["step"] - e["args"]["of step"])
                for e in lane
                if (e["cat"] == back if back else e["args"]["direction"] == "weights")
            }
            assert passes == {(p, late.get(rank, 0)) for p in range(4)}, (rank, back)
        ends = sorted((e["ts"], e["ts"] + e["dur"]) for e in told)
        assert ends and all(a[1] <= b[0] + 1e-3 for a, b in pairwise(ends))
