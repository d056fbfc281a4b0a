"""The folder of checkpoints: a run may die at any moment of a save; what stays, what goes, what a path means."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gridnn.errors import InputError
from gridnn.train.checkpoint import folders
from gridnn.train.checkpoint.folders import prune, root_of, steps_in
from gridnn.train.checkpoint.read import newest
from tests.train.checkpoints import ranks_of, small, two_steps, write_one


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return two_steps(tmp_path / "checkpoints")


class Died(BaseException):
    """The process is killed here."""


def test_a_run_may_die_at_any_moment_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each sync, rename and removal: what is found is whole, and it is the old one or the new one."""
    ranks = ranks_of(small(), 2, {"*": "n2"})
    real = {
        (os, name): getattr(os, name) for name in ("fsync", "rename", "replace", "rmdir", "unlink", "open")
    }
    moments, steps = 0, list[int]()
    for moment in range(1, 1000):
        root = tmp_path / str(moment)
        for step in (1, 2):
            ranks.write(root, step, keep=2, word="first")
        left = moment

        def die_in_time(call: Any) -> Any:
            def wrapped(*words: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Died
                return call(*words, **more)

            return wrapped

        with monkeypatch.context() as patch:
            for (owner, name), call in real.items():
                patch.setattr(owner, name, die_in_time(call))
            try:
                ranks.write(root, 3, keep=2, word="second")
                died = False
            except Died:
                died = True
        found, warnings = newest(steps_in(root))
        assert found is not None and not warnings and found.name in ("step-00000002", "step-00000003")
        assert (root / (root / "latest").read_text().strip()).is_dir()
        steps.append(int(found.name[5:]))
        folders.clean(root, "")
        ranks.write(root, 4, keep=2, word="third")
        assert not list(root.glob("step-*.part"))
        moments += died
        if not died:
            break
    assert moments > 15 and set(steps) == {2, 3} and steps == sorted(steps)


def test_parts_are_no_checkpoints_and_are_removed_by_the_next_run(root: Path) -> None:
    left = root / "step-00000030.dead.part"
    shutil.copytree(root / "step-00000020", left)
    mine = root / "step-00000030.mine.part"
    mine.mkdir()
    assert newest(steps_in(root))[0] == root / "step-00000020"
    folders.clean(root, mine.name)
    assert not left.exists() and mine.exists()


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    found = [
        write_one(tmp_path, step, loss, keep=2)
        for step, loss in [(1, None), (2, 0.5), (3, 0.7), (4, float("nan")), (5, 0.5), (6, 0.9), (7, 0.8)]
    ]
    #                 2 is best                         5 is as good, and newer
    assert found == [[1], [2, 1], [3, 2], [4, 3, 2], [5, 4], [6, 5], [7, 6, 5]]
    assert write_one(tmp_path, 8, 1.0, keep=1, best=False) == [8]


def test_a_course_that_was_given_up_is_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write_one(tmp_path, step, None, keep=9)
    # Resumed from 10: 15 is the newest of the course, and 20 must not be found in its place.
    assert write_one(tmp_path, 15, None, keep=9) == [15, 10]
    # A step that is there already is replaced.
    before = (tmp_path / "step-00000015" / "state.json").stat().st_ino
    assert write_one(tmp_path, 15, None, keep=9) == [15, 10]
    assert (tmp_path / "step-00000015" / "state.json").stat().st_ino != before


def test_prune_never_removes_the_last(tmp_path: Path) -> None:
    write_one(tmp_path, 1, None, keep=3)
    assert prune(tmp_path, 1, keep=0, best=False, word="w") == []


def test_what_a_path_means(root: Path) -> None:
    step = root / "step-00000010"
    both = [root / "step-00000020", step]
    assert (
        root_of(root.parent) == (root, both)
        and root_of(root) == (root, both)
        and root_of(step) == (root, [step])
    )
    with pytest.raises(InputError, match="no checkpoint in"):
        root_of(root.parent.parent)
    with pytest.raises(InputError, match="no checkpoint"):
        root_of(root / "step-00000099")


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    assert newest(steps_in(tmp_path)) == (None, [])
    assert steps_in(tmp_path / "no such folder") == []
