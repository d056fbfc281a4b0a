"""The compiled kernels: which library a processor may load, and how an array is handed to it.

A kernel takes blocks: an address, five extents and four strides in elements, channels at unit stride.

    logical (N, C, *S)    ->    block  n d h w c   sn sd sh sw      missing space dims are 1
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)

LEVELS = ("generic", "avx2", "avx512")  # in the numbering of gridnn_instruction_set


class Block(ctypes.Structure):
    """An array as a kernel sees it (struct block of kernels/cpu/common.h)."""

    _fields_ = [
        ("at", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ["n", "d", "h", "w", "c", "sn", "sd", "sh", "sw"]],
    ]


class Library:
    """The kernels of one instruction set.

    Parameters
    ----------
    path
        The shared library.

    Attributes
    ----------
    level : str
        Instruction set: "generic", "avx2" or "avx512".
    """

    def __init__(self, path: Path) -> None:
        self.path, self.level = path, path.stem.removeprefix("libgridnn-")
        self._handle = ctypes.CDLL(str(path))
        self._kernels: dict[tuple[str, str], Any] = {}

    def kernel(self, name: str, dtype: np.dtype[Any]) -> Any:
        """Return the kernel `name` for float32 or float64: a ctypes function that returns nothing."""
        key = (name, dtype.char)
        if key not in self._kernels:
            found = getattr(self._handle, f"gridnn_{name}_{'f32' if dtype.char == 'f' else 'f64'}")
            found.restype = None
            self._kernels[key] = found
        return self._kernels[key]

    def plain(self, name: str) -> Any:
        """Return a function that has no element type; it returns an int."""
        return getattr(self._handle, f"gridnn_{name}")

    def set_threads(self, threads: int) -> None:
        """Use that many threads from now on, in this process."""
        self.plain("set_threads")(threads)

    @property
    def threads(self) -> int:
        """Threads of a parallel region."""
        return int(self.plain("threads")())


def load(folder: Path | None = None) -> Library | None:
    """Return the best library this processor can run, or None where none was built."""
    folder = folder or Path(__file__).parent
    generic = folder / "libgridnn-generic.so"
    if not generic.exists():
        return None
    try:
        library = Library(generic)
        for level in reversed(LEVELS[1 : 1 + library.plain("instruction_set")()]):
            if (folder / f"libgridnn-{level}.so").exists():
                return Library(folder / f"libgridnn-{level}.so")
    except OSError:  # built for another processor or C library
        return None
    return library


def fits(*arrays: Array) -> bool:
    """Whether the arrays are what kernels take: one dtype, float32 or float64, channels at unit stride."""
    dtype = arrays[0].dtype
    if dtype is not _F32 and dtype is not _F64 and not (dtype.char in "fd" and dtype.isnative):
        return False
    for a in arrays:
        if a.dtype != dtype or not 2 <= a.ndim <= 5 or not a.flags.aligned:
            return False
        if a.strides[1] != dtype.itemsize and a.shape[1] > 1:
            return False
    return True


# The address of an array's data stands right behind the head of the object: the layout that every extension compiled
# against NumPy relies on. Read there it costs a tenth of x.ctypes.data, and a small layer has a dozen arrays a step.
_HEAD = object.__basicsize__
_address = ctypes.c_void_p.from_address
_packed = struct.Struct("=10q").pack


def pointer(x: Array) -> ctypes.c_void_p:
    """Return the address of an array's first element; keep the array alive while it is used."""
    return _address(id(x) + _HEAD)


def _block(*numbers: int) -> Block:
    return Block.from_buffer_copy(_packed(*numbers))


def block(x: Array) -> Block:
    """Return an array (N, C, *S) that `fits` as a block; keep the array alive while the block is used."""
    shape, strides, size = x.shape, x.strides, x.itemsize
    at = _address(id(x) + _HEAD).value or 0
    match len(shape):
        case 4:
            return _block(at, shape[0], 1, shape[2], shape[3], shape[1],
                         strides[0] // size, 0, strides[2] // size, strides[3] // size)  # fmt: skip
        case 2:
            return _block(at, shape[0], 1, 1, 1, shape[1], strides[0] // size, 0, 0, 0)
        case 3:
            return _block(
                at, shape[0], 1, 1, shape[2], shape[1], strides[0] // size, 0, 0, strides[2] // size
            )
    return _block(
        at, shape[0], shape[2], shape[3], shape[4], shape[1], *(strides[i] // size for i in (0, 2, 3, 4))
    )
