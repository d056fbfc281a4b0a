"""Synthetic data of any shape, made when they are read: element by element from global indices.

class    x = (noise + pattern of the class) / 2       a network can learn the ten patterns
pixels   label = floor(classes * x of channel 0)      a function of each pixel
image    target = 1 - x of channel (c mod C)          the same
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.random import Box, box_uniform, integers
from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, DataOptions, Dataset, Indices, Reader, extents


def open_synthetic(name: str, split: str, options: DataOptions) -> Dataset:
    """One split of the data named "synthetic:<CxHxW>:<classes>", with any number of space dims.

    The training and test samples are different draws of the same kind.
    """
    shape, classes = _parsed(name, options)
    count = options.count if split == "train" else options.test_count
    kind = options.target or "class"
    seed = options.split_seed
    labels = integers(seed, f"synthetic:label:{split}", count, 0, classes)

    def noise(indices: Indices, box: Box) -> NDArray[np.float64]:
        whole = (count, *shape)
        rows = [box_uniform(seed, f"synthetic:{split}", whole, ((int(i), int(i) + 1), *box)) for i in indices]
        return np.concatenate(rows) if rows else np.empty((0, *extents(box)))

    def read(indices: Indices, box: Box) -> Array:
        values = noise(indices, box)
        if kind == "class":
            for row, label in zip(values, labels[indices].tolist(), strict=True):
                pattern = box_uniform(
                    seed, "synthetic:pattern", (classes, *shape), ((label, label + 1), *box)
                )
                row += pattern[0]
            values *= 0.5
        scaled: Array = values.astype(np.float32)
        return scaled

    def read_pixels(indices: Indices, box: Box) -> Array:
        value = read(indices, ((0, 1), *box))[:, 0]
        # float32 can round up to 1, which would be a class too many.
        labels: Array = np.minimum(np.floor(value * classes).astype(np.int64), classes - 1)
        return labels

    def read_image(indices: Indices, box: Box) -> Array:
        channels = [1 - read(indices, ((c % shape[0], c % shape[0] + 1), *box[1:])) for c in range(*box[0])]
        return (
            np.concatenate(channels, 1) if channels else np.empty((len(indices), *extents(box)), np.float32)
        )

    target_shape: tuple[int, ...]
    read_target: Reader
    if kind == "class":
        target_shape, read_target = (), lambda indices, _: labels[indices]
    elif kind == "pixels":
        target_shape, read_target = shape[1:], read_pixels
    else:
        target_shape, read_target = (options.target_channels, *shape[1:]), read_image
    return Dataset(
        name, split, count, shape, np.dtype(np.float32), None if kind == "image" else classes, kind,
        target_shape, read, read_target,
    )  # fmt: skip


def _parsed(name: str, options: DataOptions) -> tuple[tuple[int, ...], int]:
    parts = name.split(":")[1:]
    try:
        shape = tuple(int(extent) for extent in parts[0].split("x"))
        classes = int(parts[1]) if len(parts) > 1 else options.classes or 10
    except (ValueError, IndexError):
        shape, classes = (), 0
    if len(parts) > 2 or not shape or math.prod(shape) < 1 or min(shape) < 1 or classes < 1:
        raise InputError(
            f"{name!r} is not a synthetic data set; needed is synthetic:<CxHxW>:<classes>, such as "
            "synthetic:3x32x32:10 (any number of space dims)"
        )
    if options.target == "pixels" and len(shape) < 2:
        raise InputError(
            f"{name!r} has no space; data.target 'pixels' needs at least one dim after the channels"
        )
    return shape, classes
