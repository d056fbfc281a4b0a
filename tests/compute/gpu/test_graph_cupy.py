"""Captures by CuPy: what it is asked for, in which order, and what becomes of memory and of errors.

`Paper` is a CuPy that notes what it did and refuses what the real one refuses: a capture of the default stream, cuBLAS
and waits meanwhile.  What CUDA does with the same calls it cannot tell.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu.device import CupyDevice
from gridnn.compute.gpu.graph import CaptureError
from gridnn.compute.gpu.room import MemoryShortError, Room
from gridnn.errors import InputError, RunError


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class PaperStream:
    """A stream that can be captured, but for the default one."""

    def __init__(self, paper: Paper, default: bool = False, non_blocking: bool = False) -> None:
        self.paper, self.default, self.non_blocking = paper, default, non_blocking
        self.captured: list[str] | None = None

    def __enter__(self) -> PaperStream:
        self.paper.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.paper.streams.pop() is self

    def begin_capture(self) -> None:
        assert self.captured is None
        if self.default or not self.non_blocking:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.captured = []

    def end_capture(self) -> Any:
        assert self.captured is not None
        if self.paper.invalid:
            self.captured, self.paper.invalid = None, False
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        names, self.captured = self.captured, None

        def launch() -> None:
            for name in names:
                self.paper.op(name)

        return SimpleNamespace(launch=launch)

    def synchronize(self) -> None:
        self.paper.op("synchronize", captured=False)


class Pool:
    """A pool of memory, which keeps what it has got until it is told: also when nobody has it any more, as CuPy's."""

    def __init__(self) -> None:
        self.lent = self.got = 0
        self.limit = 1 << 40

    def malloc(self, nbytes: int) -> Memory:
        if self.got + nbytes > self.limit:
            self.free_all_blocks()
        if self.got + nbytes > self.limit:
            raise OutOfMemoryError(nbytes)
        self.lent, self.got = self.lent + nbytes, self.got + nbytes
        return Memory(self, nbytes)

    def free(self, nbytes: int) -> None:
        self.lent -= nbytes

    def used_bytes(self) -> int:
        return self.lent

    def total_bytes(self) -> int:
        return self.got

    def free_all_blocks(self) -> None:
        self.got = self.lent

    def set_limit(self, size: int) -> None:
        assert size > 0, "to CuPy 0 is no limit"
        self.limit = size


class Memory:
    """Memory of a pool, which has it back when nobody holds this."""

    def __init__(self, pool: Pool, nbytes: int) -> None:
        weakref.finalize(self, pool.free, nbytes)


class Paper:
    """A CuPy that notes what it did."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.invalid = False
        self.streams = [PaperStream(self, default=True)]
        self.pools = [Pool()]
        self.allocators: list[Any] = []

    def op(self, name: str, captured: bool = True) -> None:
        stream = self.streams[-1]
        if stream.captured is None:
            self.done.append(name)
        elif captured:
            stream.captured.append(name)
        else:
            self.invalid = True
            raise RuntimeError(f"{name}: cudaErrorStreamCaptureUnsupported")

    def load(self, name: str) -> Any:
        runtime = SimpleNamespace(
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, getDeviceCount=lambda: 1,
            getDeviceProperties=lambda number: {"name": b"Paper", "major": 9, "minor": 0},
        )  # fmt: skip
        cuda = SimpleNamespace(
            runtime=runtime, Device=lambda number: SimpleNamespace(use=lambda: None, mem_info=(5, 10)),
            set_allocator=lambda made: self.allocators.insert(0, made), using_allocator=self.using,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError), MemoryPool=self.pool,
            Stream=lambda non_blocking: PaperStream(self, non_blocking=non_blocking),
            get_current_stream=lambda: self.streams[-1], Event=self.event,
            alloc_pinned_memory=lambda nbytes: bytearray(nbytes), get_cublas_handle=lambda: 1,
        )  # fmt: skip
        return SimpleNamespace(
            cuda=cuda, get_default_memory_pool=lambda: self.pools[0], empty=self.empty, matmul=self.matmul,
            asarray=lambda array: self.op("asarray", captured=False), asnumpy=self.asnumpy,
            RawModule=lambda code, options: SimpleNamespace(get_function=lambda name: lambda *arguments: None),
        )  # fmt: skip

    @contextmanager
    def using(self, allocator: Any) -> Iterator[None]:
        self.allocators.append(allocator)
        try:
            yield
        finally:
            self.allocators.pop()

    def pool(self) -> Pool:
        self.pools.append(Pool())
        return self.pools[-1]

    def empty(self, elements: int, dtype: Any) -> Any:
        array = np.zeros(elements, dtype)
        if self.allocators:
            memory = self.allocators[-1](array.nbytes)
            weakref.finalize(array, lambda: memory)
        return array

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        if self.streams[-1].captured is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self.op("product")

    def asnumpy(self, array: Any, out: Any = None, blocking: bool = True) -> Any:
        self.op("read" if blocking else "sent", captured=not blocking)
        if out is not None:
            out[...] = array
        return out

    def event(self, disable_timing: bool) -> Any:
        return SimpleNamespace(record=lambda: self.op("event"), synchronize=lambda: self.op("wait"))


def opened(limit: int | None = None) -> tuple[Paper, CupyDevice]:
    paper = Paper()
    device = CupyDevice(0, Room("paper", 1 << 30, limit), paper.load)
    paper.done.clear()
    return paper, device


def wanted(device: CupyDevice, nbytes: int) -> None:
    """Make an array that nobody keeps."""
    device.empty(nbytes, np.uint8)


def test_a_capture_by_cupy() -> None:
    """Graphs with the products of cuBLAS and what else is between them, in their order, on the stream of the launch."""
    paper, device = opened()
    a = np.ones((2, 2))

    def worked() -> None:
        paper.op("first")
        device.matmul(a, a, a)
        paper.op("second")
        paper.op("third")
        device.between(lambda: paper.op("batch"))
        assert device.capturing

    worked_at_once = ["first", "product", "second", "third", "batch"]
    graph = device.capture(lambda: worked())
    assert paper.done == [] and not device.capturing and len(paper.streams) == 1
    for times in (1, 2):
        graph.launch()
        assert paper.done == times * worked_at_once
    assert graph.pieces == 5
    paper.done.clear()
    device.matmul(a, a, a)
    device.between(lambda: paper.op("now"))
    assert paper.done == ["product", "now"]


def test_memory_of_a_graph_by_cupy() -> None:
    """A pool of its own, out of what the run may have; both pools keep to the limit together."""
    paper, device = opened(limit=1000)
    kept = device.empty(100, np.uint8)
    paper.pools[0].got = 700  # of ordinary steps, and free
    graph = device.capture(lambda: wanted(device, 400))
    assert kept.size == 100 and len(paper.pools) == 2
    assert (paper.pools[0].lent, paper.pools[1].got, graph.nbytes) == (100, 400, 400)
    assert paper.pools[1].limit == 900 and paper.pools[0].limit == 600
    assert device.used_bytes == 500
    with pytest.raises(MemoryShortError, match=r"rank's arrays have 500 bytes.*limit of 1,000"):
        device.empty(501, np.uint8)
    with pytest.raises(MemoryShortError):
        device.capture(lambda: wanted(device, 501))
    assert not device.capturing and len(paper.streams) == 1 and len(paper.allocators) == 1
    del graph
    gc.collect()
    more = device.empty(50, np.uint8)
    assert more.size == 50 and device.used_bytes == 150
    assert [pool.got for pool in paper.pools] == [150, 0, 0] and paper.pools[0].limit == 1000


def test_memory_of_a_capture_that_is_given_up() -> None:
    """CuPy would keep it for good: it goes back at the first array after, and where somebody has some, after that."""
    paper, device = opened(limit=1000)
    held = list[Any]()

    def worked() -> None:
        held.append(device.empty(300, np.uint8))
        wanted(device, 400)
        paper.op("float", captured=False)

    with pytest.raises(CaptureError):
        device.capture(worked)
    assert paper.pools[1].got == 700 and device.used_bytes == 700
    kept = [device.empty(500, np.uint8)]
    assert paper.pools[1].got == 300 and device.used_bytes == 800
    with pytest.raises(MemoryShortError):
        device.empty(300, np.uint8)
    held.clear()
    kept.append(device.empty(300, np.uint8))
    assert paper.pools[1].got == 0 and device.used_bytes == 800


@pytest.mark.parametrize(
    "what",
    ["to_host", "from_host", "synchronize", "pinned", "read_later", "cupy"],
)
def test_what_cuda_refuses(what: str) -> None:
    """Ours are refused by name, before CUDA gives the capture up; what only CuPy knows of is told in its words."""
    paper, device = opened()
    a = np.ones(3)
    calls: dict[str, Callable[[], Any]] = {
        "to_host": lambda: device.to_host(a), "from_host": lambda: device.from_host(a),
        "synchronize": device.synchronize, "pinned": lambda: device.pinned(8),
        "read_later": lambda: device.read_later(a), "cupy": lambda: paper.op("float", captured=False),
    }  # fmt: skip
    with pytest.raises(CaptureError) as caught:
        device.capture(calls[what])
    assert isinstance(caught.value, RunError)
    assert ("cudaErrorStreamCaptureUnsupported" in str(caught.value)) is (what == "cupy")
    assert isinstance(caught.value.__cause__, RuntimeError) is (what == "cupy")
    assert not device.capturing and len(paper.streams) == 1 and paper.streams[0].captured is None


def test_other_errors_pass() -> None:
    """A capture is over, whatever happened in it."""
    paper, device = opened()

    def wrong() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        device.capture(wrong)
    assert not device.capturing and len(paper.streams) == 1


def test_a_copy_by_cupy() -> None:
    """To pinned memory, without a wait; the event behind it is waited for, not the stream."""
    paper, device = opened()
    sent = device.read_later(np.array(2.5))
    assert paper.done == ["sent", "event"]
    assert float(sent.wait()) == 2.5 and paper.done == ["sent", "event", "wait"]
