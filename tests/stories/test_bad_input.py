"""Whatever is wrong, a job on 2 processes ends in seconds, with one clear message and a code.

| code | what happened                                       |
|------|-----------------------------------------------------|
| 2    | bad input, told before the first step               |
| 3    | a run that cannot go on: a loss that is not finite  |
| 1    | a bug: the only case with a traceback               |
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.stories.job import BRIEF, start
from tests.support.launch import ROOT, run_ranks
from tests.train.data.files import pictures, write_cifar, write_idx, write_pictures


def nothing(folder: Path) -> None:
    """All that is wrong stands in the command."""


def truncated_idx(folder: Path) -> None:
    write_idx(folder)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])


def wrong_label(folder: Path) -> None:
    write_cifar(folder, 10, "binary")
    path = folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[0] = 77
    path.write_bytes(content)


def sizes_that_differ(folder: Path) -> None:
    for split in ("train", "test"):
        write_pictures(folder / split / "cat", pictures(3, (3, 8, 8)))
        write_pictures(folder / split / "dog", pictures(3, (3, 8, 9)))


def plan(**changes: object) -> Callable[[Path], None]:
    """Write plan.json, a plan for the default network with some things changed."""

    def write(folder: Path) -> None:
        table = {"format": "gridnn-plan", "version": 1, "layers": {"*": "n2"}} | changes
        (folder / "plan.json").write_text(json.dumps(table))

    return write


def bad_json(folder: Path) -> None:
    (folder / "plan.json").write_text('{"format": "gridnn-plan",')


def finished_run(folder: Path) -> None:
    (folder / "done").mkdir()
    for name in ("config.toml", "plan.json", "steps.jsonl", "summary.json"):
        (folder / "done" / name).write_text("")


HERE, FILE = ("--set", "data.path=."), ("--plan", "plan.json")
STAGED = ("--plan", "1 | 1", "--set")
# name: what is prepared, the command, what the message must say
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "unknown key, wrong type": (
        nothing,
        ("--set", "train.bath=3", "train.lr=fast"),
        ("train.bath: unknown key; did you mean train.batch?", "train.lr: needs a number; got text 'fast'"),
    ),
    "unknown word": (nothing, ("--pan", "n2"), ("unrecognized arguments: --pan",)),
    "no config": (nothing, ("no.toml",), ("no configuration file no.toml",)),
    "unknown network": (nothing, ("--set", "model.name=lenett"), ('did you mean "lenet"?',)),
    "no data": (nothing, ("--set", "data.path=nowhere"), ("no data set 'nowhere'",)),
    "truncated data": (truncated_idx, HERE, ("train-images-idx3-ubyte",)),
    "label out of range": (wrong_label, HERE, ("data_batch_2.bin", "77")),
    "sizes differ": (sizes_that_differ, HERE, ("data.size",)),
    "too few samples": (nothing, ("--set", "train.batch=100000"), ("do not fill one batch of 100000",)),
    "batch below n": (nothing, ("--plan", "n2", "--set", "train.batch=1"), ("cuts the batch 2 ways",)),
    "accumulate": (
        nothing,
        ("--set", "train.batch=10", "train.accumulate=11"),
        ("train.batch = 10 cannot be split into train.accumulate = 11",),
    ),
    "grid too large": (nothing, ("--plan", "n2 k2"), ('plan "n2 k2" needs 4 processes, 2 are running',)),
    "stages for other ranks": (
        nothing,
        ("--plan", "1 | 1 | 1"),
        ("stages of 1, 1, 1 ranks, 3 together, but 2 are",),
    ),
    "stage of no layer": (
        nothing,
        (*STAGED, 'plan.stages=["conv9"]'),
        ("no layer 'conv9'; did you mean conv3?",),
    ),
    "more stages than grids": (
        nothing,
        (*STAGED, 'plan.stages=["conv2", "conv3"]'),
        ("2 grids for 3 stages",),
    ),
    "more passes than samples": (
        nothing,
        (*STAGED, "train.accumulate=65"),
        ("cannot be split into train.accumulate",),
    ),
    "local without heads": (nothing, (*STAGED, "plan.schedule=local"), ('set plan.heads = "linear"',)),
    "stages that share ranks": (plan(layers={"*": "n2"}, stages=["conv2"]), FILE, ("ranks of its own",)),
    "schedule without stages": (plan(layers={"*": "n2"}, schedule="gpipe"), FILE, ('without "stages"',)),
    "grid unreadable": (nothing, ("--plan", "q2"), ('cannot read "q2"',)),
    "no plan": (nothing, FILE, ("plan file plan.json",)),
    "plan is not JSON": (bad_json, FILE, ("plan file plan.json is not JSON",)),
    "plan of another network": (plan(network="vgg16", digest="0" * 16), FILE, ("is for another network",)),
    "plan of another P": (plan(procs=3), FILE, ("is for another number of processes", "it says 3")),
    "plan with too large a grid": (plan(layers={"*": "n2", "conv2": "k3"}), FILE, ("conv2",)),
    "plan off the end": (plan(layers={"*": "n2", "conv2": "k2 @1"}), FILE, ("conv2",)),
    "plan with an impossible grid": (plan(layers={"*": "n2 n2"}), FILE, ("axis n is given twice",)),
    "plan of an unknown layer": (plan(layers={"*": "n2", "conv9": "k2"}), FILE, ("no layer 'conv9'",)),
    "run folder in use": (finished_run, ("--run-dir", "done"), ("the run folder done holds a finished run",)),
}


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Hold a job to one message and its code."""
    shown = done.stdout + done.stderr
    assert done.returncode == code, shown
    assert done.stderr.count("error") == 1, shown
    for each in words:
        assert done.stderr.count(each) == 1, shown
    assert "Traceback" not in shown and "Warning" not in shown


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(tmp_path: Path, name: str) -> None:
    prepare, command, words = CASES[name]
    prepare(tmp_path)
    done = start(2, tmp_path, *command)
    refused(done, 2, *words)
    assert "ms/step" not in done.stdout
    assert not (tmp_path / "runs").exists(), "a refused job leaves no run folder"


@pytest.mark.parametrize(
    ("size", "rank"), [("PMI_SIZE", "PMI_RANK"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")]
)
def test_singletons_by_mistake(tmp_path: Path, size: str, rank: str) -> None:
    """A process that was started with three others, which MPI does not see; the first of them speaks."""
    first = start(0, tmp_path, env={size: "4", rank: "0"})
    refused(first, 2, f"started 4 processes ({size})", "--mpi=pmi2")
    other = start(0, tmp_path, env={size: "4", rank: "2"})
    assert (other.returncode, other.stdout, other.stderr) == (2, "", "")


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    steep = start(2, tmp_path, "--set", *BRIEF, "train.steps=20", "train.lr=1e30", "train.warmup_steps=0")
    refused(steep, 3, "the loss is nan; lower train.lr")
    last = start(2, tmp_path, "--set", *BRIEF, "train.steps=1", "train.eval=true", "train.lr=1e30")
    refused(last, 3, "evaluation: the loss is nan")


def test_data_that_are_not_finite(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((32, 1, 8, 8), np.float32)
    x[5, 0, 7, 7] = np.nan
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(32) % 4, x_test=x, y_test=np.arange(32) % 4)
    done = start(2, tmp_path, "--set", "data.path=data.npz", *BRIEF)
    refused(done, 3, "the loss is nan", "check the data for values that are not finite")


FAULTY = """
import os, signal, sys
from gridnn.errors import InputError
from gridnn.train import launch, step

honest = step.Trainer.step

def faulty(self, number, *arguments):
    if number == 2 and self.world.rank in {ranks}:
        {deed}
    return honest(self, number, *arguments)

step.Trainer.step = faulty
sys.exit(launch.main(sys.argv[1:]))
"""


def with_fault(folder: Path, ranks: tuple[int, ...], deed: str) -> subprocess.CompletedProcess[str]:
    """A job in which some ranks do something bad at step 2."""
    (folder / "faulty.py").write_text(FAULTY.format(ranks=ranks, deed=deed))
    words = [str(folder / "faulty.py"), "--set", *BRIEF]
    return run_ranks(2, words, cwd=folder, extra_env={"PYTHONPATH": str(ROOT)}, timeout_s=30)


@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)])
def test_an_error_in_the_middle(tmp_path: Path, ranks: tuple[int, ...]) -> None:
    """On one rank, or on both at the same moment."""
    done = with_fault(tmp_path, ranks, "raise InputError('file x ends too early')")
    refused(done, 2, f"error on rank {ranks[0]}: file x ends too early", "all ranks are stopped")


def test_a_bug_on_one_rank(tmp_path: Path) -> None:
    done = with_fault(tmp_path, (1,), "raise ValueError('this is odd')")
    assert done.returncode == 1
    assert done.stderr.count("rank 1 failed; this is a bug") == 1
    assert done.stderr.count("Traceback") == 1 and "ValueError: this is odd" in done.stderr


@pytest.mark.parametrize("deed", ["os._exit(7)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_that_is_lost(tmp_path: Path, deed: str) -> None:
    """It cannot speak; the launcher ends the others (and names the signal, where there is one)."""
    done = with_fault(tmp_path, (1,), deed)
    assert done.returncode != 0
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/summary.json"))
