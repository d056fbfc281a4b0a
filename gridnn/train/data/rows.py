"""Stored rows: what one file or several hold, read by rows and boxes.

Three kinds of store answer one question, `take(indices, slices)`:

    ArrayRows   an array in memory or mapped from a file: one fancy index copies the boxes only
    JoinedRows  several stores one after the other (the batches of CIFAR)
    H5Rows      an HDF5 data set: one hyperslab a run of rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gridnn.errors import InputError
from gridnn.train.data.dataset import Array, Indices


class Rows(Protocol):
    """Rows of equal shape; dim 0 counts them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and their extents."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored elements."""

    def take(self, indices: Indices, box: tuple[slice, ...]) -> Array:
        """Rows `indices`, of each the part `box` (one slice a dim after the first)."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory or of a memory map."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and their extents."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored elements."""
        return self.array.dtype

    def take(self, indices: Indices, box: tuple[slice, ...]) -> Array:
        """Rows `indices`, of each the part `box`."""
        # np.asarray: a memory map must not leak out as the type of a batch.
        index: Any = (indices, *box)
        return np.asarray(self.array[index])


@dataclass(frozen=True)
class JoinedRows:
    """Rows of several stores, in order."""

    parts: Sequence[Rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and their extents."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored elements."""
        return self.parts[0].dtype

    def take(self, indices: Indices, box: tuple[slice, ...]) -> Array:
        """Rows `indices`, of each the part `box`."""
        ends = np.cumsum([part.shape[0] for part in self.parts])
        owner = np.searchsorted(ends, indices, side="right")
        pieces = np.empty((len(indices), *self.parts[0].take(indices[:0], box).shape[1:]), self.dtype)
        for p in np.unique(owner):
            mine = np.flatnonzero(owner == p)
            pieces[mine] = self.parts[p].take(indices[mine] - (ends[p] - self.parts[p].shape[0]), box)
        return pieces


@dataclass(frozen=True)
class H5Rows:
    """Rows of an open HDF5 data set."""

    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and their extents."""
        return tuple(self.dataset.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored elements."""
        dtype: np.dtype[Any] = self.dataset.dtype
        return dtype

    def take(self, indices: Indices, box: tuple[slice, ...]) -> Array:
        """Rows `indices`, of each the part `box`."""
        # HDF5 reads hyperslabs: neighbours together, the others one by one.
        starts = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
        runs = np.split(indices, starts[1:]) if len(indices) else [indices]
        pieces = [self.dataset[(slice(int(run[0]), int(run[-1]) + 1), *box)] for run in runs if len(run)]
        return np.concatenate(pieces) if pieces else np.asarray(self.dataset[(slice(0, 0), *box)])


def all_rows(rows: Rows) -> Array:
    """Everything, for labels."""
    return rows.take(np.arange(rows.shape[0]), (slice(None),) * (len(rows.shape) - 1))


def mapped(path: Path, dtype: Any, shape: tuple[int, ...], offset_bytes: int = 0) -> Array:
    """An array mapped from a file that must hold it to the last byte."""
    needed = offset_bytes + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    check_size(path, path.stat().st_size, needed)
    if 0 in shape:  # nothing can be mapped from an empty stretch
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset_bytes, shape)


def check_size(path: Path, found_bytes: int, needed_bytes: int) -> None:
    """Refuse a truncated file."""
    if found_bytes < needed_bytes:
        raise InputError(
            f"{path} is truncated: found {found_bytes} bytes, needs {needed_bytes}; copy or download it again"
        )
