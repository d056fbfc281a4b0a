"""A cuDNN made of paper: the part of its Python frontend that gridnn calls, on the memory of the device of the tests.

    pygraph, tensors, one convolution, bias, relu --> validate --> build_operation_graph --> create_execution_plans -->
    deselect... --> check_support --> build_plans --> get_workspace_size, execute

It refuses what the real one refuses, and what the real one takes in silence to somebody's harm: steps out of order,
notes deselected before there are plans, extents and strides that are no lists of integers, a gradient without extents,
a result that is no output, addresses that are not aligned, a workspace that is too small, another stream than CuPy's.
Engines that must not be taken are the best by its heuristics, and each does to the numbers what its note says.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.cpu.reference import conv as reference
from tests.support.shim.device import DeviceArray, ShimDevice

Arrays = np.ndarray[Any, Any]
Round = Callable[[Arrays], Arrays]
HUGE_BYTES = 1 << 40


class DataType(enum.Enum):
    NOT_SET = None
    FLOAT = np.dtype(np.float32)
    DOUBLE = np.dtype(np.float64)
    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


Note = enum.Enum(
    "Note",
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD WINOGRAD_TILE_4x4 "
    "WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13",
)
Mode = enum.Enum("Mode", "A B FALLBACK")


class NotSupportedError(Exception):
    """As `cudnn.cudnnGraphNotSupportedError`."""


def tf32(array: Arrays) -> Arrays:
    """Return numbers with 10 bits of mantissa."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(np.float64)


def wrong(array: Arrays) -> Arrays:
    """Return factors that nobody would take for the ones given."""
    return array * 1.25


class Engine(NamedTuple):
    """A way to compute: notes, workspace, what it makes of float32 factors, whether it starts, copies what has gaps."""

    notes: tuple[str, ...] = ()
    workspace_bytes: int = 100
    factors: Round = lambda array: array
    starts: bool = True
    packs: bool = False


ENGINES = (
    Engine(workspace_bytes=HUGE_BYTES),
    Engine(("TENSOR_CORE", "DOWN_CONVERT_INPUTS"), factors=wrong),
    Engine(("REDUCED_PRECISION_REDUCTION",), factors=wrong),
    Engine(("FFT",), factors=wrong),
    Engine(("WINOGRAD", "WINOGRAD_TILE_6x6"), factors=wrong),
    Engine(("WINOGRAD", "WINOGRAD_TILE_13x13"), factors=wrong),
    Engine(("NONDETERMINISTIC",), factors=lambda array: array * 1.01),
    Engine(("TENSOR_CORE",), factors=tf32),
    Engine(workspace_bytes=0),
)
"""By rank of the heuristics."""


class Tensor:
    """An array of a graph."""

    def __init__(
        self, graph: Graph, dim: list[int], stride: list[int], data_type: DataType, virtual: bool
    ) -> None:
        self.graph, self.dim, self.stride, self.virtual = graph, dim, stride, virtual
        self.data_type = data_type

    def set_output(self, is_output: bool) -> Tensor:
        self.virtual = not is_output
        return self

    def set_dim(self, dim: list[int]) -> Tensor:
        self.dim = _integers(dim, 1)
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        self.stride = _integers(stride, 0)
        return self

    def set_data_type(self, data_type: DataType) -> Tensor:
        assert isinstance(data_type, DataType)
        self.data_type = data_type
        return self


class Step(NamedTuple):
    """An operation: its name, what it reads by its names, what it writes, and its window."""

    name: str
    reads: dict[str, Tensor]
    writes: Tensor
    window: dict[str, list[int]]


class Graph:
    """As `cudnn.pygraph`."""

    ORDER = ("described", "valid", "operations", "plans", "supported", "built")

    def __init__(self, module: PaperCudnn, words: dict[str, Any]) -> None:
        assert set(words) <= {"name", "io_data_type", "intermediate_data_type", "compute_data_type", "handle"}
        assert words["handle"] in module.handles, "a graph is of a handle"
        assert words["compute_data_type"] is DataType.FLOAT
        self.module, self.handle = module, words["handle"]
        self.tensors, self.steps, self.state = list[Tensor](), list[Step](), "described"
        self.engines, self.limit = list[Engine](), HUGE_BYTES + 1

    def tensor(self, *, name: str, dim: list[int], stride: list[int], data_type: DataType) -> Tensor:
        assert isinstance(data_type, DataType) and name
        self.tensors.append(Tensor(self, _integers(dim, 1), _integers(stride, 0), data_type, False))
        return self.tensors[-1]

    def conv_fprop(self, *, image: Tensor, weight: Tensor, name: str, **window: list[int]) -> Tensor:
        return self._convolved("forward", {"x": image, "w": weight}, window)

    def conv_dgrad(self, *, loss: Tensor, filter: Tensor, name: str, **window: list[int]) -> Tensor:
        return self._convolved("backward_data", {"y": loss, "w": filter}, window)

    def conv_wgrad(self, *, image: Tensor, loss: Tensor, name: str, **window: list[int]) -> Tensor:
        return self._convolved("backward_weights", {"x": image, "y": loss}, window)

    def bias(self, *, name: str, input: Tensor, bias: Tensor) -> Tensor:
        return self._step("bias", {"input": input, "bias": bias}, {})

    def relu(self, *, name: str, input: Tensor) -> Tensor:
        return self._step("relu", {"input": input}, {})

    def _convolved(self, name: str, reads: dict[str, Tensor], window: dict[str, list[int]]) -> Tensor:
        if set(window) != {"pre_padding", "post_padding", "stride", "dilation"}:
            raise TypeError(f"incompatible function arguments: {sorted(window)}")
        said = {key: _integers(value, 0) for key, value in window.items()}
        return self._step(name, reads, said)

    def _step(self, name: str, reads: dict[str, Tensor], window: dict[str, list[int]]) -> Tensor:
        assert self.state == "described" and all(t.graph is self for t in reads.values())
        found = Tensor(self, [], [], DataType.NOT_SET, True)
        self.tensors.append(found)
        self.steps.append(Step(name, reads, found, window))
        return found

    def validate(self) -> None:
        self._passes("described", "valid")
        for step in self.steps:
            if not step.writes.dim:
                step.writes.dim = self._inferred(step)
            elif step.name == "forward" and step.writes.dim != self._inferred(step):
                raise ValueError(f"extents {step.writes.dim} of a result, {self._inferred(step)} follow")
        last = self.steps[-1].writes
        if last.virtual:
            raise ValueError("the result is no output")
        if not last.stride or last.data_type is DataType.NOT_SET:
            raise ValueError("an output has no strides or no type")
        for tensor in self.tensors:
            if not tensor.virtual and len(tensor.dim) != len(tensor.stride):
                raise ValueError(f"{len(tensor.dim)} extents and {len(tensor.stride)} strides")

    def _inferred(self, step: Step) -> list[int]:
        if step.name in ("bias", "relu"):
            return step.reads["input"].dim
        if step.name != "forward":
            raise ValueError("extents of a gradient cannot be inferred")
        x, w = step.reads["x"].dim, step.reads["w"].dim
        space = zip(x[2:], w[2:], *(step.window[n] for n in ("stride", "dilation", "pre_padding", "post_padding")),
                    strict=True)  # fmt: skip
        return [x[0], w[0], *((n + lo + hi - d * (r - 1) - 1) // s + 1 for n, r, s, d, lo, hi in space)]

    def build_operation_graph(self) -> None:
        self._passes("valid", "operations")
        for tensor in self.tensors:
            if len(tensor.dim) not in (4, 5) or tensor.data_type is DataType.DOUBLE:
                raise RuntimeError(f"CUDNN_STATUS_BAD_PARAM: {tensor.dim}, {tensor.data_type}")
        for step in self.steps[1:]:
            dims = [1, step.writes.dim[1], *[1] * (len(step.writes.dim) - 2)]
            if step.name == "bias" and step.reads["bias"].dim != dims:
                raise RuntimeError("CUDNN_STATUS_BAD_PARAM: extents of a bias")

    def create_execution_plans(self, modes: list[Any]) -> None:
        assert modes and all(isinstance(mode, Mode) for mode in modes)
        self._passes("operations", "plans")
        self.engines = list(self.module.engines)

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        assert self.state == "plans", "there is nothing to deselect from yet, and nobody says so"
        assert all(isinstance(note, Note) for note in notes)
        barred = {note.name for note in notes}
        self.engines = [engine for engine in self.engines if barred.isdisjoint(engine.notes)]

    def deselect_workspace_greater_than(self, nbytes: int) -> None:
        assert self.state == "plans"
        self.limit = nbytes

    def check_support(self) -> None:
        self._passes("plans", "supported")
        self.engines = [engine for engine in self.engines if self._workspace(engine) <= self.limit]
        if not self.engines or self.module.refuses(self):
            words = "[cudnn_frontend] Error: No execution plans support the graph."
            raise NotSupportedError(words + 100 * '\n{"engineId":1}\nWarning: CUDNN_STATUS_NOT_SUPPORTED')

    def build_plans(self) -> None:
        self._passes("supported", "built")
        self.module.plans += 1

    def get_workspace_size(self) -> int:
        assert self.state == "built"
        return self._workspace(self.engines[0])

    def _workspace(self, engine: Engine) -> int:
        copied = [t for t in self.tensors if engine.packs and not t.virtual and _elements(t) > prod(t.dim)]
        return engine.workspace_bytes + sum(prod(t.dim) * _dtype(t).itemsize for t in copied)

    def execute(self, pointers: dict[Tensor, int], workspace: int, handle: Any) -> None:
        module = self.module
        assert self.state == "built" and handle is self.handle
        assert module.handles[handle] == module.stream(), "launched on another stream than CuPy's"
        if set(pointers) != {tensor for tensor in self.tensors if not tensor.virtual}:
            raise ValueError("a pointer for each tensor that is not virtual, and no other")
        for address in (*pointers.values(), workspace):
            assert type(address) is int and address % 16 == 0, "misaligned address"
        needed = self.get_workspace_size()
        if needed:
            assert module.device.sizes[workspace] >= needed, "the workspace is too small"
            ctypes.memset(workspace, 0xFF, needed)
        if not self.engines[0].starts:
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING\nWarning: as it is")
        module.executed.append(self.steps[0].name)
        found = self._computed(self.engines[0], {t: _read(t, address) for t, address in pointers.items()})
        module.taken.append(self.engines[0])
        _write(self.steps[-1].writes, pointers[self.steps[-1].writes], found)

    def _computed(self, engine: Engine, given: dict[Tensor, Arrays]) -> Arrays:
        first = self.steps[0]
        reads = {name: engine.factors(given[t]) if t.data_type is DataType.FLOAT else given[t]
                 for name, t in first.reads.items()}  # fmt: skip
        window: Any = {"stride": first.window["stride"], "dilation": first.window["dilation"],
                       "pad_lo": first.window["pre_padding"], "pad_hi": first.window["post_padding"]}  # fmt: skip
        window = {name: tuple(value) for name, value in window.items()}
        shapes = {name: tuple(t.dim) for name, t in first.reads.items()}
        of = {"forward": "y", "backward_data": "x", "backward_weights": "w"}[first.name]
        shapes[of] = tuple(first.writes.dim)
        window["groups"] = shapes["x"][1] // shapes["w"][1]
        if first.name == "forward":
            found = reference.forward(reads["x"], reads["w"], **window)
        elif first.name == "backward_data":
            found = reference.backward_data(reads["y"], reads["w"], shapes["x"], **window)
        else:
            found = reference.backward_weights(reads["x"], reads["y"], shapes["w"], **window)
        for step in self.steps[1:]:
            found = found + given[step.reads["bias"]] if step.name == "bias" else np.maximum(found, 0)
        return found

    def _passes(self, before: str, after: str) -> None:
        if self.state != before:
            raise RuntimeError(f"the graph is {self.state}, and must be {before}: a step is out of order")
        self.state = after


class Memory(ShimDevice):
    """A device whose allocations can be looked up by their address."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = dict[int, int]()

    def empty(self, elements: int, dtype: DTypeLike) -> DeviceArray:
        found = super().empty(elements, dtype)
        self.sizes[self.address(found)] = found.nbytes
        return found


class PaperCudnn:
    """The module `cudnn`, with a device of its own.

    Parameters
    ----------
    engines
        What the heuristics find, the best first.
    refuses
        Whether no engine supports a graph.

    Attributes
    ----------
    plans : int
        How many were built.
    executed : list of str
        The passes that were executed.
    taken : list of Engine
        What executed them.
    streams : list of int
        Streams that were set.
    now : int
        CuPy's current stream.
    """

    __version__ = "1.18.0"
    data_type, numerical_note, heur_mode = DataType, Note, Mode
    cudnnGraphNotSupportedError = NotSupportedError

    def __init__(
        self, engines: tuple[Engine, ...] = ENGINES, refuses: Callable[[Graph], bool] = lambda g: False
    ) -> None:
        self.device, self.engines, self.refuses = Memory(), engines, refuses
        self.handles = dict[Any, int | None]()
        self.plans, self.now = 0, 7
        self.executed, self.streams, self.taken = list[str](), list[int](), list[Engine]()

    def backend_version_string(self) -> str:
        return "9.13.0"

    def create_handle(self) -> Any:
        found = object()
        self.handles[found] = None
        return found

    def set_stream(self, *, handle: Any, stream: int) -> None:
        self.handles[handle] = stream
        self.streams.append(stream)

    def pygraph(self, **words: Any) -> Graph:
        return Graph(self, words)

    def stream(self) -> int:
        return self.now

    def load(self, name: str) -> Any:
        """Return what is imported by a name."""
        assert name == "cudnn", f"nobody should import {name}"
        return self


def fused_without_tensor_cores(graph: Graph) -> bool:
    """Whether bias or rectifier are to be fused where no engine has tensor cores: of the real ones few can."""
    return len(graph.steps) > 1 and not any("TENSOR_CORE" in engine.notes for engine in graph.engines)


def one_sided(graph: Graph) -> bool:
    """Whether pads before and behind differ: of the real engines some, maybe all, take equal ones only."""
    window = graph.steps[0].window
    return window["pre_padding"] != window["post_padding"]


def _integers(values: list[int], least: int) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int or value < least for value in values):
        raise TypeError(f"incompatible function arguments: {values!r}")
    return values


def _memory(tensor: Tensor, address: int) -> Arrays:
    """Return the memory that a tensor stands for."""
    dtype = _dtype(tensor)
    held = (ctypes.c_char * (_elements(tensor) * dtype.itemsize)).from_address(address)
    strides = [step * dtype.itemsize for step in tensor.stride]
    return np.ndarray(tensor.dim, dtype, memoryview(held), strides=strides)


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    assert isinstance(tensor.data_type.value, np.dtype)
    return tensor.data_type.value


def _elements(tensor: Tensor) -> int:
    """Return how many elements memory has from the first to the last."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.dim, tensor.stride, strict=True))


def _read(tensor: Tensor, address: int) -> Arrays:
    """Return the content of a tensor; of one that is written, anything."""
    return _memory(tensor, address).astype(np.float64)


def _write(tensor: Tensor, address: int, found: Arrays) -> None:
    memory = _memory(tensor, address)
    assert prod(memory.shape) == found.size
    memory[...] = found.astype(memory.dtype)
