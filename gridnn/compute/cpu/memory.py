"""Arrays in channels-last memory, and scratch that is kept.

Logical shape is always (N, C, *S); memory has C innermost, so a pixel's channels are one run.  NumPy's strides say
so, nothing else does: slices, margins and packing for messages are plain indexing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]


def empty(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return an array of logical shape (N, C, *S) whose channels are innermost."""
    return _turned(np.empty((shape[0], *shape[2:], shape[1]), dtype)) if len(shape) > 2 else np.empty(shape, dtype)


def zeros(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return zeros of logical shape (N, C, *S) whose channels are innermost."""
    return _turned(np.zeros((shape[0], *shape[2:], shape[1]), dtype)) if len(shape) > 2 else np.zeros(shape, dtype)


def _turned(base: Array) -> Array:
    return np.moveaxis(base, -1, 1)


class Workspace:
    """Scratch arrays by name that grow and stay: what a kernel needs during one call."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def take(self, name: str, elements: int, dtype: DTypeLike) -> Array:
        """Return a flat array of at least zero elements, 64-byte aligned; its content is of earlier calls."""
        size = elements * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or held.nbytes < size + 64:
            self._held[name] = held = np.empty(max(size, 1) + 128, np.uint8)
        start = -held.__array_interface__["data"][0] % 64
        return held[start : start + size].view(dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(a.nbytes for a in self._held.values())

    def like(self, name: str, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return scratch of logical shape (N, C, *S), channels innermost."""
        flat = self.take(name, prod(shape), dtype)
        return _turned(flat.reshape(shape[0], *shape[2:], shape[1])) if len(shape) > 2 else flat.reshape(shape)
