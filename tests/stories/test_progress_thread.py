"""A run moves messages by a thread where the machine file says that arithmetic hides them, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gridnn.cost.machine import dumps, load_machine
from tests.support.launch import ROOT, run_ranks

TOLD = """
import sys
from gridnn.comm.progress import Progress
from gridnn.train import launch

begin = Progress.begin

def told(self):
    begin(self)
    if self._comm.rank == 0 and not hasattr(self, "said"):
        self.said = True
        print(f"on {self.on}, thread {self._thread is not None}, every {self.every_s * 1e3:.0f} ms", flush=True)

Progress.begin = told
sys.exit(launch.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("overlap", "asked", "on"),
    [(1.0, "true", True), (0.1, "true", True), (0.05, "true", False), (1.0, "false", False)],
)
def test_a_thread_where_it_pays(tmp_path: Path, overlap: float, asked: str, on: bool) -> None:
    laptop = load_machine("laptop")
    slow = replace(laptop.levels[0], beta_s_per_byte=1e-7)
    (tmp_path / "mine.toml").write_text(dumps(replace(laptop, overlap=overlap, levels=(slow,))))
    (tmp_path / "told.py").write_text(TOLD)
    words = [str(tmp_path / "told.py"), "--plan", "n2", "--set", "train.steps=2", "train.eval=false",
             "plan.machine=mine.toml", f"comm.overlap={asked}", "checkpoint.keep=0"]  # fmt: skip
    done = run_ranks(2, words, cwd=tmp_path, extra_env={"PYTHONPATH": str(ROOT)}, timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"on {on}, thread {on}, every 3 ms" in done.stdout
