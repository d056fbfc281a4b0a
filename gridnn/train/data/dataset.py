"""What a data set is to the rest of gridnn: a header and two readers of boxes.

    sample i     input  (C, *space)    read(indices, box)         raw dtype, box over (C, *space)
                 target                read_target(indices, box)  box over target_shape

    target       target_shape    values
    "class"      ()              one integer in 0 .. classes - 1
    "pixels"     space           the same for every pixel
    "image"      (Ct, *space)    raw numbers of any real dtype

A format is a function that returns a `Dataset`.  The readers touch as little of the file as
the format allows, so that a rank that asks for a corner of an image reads that corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.random import Box, permutation
from gridnn.errors import InputError

Array = NDArray[Any]
Indices = NDArray[np.int64]
Reader = Callable[[Indices, Box], Array]

SPLITS = ("train", "test")
TARGETS = ("class", "pixels", "image")


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Parameters
    ----------
    name, split
        For people; `split` is "train" or "test".
    count
        Samples of this split.
    input_shape, input_dtype
        (C, *space) of one sample and the dtype that `read` returns.
    classes
        Number of classes, None where the target is an image.
    target, target_shape
        One of `TARGETS`, and the shape of one sample's target.
    read, read_target
        (indices, box) -> array (len(indices), *extents of the box).
    scale, target_scale
        Factors that bring raw inputs and image targets to about [0, 1]: 1/255 for bytes.
    """

    name: str
    split: str
    count: int
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[Any]
    classes: int | None
    target: str
    target_shape: tuple[int, ...]
    read: Reader
    read_target: Reader
    scale: float = 1.0
    target_scale: float = 1.0


@dataclass(frozen=True)
class DataOptions:
    """How to read what is found; every default means "recognise it".

    Parameters
    ----------
    target
        "class", "pixels" or "image"; "image" for data without targets of its own makes the clean
        input the target (denoiser, autoencoder).
    classes
        Number of classes, by default the largest training label + 1.
    layout
        Dims of an input array in stored order, such as "NHWC" or "NCHW" (any letters for space).
    channels
        1 or 3 for pictures, by default as the first file has it.
    size
        (H, W) to which pictures of different sizes are scaled and cropped around the centre.
    tile, tiles
        (H, W) of the pieces of large photographs; `tiles` random ones a photograph, by default
        all of the regular grid.
    test_fraction, split_seed
        The part held out, and its draw, where the data have no test part of their own.
    count, test_count, target_channels
        Extents of synthetic data.
    """

    target: str | None = None
    classes: int | None = None
    layout: str | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None
    tile: tuple[int, int] | None = None
    tiles: int | None = None
    test_fraction: float = 0.2
    split_seed: int = 0
    count: int = 1000
    test_count: int = 200
    target_channels: int = 1

    def __post_init__(self) -> None:
        if self.target not in (None, *TARGETS):
            raise InputError(f"data.target {self.target!r} is not known; use one of {', '.join(TARGETS)}")
        if not 0.0 < self.test_fraction < 1.0:
            raise InputError(f"data.test_fraction {self.test_fraction} is not between 0 and 1; 0.2 is usual")
        if self.channels not in (None, 1, 3):
            raise InputError(f"data.channels {self.channels} is not 1 (grey) or 3 (colour)")
        for name in ("size", "tile"):
            pair = getattr(self, name)
            if pair is not None and (len(pair) != 2 or min(pair) < 1):
                raise InputError(f"data.{name} {list(pair)} must be two positive numbers, height and width")
        for name in ("classes", "tiles", "count", "test_count", "target_channels"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"data.{name} {number} must be at least 1")

    @classmethod
    def of(cls, options: DataOptions | Mapping[str, Any] | None) -> DataOptions:
        """Options from a configuration table; unknown keys are errors."""
        if isinstance(options, DataOptions):
            return options
        given = dict(options or {})
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise InputError(f"data.{key} is not an option of data; known are {', '.join(known)}")
        pairs = {key: tuple(given[key]) for key in ("size", "tile") if given.get(key) is not None}
        return cls(**{**given, **pairs})


def with_own_target(dataset: Dataset) -> Dataset:
    """The data set whose target is its own clean input."""
    return replace(
        dataset,
        classes=None,
        target="image",
        target_shape=dataset.input_shape,
        read_target=dataset.read,
        target_scale=dataset.scale,
    )


def flattened(dataset: Dataset) -> Dataset:
    """The data set whose inputs are rows of features, for networks without space."""
    shape = dataset.input_shape
    whole = tuple((0, extent) for extent in shape)

    def read(indices: Indices, box: Box) -> Array:
        # A range of features is a range of channels and a part of it.
        ((start, stop),) = box
        inner = math.prod(shape[1:])
        c0, c1 = start // inner, -(-stop // inner)
        values = dataset.read(indices, ((c0, c1), *whole[1:])).reshape(len(indices), (c1 - c0) * inner)
        return values[:, start - c0 * inner : stop - c0 * inner]

    return replace(dataset, input_shape=(math.prod(shape),), read=read)


def natural_scale(dtype: np.dtype[Any]) -> float:
    """The factor that brings unsigned pixel values to [0, 1]; 1 for other numbers."""
    return 1.0 / float(np.iinfo(dtype).max) if dtype in (np.uint8, np.uint16) else 1.0


def extents(box: Box) -> tuple[int, ...]:
    """Extents of a box."""
    return tuple(stop - start for start, stop in box)


def slices(box: Box) -> tuple[slice, ...]:
    """A box as an index."""
    return tuple(slice(start, stop) for start, stop in box)


def check_labels(labels: Array, classes: int, where: str) -> None:
    """Refuse labels outside 0 .. classes - 1, naming the first."""
    bad = np.argwhere((labels < 0) | (labels >= classes))
    if len(bad):
        place = ", ".join(str(i) for i in bad[0])
        raise InputError(
            f"{where}: label {labels[tuple(bad[0])]} at index {place} is not in 0 .. {classes - 1} "
            f"({len(bad)} such labels of {labels.size}); correct the labels or set data.classes"
        )


def held_out(count: int, labels: Array | None, options: DataOptions, where: str) -> dict[str, Indices]:
    """Samples of each split where the data have no test part of their own.

    The same on every rank and for both splits: a seeded draw of `test_fraction`, class by class
    where there are labels, so that every class keeps its share.
    """
    groups = [np.arange(count)]
    if labels is not None:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    test = np.zeros(count, bool)
    for g, group in enumerate(groups):
        drawn = permutation(options.split_seed, f"split:{g}", len(group))
        test[group[drawn[: math.floor(options.test_fraction * len(group) + 0.5)]]] = True
    parts = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
    for split, rows in parts.items():
        if len(rows) == 0:
            raise InputError(
                f"{where}: too few samples: of {count}, data.test_fraction {options.test_fraction} leaves "
                f"none for {split}; add samples, change the fraction, or give train and test parts"
            )
    return parts
