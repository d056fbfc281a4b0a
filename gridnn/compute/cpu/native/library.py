"""The compiled kernels: which library a processor may load, and how arrays are handed to it.

A kernel reads an array's address, extents and strides where NumPy keeps them, right behind the head of the object:

    object  | head of a Python object | data | dims | extents | strides | ...
                                      ^ array(x)

It takes them as blocks, channels at unit stride:

    logical (N, C, *S)    ->    block  n d h w c   sn sd sh sw      missing space dims are 1
"""

from __future__ import annotations

import ctypes
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)

LEVELS = ("generic", "avx2", "avx512")  # in the numbering of gridnn_instruction_set

_TYPES: dict[str, Any] = {"a": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
KERNELS = {
    "relu": "aa", "relu_backward": "aaa", "add": "aaai", "bias": "aai", "bias_gradient": "aaaa", "copy": "aa",
    "norm_moments": "aaa", "norm_statistics": "adddaaa", "norm_apply": "aaaaaai",
    "norm_backward_sums": "aaaaa", "norm_backward_apply": "aaaaaaai",
    "pool_max_forward": "aaaa", "pool_max_backward": "aaaa", "pool_average_forward": "aaai",
    "pool_average_backward": "aaai", "pool_sum_space": "aa", "pool_spread_space": "aa",
    "softmax_max": "aa", "softmax_sums": "aaaia", "softmax_gradient": "aaaaiddaa",
    "update_sgd": "aaadddddd", "update_adam": "aaaadddddddd", "update_lars": "aaadddd",
    "conv": "aaaaaia", "conv_weights": "aaaaiiaa",
    "depthwise": "aaaaaia", "depthwise_weights": "aaaai",
    "winograd_scratch": "aaa", "winograd_forward": "aaaaiiiia", "winograd_weights": "aaaiiia",
}  # fmt: skip
"""What each kernel takes: an array or another address, None for one that is missing; an integer; a real number."""
_INTERFACE = zlib.crc32(repr(sorted(KERNELS.items())).encode()) & 0x7FFFFFFF


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
        self._threads = self.plain("threads")

    def kernel(self, name: str, dtype: np.dtype[Any]) -> Any:
        """Return one of `KERNELS` for float32 or float64: a ctypes function; `winograd_scratch` returns an integer."""
        found = self._kernels.get((name, dtype.char))
        if found is None:
            found = self._handle[f"gridnn_{name}_{'f32' if dtype.char == 'f' else 'f64'}"]
            found.argtypes = [_TYPES[letter] for letter in KERNELS[name]]
            found.restype = ctypes.c_int64 if name == "winograd_scratch" else None
            self._kernels[name, dtype.char] = found
        return found

    def plain(self, name: str) -> Any:
        """Return a function that has no element type; it returns an int."""
        return getattr(self._handle, f"gridnn_{name}")

    def set_threads(self, threads: int) -> None:
        """Use that many threads from now on, in this process."""
        self.plain("set_threads")(threads)

    @property
    def threads(self) -> int:
        """Threads of a parallel region."""
        return int(self._threads())

    def sees(self, x: Array) -> bool:
        """Whether kernels find the address, extents and strides of an array (R, C) of bytes."""
        address = ctypes.c_void_p(x.ctypes.data)
        rows, columns, step = map(ctypes.c_int64, (*x.shape, x.strides[0]))
        return bool(self.plain("sees")(ctypes.c_void_p(array(x)), address, rows, columns, step))


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
                library = Library(folder / f"libgridnn-{level}.so")
                break
        # Kernels that were built before `KERNELS` changed, a Python or a NumPy that lays its objects out in another
        # way: better met here than in a kernel.
        fitting = library.plain("interface")() == _INTERFACE and library.sees(
            np.zeros((5, 9), np.uint8)[:3, 2:]
        )
        return library if fitting else None
    except (
        OSError,
        AttributeError,
    ):  # built for another processor or C library; or before this file was changed
        return None


def fits(*arrays: Array) -> bool:
    """Whether the arrays are what kernels take: one dtype, float32 or float64, channels at unit stride."""
    dtype = arrays[0].dtype
    if dtype is not _F32 and dtype is not _F64 and not (dtype.char in "fd" and dtype.isnative):
        return False
    for a in arrays:
        strides = a.strides
        if (a.dtype is not dtype and a.dtype != dtype) or not 2 <= len(strides) <= 5 or not a.flags.aligned:
            return False
        if strides[1] != a.itemsize and a.shape[1] > 1:
            return False
    return True


_HEAD = object.__basicsize__


def array(x: Array | None) -> int | None:
    """Return what a kernel takes for an array, None for none: an address inside the object, which outlives the call.

    So the array has a name where it is handed over; one made in the call itself would be gone before the kernel runs.
    A kernel that computes on blocks wants an array that `fits`; vectors are contiguous, of the dtype it says.
    """
    return None if x is None else id(x) + _HEAD
