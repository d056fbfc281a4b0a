"""A device on the CPU: kernels run by fibers, on arrays that no host array may be mixed with, as on a GPU.

What CuPy refuses is refused here too: a host's array assigned to a device's or added to it, NumPy read of a device's
memory without `to_host`.  Numbers may be mixed, and views, sums and products of device arrays are device arrays.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.gpu.source import read_source
from tests.support import shim


class DeviceArray(np.ndarray[Any, Any]):
    """Memory of a device, as far as tests go."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **words: Any) -> Any:
        _alone((*inputs, *(out or ())))
        if getattr(np, ufunc.__name__, None) is not ufunc:
            raise TypeError(f"{ufunc.__name__} is no function of NumPy's: a device does not know it")
        if out is not None:
            words["out"] = tuple(_plain(o) for o in out)
        found = getattr(ufunc, method)(*map(_plain, inputs), **words)
        return out[0] if out is not None and len(out) == 1 else _on_device(found)

    def __array_function__(self, function: Any, types: Any, arguments: Any, words: Any) -> Any:
        _alone(list(_flat((arguments, words))))
        return _on_device(function(*_deep(arguments), **_deep(words)))

    def __setitem__(self, where: Any, value: Any) -> None:
        _alone([value])
        super().__setitem__(where, value)


class ShimDevice:
    """A `gridnn.compute.gpu.device.Device` on the CPU.

    Parameters
    ----------
    order
        In which blocks and threads run.
    capability
        The compute capability that it says it has.

    Attributes
    ----------
    launches
        (file, kernel) of all launches.
    compiled
        (file, character of the dtype, defines) of all that was compiled.
    waits
        How often the host waited.
    used_bytes
        Of arrays that somebody holds.
    """

    def __init__(self, order: str = "forward", capability: tuple[int, int] = (8, 0)) -> None:
        self.order, self.launches, self.waits, self.used_bytes = order, list[tuple[str, str]](), 0, 0
        self.capability = capability
        self._modules: dict[tuple[str, str, tuple[str, ...]], shim.Module] = {}

    @property
    def name(self) -> str:
        return f"fibers ({self.order})"

    @property
    def compiled(self) -> set[tuple[str, str, tuple[str, ...]]]:
        return set(self._modules)

    def empty(self, elements: int, dtype: DTypeLike) -> DeviceArray:
        found = np.empty(elements, dtype)
        found.view(np.uint8)[...] = 0xFF  # no content, so nobody may read it: not a number
        return self._counted(found)

    def from_host(self, array: NDArray[Any]) -> DeviceArray:
        if isinstance(array, DeviceArray) or not array.flags.c_contiguous:
            raise TypeError("an array of the device is there already, and one with gaps does not go")
        return self._counted(np.array(array))

    def _counted(self, memory: NDArray[Any]) -> DeviceArray:
        self.used_bytes += memory.nbytes
        weakref.finalize(memory, self._forget, memory.nbytes)
        return memory.view(DeviceArray)

    def _forget(self, nbytes: int) -> None:
        self.used_bytes -= nbytes

    def to_host(self, array: DeviceArray, out: NDArray[Any] | None = None) -> NDArray[Any]:
        if not isinstance(array, DeviceArray) or not array.flags.c_contiguous:
            raise TypeError("a host's array is no array of the device, and one with gaps does not go")
        if isinstance(out, DeviceArray) or (
            out is not None and (out.shape, out.dtype) != (array.shape, array.dtype)
        ):
            raise TypeError("what a device's array is copied into is a host's array of its shape and dtype")
        self.waits += 1
        found = np.array(_plain(array)) if out is None else out
        found[...] = _plain(array)
        return found

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.full(nbytes, 0xFF, np.uint8)  # no content, as in `empty`

    def holds(self, array: Any) -> bool:
        return isinstance(array, DeviceArray)

    def address(self, array: DeviceArray) -> int:
        return int(array.ctypes.data)

    def launch(
        self, file: str, kernel: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any],
        dtype: DTypeLike, shared_bytes: int = 0, defines: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        for argument in arguments:
            if (
                isinstance(argument, np.ndarray)
                and not argument.dtype.names
                and not isinstance(argument, DeviceArray)
            ):
                raise TypeError(f"{file}.{kernel}: a host's array {argument.shape} is given to a kernel")
        key = file, np.dtype(dtype).char, defines
        if key not in self._modules:
            text = "".join(f"#define {d.replace('=', ' ', 1)}\n" for d in defines) + read_source(file)
            self._modules[key] = shim.Module(file, dtype, self.order, text=text)
        self.launches.append((file, kernel))
        self._modules[key].launch(kernel, grid, block, arguments, shared_bytes)

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        _alone([a, b, out])
        np.matmul(_plain(a), _plain(b), out=_plain(out))

    def synchronize(self) -> None:
        self.waits += 1


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


def _on_device(found: Any) -> Any:
    if isinstance(found, tuple | list):
        return type(found)(_on_device(f) for f in found)
    if isinstance(found, np.generic):  # as CuPy: an array without dims
        return np.asarray(found).view(DeviceArray)
    return found.view(DeviceArray) if isinstance(found, np.ndarray) else found


def _alone(values: Sequence[Any]) -> None:
    """Refuse arrays of the host beside those of the device."""
    for value in values:
        if isinstance(value, np.ndarray) and not isinstance(value, DeviceArray):
            raise TypeError(f"a host's array {value.shape} meets one of the device")


def _deep(value: Any) -> Any:
    """Return arguments with device arrays as NumPy knows them: what it does within is not looked at."""
    if isinstance(value, tuple | list):
        return type(value)(_deep(each) for each in value)
    return {k: _deep(v) for k, v in value.items()} if isinstance(value, dict) else _plain(value)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(tuple(value.values()))
    else:
        yield value
