"""Starting a training job and reading its record, as a user does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.launch import run_ranks

# A few quick steps: what is looked at happens before or around them.
BRIEF = ("train.steps=4", "train.eval=false", "train.batch=16", "model.options.width=4")


def start(
    ranks: int, cwd: Path, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m gridnn.train` on some ranks; 0 is Python alone."""
    private = {
        "XDG_CACHE_HOME": str(cwd / "cache"),
        **(env or {}),
    }  # what a test measures is not kept for users
    return run_ranks(ranks, ["-m", "gridnn.train", *words], cwd=cwd, extra_env=private, timeout_s=timeout_s)


def finish(ranks: int, cwd: Path, *words: str, run_dir: str = "run", timeout_s: float = 60.0) -> Path:
    """Run a job that must end well; returns its run folder."""
    done = start(ranks, cwd, "--run-dir", run_dir, *words, timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return cwd / run_dir


def summary(folder: Path) -> dict[str, Any]:
    """The summary of a run."""
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def losses(folder: Path) -> list[float]:
    """The loss of every step of a run."""
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]
