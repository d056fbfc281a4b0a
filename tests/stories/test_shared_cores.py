"""Ranks that share a core say so, and train to the same weights as ranks that do not."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.launch import cores, run_ranks

BOUND = """
import os, sys
mine = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, mine[:1])
from gridnn.train import launch
sys.exit(launch.main(sys.argv[1:]))
"""


def test_two_ranks_on_one_core_sleep_while_they_wait(tmp_path: Path) -> None:
    (tmp_path / "bound.py").write_text(BOUND)
    said, losses = [], []
    for number, program in enumerate((["bound.py"], ["-m", "gridnn.train"])):
        words = [
            *program,
            "--plan",
            "n2",
            "--run-dir",
            f"run{number}",
            "--set",
            "train.steps=4",
            "checkpoint.keep=0",
        ]
        done = run_ranks(2, words, cwd=tmp_path, timeout_s=120)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append("ranks share cores, and sleep while they wait" in done.stdout)
        lines = (tmp_path / f"run{number}" / "steps.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert said == [True, cores() < 2]
    assert losses[0] == losses[1]
