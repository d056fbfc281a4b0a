"""Going on from a checkpoint: another plan, another number of ranks, a longer run; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gridnn.train.checkpoint.folders import CHECKPOINTS, steps_in
from gridnn.train.record import read_summary, read_traffic
from tests.stories.job import finish, losses, start

# Everything that has a state: batch norm, dropout, momentum, a schedule, augmentation, a cut optimizer, two passes.
JOB = (
    "train.steps=12", "train.batch=16", "train.dtype=float64", "train.lr=0.02", "train.accumulate=2",
    "train.clip_norm=1.0", "train.schedule=cosine", "train.warmup_steps=3", "train.cut_optimizer=true",
    "model.options.width=4", "data.pad=1", "data.flip=true", "train.eval_every_epochs=1",
    "checkpoint.every_steps=5", "checkpoint.keep=9", 'compute.choice="fixed"',
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps on two ranks, with checkpoints after 5, 10 and 12."""
    return finish(2, tmp_path_factory.mktemp("whole"), "--plan", "n2", "--set", *JOB)


def _cut(whole: Path, folder: Path, step: int) -> Path:
    """Make the folder of a run that was killed after `step` steps."""
    shutil.copytree(whole, folder / "run")
    run = folder / "run"
    (run / "summary.json").unlink()
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text(
        "".join(lines[:step]) + lines[step][:20]
    )  # its last line was half written
    for path in steps_in(run / CHECKPOINTS):
        if int(path.name[-8:]) > step:
            shutil.rmtree(path)
    return run


def test_checkpoints_are_where_they_were_asked_for(whole: Path) -> None:
    assert [path.name for path in steps_in(whole / CHECKPOINTS)] == [
        "step-00000012", "step-00000010", "step-00000005"
    ]  # fmt: skip
    assert (whole / CHECKPOINTS / "latest").read_text() == "step-00000012\n"


@pytest.mark.parametrize(("ranks", "plan"), [(0, "n1"), (2, "n2"), (3, "h3"), (4, "n2 k2"), (4, "c2 w2")])
def test_resumed_on_any_plan_the_curve_is_the_same(
    whole: Path, tmp_path: Path, ranks: int, plan: str
) -> None:
    run = _cut(whole, tmp_path, 7)
    finish(ranks, tmp_path, "--plan", plan, "--resume", "auto", "--set", *JOB)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-9)
    assert read_summary(run).loss == pytest.approx(read_summary(whole).loss, rel=1e-9)
    assert read_summary(run).test_accuracy == read_summary(whole).test_accuracy
    assert (read_traffic(run).steps, read_summary(run).steps) == (7, 12)  # made by this start, and in all
    assert json.loads((run / "plan.json").read_text())["procs"] == max(1, ranks)


def test_a_finished_run_is_left_alone_and_can_be_made_longer(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    before = (run / "steps.jsonl").read_text()
    done = start(2, tmp_path, "--run-dir", "run", "--plan", "n2", "--resume", "auto", "--set", *JOB)
    assert done.returncode == 0 and "is finished: 12 steps" in done.stdout, done.stdout + done.stderr
    assert (run / "steps.jsonl").read_text() == before and (run / "summary.json").exists()
    finish(
        2,
        tmp_path,
        "--plan",
        "n2",
        "--resume",
        "auto",
        "--set",
        *JOB,
        "train.steps=14",
        "train.schedule=constant",
    )
    assert (run / "steps.jsonl").read_text().startswith(before) and len(losses(run)) == 14


def test_killed_between_its_last_step_and_its_summary(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "summary.json").unlink()
    finish(2, tmp_path, "--plan", "n2", "--resume", "auto", "--set", *JOB)
    assert losses(run) == losses(whole)
    for name in ("loss", "test_accuracy", "steps"):
        assert getattr(read_summary(run), name) == getattr(read_summary(whole), name)


def test_from_a_checkpoint_of_another_run(whole: Path, tmp_path: Path) -> None:
    run = finish(
        2, tmp_path, "--resume", str(whole / CHECKPOINTS / "step-00000005"), "--plan", "k2", "--set", *JOB
    )
    assert losses(run) == pytest.approx(losses(whole)[5:], rel=1e-9)
    assert len(losses(whole)) == 12


def test_a_damaged_newest_checkpoint_is_passed_over(whole: Path, tmp_path: Path) -> None:
    run = _cut(whole, tmp_path, 11)
    shard = run / CHECKPOINTS / "step-00000010" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = start(
        3, tmp_path, "--run-dir", "run", "--plan", "n3", "--resume", "auto", "--set", *JOB, timeout_s=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step-00000010 is not whole: shard-00001.safetensors is damaged" in done.stdout.replace("\n", "")
    assert "step-00000005: 5 steps are made" in done.stdout
    assert losses(run) == pytest.approx(losses(whole), rel=1e-9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--set", *JOB],
            "has checkpoints (step-00000005 is the newest); go on from them with --resume auto",
        ),
        (["--resume", "auto", "--set", *JOB, "train.seed=1"], "train.seed = 1, was 0"),
        (["--resume", "auto", "--set", *JOB, "model.options.width=8"], "model.options.width = 8, was 4"),
        (["--resume", "auto", "--set", *JOB, "train.batch=32"], "train.batch = 32, was 16"),
        (["--resume", "nowhere", "--set", *JOB], "there is no checkpoint in nowhere"),
        (["--resume", "auto", "--set", *JOB, "checkpoint.keep=-1"], "checkpoint.keep"),
    ],
)
def test_what_is_refused(whole: Path, tmp_path: Path, words: list[str], said: str) -> None:
    run = _cut(whole, tmp_path, 7)
    before = (run / "steps.jsonl").read_text()
    done = start(2, tmp_path, "--run-dir", "run", "--plan", "n2", *words)
    assert done.returncode == 2 and said in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    assert (run / "steps.jsonl").read_text() == before and len(steps_in(run / CHECKPOINTS)) == 1


def test_what_may_change_is_said(whole: Path, tmp_path: Path) -> None:
    _cut(whole, tmp_path, 7)
    done = start(
        2,
        tmp_path,
        "--run-dir",
        "run",
        "--plan",
        "n2",
        "--resume",
        "auto",
        "--set",
        *JOB,
        "train.lr=0.01",
        timeout_s=60,
    )
    assert done.returncode == 0 and "resumed with train.lr = 0.01, was 0.02" in done.stdout, done.stderr


def test_a_run_that_wants_none_writes_none(tmp_path: Path) -> None:
    run = finish(2, tmp_path, "--set", *JOB, "checkpoint.keep=0")
    assert not (run / CHECKPOINTS).exists()
