"""CIFAR-10 and CIFAR-100 in their binary and Python versions.

    binary   records      CIFAR-10:  label, 3072 pixels      CIFAR-100: coarse, fine label, 3072 pixels
    python   pickles      {b"data": uint8 (n, 3072), b"labels" or b"fine_labels": n integers}

Pixels are 3 x 32 x 32, channels first.  The binary files are mapped; a pickle is read whole, by
an unpickler that can build arrays, lists and dictionaries and nothing else.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from gridnn.errors import InputError
from gridnn.train.data.dataset import DataOptions, Dataset
from gridnn.train.data.paired import Part, paired
from gridnn.train.data.rows import ArrayRows, JoinedRows, Rows, mapped

LOOKED_FOR = (
    "CIFAR-10 (data_batch_*.bin and test_batch.bin, or data_batch_* and test_batch) or "
    "CIFAR-100 (train.bin and test.bin, or train and test)"
)

_IMAGE = (3, 32, 32)
# Version -> (files of train, files of test, classes).
_VERSIONS: dict[str, tuple[str, str, int]] = {
    "CIFAR-10 binary": ("data_batch_*.bin", "test_batch.bin", 10),
    "CIFAR-10 python": ("data_batch_[0-9]", "test_batch", 10),
    "CIFAR-100 binary": ("train.bin", "test.bin", 100),
    "CIFAR-100 python": ("train", "test", 100),
}


def found_in(folder: Path) -> bool:
    """Whether the folder has the training files of one of the four versions."""
    return _version(folder) is not None


def open_cifar(folder: Path, split: str, options: DataOptions) -> Dataset:
    """The data set of one split; CIFAR-100 gives its 100 fine classes."""
    version = _version(folder)
    assert version is not None, "asked only of a folder that found_in accepts"
    train, test, classes = _VERSIONS[version]
    paths = _files(folder, train if split == "train" else test)
    if not paths:
        raise InputError(f"{folder} has {train} of {version} but not {test}, which {split} needs")
    read = _binary if version.endswith("binary") else _pickled
    pairs = [read(path, classes) for path in paths]
    inputs, targets = (JoinedRows([pair[i] for pair in pairs]) for i in (0, 1))
    where = ", ".join(str(path) for path in paths)
    part = Part(inputs, targets, where, where)
    named = DataOptions(target=options.target, classes=options.classes or classes)
    return paired(version, split, part, part, named)


def _version(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    return next((version for version, (train, _, _) in _VERSIONS.items() if _files(folder, train)), None)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _binary(path: Path, classes: int) -> tuple[Rows, Rows]:
    fields: list[Any] = [("label", "u1"), ("image", "u1", _IMAGE)]
    record = np.dtype(fields if classes == 10 else [("coarse", "u1"), *fields])
    size = path.stat().st_size
    count, rest = divmod(size, record.itemsize)
    if rest or not count:
        raise InputError(
            f"{path} is truncated: found {size} bytes, needs a multiple of {record.itemsize} "
            f"({(count + 1) * record.itemsize} for {count + 1} images); copy or download it again"
        )
    records = mapped(path, record, (count,))
    return ArrayRows(records["image"]), ArrayRows(records["label"])


def _pickled(path: Path, classes: int) -> tuple[Rows, Rows]:
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{path} is not a whole CIFAR pickle ({error}); copy or download it again"
        ) from error
    label_key = "labels" if classes == 10 else "fine_labels"
    members = content if isinstance(content, dict) else {}
    # Python 2 wrote bytes, others wrote text.
    members = {key.decode() if isinstance(key, bytes) else key: value for key, value in members.items()}
    pixels, labels = np.asarray(members.get("data")), np.asarray(members.get(label_key))
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or labels.shape != pixels.shape[:1]
    ):
        raise InputError(
            f"{path} holds {sorted(map(str, members))} with data of {pixels.dtype} {pixels.shape} and "
            f"{label_key} {labels.shape}; needed are 'data', uint8 (n, 3072), and {label_key!r}, n integers"
        )
    return ArrayRows(pixels.reshape(-1, *_IMAGE)), ArrayRows(labels.astype(np.int64))


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise InputError(f"a pickle asks for the codec {encoding!r}; CIFAR files use latin1 only")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows numpy arrays and refuses every other name: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # The function itself, as numpy names it, without importing what the file asks for.
            return np.empty(0).__reduce__()[0]
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise InputError(f"a CIFAR pickle holds {module}.{name}, which is refused: only arrays are read")
        return allowed[module, name]
