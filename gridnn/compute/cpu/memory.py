"""Arrays in channels-last memory, from a heap that is kept, and scratch.

Logical shape is always (N, C, *S); memory has C innermost, so a pixel's channels are one run.  NumPy's strides say
so, nothing else does: slices, margins and packing for messages are plain indexing.

The heap is one range of addresses that is touched as far as it is needed and never given back:

    |  in use  |  free  |  in use  |        free, never touched        |
                                   ^ peak

An array takes the lowest gap that holds it and gives it back when the last view of it is gone.  A training step
takes and gives in the same order every time, so from the second step on it finds its places and the system is not
asked for memory (a fresh page costs more than the ReLU that fills it).
"""

from __future__ import annotations

import mmap
import os
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

ALIGNMENT = 64
SMALL = 4096
"""Bytes below which NumPy's own memory is as good."""

NORESERVE = 0x4000  # Linux: promise no memory until it is touched


_INNERMOST = {rank: (0, *range(2, rank), 1) for rank in range(3, 9)}
_LOGICAL = {rank: (0, rank - 1, *range(1, rank - 1)) for rank in range(3, 9)}


def empty(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return a new array of logical shape (N, C, *S) whose channels are innermost."""
    return shaped(np.empty(prod(shape), dtype), shape)


def zeros(shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return new zeros of logical shape (N, C, *S) whose channels are innermost."""
    return shaped(np.zeros(prod(shape), dtype), shape)


def innermost(x: Array) -> Array:
    """Return a view (N, *S, C) of an array (N, C, *S): contiguous if it is dense and channels-last."""
    return x.transpose(_INNERMOST[x.ndim]) if x.ndim > 2 else x


def logical(x: Array) -> Array:
    """Return a view (N, C, *S) of an array (N, *S, C): the reverse of `innermost`."""
    return x.transpose(_LOGICAL[x.ndim]) if x.ndim > 2 else x


def is_dense(x: Array) -> bool:
    """Whether an array (N, C, *S) is channels-last in memory without gaps."""
    return innermost(x).flags.c_contiguous


def shaped(flat: Array, shape: Sequence[int]) -> Array:
    """Return a flat array as (N, C, *S), channels innermost."""
    if len(shape) < 3:
        return flat.reshape(shape)
    return logical(flat.reshape(shape[0], *shape[2:], shape[1]))


class Memory:
    """A heap of one rank.  One thread takes; arrays may be let go of in any.

    Attributes
    ----------
    peak_bytes : int
        The most in use since `forget_peak`.
    touched_bytes : int
        Of the system's memory; it never shrinks.
    asked : int
        How often the system was asked for memory: arrays that did not fit the heap, and growth of what is touched.
    """

    def __init__(self) -> None:
        self._map = _reserve()
        self._starts, self._sizes = [0], [len(self._map)]  # the gaps, by address
        self._leases: dict[int, _Lease] = {}
        self._forms: dict[object, _Form] = {}
        self._returned: deque[_Lease] = deque()
        self._used = self.peak_bytes = self.touched_bytes = self.asked = 0

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of logical shape (N, C, *S), channels innermost, of any content."""
        shape = tuple(shape)
        form = self._forms.get((shape, dtype)) or self._forms.setdefault(
            (shape, dtype), _form(shape, np.dtype(dtype))
        )
        kind, strides, size = form
        if size < SMALL:
            return np.ndarray(shape, kind, None, 0, strides)
        if self._returned:
            self._take_back()
        for i, gap in enumerate(self._sizes):
            if gap >= size:
                start = self._starts[i]
                break
        else:
            self.asked += 1
            return shaped(np.empty(prod(shape), kind), shape)
        if gap == size:
            del self._starts[i], self._sizes[i]
        else:
            self._starts[i], self._sizes[i] = start + size, gap - size
        self._used += size
        if self._used > self.peak_bytes:
            self.peak_bytes = self._used
        if start + size > self.touched_bytes:
            self.touched_bytes, self.asked = start + size, self.asked + 1
        # Views of this array keep it alive: its own base is the map, which is no array.
        array: Array = np.ndarray(shape, kind, self._map, start, strides)
        lease = _Lease(array, self._returned.append)  # the last view may go at any time, in any thread
        lease.start, lease.size = start, size
        self._leases[id(lease)] = lease
        return array

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return zeros of logical shape (N, C, *S), channels innermost."""
        array = self.empty(shape, dtype)
        array[...] = 0
        return array

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak_bytes = self.used_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes in use now."""
        self._take_back()
        return self._used

    def _take_back(self) -> None:
        starts, sizes = self._starts, self._sizes
        while self._returned:
            lease = self._returned.popleft()
            del self._leases[id(lease)]
            start, size = lease.start, lease.size
            self._used -= size
            i = bisect_left(starts, start)
            if i < len(starts) and start + size == starts[i]:
                size += sizes[i]
                del starts[i], sizes[i]
            if i and starts[i - 1] + sizes[i - 1] == start:
                sizes[i - 1] += size
            else:
                starts.insert(i, start)
                sizes.insert(i, size)


_Form = tuple[np.dtype[Any], tuple[int, ...], int]  # dtype, strides, bytes rounded up


def _form(shape: Sequence[int], kind: np.dtype[Any]) -> _Form:
    size = -(-prod(shape) * kind.itemsize // ALIGNMENT) * ALIGNMENT
    rank = len(shape)
    strides, step = [0] * rank, kind.itemsize
    for d in (1, *range(rank - 1, 1, -1), 0) if rank > 2 else range(rank - 1, -1, -1):
        strides[d], step = step, step * shape[d]
    return kind, tuple(strides), size


class _Lease(weakref.ref[Array]):
    """A range of a heap, given back when the array that has it is gone."""

    __slots__ = ("size", "start")
    start: int
    size: int


def _reserve() -> mmap.mmap:
    """Return as many addresses as the machine has memory, or as many as the limits of the process allow."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    while True:
        try:
            found = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        except (OSError, ValueError):
            size //= 2
            if size < 1 << 20:
                raise MemoryError(
                    "no memory for arrays: raise the limit of the process (ulimit -v)"
                ) from None
            continue
        if hasattr(mmap, "MADV_HUGEPAGE"):  # fewer misses of the address tables; advice only
            with suppress(OSError):
                found.madvise(mmap.MADV_HUGEPAGE)
        return found


class Workspace:
    """Scratch arrays by name that grow and stay: what a kernel needs during one call."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, DTypeLike], Array] = {}  # aligned

    def take(self, name: str, elements: int, dtype: DTypeLike) -> Array:
        """Return a flat array, 64-byte aligned; its content is of earlier calls."""
        held = self._held.get((name, dtype))
        if held is None or held.size < elements:
            size = elements * np.dtype(dtype).itemsize
            raw = np.empty(size + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            self._held[name, dtype] = held = raw[start : start + size].view(dtype)
        return held[:elements]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(a.nbytes for a in self._held.values())
