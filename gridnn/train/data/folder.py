"""A folder of pictures by class.

    train/<class>/*.png  test/<class>/*.png      "val" or "valid" serve as test
    <class>/*.png                                `test_fraction` of each class is held out

Classes are the sub-folders' names in alphabetical order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gridnn.compute.random import Box
from gridnn.errors import InputError
from gridnn.train.data.dataset import (
    Array,
    DataOptions,
    Dataset,
    Indices,
    extents,
    held_out,
    slices,
    with_own_target,
)
from gridnn.train.data.pictures import common_size, decode, pictures_in

LOOKED_FOR = "a folder of pictures by class (train/<class>/*.png and test/<class>/*.png, or <class>/*.png)"

_TEST_NAMES = ("test", "val", "valid")


def split_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders that hold the splits, empty where the folder has none."""
    found = {"train": folder / "train"} if (folder / "train").is_dir() else {}
    for name in _TEST_NAMES:
        if (folder / name).is_dir():
            return {**found, "test": folder / name}
    return found


def found_in(path: Path) -> bool:
    """Whether there are class folders with pictures."""
    return path.is_dir() and bool(_by_class(split_folders(path).get("train", path)))


def open_folder(folder: Path, split: str, options: DataOptions) -> Dataset:
    """One split of the pictures; each is decoded when it is read, and only the box kept."""
    parts = split_folders(folder)
    train = _by_class(parts.get("train", folder))
    for name in _TEST_NAMES:
        train.pop(name, None)
    names = list(train)
    found = train
    if split == "test" and "test" in parts:
        found = _by_class(parts["test"])
        strange = [name for name in found if name not in names]
        if strange:
            raise InputError(
                f"{parts['test']} has the class {strange[0]!r}, which {parts.get('train', folder)} has not; "
                f"known are {', '.join(names)}"
            )
    paths = [path for name in found for path in found[name]]
    labels = np.array([names.index(name) for name in found for _ in found[name]], np.int64)
    if not paths:
        raise InputError(f"{folder}: no pictures for {split}; at least 1 is needed")
    # All pictures of the data set, so that train and test cannot differ either.
    every = [path for name in names for path in train[name]] + (paths if found is not train else [])
    size, channels = common_size(every, options)
    if "test" not in parts:
        rows = held_out(len(paths), labels, options, str(folder))[split]
        paths, labels = [paths[row] for row in rows], labels[rows]

    def read(indices: Indices, box: Box) -> Array:
        out = np.empty((len(indices), *extents(box)), np.uint8)
        for row, index in enumerate(indices):
            out[row] = decode(paths[index], channels, size if options.size else None)[slices(box)]
        return out

    dataset = Dataset(
        folder.name, split, len(paths), (channels, *size), np.dtype(np.uint8), len(names), "class", (),
        read, lambda indices, _: labels[indices], 1 / 255,
    )  # fmt: skip
    if options.target == "pixels":
        raise InputError(
            f"{folder} has classes by folder; data.target 'pixels' needs label arrays (.npz or .h5)"
        )
    return with_own_target(dataset) if options.target == "image" else dataset


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Class name -> its pictures, for the sub-folders that have any."""
    found = {path.name: pictures_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: paths for name, paths in found.items() if paths}
