"""Whatever happens to a rank, all end within a bound, with one message that names rank and cause, and no process stays.

Faults that the others can see or feel are told by `gridnn.train` itself, under any launcher.  A rank that is killed is
told of by `gridnn launch`, which has a guard above every rank.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.stories.job import BRIEF, finish, losses
from tests.support import virtual
from tests.support.launch import environment, run_ranks

TIMEOUT_S = 4.0
# Start, timeout, grace, and a machine with other work to do.
BOUND_S = 60.0
JOB = (
    "--set",
    *BRIEF,
    "train.steps=100000",
    "compute.choice=fixed",
    f"comm.timeout_s={TIMEOUT_S}",
    "--plan",
    "n3",
)
MARK = "FAULTY_MARK"


@pytest.fixture
def mark() -> Iterator[dict[str, str]]:
    """An environment by which processes of this test are found; none may be left at its end."""
    word = uuid.uuid4().hex
    yield {MARK: word}
    wait_for_none(word, 5.0)


def wait_for_none(word: str, seconds: float) -> None:
    """Wait until no process has a word in its environment."""
    deadline_s = time.monotonic() + seconds
    while found := left_over(word):
        assert time.monotonic() < deadline_s, f"left over: {found}"
        time.sleep(0.1)


def left_over(word: str) -> list[int]:
    """Processes that have a word in their environment, zombies not counted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={word}".encode() in told and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def train(fault: str, cwd: Path, mark: dict[str, str], rank: int = 1) -> subprocess.CompletedProcess[str]:
    """Run three ranks under mpiexec, one of which meets a fault before its fifth step."""
    words = ["-m", "tests.support.faulty", fault, str(rank), "4", *JOB, "--run-dir", "run"]
    return run_ranks(3, words, cwd=cwd, extra_env=mark, timeout_s=BOUND_S)


def launch(
    cwd: Path, mark: dict[str, str], fault: str, *words: str, ranks: int = 3, step: int = 4
) -> subprocess.CompletedProcess[str]:
    """Run `gridnn launch` with ranks of which number 1 meets a fault."""
    program = f"{sys.executable} -m tests.support.faulty {fault} 1 {step} --guarded"
    command = [sys.executable, "-m", "gridnn.cli", "launch", "-n", str(ranks), "--program", program]
    return subprocess.run(
        [*command, "--run-dir", "run", *words], cwd=cwd, env=environment(ranks, mark), capture_output=True, text=True,
        timeout=3 * BOUND_S, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "code", "cause"),
    [
        ("raise", 1, r"rank 1 failed; .*all ranks are stopped\n(.*\n)*ValueError: the fault of this test"),
        ("stop", 3, r"cause: rank 1 does not answer: stopped, lost or cut off\n  ranks 0, 2 wait in "),
        ("loop", 3, r"cause: rank 1 is in no movement but at gridnn/train/run.py:\d+ in _train, after all-reduce of "
                    r"(.*\n)*stack of rank 1, .*\n.*faulty.py:\d+ in meet"),
        ("other", 3, r"cause: mismatch in movement \d+ of ranks 0-2: rank 1 entered all-gather of fc6 update; "
                     r"ranks 0, 2 entered all-reduce of \w+"),
    ],
)  # fmt: skip
def test_a_rank_that_fails_is_named(
    tmp_path: Path, mark: dict[str, str], fault: str, code: int, cause: str
) -> None:
    done = train(fault, tmp_path, mark)
    assert done.returncode == code, done.stderr
    assert re.search(cause, done.stderr), done.stderr
    # One message, from one rank.
    assert len(re.findall(r"^stuck: |^rank \d+ failed|^error", done.stderr, re.M)) == 1, done.stderr


def test_a_full_disk_is_named(tmp_path: Path, mark: dict[str, str]) -> None:
    done = train("full", tmp_path, mark, rank=0)
    assert done.returncode == 3, done.stderr
    assert re.search(r"error on rank 0.*File too large", done.stderr), done.stderr
    assert "Traceback" not in done.stderr and len(re.findall(r"^error", done.stderr, re.M)) == 1, done.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill", "was killed by SIGKILL"),
        ("segv", "was killed by SIGSEGV"),
        ("exit", "left with exit code 0 before the run had ended"),
    ],
)
def test_a_rank_that_is_gone_is_named_by_launch(
    tmp_path: Path, mark: dict[str, str], fault: str, words: str
) -> None:
    done = launch(tmp_path, mark, fault, "--restarts", "0", *JOB)
    assert done.returncode not in (0, 2), done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "rank 1 on host" in line]
    assert len(told) == 1 and words in told[0] and "given up" in told[0], done.stdout + done.stderr
    assert "BAD TERMINATION" not in done.stdout and "gridnn guard" not in done.stdout + done.stderr


def test_both_sides_of_a_cut_end(tmp_path: Path, mark: dict[str, str]) -> None:
    """Neither hears of the other again; the far side ends although nobody could tell it to."""
    faulty = [sys.executable, "-m", "tests.support.faulty", "cut", "2", "4", *JOB, "--run-dir", "run"]
    with virtual.cluster(tmp_path / "hosts", 3) as hosts:
        done = virtual.call(hosts, "run", *faulty, cwd=tmp_path, extra_env=mark, timeout_s=BOUND_S)
        assert done.returncode != 0
        told = r"cause: rank 2 on host \S+ does not answer: .*\n  ranks 0-1 wait in "
        assert re.search(told, done.stderr), done.stderr
        wait_for_none(mark[MARK], 5.0 + 15.0)


def test_a_run_that_loses_a_rank_ends_on_the_others_with_the_same_curve(
    tmp_path: Path, mark: dict[str, str]
) -> None:
    job = ("--set", *BRIEF, "train.steps=24", "train.dtype=float64", "compute.choice=fixed")
    whole = finish(1, tmp_path, *job, run_dir="whole")
    # In float64 another grid changes the order of sums and nothing else.
    words = (*job, "checkpoint.every_steps=5", "--plan", "n2 k2")
    done = launch(tmp_path, {**mark, "FAULTY_RANKS": "4"}, "kill", *words, ranks=4, step=17)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"rank 1 on host \S+ was killed by SIGKILL; starting again on 3 ranks from step 1[05]", done.stdout
    )
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=1e-9)
