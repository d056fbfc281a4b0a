"""The engine of a rank on a GPU: its device, memory there, and what was copied to be read.

The modules beside this file are the same interface as those of `gridnn.compute.cpu`, one a subject: plain functions
whose first argument is an engine.  Arrays are (N, C, *S) with channels innermost, and lie on the device:

    host  --take-->  device: empty, zeros, kernels, products  --give-->  host

Kernels read dense arrays, convolution and messages any strides; what is not dense is copied first, and counted.

    precision   factors of wide       arrays between   weights a layer     parameters, their gradients, the optimizer's
                convolutions          layers           multiplies by       state, statistics, losses, sums over ranks
    float32     float32               float32          float32             float32
    tf32        TF32: 10 bits of 23   float32          float32             float32
    bf16        bfloat16: 7 bits      bfloat16         a bfloat16 copy     float32
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import innermost, is_dense, logical, shaped
from gridnn.compute.gpu.device import WORDS, Array, Device
from gridnn.compute.gpu.room import Room
from gridnn.compute.storage import bfloat16
from gridnn.errors import InputError

Precision = Literal["float32", "tf32", "bf16"]
"""What training in float32 computes in on a device; see the table above."""
TENSOR_CORES = (8, 0)
"""The first compute capability whose tensor cores take TF32 and bfloat16."""

SAID: Mapping[Precision, str] = MappingProxyType(
    {"float32": "", "tf32": ", wide convolutions in TF32", "bf16": ", arrays between layers in BF16"}
)
"""What the name of an engine says of its precision."""

THREADS = 256
"""Threads of a block in kernels that walk a range."""
BLOCKS = 1 << 14
"""Most blocks of those: each thread takes several elements of longer ranges."""


class Memory:
    """Arrays of a device: logical shape (N, C, *S), channels innermost.

    Attributes
    ----------
    peak_bytes : int
        The most in use, of all arrays on the device: parameters and the optimizer's state among them.
    """

    def __init__(self, device: Device) -> None:
        self._device, self.peak_bytes = device, 0

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of any content."""
        found = shaped(self._device.empty(prod(shape), dtype), shape)
        self.peak_bytes = max(self.peak_bytes, self._device.used_bytes)
        return found

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return zeros."""
        array = self.empty(shape, dtype)
        innermost(array)[...] = 0
        return array

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak_bytes = self._device.used_bytes


class Engine:
    """Device, memory and precision of one rank.

    Parameters
    ----------
    precision
        "tf32": convolutions in float32 may run on tensor cores, which leave 10 bits of a factor's mantissa; `conv` says
        which do.  "bf16": so may those in bfloat16, which `activations` says layers give each other.  What computes in
        float64 is not touched.
    room
        The device's memory, as far as it is this rank's.

    Attributes
    ----------
    reorders : int
        Arrays copied so far because their memory was not dense and channels-last.
    said : tuple of str
        What is worth saying of how the device was taken and how its messages go; set by who opened it.

    Raises
    ------
    InputError
        If the device has no tensor cores for a precision that needs them, or bfloat16 has no dtype here.
    """

    where = "gpu"

    def __init__(self, device: Device, precision: Precision = "float32", room: Room | None = None) -> None:
        if precision != "float32" and device.capability < TENSOR_CORES:
            has, needed = (".".join(map(str, c)) for c in (device.capability, TENSOR_CORES))
            raise InputError(
                f'compute.precision = "{precision}" needs a device of compute capability {needed} or later; '
                f'{device.name} has {has}.  Take another device, or compute.precision = "float32"'
            )
        self._narrow = bfloat16() if precision == "bf16" else None
        self.device, self.memory, self.precision = device, Memory(device), precision
        self.room: Room = room or Room()
        self.said: tuple[str, ...] = ()
        self.reorders = 0

    @property
    def name(self) -> str:
        """What computes, in words."""
        return self.device.name + SAID[self.precision]

    def activations(self, dtype: DTypeLike) -> np.dtype[Any]:
        """Return the type of the arrays between layers whose parameters are of a dtype."""
        own = np.dtype(dtype)
        return own if self._narrow is None or own != np.float32 else self._narrow

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of logical shape (N, C, *S) on the device."""
        return self.memory.empty(shape, dtype)

    def take(self, array: NDArray[Any]) -> Array:
        """Return a copy of a host's array on the device."""
        return logical(self.device.from_host(np.ascontiguousarray(innermost(array))))

    def give(self, array: Array) -> NDArray[Any]:
        """Return a copy of a device's array on the host; waits for the device."""
        if not is_dense(array):
            array = self.fitted(array)
        found: NDArray[Any] = logical(self.device.to_host(innermost(array)))
        return found

    def holds(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        return self.device.holds(array)

    def fitted(self, x: Array, like: Array | None = None) -> Array:
        """Return x, or a dense copy of it with channels innermost and, if given, of the dtype of `like`."""
        dtype = x.dtype if like is None else like.dtype
        if x.dtype == dtype and is_dense(x):
            return x
        copy = self.empty(x.shape, dtype)
        self.copy(x, copy)
        return copy

    def copy(self, x: Array, y: Array) -> None:
        """Copy between arrays of one shape and different memory orders or types."""
        self.reorders += 1
        innermost(y)[...] = innermost(x)

    def walk(
        self, file: str, kernel: str, elements: int, arguments: Sequence[Any], dtype: DTypeLike,
        defines: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Start a kernel whose threads walk a range of `elements`; none, none."""
        if elements:
            blocks = min(-(-elements // THREADS), BLOCKS)
            self.device.launch(file, kernel, (blocks,), (THREADS,), arguments, dtype, defines=defines)

    def synchronize(self) -> None:
        """Wait until the device has done all that was started."""
        self.device.synchronize()

    def set_threads(self, threads: int) -> None:
        """Do nothing: a device has its own."""


def supported(dtype: DTypeLike) -> bool:
    """Return whether kernels compute in a dtype."""
    return np.dtype(dtype).char in "fd"


def stored(dtype: DTypeLike) -> bool:
    """Return whether kernels read and write arrays of a dtype."""
    return np.dtype(dtype).char in WORDS
