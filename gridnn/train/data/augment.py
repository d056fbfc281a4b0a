"""Augmentation that no grid can change: draws belong to (seed, epoch, global sample index).

One dim of extent n, padding p, drawn offset 0 <= f <= 2p.  A rank wants out[a:b]:

    source      . . 0 1 2 3 4 5 6 7 . .        . are p zeros on either side
    crop        [f ............ f + n]         crop[i] = source[i + f - p]
    flip        out[i] = crop[n - 1 - i]       (last dim only)

so the box of the source is [a + f - p, b + f - p), or with a flip [n - b + f - p, n - a + f - p):
that much is read, what lies outside is zero, and the flip comes last.  The samples of a batch that
face the same way are read together, with a rim of at most 2p.  Targets with space go through the
same steps.  Then inputs become  (scale * raw + noise - mean) / std.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.random import Box, box_normal, box_uniform, integers
from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, Dataset, Indices, Reader, extents


@dataclass(frozen=True)
class Augment:
    """What is done to a sample; the default only scales.

    Parameters
    ----------
    pad
        Random crops after padding by so many zeros (of class 0 in per-pixel targets).
    flip
        Mirror the last dim of every second sample, by chance.
    scale
        Factor of raw inputs; by default the data set's own (bytes come to [0, 1]).
    mean, std
        Of the scaled inputs, one for all channels or one each.  Image targets are only scaled,
        so that a prediction is in the units of a picture.
    noise
        Standard deviation of normal noise on scaled inputs, for denoisers.
    """

    pad: int = 0
    flip: bool = False
    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.pad < 0 or self.noise < 0:
            raise InputError(f"data.pad {self.pad} and data.noise {self.noise} must not be negative")
        if not self.std or min(self.std) <= 0:
            raise InputError(f"data.std {list(self.std)} must be positive numbers")

    def checked(self, dataset: Dataset) -> Augment:
        """Itself, once it is known to fit the data."""
        channels, space = dataset.input_shape[0], dataset.input_shape[1:]
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in (1, channels):
                raise InputError(
                    f"data.{name} has {len(values)} values; {dataset.name} needs 1 or {channels}"
                )
        if (self.pad or self.flip) and not space:
            raise InputError(
                f"{dataset.name} has no space to crop or flip; set data.pad = 0, data.flip = false"
            )
        return self

    def without_chance(self) -> Augment:
        """The same without crops and flips: for evaluation, whose noise stays."""
        return Augment(0, False, self.scale, self.mean, self.std, self.noise)


@dataclass(frozen=True)
class Geometry:
    """The drawn crop and flip of every sample of one epoch."""

    offsets: Array  # (count, space dims), source index of the crop's first element
    flips: Array  # (count,)


def drawn_geometry(augment: Augment, dataset: Dataset, seed: int, epoch: int) -> Geometry | None:
    """Crops and flips of an epoch for all samples, the same on every rank; None where nothing moves."""
    if not augment.pad and not augment.flip:
        return None
    count, dims = dataset.count, len(dataset.input_shape) - 1
    offsets = np.zeros((count, dims), np.int64)
    flips = np.zeros(count, bool)
    if augment.pad:
        for d in range(dims):
            offsets[:, d] = integers(seed, f"crop:{d}", count, -augment.pad, augment.pad + 1, epoch)
    if augment.flip:
        flips = box_uniform(seed, "flip", (count,), ((0, count),), epoch) < 0.5
    return Geometry(offsets, flips)


def read_moved(
    read: Reader, geometry: Geometry | None, shape: tuple[int, ...], indices: Indices, box: Box
) -> Array:
    """The box of samples after crop and flip; `shape` is the sample's, space its last dims."""
    if geometry is None:
        return read(indices, box)
    space = len(shape) - geometry.offsets.shape[1]  # the first dim of space
    flips, offsets = geometry.flips[indices], np.zeros((len(indices), len(shape)), np.int64)
    offsets[:, space:] = geometry.offsets[indices]
    mirrored = (*box[:-1], (shape[-1] - box[-1][1], shape[-1] - box[-1][0]))
    dtype = read(indices[:0], tuple((0, 0) for _ in box)).dtype
    out = np.empty((len(indices), *extents(box)), dtype)
    for flip, wanted in ((False, box), (True, mirrored)):
        rows = np.flatnonzero(flips == flip)
        if len(rows) == 0:
            continue
        # One read for all samples that face the same way: their boxes differ by 2p at most.
        low, high = offsets[rows].min(0).tolist(), offsets[rows].max(0).tolist()
        source = [(a + f, b + g) for (a, b), f, g in zip(wanted, low, high, strict=True)]
        around = _read_with_zeros(read, shape, indices[rows], source)
        for i, row in enumerate(rows):
            starts = (offsets[row] - low).tolist()
            index: Any = (i, *(slice(f, f + n) for f, n in zip(starts, extents(box), strict=True)))
            piece = around[index]
            out[row] = piece[..., ::-1] if flip else piece
    return out


def _read_with_zeros(read: Reader, shape: tuple[int, ...], indices: Indices, source: Box) -> Array:
    """Read a box that may leave the sample, where it is zero."""
    inside = []
    for (a, b), n in zip(source, shape, strict=True):
        start = min(max(a, 0), n)
        inside.append((start, max(start, min(b, n))))
    piece = read(indices, tuple(inside))
    if inside == list(source):
        return piece
    out = np.zeros((len(indices), *extents(source)), piece.dtype)
    place = [slice(a - s, b - s) for (a, b), (s, _) in zip(inside, source, strict=True)]
    out[(slice(None), *place)] = piece
    return out


def finished(
    raw: Array,
    augment: Augment,
    dataset: Dataset,
    seed: int,
    epoch: int,
    indices: Indices,
    box: Box,
    dtype: DTypeLike,
) -> Array:
    """Raw inputs scaled, with their noise, normalised, as a contiguous array of `dtype`.

    All of it is made in `dtype`, element by element, so a box has the values of the whole.
    """
    scale = dataset.scale if augment.scale is None else augment.scale
    kind = np.dtype(dtype)
    values = raw.astype(kind) * np.asarray(scale, kind)
    if augment.noise:
        whole = (dataset.count, *dataset.input_shape)
        for row, index in zip(values, indices.tolist(), strict=True):
            drawn = box_normal(seed, f"noise:{dataset.split}", whole, ((index, index + 1), *box), epoch)
            row += (augment.noise * drawn[0]).astype(kind)
    channels = dataset.input_shape[0]
    for name, change in (("mean", np.subtract), ("std", np.divide)):
        per_channel = np.broadcast_to(np.asarray(getattr(augment, name), kind), (channels,))[slice(*box[0])]
        change(values, per_channel.reshape(-1, *([1] * (len(box) - 1))), out=values)
    return np.ascontiguousarray(values)
