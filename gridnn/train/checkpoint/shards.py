"""A shard: what one rank wrote, as a safetensors file.

     8 bytes   size of the header
     header    JSON: {"weights/conv1.weight": {"dtype": "F32", "shape": [2, 3, 3, 3], "data_offsets": [0, 216]}, ...}
     data      runs of memory, one after another

A run of several boxes lies in the file as it lay in memory, so one copy takes it there; each of its boxes is a tensor
of its own, ``name#0``, ``name#1``, whose dims are in the order of memory (channels last).  Written and read here and
not by the library of the format: what is read by it is copied three times, what is written by it is not on the disk
when it returns.  Tests read the files with the library.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.geometry.interval import Box, volume
from gridnn.train.checkpoint.contents import Part, stored_extents

Array = NDArray[Any]

DTYPES = {"float64": "F64", "float32": "F32"}
ALIGNMENT = 8
CHUNK_BYTES = 1 << 20
"""What is read at once for a checksum: it stays in the cache of a core."""


class FileFacts(NamedTuple):
    """Size and checksum of a file."""

    bytes: int
    checksum: str


class Slot(NamedTuple):
    """A box of an array in a shard.

    Attributes
    ----------
    start, stop
        Bytes of the shard's data.
    """

    name: str
    key: str
    dtype: str
    box: Box
    start: int
    stop: int


def shard_name(rank: int) -> str:
    """Return the name of the file that a rank writes."""
    return f"shard-{rank:05d}.safetensors"


def lay_out(parts: Sequence[Part]) -> list[Slot]:
    """Return where the boxes of a rank's parts lie in its shard: in the order of the parts, without gaps."""
    slots, at = list[Slot](), 0
    for part in parts:
        boxes, size = part.boxes(), np.dtype(part.dtype).itemsize
        for number, box in enumerate(boxes):
            key = part.name if len(boxes) == 1 else f"{part.name}#{number}"
            stop = at + size * volume(box)
            slots.append(Slot(part.name, key, part.dtype, box, at, stop))
            at = stop
    return slots


def header(slots: Sequence[Slot]) -> bytes:
    """Return what stands before the data of a shard."""
    return _header({s.key: (s.dtype, stored_extents(s.box), s.start, s.stop) for s in slots}, {})


def safetensors_of(arrays: Mapping[str, Array], about: Mapping[str, str]) -> bytes:
    """Return whole arrays as the content of one safetensors file, `about` as its metadata."""
    entries, at = dict[str, tuple[str, tuple[int, ...], int, int]](), 0
    for name, array in sorted(
        arrays.items(), key=lambda item: (-item[1].itemsize, item[0])
    ):  # aligned, all of them
        entries[name] = (array.dtype.name, array.shape, at, at + array.nbytes)
        at += array.nbytes
    return b"".join([_header(entries, about), *(arrays[name].tobytes() for name in entries)])


def _header(entries: Mapping[str, tuple[str, tuple[int, ...], int, int]], about: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {
        key: {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        for key, (dtype, shape, start, stop) in entries.items()
    }
    text = json.dumps(
        {"__metadata__": dict(about), **table} if about else table, separators=(",", ":")
    ).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_durably(path: Path, *contents: bytes | memoryview) -> FileFacts:
    """Write a new file, and return when it is on the disk; its checksum is made beside the writing.

    Raises
    ------
    OSError
    """
    digest = xxhash.xxh3_64()

    def read() -> None:  # neither hashing nor writing holds Python's lock
        for content in contents:
            digest.update(content)

    reader = threading.Thread(target=read, name="checksum", daemon=True)
    reader.start()
    try:
        with path.open("xb", buffering=0) as file:
            for content in contents:
                write_all(file, content)
            os.fsync(file.fileno())
    except OSError as error:  # one of writing knows no name
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        reader.join()
    return FileFacts(sum(len(content) for content in contents), f"xxh3:{digest.hexdigest()}")


def write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write all of it: the system may take a part at a time, and takes 2 GiB at most."""
    left = memoryview(content)
    while left.nbytes:
        left = left[file.write(left) :]


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot, and do not need to
            os.fsync(number)
    finally:
        os.close(number)


def wrong_with(path: Path, facts: FileFacts, read_all: bool = True) -> str | None:
    """Return what is wrong with a file, or None.

    Parameters
    ----------
    read_all
        False compares the size only.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return f"{path.name} is no file"
        if found.st_size != facts.bytes:
            return f"{path.name} has {found.st_size:,} bytes instead of {facts.bytes:,}"
        if read_all and checksum(path) != facts.checksum:
            return f"{path.name} is damaged: its checksum is not that of what was written"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def checksum(path: Path) -> str:
    """Return the checksum of a file.

    Raises
    ------
    OSError
    """
    digest = xxhash.xxh3_64()
    # Begins with a page.  The system copies four times slower into memory that begins a few bytes after one, as
    # a large bytearray may: some processors' copy loads what it seems to have stored just before.
    with mmap.mmap(-1, CHUNK_BYTES) as room, memoryview(room) as view, path.open("rb", buffering=0) as file:
        while count := file.readinto(view):
            digest.update(view[:count])
    return f"xxh3:{digest.hexdigest()}"


def open_shard(path: Path) -> Callable[[str], Array]:
    """Map a shard; the function that is returned gives a tensor by its key, a read-only view of the file.

    Raises
    ------
    InputError
        If it is no shard, or cannot be read; asked for a key, if it has none of that name.
    """
    try:
        mapped = np.memmap(path, np.uint8, "r")
        stop = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
        table = json.loads(mapped[8:stop].tobytes())
        data = mapped[stop:]
        kinds = {name: np.dtype(numpy) for numpy, name in DTYPES.items()}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a shard of a checkpoint: {error}") from None

    def tensor(key: str) -> Array:
        try:
            entry = table[key]
            first, last = entry["data_offsets"]
            found: Array = data[first:last].view(kinds[entry["dtype"]]).reshape(entry["shape"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path} has no tensor {key!r} that can be read") from None
        return found

    return tensor
