"""``index.json`` and ``state.json``: what a checkpoint holds, as values and as texts.

    {"checksum": "xxh3:0d1f...", "index":                           of all that follows this line
    {"format": "gridnn-checkpoint", "version": 1, "step": 120, "ranks": 4,
     "arrays": {
      "weights/conv1.weight": {"shape": [8, 3, 3, 3], "dtype": "float32", "order": [0, 2, 3, 1], "pieces": [
        {"file": "shard-00000.safetensors", "key": "weights/conv1.weight", "box": [[0, 2], [0, 3], [0, 3], [0, 3]]}, ...
     "files": {"state.json": {"bytes": 2210, "checksum": "xxh3:..."}, ...}}}

Boxes are global indices of the array; "order" says in which order of dims its pieces are stored.  The index is written
last: where it is, everything is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import xxhash

from gridnn.errors import InputError
from gridnn.geometry.interval import Box, Interval
from gridnn.train.checkpoint.contents import memory_order
from gridnn.train.checkpoint.shards import DTYPES, FileFacts, Slot

FORMAT, VERSION = "gridnn-checkpoint", 1
INDEX, STATE = "index.json", "state.json"
_FILE = re.compile(r"state\.json|shard-\d{5,}\.safetensors")


@dataclass(frozen=True)
class State:
    """What defines a run beside its arrays.

    Attributes
    ----------
    step, epoch
        Steps made, and the epoch of the next one: the number of the first step after resuming is `step`.
    updates
        Of the optimizer.
    seed
        Of the run: initial weights, order of the data, dropout and augmentation follow from it and the step.
    loss
        Of the last evaluation, by which the best checkpoint is known; None where nothing was evaluated yet.
    plan, config
        Texts of ``plan.json`` and ``config.toml``.
    more
        Whatever else the run wants back: numbers and texts.
    """

    step: int
    epoch: int
    updates: int
    seed: int
    plan: str
    config: str
    loss: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


class Piece(NamedTuple):
    """A box of an array, and the tensor that holds it."""

    file: str
    key: str
    box: Box


class Stored(NamedTuple):
    """An array of a checkpoint; its pieces tile it."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]


class Index(NamedTuple):
    """What ``index.json`` says."""

    step: int
    ranks: int
    arrays: dict[str, Stored]
    files: dict[str, FileFacts]


def arrays_of(
    known: Mapping[str, tuple[tuple[int, ...], str]], slots: Mapping[str, Sequence[Slot]]
) -> dict[str, Stored]:
    """Return the arrays of an index.

    Parameters
    ----------
    known
        Shape and type by name, as `Contents.arrays` gives them.
    slots
        By file.
    """
    pieces: dict[str, list[Piece]] = {name: [] for name in known}
    for file, of_file in slots.items():
        for slot in of_file:
            pieces[slot.name].append(Piece(file, slot.key, slot.box))
    return {name: Stored(*known[name], tuple(found)) for name, found in pieces.items()}


def dump_index(index: Index) -> str:
    """Return the text of ``index.json``, a line for every array and file."""
    head = json.dumps({"format": FORMAT, "version": VERSION, "step": index.step, "ranks": index.ranks})[:-1]
    arrays = {
        name: {
            "shape": array.shape, "dtype": array.dtype, "order": memory_order(len(array.shape)),
            "pieces": [piece._asdict() for piece in array.pieces],
        }
        for name, array in index.arrays.items()
    }  # fmt: skip
    files = {name: facts._asdict() for name, facts in index.files.items()}
    body = f'{head},\n "arrays": {_lines(arrays)},\n "files": {_lines(files)}}}}}\n'
    return f'{{"checksum": "{_checksum(body)}", "index":\n{body}'


def load_index(text: str) -> Index:
    """Read the text of ``index.json``.

    Raises
    ------
    InputError
        Saying what is wrong with it, in half a sentence.
    """
    first, _, body = text.partition("\n")
    if first != f'{{"checksum": "{_checksum(body)}", "index":':
        raise InputError(f"{INDEX} is damaged: its checksum is not that of what was written")
    try:
        table = json.loads(text)["index"]
        if (table["format"], table["version"]) != (FORMAT, VERSION):
            raise InputError(
                f"{INDEX} is {table['format']} of version {table['version']}; this gridnn reads {FORMAT} of {VERSION}"
            )
        index = Index(
            table["step"],
            table["ranks"],
            {name: _stored(array) for name, array in table["arrays"].items()},
            {name: FileFacts(**facts) for name, facts in table["files"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{INDEX} is no index of a checkpoint: {error!r}") from None
    named = {piece.file for array in index.arrays.values() for piece in array.pieces}
    if not all(map(_FILE.fullmatch, index.files)) or not {STATE, *named} <= set(index.files):
        raise InputError(f"{INDEX} names files that are no files of a checkpoint")
    return index


def dump_state(state: State) -> str:
    """Return the text of ``state.json``."""
    table = asdict(state)
    if state.loss is not None and not math.isfinite(state.loss):
        table["loss"] = None  # of no use to compare
    return json.dumps(table, indent=2, allow_nan=False) + "\n"


def load_state(text: str) -> State:
    """Read the text of ``state.json``.

    Raises
    ------
    InputError
        Saying what is wrong with it, in half a sentence.
    """
    try:
        table = json.loads(text)
        return State(**{name: table[name] for name in (f.name for f in fields(State))})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{STATE} is no state of a run: {error!r}") from None


def _stored(table: Mapping[str, Any]) -> Stored:
    shape = tuple(table["shape"])
    if table["order"] != list(memory_order(len(shape))):
        raise ValueError(f"pieces in order {table['order']}")
    pieces = tuple(
        Piece(p["file"], p["key"], tuple(Interval(*sides) for sides in p["box"])) for p in table["pieces"]
    )
    if table["dtype"] not in DTYPES or any(len(piece.box) != len(shape) for piece in pieces):
        raise ValueError(f"pieces of {table['dtype']} in boxes that are not of its {len(shape)} dims")
    return Stored(shape, table["dtype"], pieces)


def _lines(table: Mapping[str, Any]) -> str:
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in table.items())
    return "{\n" + ",\n".join(lines) + "\n }"


def _checksum(text: str) -> str:
    return f"xxh3:{xxhash.xxh3_64(text.encode(errors='surrogateescape')).hexdigest()}"
