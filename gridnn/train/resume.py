"""Where a run starts: at step 0 in a new folder, or where a checkpoint ended.

    --resume      the run folder has checkpoints        it has none
    never         refused: they would be lost           step 0
    auto          the newest that is whole              step 0
    PATH          that one, of this or another run, whatever the folder has

A run that goes on may have another plan, another number of ranks, another length and another learning rate; not another
network, data, batch or seed, for then the samples of an epoch would come twice or never.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from gridnn.comm.agree import agreed
from gridnn.comm.world import World
from gridnn.errors import InputError
from gridnn.train.checkpoint.find import find_named, find_newest
from gridnn.train.checkpoint.folders import CHECKPOINTS, steps_in
from gridnn.train.checkpoint.read import Checkpoint
from gridnn.train.config import dump_toml
from gridnn.train.console import Console
from gridnn.train.folder import is_finished, open_folder
from gridnn.train.sections import Config

NEVER, AUTO = "never", "auto"
FIXED = ("model", "data", "train.batch", "train.seed", "train.dtype", "train.optimizer")
"""Sections and keys that stay as they were when a run goes on."""
MOVED = ("data.path", "data.name")
"""But for these, where data have a path: the same may lie elsewhere."""
FREE = ("plan", "run", "comm", "compute", "checkpoint")
"""Sections that change no result: not worth a word."""
HEARD = ("plan.schedule", "plan.form", "plan.heads")
"""But for these: gradients may be late, losses others."""


class Start(NamedTuple):
    """Where a run starts.

    Attributes
    ----------
    folder
        Of the record; None on ranks that keep none.
    checkpoint
        What the model is filled from; None at step 0.
    finished
        Whether the folder has the summary of a run that ended.
    """

    folder: Path | None
    checkpoint: Checkpoint | None = None
    finished: bool = False

    @property
    def step(self) -> int:
        """Steps that are made already."""
        return 0 if self.checkpoint is None else self.checkpoint.state.step


def open_start(
    world: World,
    config: Config,
    resume: str,
    console: Console,
    now: Callable[[], datetime] = datetime.now,
) -> Start:
    """Find where to start, and make the run folder on rank 0.  Collective.

    Raises
    ------
    InputError
        On all ranks: no checkpoint is whole, it is of another run, or the folder cannot be used.
    """
    checkpoint, warnings, directory = None, list[str](), config.run.dir
    if resume not in (NEVER, AUTO):
        checkpoint, warnings = find_named(world, Path(resume))
    elif resume == AUTO and directory is not None:
        checkpoint, warnings = find_newest(world, Path(directory))
    for words in warnings:
        console.warn(words)
    folder, finished = None, False
    with agreed(world):
        if checkpoint is not None:
            changed = changes(checkpoint, config)
        if world.rank == 0:
            if resume == NEVER and directory is not None:
                _refuse_to_forget(Path(directory))
            folder = open_folder(directory, config.model.name, now(), may_be_finished=resume == AUTO)
            finished = is_finished(folder)
    if checkpoint is not None:
        for words in changed:
            console.say(words)
    return Start(folder, checkpoint, world.comm.bcast(finished))


def changes(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Return what is said about a configuration that differs from the checkpoint's, a line a key.

    Raises
    ------
    InputError
        If what must stay differs.
    """
    before, after = (_flat(tomllib.loads(text)) for text in (checkpoint.state.config, dump_toml(config)))
    moved = MOVED if "data.path" in before and "data.path" in after else ()
    refused, said = list[str](), list[str]()
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        free = key not in HEARD and key.startswith(tuple(f"{section}." for section in FREE))
        if was == now or free:
            continue
        fixed = key not in moved and any(key == name or key.startswith(f"{name}.") for name in FIXED)
        (refused if fixed else said).append(f"{key} = {_text(now)}, was {_text(was)}")
    if refused:
        raise InputError(
            f"checkpoint {checkpoint.folder} is of another run: {'; '.join(refused)}; resume with the configuration it "
            "was made with, or start anew in another --run-dir"
        )
    return [f"resumed with {line}" for line in said]


def _refuse_to_forget(directory: Path) -> None:
    if steps := steps_in(directory / CHECKPOINTS):
        raise InputError(
            f"the run folder {directory} has checkpoints ({steps[0].name} is the newest); go on from them with "
            "--resume auto, or name another folder with --run-dir"
        )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        found.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found


def _text(value: Any) -> str:
    return "left out" if value is None else repr(value)
