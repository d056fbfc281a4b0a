"""MNIST's IDX files, plain or gzip.

    byte 0, 1   zero
    byte 2      element type: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    byte 3      number of dims
    then        one big-endian int32 a dim, and the elements in C order, big-endian

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, DataOptions, Dataset
from gridnn.train.data.paired import Part, paired
from gridnn.train.data.rows import ArrayRows, check_size, mapped

LOOKED_FOR = "IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., plain or .gz)"

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SPLIT_WORDS = {"train": ("train",), "test": ("t10k", "test")}


def found_in(folder: Path) -> bool:
    """Whether the folder has training images by the name of MNIST or one like it."""
    return folder.is_dir() and bool(_candidates(folder, "train", "images"))


def open_idx(folder: Path, split: str, options: DataOptions) -> Dataset:
    """The data set of the images and labels files of one split."""
    parts = {name: _part(folder, name) for name in {split, "train"}}
    return paired(folder.name, split, parts[split], parts["train"], options)


def read_idx(path: Path) -> Array:
    """The array of one IDX file: mapped where it is plain, in memory where it is compressed."""
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"{path} is not a whole gzip file ({error}); copy or download it again"
            ) from error
        dtype, shape, start = _header(path, content[:256])
        needed = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
        check_size(path, len(content), needed)
        values: Array = np.frombuffer(content, dtype, (needed - start) // dtype.itemsize, start)
        return values.reshape(shape)
    with path.open("rb") as file:
        dtype, shape, start = _header(path, file.read(256))
    return mapped(path, dtype, shape, start)


def _header(path: Path, head: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 8:
        raise InputError(
            f"{path} is not an IDX file: it begins with {head[:4].hex(' ') or 'nothing'}, needed is "
            "00 00, a type 08 to 0e and 1 to 8 dims"
        )
    start = 4 + 4 * head[3]
    check_size(path, len(head), start)
    return np.dtype(_TYPES[head[2]]), struct.unpack(f">{head[3]}I", head[4:start]), start


def _part(folder: Path, split: str) -> Part:
    images, labels = _only(folder, split, "images"), _only(folder, split, "labels")
    inputs, targets = read_idx(images), read_idx(labels)
    if inputs.ndim < 2:
        raise InputError(f"{images} holds {inputs.ndim} dim, shape {inputs.shape}; images need at least 2")
    return Part(ArrayRows(inputs), ArrayRows(targets), str(images), str(labels))


def _only(folder: Path, split: str, what: str) -> Path:
    found = _candidates(folder, split, what)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        words = " or ".join(_SPLIT_WORDS[split])
        raise InputError(
            f"{folder}: one file with {words!r} and {what!r} in its name is needed for {split}, found {names}"
        )
    return found[0]


def _candidates(folder: Path, split: str, what: str) -> list[Path]:
    """Files of one role; of a file and its .gz only the plain one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.removesuffix(".gz").lower()
        generic = "idx" in stem or "ubyte" in stem
        if path.is_file() and generic and what in stem and any(word in stem for word in _SPLIT_WORDS[split]):
            found.setdefault(stem, path)
    return list(found.values())
