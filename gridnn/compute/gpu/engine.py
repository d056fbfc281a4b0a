"""The engine of a rank on a GPU: its device, memory there, and what was copied to be read.

The modules beside this file are the same interface as those of `gridnn.compute.cpu`, one a subject: plain functions
whose first argument is an engine.  Arrays are (N, C, *S) with channels innermost, and lie on the device:

    host  --take-->  device: empty, zeros, kernels, products  --give-->  host

Kernels read dense arrays, convolution and messages any strides; what is not dense is copied first, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu.memory import innermost, is_dense, logical, shaped
from gridnn.compute.gpu.device import Array, Device
from gridnn.compute.gpu.room import Room
from gridnn.errors import InputError

Precision = Literal["float32", "tf32"]
"""What the factors of convolutions in float32 are rounded to; sums and all that is stored stay float32."""
TENSOR_CORES = (8, 0)
"""The first compute capability whose tensor cores take TF32."""

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
        array[...] = 0
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
        which do.  What computes in float64 is not touched.
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
        If the device has no tensor cores for a precision that needs them.
    """

    where = "gpu"

    def __init__(self, device: Device, precision: Precision = "float32", room: Room | None = None) -> None:
        if precision == "tf32" and device.capability < TENSOR_CORES:
            has, needed = (".".join(map(str, c)) for c in (device.capability, TENSOR_CORES))
            raise InputError(
                f'compute.precision = "tf32" needs a device of compute capability {needed} or later; {device.name} has '
                f'{has}.  Take another device, or compute.precision = "float32"'
            )
        self.device, self.memory, self.precision = device, Memory(device), precision
        self.room: Room = room or Room()
        self.said: tuple[str, ...] = ()
        self.reorders = 0

    @property
    def name(self) -> str:
        """What computes, in words."""
        return self.device.name + (", wide convolutions in TF32" if self.precision == "tf32" else "")

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
        y[...] = x

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
