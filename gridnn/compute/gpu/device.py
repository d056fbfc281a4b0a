"""A device: where its arrays come from, and how a kernel is started on it.

    from_host, empty  ->  arrays of the device  ->  launch("conv", "forward", grid, block, ...)  ->  to_host

Only this file computes with CuPy (`found` asks it what is there).  What it does with a kernel is the same call that the
tests answer on the CPU, so all that stands above it runs where there is no device.  Launches return at once and keep
their order; `to_host` and `synchronize` wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.gpu.found import device_of
from gridnn.compute.gpu.source import Kernel, kernels_of, pack, read_source
from gridnn.errors import InputError

Array = Any
"""An array of a device, or of the host: what NumPy and CuPy have in common."""
WORDS = {"f": "float", "d": "double"}
"""What `real` is called in a kernel, by the dtype's character."""
NO_CUPY = 'no GPU can be used: CuPy is not installed; install it with: pip install "gridnn[gpu]", or take --device cpu'
NO_DEVICE = (
    "no GPU can be used: CuPy finds no CUDA device and driver on this host; ask the scheduler for one (srun --gpus-per-"
    "task=1), or take --device cpu"
)


class Device(Protocol):
    """A device of one rank.

    Attributes
    ----------
    name
        The device in words.
    capability
        Its compute capability: what instructions it has.
    """

    @property
    def name(self) -> str:
        """The device in words."""
        ...

    @property
    def capability(self) -> tuple[int, int]:
        """Its compute capability, such as (9, 0)."""
        ...

    def empty(self, elements: int, dtype: DTypeLike) -> Array:
        """Return a flat array of any content."""
        ...

    def from_host(self, array: NDArray[Any]) -> Array:
        """Return a copy of a host's contiguous array on the device."""
        ...

    def to_host(self, array: Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a copy of a contiguous array on the host, in `out` if given, when all started before it is done."""
        ...

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return bytes of the host that the device copies to and from at its full rate; a copy from them may go on.

        `from_host` of any other memory has read it when it returns; of these bytes, when the host has waited.
        """
        ...

    def holds(self, array: Array) -> bool:
        """Return whether an array is on the device."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes of this process's arrays on the device now."""
        ...

    def address(self, array: Array) -> int:
        """Return where an array's first element is on the device: for structures that hold addresses."""
        ...

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        dtype: DTypeLike, shared_bytes: int = 0, defines: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Start a kernel of kernels/<file>.cu.

        Parameters
        ----------
        grid, block
            Blocks, and threads of a block, in up to three dims.
        arguments
            Arrays of the device, None for no array, numbers, and size-one structures; cast to what the kernel declares.
        dtype
            What `real` is: float32 or float64.
        shared_bytes
            Shared memory of a block beside what the kernel declares.
        defines
            What the file is compiled with besides `real`, such as "COLUMNS=64"; each set of them is compiled once.
        """
        ...

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Compute the matrix product of two arrays into a third."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was started is done."""
        ...


def open_device(rank_on_host: int) -> Device:
    """Return the device of a rank: with more ranks than devices on a host, ranks share them in turn.

    Raises
    ------
    InputError
        Without CuPy, a driver, or a device.
    """
    number = device_of(rank_on_host, _count())
    assert number is not None, "`_count` is at least one"
    return CupyDevice(number)


def _count() -> int:
    """Return how many devices this process sees, at least one."""
    try:
        import cupy
    except ImportError:
        raise InputError(NO_CUPY) from None
    if not cupy.is_available():
        raise InputError(NO_DEVICE)
    return int(cupy.cuda.runtime.getDeviceCount())


class CupyDevice:
    """A CUDA device through CuPy.

    Parameters
    ----------
    number
        Of the devices that this process sees.

    Raises
    ------
    InputError
        Without CuPy, a driver, or that device.
    """

    def __init__(self, number: int = 0) -> None:
        if number >= (count := _count()):
            raise InputError(f"device {number} was asked for, this process sees {count}: 0 to {count - 1}")
        import cupy

        self._cupy, self.number = cupy, number
        cupy.cuda.Device(number).use()
        self._functions: dict[tuple[str, str, tuple[str, ...]], dict[str, tuple[Kernel, Any]]] = {}

    @property
    def name(self) -> str:
        """The device's own name, and its number here."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.number)
        return f"{properties['name'].decode()} (device {self.number})"

    @property
    def capability(self) -> tuple[int, int]:
        """Its compute capability, as the runtime tells."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.number)
        return int(properties["major"]), int(properties["minor"])

    def empty(self, elements: int, dtype: DTypeLike) -> Array:
        """Return a flat array of any content, from CuPy's pool."""
        return self._cupy.empty(elements, dtype)

    def from_host(self, array: NDArray[Any]) -> Array:
        """Return a copy of a host's contiguous array on the device."""
        return self._cupy.asarray(array)

    def to_host(self, array: Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a copy of a contiguous array on the host."""
        found: NDArray[Any] = self._cupy.asnumpy(array, out=out)
        return found

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return bytes of the host that the system does not move."""
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)

    def holds(self, array: Array) -> bool:
        """Return whether an array is CuPy's."""
        return isinstance(array, self._cupy.ndarray)

    @property
    def used_bytes(self) -> int:
        """Bytes that CuPy's pool has lent."""
        return int(self._cupy.get_default_memory_pool().used_bytes())

    def address(self, array: Array) -> int:
        """Return where an array's first element is on the device."""
        return int(array.data.ptr)

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        dtype: DTypeLike, shared_bytes: int = 0, defines: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Start a kernel on CuPy's current stream; its file is compiled at the first launch, and kept on disk."""
        real = np.dtype(dtype)
        key = (file, real.char, defines)
        if key not in self._functions:
            text = read_source(file)
            options = ("-std=c++17", f"-DREAL={WORDS[real.char]}", *(f"-D{d}" for d in defines))
            module = self._cupy.RawModule(code=text, options=options)
            self._functions[key] = {k.name: (k, module.get_function(k.name)) for k in kernels_of(text)}
        declared, function = self._functions[key][kernel]
        function(tuple(grid), tuple(block), tuple(pack(declared, arguments, real)), shared_mem=shared_bytes)

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Compute the matrix product by cuBLAS."""
        self._cupy.matmul(a, b, out=out)

    def synchronize(self) -> None:
        """Wait for CuPy's current stream."""
        self._cupy.cuda.get_current_stream().synchronize()
