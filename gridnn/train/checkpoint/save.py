"""A checkpoint written without MPI: one rank's part of it, and what makes a checkpoint of all parts.

Snapshot    the rank's runs in the order of its file, copied where training goes on meanwhile: what a forward pass
            changes at once, what only an update changes beside the passes before it; numbers that are none are
            refused, for the checkpoints before them would be removed in their favour
write_part  buffer -> shard -> disk; rank 0 adds the state
commit_part every file is there -> index -> rename -> those it replaces are removed      (rank 0)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.train.checkpoint import folders
from gridnn.train.checkpoint.contents import Contents
from gridnn.train.checkpoint.index import STATE, Index, State, Stored, arrays_of, dump_index, dump_state
from gridnn.train.checkpoint.shards import (
    FileFacts,
    header,
    lay_out,
    shard_name,
    sync_folder,
    write_durably,
    wrong_with,
)

Array = NDArray[Any]
AT_ONCE = 1 << 16
"""Elements looked at together: what was looked at stays in a cache."""


class DivergedError(Exception):
    """Values that are not finite: nothing to go on from."""


class Snapshot:
    """A rank's parts in the order of its shard.

    Parameters
    ----------
    copies
        Copy the values into one buffer, which every save uses again, so that they may change while they are written;
        else they are written from where they live.

    Attributes
    ----------
    head : bytes
        What stands before the data in the file.
    nbytes : int
        Of the buffer.
    """

    def __init__(self, contents: Contents, rank: int, copies: bool = True) -> None:
        parts = contents.parts(rank)
        slots = lay_out(parts)
        self.head = header(slots)
        self.nbytes = slots[-1].stop if copies and slots else 0
        self._parts, self._data = parts, list[memoryview]()
        self._left = list[tuple[Array, Array | None]]()  # what `copy` copies: its place, and where it lives
        self._held = list[tuple[str, Array]]()
        self._buffer: Array | None = None
        if copies:
            self._buffer = np.empty(self.nbytes, np.uint8)
            self._buffer[...] = 0  # touched here, so that the first save does not wait for pages

    @property
    def data(self) -> list[memoryview]:
        """The data of the last `take`, to be written."""
        assert not self._left, "taken, but not copied yet"
        return self._data

    def take(self, values: Sequence[Array | None]) -> None:
        """Take the values of each part; None is zeros.  Those that no forward pass changes are left to `copy`."""
        buffer, at = self._buffer, 0
        self._data, self._left, self._held = [] if buffer is None else [buffer.data], [], []
        for part, value in zip(self._parts, values, strict=True):
            size, dtype = part.run.size, np.dtype(part.dtype)
            assert value is None or (value.size, value.dtype) == (size, dtype), "a value of another part"
            if buffer is None:
                found = np.zeros(size, dtype) if value is None else np.ascontiguousarray(value)
                self._data.append(found.reshape(-1).view(np.uint8).data)
                self._held.append((part.name, found.reshape(-1)))
                continue
            place = buffer[at : at + size * dtype.itemsize].view(dtype)
            at += size * dtype.itemsize
            self._held.append((part.name, place))
            if part.moves_in_forward:
                place[...] = 0 if value is None else value
            else:
                self._left.append((place, value))

    def copy(self) -> None:
        """Copy what `take` has left, in whatever thread; the values may change after it and not before."""
        for place, value in self._left:
            place[...] = 0 if value is None else value  # lets go of Python's lock while it copies
        self._left = []

    def check(self) -> None:
        """Look at all that was taken.

        Raises
        ------
        DivergedError
            If something of it is not finite.
        """
        assert not self._left, "taken, but not copied yet"
        for name, values in self._held:
            for start in range(0, values.size, AT_ONCE):
                if not np.isfinite(values[start : start + AT_ONCE]).all():
                    raise DivergedError(f"{name} is not finite")


def write_part(
    root: Path, step: int, word: str, rank: int, snapshot: Snapshot, state: State | None
) -> dict[str, FileFacts]:
    """Write what one rank has of a checkpoint; return when it is on the disk.  Rank 0 brings the `state`.

    Raises
    ------
    OSError
    """
    part = root / folders.part_name(step, word)
    part.mkdir(parents=True, exist_ok=True)
    facts = {shard_name(rank): write_durably(part / shard_name(rank), snapshot.head, *snapshot.data)}
    if state is not None:
        facts[STATE] = write_durably(part / STATE, dump_state(state).encode())
    sync_folder(part)
    return facts


def arrays_in(contents: Contents) -> dict[str, Stored]:
    """Return the arrays of the index: the same for every checkpoint of a run."""
    slots = {shard_name(rank): lay_out(contents.parts(rank)) for rank in range(contents.placed.procs)}
    return arrays_of(contents.arrays(), slots)


def commit_part(part: Path, index: Index, word: str, keep: int, best: bool) -> Path:
    """Make a checkpoint of what all ranks have written, and remove those that it replaces.

    Parameters
    ----------
    part
        The folder that all have written into.
    index
        Whose files are what they said they wrote.

    Raises
    ------
    OSError
        Also where this process does not see the file of another.
    """
    for name, facts in index.files.items():
        if wrong := wrong_with(part / name, facts, read_all=False):
            raise OSError(0, f"{wrong}; all ranks must write into one shared folder", str(part))
    folder = folders.commit(part, index.step, dump_index(index), word)
    folders.prune(part.parent, index.step, keep, best, word)
    return folder
