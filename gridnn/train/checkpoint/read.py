"""A checkpoint opened: what is wrong with it, and any box of its arrays.

A reader asks for a box and copies the overlap with each piece, whatever plan wrote them:

    pieces   +---------+-----+        wanted   . . . . . . . .
             | 0       | 1   |                 . . +-------+ .      copied: a corner of 0, a corner of 1, a corner of 2
             +----+----+-----+                 . . |       | .
             | 2  | 3        |                 . . +-------+ .
             +----+----------+                 . . . . . . . .
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gridnn.compute.cpu.memory import shaped
from gridnn.errors import InputError
from gridnn.geometry.interval import Box, Interval, extents_of, local_slices, overlap, volume
from gridnn.train.checkpoint.contents import memory_order, run_boxes
from gridnn.train.checkpoint.index import INDEX, STATE, Index, State, load_index, load_state
from gridnn.train.checkpoint.shards import open_shard, wrong_with

Array = NDArray[Any]


class Checkpoint:
    """A checkpoint whose index and state are whole; `look_at` and `open_checkpoint` make it."""

    def __init__(self, folder: Path, index: Index, state: State) -> None:
        self.folder, self.index, self.state = folder, index, state
        self._open: dict[str, Callable[[str], Array]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of its files."""
        return sum(facts.bytes for facts in self.index.files.values())

    def fill(self, name: str, box: Box, out: Array) -> None:
        """Read a box of an array.

        Parameters
        ----------
        name
            Such as ``"weights/conv1.weight"``.
        out
            Of the box's extents and any strides; channels innermost is fastest.

        Raises
        ------
        InputError
            If there is no such array, it is of another type, or its pieces do not cover the box.
        """
        stored = self.index.arrays.get(name)
        if stored is None:
            raise InputError(f"checkpoint {self.folder} has no array {name}")
        if out.dtype.name != stored.dtype:
            raise InputError(
                f"checkpoint {self.folder}: {name} is {stored.dtype}, the run wants {out.dtype.name}"
            )
        order, left = memory_order(len(stored.shape)), volume(box)
        for piece in stored.pieces:
            common = overlap(piece.box, box)
            if elements := volume(common):
                left -= elements
                there = self._tensor(piece.file, piece.key).transpose(
                    [order.index(d) for d in range(len(order))]
                )
                # Both sides in the order of memory: a copy of runs.
                out[local_slices(common, box)].transpose(order)[...] = there[
                    local_slices(common, piece.box)
                ].transpose(order)
        if left:
            raise InputError(f"checkpoint {self.folder}: the pieces of {name} do not cover what is wanted")

    def fill_run(self, name: str, block: Box, run: Interval, out: Array) -> None:
        """Read a run of a block's memory into a flat array of the run's size.

        Raises
        ------
        InputError
            As `fill` does.
        """
        at = 0
        for box in run_boxes(block, run):
            size = volume(box)
            self.fill(name, box, shaped(out[at : at + size], extents_of(box)))
            at += size

    def expect(self, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Refuse a checkpoint that is not of these arrays.

        Parameters
        ----------
        arrays
            Global shape and type by name.

        Raises
        ------
        InputError
            Naming the first that differs and what to try.
        """
        have = {name: (stored.shape, stored.dtype) for name, stored in self.index.arrays.items()}
        for name in (*arrays, *have):
            mine, theirs = arrays.get(name), have.get(name)
            if mine != theirs:
                raise InputError(
                    f"checkpoint {self.folder} is of another run: {name} is {_said(theirs)} in it, {_said(mine)} in "
                    "this run; resume with the network, optimizer and train.dtype it was made with, or start anew "
                    "with --resume never"
                )

    def _tensor(self, file: str, key: str) -> Array:
        if file not in self._open:
            self._open[file] = open_shard(self.folder / file)
        return self._open[file](key)


def look_at(
    folder: Path, mine: slice = slice(None), checksums: bool = True
) -> tuple[Checkpoint | None, list[str]]:
    """Open a checkpoint and return what is wrong with it, in words; nothing where all that was looked at is whole.

    Parameters
    ----------
    folder
        Of one step.
    mine
        The shards to be looked at, of all in the order of their names; index and state always are.
    checksums
        False compares the sizes of shards only.
    """
    try:
        index = load_index(_text(folder / INDEX))
    except FileNotFoundError:
        return None, [f"{INDEX} is missing"]
    except OSError as error:
        return None, [f"{INDEX} cannot be read ({error.strerror})"]
    except InputError as error:
        return None, [str(error)]
    shards = sorted(set(index.files) - {STATE})[mine]
    found = [wrong_with(folder / STATE, index.files[STATE])]
    found += [wrong_with(folder / name, index.files[name], checksums) for name in shards]
    wrong = [words for words in found if words is not None]
    if found[0] is not None:
        return None, wrong
    try:
        state = load_state(_text(folder / STATE))
    except InputError as error:
        return None, [str(error), *wrong]
    if state.step != index.step:
        wrong.append(f"{STATE} is of step {state.step}, {INDEX} of step {index.step}")
    return Checkpoint(folder, index, state), wrong


def damage(folder: Path) -> list[str]:
    """Return all that is wrong with the files of a checkpoint: every checksum is compared."""
    return look_at(folder)[1]


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint whose index and state are whole, and whose shards are there in full length.

    Raises
    ------
    InputError
        Saying all that is wrong.
    """
    found, wrong = look_at(folder, checksums=False)
    if found is None or wrong:
        raise InputError(f"checkpoint {folder} cannot be used: {'; '.join(wrong)}")
    return found


def newest(
    steps: Sequence[Path], check: Callable[[Path], list[str]] = damage
) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, and a warning for every newer one that is not.

    Parameters
    ----------
    steps
        Folders of steps, newest first, as `folders.steps_in` gives them; of none nothing is found.
    check
        What is wrong with a checkpoint; on several ranks one that shares the work out.

    Raises
    ------
    InputError
        If there are checkpoints and none is whole, saying what is wrong with each.
    """
    warnings: list[str] = []
    for folder in steps:
        wrong = check(folder)
        if not wrong:
            return folder, [f"{words}; the one before it is used" for words in warnings]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        warnings.append(f"checkpoint {folder} is not whole: {wrong[0]}{more}")
    if warnings:
        raise InputError(
            "no checkpoint is whole; name another, or start anew with --resume never:\n  "
            + "\n  ".join(warnings)
        )
    return None, []


def _text(path: Path) -> str:
    # What is no UTF-8 is a damaged file like any other, to be found by its checksum.
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def _said(array: tuple[tuple[int, ...], str] | None) -> str:
    return "not there" if array is None else f"{array[1]} {'x'.join(map(str, array[0])) or 'scalar'}"
