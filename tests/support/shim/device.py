"""A device on the CPU: kernels run by fibers, on arrays that no host array may be mixed with, as on a GPU.

What CuPy refuses is refused here too: a host's array assigned to a device's or added to it, NumPy read of a device's
memory without `to_host`.  Numbers may be mixed, and views, sums and products of device arrays are device arrays.

While it captures a graph nothing is done (`capture`), and what waits for the device or copies from the host is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.gpu.graph import Call, CaptureError, Graph, Graphs, Later, Sent, Varying
from gridnn.compute.gpu.source import read_source
from gridnn.compute.storage import BFLOAT16
from tests.support import shim
from tests.support.shim import capture

MOST_JOINED = 8
"""Arrays that CuPy joins one by one; of more it copies a table of addresses from the host, which a graph would keep."""


class DeviceArray(np.ndarray[Any, Any]):
    """Memory of a device, as far as tests go.

    Attributes
    ----------
    reads
        How often any was read as a number of the host's: each would have waited for the device.
    """

    reads: ClassVar[int] = 0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **words: Any) -> Any:
        _alone((*inputs, *(out or ())))
        _wide((*inputs, *(out or ())))
        if getattr(np, ufunc.__name__, None) is not ufunc:
            raise TypeError(f"{ufunc.__name__} is no function of NumPy's: a device does not know it")
        if out is None:
            return _perform(getattr(ufunc, method), inputs, words)
        _perform(getattr(ufunc, method), inputs, words | {"out": out})
        return out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, arguments: Any, words: Any) -> Any:
        _alone(list(capture.leaves((arguments, words))))
        _wide(list(capture.leaves((arguments, words))))
        if function is np.concatenate and len(arguments[0]) > MOST_JOINED and capture.current() is not None:
            raise CaptureError("a table of addresses is copied to the device")
        return _perform(function, arguments, words)

    def __setitem__(self, where: Any, value: Any) -> None:
        _alone([value])
        record = capture.current()
        if record is None:
            super().__setitem__(where, value)
        else:
            record.write(np.ndarray.__setitem__, (self, where, value))

    def __getitem__(self, where: Any) -> Any:
        if any(isinstance(each, np.ndarray) for each in capture.leaves(where)):
            return _perform(np.ndarray.__getitem__, (self, where), {})
        found = super().__getitem__(where)
        if isinstance(found, np.ndarray):
            return found
        return super().__getitem__((*(where if isinstance(where, tuple) else (where,)), ...))  # as CuPy

    def __float__(self) -> float:
        return float(self._read())

    def __int__(self) -> int:
        return int(self._read())

    def __bool__(self) -> bool:
        return bool(self._read())

    def item(self, *where: Any) -> Any:
        return self._read().item(*where)

    def tolist(self) -> Any:
        return self._read().tolist()

    def _read(self) -> NDArray[Any]:
        _refuse("the host reads an array of the device")
        DeviceArray.reads += 1
        return self.view(np.ndarray)


def _done_by_numpy(name: str) -> Callable[..., Any]:
    """Return a method of arrays that may compute, so that it is written down while capturing."""
    plain = getattr(np.ndarray, name)

    def method(self: DeviceArray, *arguments: Any, **words: Any) -> Any:
        return _perform(plain, (self, *arguments), words)

    return method


for _name in ("astype", "copy", "reshape", "ravel", "flatten", "argmax", "argmin", "take"):
    setattr(DeviceArray, _name, _done_by_numpy(_name))


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
    late_waits
        How often it waited for a copy that it had asked for before.
    used_bytes
        Of arrays that somebody holds.
    captures
        What was captured so far.
    """

    def __init__(self, order: str = "forward", capability: tuple[int, int] = (8, 0)) -> None:
        self.order, self.launches, self.waits, self.used_bytes = order, list[tuple[str, str]](), 0, 0
        self.capability = capability
        self.late_waits, self.captures = 0, list[capture.Record]()
        self.graphs: Graphs = "off"
        self.varying = Varying(self)
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
        _refuse("an array of the host is copied to the device")
        if isinstance(array, DeviceArray) or not array.flags.c_contiguous:
            raise TypeError("an array of the device is there already, and one with gaps does not go")
        return self._counted(np.array(array))

    def _counted(self, memory: NDArray[Any]) -> DeviceArray:
        self.used_bytes += memory.nbytes
        weakref.finalize(memory, self._forget, memory.nbytes)
        record = capture.current()
        if record is not None:
            record.kept.append(memory)
        return memory.view(DeviceArray)

    def _forget(self, nbytes: int) -> None:
        self.used_bytes -= nbytes

    def to_host(self, array: DeviceArray, out: NDArray[Any] | None = None) -> NDArray[Any]:
        _refuse("the host reads an array of the device")
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

    def read_later(self, array: DeviceArray) -> Later:
        _refuse("the host reads an array of the device")
        if not isinstance(array, DeviceArray) or not array.flags.c_contiguous:
            raise TypeError("a host's array is no array of the device, and one with gaps does not go")
        copy = np.array(_plain(array))
        host = np.frombuffer(b"\xff" * copy.nbytes, copy.dtype).reshape(copy.shape).copy()  # not there yet

        def arrived() -> None:
            self.late_waits += 1
            host[...] = copy

        return Sent(host, arrived)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        _refuse("memory of the host is pinned")
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
        start, record = partial(self._modules[key].launch, kernel, grid, block), capture.current()
        if record is None:
            start(arguments, shared_bytes)
        else:
            record.write(start, (list(arguments), shared_bytes))

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
        _alone([a, b, out])
        record = capture.current()
        if record is None:
            _product(*map(_plain, (a, b, out)))
        else:  # as CuPy, which does not let cuBLAS be captured
            record.cuts += 1
            record.write(_product, (a, b, out))

    def synchronize(self) -> None:
        _refuse("the host waits for the device")
        self.waits += 1

    @property
    def capturing(self) -> bool:
        return capture.current() is not None

    def capture(self, work: Call) -> Graph:
        record = capture.begin()
        try:
            work()
        finally:
            capture.end()
        self.captures.append(record)
        return Graph(record.calls, record, record.nbytes)

    def between(self, call: Call) -> None:
        record = capture.current()
        if record is None:
            call()
        else:
            record.cuts += 1
            record.calls.append(call)


def _product(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any]) -> None:
    if a.dtype.name == BFLOAT16:
        out[...] = np.matmul(a.astype(np.float32), b.astype(np.float32))
    else:
        np.matmul(a, b, out=out)


def _perform(function: Callable[..., Any], arguments: Any, words: Any) -> Any:
    """Call NumPy on what lies on the device; while capturing, write the call down."""
    record = capture.current()
    if record is None:
        return _on_device(function(*capture.as_numpy(arguments), **capture.as_numpy(words)))
    out = words.get("out")
    if out is None:
        return _on_device(record.perform(function, arguments, words))
    record.write(function, arguments, words)
    return out


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


def _wide(values: Sequence[Any]) -> None:
    """Refuse bfloat16: it is copied and converted, kernels compute in it, and nobody else does."""
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.name == BFLOAT16:
            raise TypeError(f"an array {value.shape} of bfloat16 is computed with: widen it first")


def _refuse(what: str) -> None:
    """Refuse what a capture does not take."""
    if capture.current() is not None:
        raise CaptureError(what)
