"""The door to all data: a name or a path, recognised by looking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gridnn.errors import InputError
from gridnn.train.data import arrays, cifar, folder, idx, photos
from gridnn.train.data.dataset import SPLITS, DataOptions, Dataset
from gridnn.train.data.digits import open_digits
from gridnn.train.data.synthetic import open_synthetic


class _Format(NamedTuple):
    looked_for: str
    found_in: Callable[[Path], bool]
    open: Callable[[Path, str, DataOptions], Dataset]


# In this order: class folders can have any name, so the named files come first.
_FORMATS = (
    _Format(idx.LOOKED_FOR, idx.found_in, idx.open_idx),
    _Format(cifar.LOOKED_FOR, cifar.found_in, cifar.open_cifar),
    _Format(arrays.LOOKED_FOR, arrays.found_in, arrays.open_arrays),
    _Format(folder.LOOKED_FOR, folder.found_in, folder.open_folder),
    _Format(photos.LOOKED_FOR, photos.found_in, photos.open_photos),
)

# Where the usual archives put their files when they are unpacked in the folder that is named.
_INSIDE = (
    "cifar-10-batches-bin",
    "cifar-100-binary",
    "cifar-10-batches-py",
    "cifar-100-python",
    "MNIST/raw",
    "raw",
)


def open_data(
    name_or_path: str | Path, split: str, options: DataOptions | Mapping[str, Any] | None = None
) -> Dataset:
    """One split of a data set.

    Parameters
    ----------
    name_or_path
        "digits", "synthetic:<CxHxW>:<classes>", or a file or folder of a format that is recognised:
        MNIST IDX files, CIFAR-10 and -100, arrays, pictures by class, photographs.
    split
        "train" or "test".
    options
        `DataOptions` or a table of them.

    Raises
    ------
    InputError
        Nothing is there, nothing is recognised, or what is there is damaged.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r} is not known; use train or test")
    chosen = DataOptions.of(options)
    name = str(name_or_path)
    if name == "digits":
        return open_digits(split, chosen)
    if name.split(":")[0] == "synthetic":
        return open_synthetic(name, split, chosen)
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise InputError(
            f"there is no data set {name!r}: no such file or folder ({path.absolute()}); give a path, "
            "'digits', or 'synthetic:<CxHxW>:<classes>'"
        )
    for place in (path, *(path / inside for inside in _INSIDE)):
        for kind in _FORMATS:
            if place.exists() and kind.found_in(place):
                return kind.open(place, split, chosen)
    looked_for = "".join(f"\n  - {kind.looked_for}" for kind in _FORMATS)
    inside = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    shown = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "") if inside else "nothing"
    found = f"found {shown}" if path.is_dir() else "its ending is not known"
    raise InputError(f"{path} is not recognised as data: {found}; looked for{looked_for}")
