"""A device: where its arrays come from, and how a kernel is started on it.

    bind_early                      before MPI starts      open_device                     after
    from_host, empty  ->  arrays of the device  ->  launch("conv", "forward", grid, block, ...)  ->  to_host

Only this file computes with CuPy (`found` asks it what is there).  What it does with a kernel is the same call that the
tests answer on the CPU, so all that stands above it runs where there is no device.  Launches return at once and keep
their order; `to_host` and `synchronize` wait.

Every array of CuPy's, those in the midst of an expression too, comes through one function, which is where it is told
that memory is short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.gpu.found import Load, bind, device_of, find_devices, local_rank, prove
from gridnn.compute.gpu.gemm import product as narrow_product
from gridnn.compute.gpu.graph import Call, CaptureError, Graph, Graphs, Later, Pools, Recorder, Sent, Varying
from gridnn.compute.gpu.room import Room, limit_of, no_room
from gridnn.compute.gpu.source import Kernel, kernels_of, pack, read_source
from gridnn.compute.storage import BFLOAT16
from gridnn.errors import InputError

Array = Any
"""An array of a device, or of the host: what NumPy and CuPy have in common."""
WORDS = {"f": "float", "d": "double", "E": "bfloat16"}
"""What `real` is called in a kernel, by the dtype's character."""


class Device(Protocol):
    """A device of one rank.

    Attributes
    ----------
    name
        The device in words.
    capability
        Its compute capability: what instructions it has.
    graphs
        What the run wants of graphs; set by who opened the device.
    varying
        Numbers that change from step to step, where kernels read them.
    """

    graphs: Graphs
    varying: Varying

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
            What `real` is: float32, float64 or bfloat16.
        shared_bytes
            Shared memory of a block beside what the kernel declares.
        defines
            What the file is compiled with besides `real`, such as "COLUMNS=64"; each set of them is compiled once.
        """
        ...

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Compute the matrix product of two arrays into a third: of their dtype, or float32 where they are bfloat16."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was started is done."""
        ...

    def read_later(self, array: Array) -> Later:
        """Start to copy a contiguous array to the host, and return at once."""
        ...

    @property
    def capturing(self) -> bool:
        """Whether operations are captured: written down in place of done."""
        ...

    def capture(self, work: Call) -> Graph:
        """Capture what `work` starts; nothing of it is done before the graph is launched.

        Raises
        ------
        CaptureError
            If the host waits in it, or copies something to the device.
        MemoryShortError
            Where there is no room for its arrays, which are the graph's from then on.
        """
        ...

    def between(self, call: Call) -> None:
        """Call something now; while capturing not now, but at this place of every launch of the graph."""
        ...


def bind_early(environment: Mapping[str, str], load: Load = import_module) -> int | None:
    """Make the device of this rank its own before MPI starts, by the number that the launcher says.

    A CUDA-aware MPI settles on the device that it finds.  Nothing is raised: what is missing or fails here does so in
    `open_device`, when all ranks can be told.

    Parameters
    ----------
    environment
        Of this process.
    load
        Imports a module.

    Returns
    -------
    int or None
        The device's index; None where no launcher says the rank's number, or nothing could be bound.
    """
    at = local_rank(environment)
    number = None if at is None else device_of(at, len(find_devices(load).devices))
    if number is None:
        return None
    try:
        bind(number, load)
    except Exception:  # CuPy's own classes, which cannot be named without it
        return None
    return number


def open_device(
    rank_on_host: int, limit: float | None = None, load: Load = import_module
) -> tuple[Device, Room]:  # fmt: skip
    """Return the device of a rank and its memory: with more ranks than devices on a host, ranks share them in turn.

    Parameters
    ----------
    limit
        What the rank's arrays may take of the device's memory: a share up to 1, bytes above; None is no limit.
    load
        Imports a module.

    Raises
    ------
    InputError
        Without CuPy, a driver, or a device; or if the device cannot be used.
    """
    found = find_devices(load)
    number = device_of(rank_on_host, len(found.devices))
    if number is None:
        raise InputError(
            f"no GPU can be used: {found.missing}; ask the scheduler for one (srun --gpus-per-task=1), or take "
            "--device cpu"
        )
    mine = found.devices[number]
    room = Room(mine.identity, mine.memory_bytes, limit_of(limit, mine.memory_bytes))
    return CupyDevice(number, room, load), room


class CupyDevice:
    """A CUDA device through CuPy; from now on all arrays of CuPy in this process come from it.

    Parameters
    ----------
    number
        Of the devices that this process sees.
    room
        Its memory; a limit there is that of CuPy's pool.
    load
        Imports a module.

    Raises
    ------
    InputError
        If it cannot be used: no context, no memory, a device that others hold alone, no compiler for kernels.
    """

    def __init__(self, number: int = 0, room: Room | None = None, load: Load = import_module) -> None:
        self._cupy, self.number, self.room = load("cupy"), number, room or Room()
        try:
            bind(number, load)
        except Exception as error:  # CuPy's own classes, which cannot be named without it
            raise InputError(
                f"device {number} cannot be used: {error}; take another (CUDA_VISIBLE_DEVICES), or --device cpu"
            ) from None
        prove(load)
        self._pool = self._cupy.get_default_memory_pool()
        if self.room.limit_bytes is not None:  # else what CUPY_GPU_MEMORY_LIMIT says stays
            self._pool.set_limit(size=self.room.limit_bytes)
        self._cupy.cuda.set_allocator(self._allocate)
        self._functions: dict[tuple[str, str, tuple[str, ...]], dict[str, tuple[Kernel, Any]]] = {}
        self.graphs: Graphs = "off"
        self.varying = Varying(self)
        self._recorder: Recorder | None = None
        self._pools = Pools()

    def _allocate(self, nbytes: int, pool: Any = None) -> Any:
        """Return memory of CuPy's pool, or of another, for CuPy.

        Raises
        ------
        MemoryShortError
            Where the pool has nothing left; it has let go before of all that nobody uses.
        """
        if self._pools.left and self._recorder is None:
            self._give_back()
        try:
            return (self._pool if pool is None else pool).malloc(nbytes)
        except self._cupy.cuda.memory.OutOfMemoryError:
            raise no_room(nbytes, self.used_bytes, self.room, self.name) from None

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
        self._refuse("an array of the host is copied to the device")
        return self._cupy.asarray(array)

    def to_host(self, array: Array, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a copy of a contiguous array on the host."""
        self._refuse("the host reads an array of the device")
        found: NDArray[Any] = self._cupy.asnumpy(array, out=out)
        return found

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Return bytes of the host that the system does not move."""
        self._refuse("memory of the host is pinned")
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)

    def holds(self, array: Array) -> bool:
        """Return whether an array is CuPy's."""
        return isinstance(array, self._cupy.ndarray)

    @property
    def used_bytes(self) -> int:
        """Bytes that CuPy's pool has lent, and those of graphs: what they have got, for they keep it."""
        capturing = 0 if self._recorder is None else int(self._recorder.pool.total_bytes())
        return int(self._pool.used_bytes()) + capturing + self._pools.nbytes

    def _give_back(self) -> None:
        """Give the device what nobody uses of graphs that are gone; at least 1 is left, for to CuPy 0 is no limit."""
        self._pools.give_back()
        if self.room.limit_bytes is not None:
            self._pool.set_limit(size=max(1, self.room.limit_bytes - self._pools.nbytes))

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
        """Compute the matrix product by cuBLAS, which CuPy does not let be captured."""
        if a.dtype.name == BFLOAT16:
            self.between(partial(narrow_product, self._cupy, a, b, out))
        else:
            self.between(partial(self._cupy.matmul, a, b, out=out))

    def synchronize(self) -> None:
        """Wait for CuPy's current stream."""
        self._refuse("the host waits for the device")
        self._cupy.cuda.get_current_stream().synchronize()

    def read_later(self, array: Array) -> Later:
        """Copy to pinned memory on CuPy's current stream, and note there when that is done."""
        host = self.pinned(array.nbytes).view(array.dtype).reshape(array.shape)
        self._cupy.asnumpy(array, out=host, blocking=False)
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record()
        return Sent(host, event.synchronize)

    @property
    def capturing(self) -> bool:
        """Whether operations are captured."""
        return self._recorder is not None

    def capture(self, work: Call) -> Graph:
        """Capture by a stream of CuPy's; the graph may take memory of the pool that nobody uses any more."""
        assert self._recorder is None, "a capture within a capture"
        self._pool.free_all_blocks()
        self._give_back()
        recorder, limit = Recorder(self._cupy), self.room.limit_bytes
        if limit is not None:
            recorder.pool.set_limit(size=max(1, limit - self._pools.nbytes - int(self._pool.total_bytes())))
        self._recorder = recorder
        try:
            with self._cupy.cuda.using_allocator(
                partial(self._allocate, pool=recorder.pool)
            ):  # of this thread
                graph = recorder.record(work)
        except BaseException:
            self._pools.left.append(recorder.pool)  # the frames of the error still have arrays of it
            raise
        finally:
            self._recorder = None
        self._pools.keep(graph, recorder.pool)
        self._give_back()
        return graph

    def between(self, call: Call) -> None:
        """Call now, or between two graphs of CUDA."""
        if self._recorder is None:
            call()
        else:
            self._recorder.between(call)

    def _refuse(self, what: str) -> None:
        """Refuse what CUDA would answer by giving the capture up, or by keeping an address that others get.

        Raises
        ------
        CaptureError
            While capturing.
        """
        if self._recorder is not None:
            raise CaptureError(what)
