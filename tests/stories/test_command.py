"""What the command does besides training, and that it needs no launcher."""

from __future__ import annotations

import json
from pathlib import Path

from gridnn.train.config import dump_toml, load_config
from tests.stories.job import BRIEF, finish, losses, start, summary


def test_help(tmp_path: Path) -> None:
    done = start(2, tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: python -m gridnn.train") == 1 and "examples:" in done.stdout


def test_a_printed_config_is_the_same_job(tmp_path: Path) -> None:
    changed = ("--set", "train.batch=48", "data.pad=1", "model.options.width=4")
    first = start(2, tmp_path, *changed, "--plan", "n2", "--print-config")
    assert (first.returncode, first.stderr) == (0, "")
    (tmp_path / "job.toml").write_text(first.stdout)
    again = start(2, tmp_path, "job.toml", "--print-config")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    config = load_config(tmp_path / "job.toml")
    assert (config.train.batch, config.data.pad, config.plan.spec) == (48, 1, "n2")
    assert dump_toml(config) == first.stdout


def test_a_written_plan_runs_again_unchanged(tmp_path: Path) -> None:
    words = ("--set", *BRIEF, "compute.choice=fixed")
    dry = start(2, tmp_path, *words, "--dry-run", "--write-plan", "plan.json")
    assert (dry.returncode, dry.stderr) == (0, ""), dry.stderr
    assert "ms/step" not in dry.stdout and not (tmp_path / "runs").exists()
    written = json.loads((tmp_path / "plan.json").read_text())
    automatic = finish(2, tmp_path, *words)
    by_file = finish(2, tmp_path, *words, "--plan", "plan.json", run_dir="again")
    assert losses(by_file) == losses(automatic)
    assert summary(by_file)["counted_bytes"] == summary(automatic)["counted_bytes"]
    for folder in (automatic, by_file):
        assert json.loads((folder / "plan.json").read_text())["layers"] == written["layers"]


def test_alone_is_mpiexec_of_one(tmp_path: Path) -> None:
    words = ("--set", *BRIEF, "train.eval=true")
    alone = finish(0, tmp_path, *words)
    launched = finish(1, tmp_path, *words, run_dir="launched")
    assert losses(alone) == losses(launched) and len(losses(alone)) == 4
    for key in ("loss", "test_accuracy", "steps", "predicted_bytes", "counted_bytes", "plan", "ranks"):
        assert summary(alone)[key] == summary(launched)[key], key
    assert summary(alone)["counted_bytes"] == 0
