"""The newest checkpoint that is whole, found by all ranks together: each reads its share of the files to be checked."""

from __future__ import annotations

from pathlib import Path

from gridnn.comm.agree import agreed
from gridnn.comm.world import World
from gridnn.errors import GridnnError
from gridnn.train.checkpoint.folders import CHECKPOINTS, root_of, steps_in
from gridnn.train.checkpoint.read import Checkpoint, look_at, newest


def find_newest(world: World, run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint of a run folder, None where it has none, and warnings on newer ones.

    Collective.

    Raises
    ------
    InputError
        On all ranks: if there are checkpoints and none is whole, or they cannot be listed.
    """
    # One rank lists the folder: others may see a new name a moment later.
    steps: list[Path] = []
    with agreed(world):
        if world.rank == 0:
            steps = steps_in(run / CHECKPOINTS)
    return _first_whole(world, world.comm.bcast(steps))


def find_named(world: World, path: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint that a path names, a folder of one step or the newest whole one of a run.  Collective.

    Raises
    ------
    InputError
        On all ranks: if there is none, or none is whole.
    """
    steps: list[Path] = []
    with agreed(world):
        if world.rank == 0:
            _, steps = root_of(path)
    found, warnings = _first_whole(world, world.comm.bcast(steps))
    assert found is not None, "a path with no checkpoint was refused"
    return found, warnings


def _first_whole(world: World, steps: list[Path]) -> tuple[Checkpoint | None, list[str]]:
    opened: dict[Path, Checkpoint | None] = {}

    def check(folder: Path) -> list[str]:
        """Return what is wrong, the same on every rank; each looks at its share of the shards."""
        opened[folder], wrong = look_at(folder, slice(world.rank, None, world.size))
        told: list[list[str]] = world.comm.allgather(wrong)
        return list(dict.fromkeys(words for of_rank in told for words in of_rank))

    try:
        folder, warnings = newest(steps, check)
    except GridnnError as error:
        error.everywhere = True
        raise
    return (None if folder is None else opened[folder]), warnings
