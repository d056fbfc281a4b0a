"""The folder ``checkpoints``: names of steps, the one rename that makes a checkpoint, and which are kept.

    step-00000180.1f3a.part/    shards and state, then the index, each synced to the disk
              | rename          after all ranks agreed
    step-00000180/              a checkpoint: there at once, and whole
              | rename          when newer ones are there
    step-00000060.1f3a.part/    removed; what is left of it by a run that died is removed by the next save

The run's own word in the name of a part (here 1f3a) keeps a run from meeting what a dead one left behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from gridnn.errors import InputError
from gridnn.train.checkpoint.index import INDEX, STATE
from gridnn.train.checkpoint.shards import sync_folder, write_durably

CHECKPOINTS, LATEST, PART = "checkpoints", "latest", ".part"
_STEP = re.compile(r"step-(\d{8,})")


def step_name(step: int) -> str:
    """Return the name of the folder of a step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """Return the step of a checkpoint's folder by its name; None for any other folder."""
    found = _STEP.fullmatch(folder.name)
    return int(found[1]) if found else None


def steps_in(root: Path) -> list[Path]:
    """Return the folders of steps in a folder of checkpoints, newest first; damaged ones are among them.

    Raises
    ------
    InputError
        If the folder is there and cannot be listed.
    """
    try:
        found = [(step, path) for path in root.iterdir() if (step := step_of(path)) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"the folder of checkpoints {root} cannot be read ({error.strerror}); it should be a folder that this "
            "user may list"
        ) from None
    return [path for _, path in sorted(found, reverse=True)]


def root_of(path: Path) -> tuple[Path, list[Path]]:
    """Return the folder of checkpoints that is meant by a path, and the folders of steps, newest first.

    Parameters
    ----------
    path
        A run folder, its folder of checkpoints, or the folder of one step.

    Raises
    ------
    InputError
        If there is no checkpoint.
    """
    if step_of(path.absolute()) is not None or os.path.exists(path / INDEX) or os.path.exists(path / STATE):
        if os.path.lexists(path):
            return path.parent, [path]
        raise InputError(f"there is no checkpoint {path}; name a run folder, or a folder of one step in it")
    root = path / CHECKPOINTS if os.path.lexists(path / CHECKPOINTS) else path
    if steps := steps_in(root):
        return root, steps
    raise InputError(
        f"there is no checkpoint in {path}; name a run folder, its folder {CHECKPOINTS}, or a folder of one step in it"
    )


def part_name(step: int, word: str) -> str:
    """Return the name under which a run writes a checkpoint before it is one."""
    return f"{step_name(step)}.{word}{PART}"


def clean(root: Path, stays: str) -> None:
    """Remove what was left half written, by runs that died or saves that failed; the part named `stays` stays."""
    for path in root.glob(f"step-*{PART}"):
        if path.name != stays:
            remove(path)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def commit(part: Path, step: int, index: str, word: str) -> Path:
    """Make a checkpoint of a part that has all its shards on the disk; return its folder.

    Raises
    ------
    OSError
    """
    root, folder = part.parent, part.parent / step_name(step)
    write_durably(part / INDEX, index.encode())
    sync_folder(part)
    if os.path.lexists(
        folder
    ):  # of a course given up, or damaged: the run would not be at this step otherwise
        folder.rename(root / f"{folder.name}.old.{word}{PART}")
    part.rename(folder)
    sync_folder(root)
    point_to(root, folder)
    return folder


def point_to(root: Path, folder: Path) -> None:
    """Write the name of the newest checkpoint into ``latest``, whole or not at all.

    Raises
    ------
    OSError
    """
    unfinished = root / f"{LATEST}{PART}"
    remove(unfinished)
    write_durably(unfinished, f"{folder.name}\n".encode())
    if (root / LATEST).is_dir():  # a name that others read: whatever came in its place goes
        remove(root / LATEST)
    unfinished.replace(root / LATEST)
    sync_folder(root)


def prune(root: Path, newest: int, keep: int, best: bool, word: str) -> list[Path]:
    """Remove checkpoints that are no longer wanted, and return their folders.

    Steps after `newest` belong to a course that was given up: the run resumed before them, or they are damaged.

    Parameters
    ----------
    newest
        Step of the checkpoint that was just made.
    keep
        How many of the newest stay, at least 1.
    best
        Whether the one of the lowest loss stays too.

    Raises
    ------
    OSError
    """
    steps = steps_in(root)
    course = [path for path in steps if (step_of(path) or 0) <= newest]
    stay = set(course[: max(1, keep)])
    if best and (judged := [(loss, path) for path in course if (loss := loss_of(path)) is not None]):
        lowest = min(loss for loss, _ in judged)
        stay.add(next(path for loss, path in judged if loss == lowest))  # of equals the newest
    gone = [path for path in steps if path not in stay]
    for path in gone:
        # Renamed first: a run that dies while it removes leaves no checkpoint that looks damaged.
        trash = root / f"{path.name}.gone.{word}{PART}"
        path.rename(trash)
        remove(trash)
    for left in root.glob(f"step-*.old.{word}{PART}"):
        remove(left)
    return gone


def loss_of(folder: Path) -> float | None:
    """Return the loss of a checkpoint as its state says; None where it says none or cannot be read."""
    try:
        loss = json.loads((folder / STATE).read_text(encoding="utf-8"))["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(loss) if isinstance(loss, int | float) else None
