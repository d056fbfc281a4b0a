"""The kill drill: a short job, one of its ranks killed at a random moment, started again until it ends.

    reference     |---------------------------------------|   one rank, never interrupted
    drill         |------X      |---X   |-----------------|   4 ranks "n2 k2", 4 ranks, then 3 ranks "h3"
                         kill       kill

The curve must be the reference's, every step there once, no checkpoint that was there before a kill lost after it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from gridnn.train.checkpoint.folders import CHECKPOINTS, step_of, steps_in
from gridnn.train.checkpoint.whole import wrong_in
from tests.support.launch import command, environment

STEPS = 24
JOB = (
    "train.batch=16", "model.options.width=4", f"train.steps={STEPS}", "train.dtype=float64", "train.lr=0.02",
    "train.eval_every_epochs=1", "train.momentum=0.9", "checkpoint.every_steps=3", "checkpoint.keep=2",
    'compute.choice="fixed"', "data.test_fraction=0.02",
)  # fmt: skip
PLANS = {1: ("n1",), 2: ("n2", "k2", "h2"), 3: ("n3", "h3", "k3"), 4: ("n2 k2", "n4", "h2 w2", "c2 n2")}


@dataclass
class Drill:
    """One job that is killed now and then.

    Attributes
    ----------
    kills
        How many ranks were killed, of those during a checkpoint.
    """

    folder: Path
    dice: random.Random
    kills: int = 0
    in_checkpoint: int = 0

    def start(self, ranks: int, plan: str) -> subprocess.Popen[str]:
        """Start the job, or go on with it."""
        program = [
            sys.executable, "-m", "gridnn.train", "--run-dir", str(self.folder), "--resume", "auto",
            "--plan", plan, "--set", *JOB,
        ]  # fmt: skip
        env = environment(ranks, {"XDG_CACHE_HOME": str(self.folder.parent / "cache")})
        return subprocess.Popen(
            command(ranks, program), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=self.folder.parent, start_new_session=True,
        )  # fmt: skip

    def run(self, most_kills: int = 2, timeout_s: float = 90.0) -> None:
        """Start, kill, start again; returns when the job has ended well.

        Raises
        ------
        AssertionError
            With what the job said, if it did not end, lost a checkpoint or ended badly without being killed.
        """
        ranks = self.dice.choice((2, 3, 4))
        plan = self.dice.choice(PLANS[ranks])
        while True:
            job = self.start(ranks, plan)
            try:
                killed = self.kills < most_kills and self._kill(job)
                said, _ = job.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                raise AssertionError(f"did not end: {job.communicate()[0]}") from None
            if job.returncode == 0:
                return
            assert killed, said
            if self.dice.random() < 1 / 3:  # the cluster has changed meanwhile
                ranks = self.dice.choice((1, 2, 3, 4))
                plan = self.dice.choice(PLANS[ranks])

    def _kill(self, job: subprocess.Popen[str]) -> bool:
        """Kill a random rank at a random moment; False if the job ended before."""
        while_saving = self.dice.random() < 1 / 3
        lines, pause_s = self.dice.randrange(STEPS), self.dice.random() * 0.02
        steps, root = self.folder / "steps.jsonl", self.folder / CHECKPOINTS
        before = len(steps.read_text().splitlines()) if steps.exists() else 0
        while job.poll() is None:
            if while_saving:
                ripe = any(path.name.endswith(".part") for path in _listed(root))
            else:
                ripe = _count(steps) > max(lines, before)
            if ripe:
                time.sleep(0.0 if while_saving else pause_s)
                break
            time.sleep(0.0005)
        ranks = (
            [p for p in psutil.Process(job.pid).children(recursive=True) if _is_rank(p)]
            if job.poll() is None
            else []
        )
        if not ranks:
            return False
        there = _newest(root)
        victim = self.dice.choice(ranks)
        victim.kill()
        job.wait(60)
        self.kills, self.in_checkpoint = self.kills + 1, self.in_checkpoint + while_saving
        after = _newest(root)
        assert there is None or (after is not None and after >= there), (
            f"step {there} was there, {after} is now"
        )
        for folder in steps_in(root):
            assert not wrong_in(folder), f"{folder}: {wrong_in(folder)}"
        return True


def _is_rank(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "gridnn.train" in words and Path(words[0]).name.startswith("python")


def _newest(root: Path) -> int | None:
    steps = steps_in(root)
    return step_of(steps[0]) if steps else None


def _listed(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []


def _count(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
