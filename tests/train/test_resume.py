"""What a run that goes on may change: the configuration of a checkpoint beside that of the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gridnn.errors import InputError
from gridnn.train.config import dump_toml, load_config
from gridnn.train.resume import changes

BEFORE = ("data.path=here", "train.batch=32", "train.lr=0.1")


def _checkpoint() -> Any:
    state = SimpleNamespace(config=dump_toml(load_config(None, BEFORE)))
    return cast(Any, SimpleNamespace(folder=Path("run/checkpoints/step-00000010"), state=state))


def test_the_same_is_not_worth_a_word() -> None:
    assert changes(_checkpoint(), load_config(None, BEFORE)) == []


@pytest.mark.parametrize(
    "free",
    ["plan.spec=k4", "run.log_every_s=1.0", "comm.overlap=false", "compute.threads=2", "checkpoint.keep=1"],
)
def test_nor_is_what_changes_no_result(free: str) -> None:
    assert changes(_checkpoint(), load_config(None, [*BEFORE, free])) == []


def test_what_changes_the_course_is_said() -> None:
    now = load_config(None, [*BEFORE, "train.lr=0.2", "train.clip_norm=1.0", "data.path=there"])
    assert changes(_checkpoint(), now) == [
        "resumed with data.name = 'there', was 'here'",
        "resumed with data.path = 'there', was 'here'",
        "resumed with train.clip_norm = 1.0, was left out",
        "resumed with train.lr = 0.2, was 0.1",
    ]


@pytest.mark.parametrize(
    "other", ["train.batch=64", "train.seed=1", "train.dtype=float64", "train.optimizer=adam", "data.flip=true",
              "model.name=lenet", "model.options.width=4"],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused(other: str) -> None:
    with pytest.raises(
        InputError, match=f"{other.partition('=')[0]} = .*, was .*; resume with the configuration"
    ):
        changes(_checkpoint(), load_config(None, [*BEFORE, other]))
