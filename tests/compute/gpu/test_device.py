"""Taking a device, and where its memory ends, with a CuPy made of paper: what the real one does it cannot tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gridnn.compute.gpu.device import CupyDevice, bind_early, open_device
from gridnn.compute.gpu.room import MemoryShortError, limit_of
from gridnn.errors import InputError, RunError

TOTAL = 1 << 30


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Paper:
    """A CuPy that was asked for: `count` devices of a gibibyte, of which those in `busy` cannot be used."""

    def __init__(self, count: int = 2, busy: tuple[int, ...] = (), without: str = "") -> None:
        self.bound: list[int] = []
        self.limit, self.lent, self.count, self.busy, self.without = 0, 0, count, busy, without
        self.allocator: Any = self.malloc

    def load(self, name: str) -> Any:
        if name == "cupy.cuda.nccl":
            return SimpleNamespace(available=False)
        runtime = SimpleNamespace(
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000, getDeviceCount=lambda: self.count,
            getDeviceProperties=lambda number: {
                "name": b"Paper", "totalGlobalMem": TOTAL, "major": 9, "minor": 0, "uuid": bytes([number]),
            },
            deviceGetPCIBusId=lambda number: f"bus {number}",
        )  # fmt: skip
        cuda = SimpleNamespace(
            runtime=runtime, Device=self.device, set_allocator=lambda made: setattr(self, "allocator", made),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError), get_cublas_handle=self.handle,
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
        )  # fmt: skip
        pool = SimpleNamespace(
            malloc=self.malloc,
            used_bytes=lambda: self.lent,
            set_limit=lambda size: setattr(self, "limit", size),
        )
        return SimpleNamespace(
            __version__="14", cuda=cuda, get_default_memory_pool=lambda: pool, RawModule=self.module,
            empty=lambda elements, dtype: SimpleNamespace(fill=self.filled),
        )  # fmt: skip

    def module(self, code: str, options: tuple[str, ...]) -> Any:
        """A module, compiled when it is asked for a kernel."""

        def get_function(name: str) -> Any:
            assert f"void {name}()" in code and all(isinstance(option, str) for option in options)
            if self.without == "headers":
                raise RuntimeError("Failed to find CUDA headers. Please install CUDA toolkit headers")
            return self.started

        return SimpleNamespace(get_function=get_function)

    def started(self, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if self.without == "driver":
            raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    def filled(self, value: int) -> None:
        """Fill an array: zeros are no kernel."""
        if value and self.without == "types":
            raise TypeError(
                'kern.cu(7): catastrophic error: cannot open source file "vector_types.h"\n\n1 error'
            )

    def handle(self) -> int:
        assert self.bound, "a handle is of the device that is bound"
        if self.without == "cuBLAS":
            raise ImportError("libcublas.so.13: cannot open shared object file")
        return 1

    def device(self, number: int) -> Any:
        def use() -> None:
            if number in self.busy:
                raise RuntimeError("cudaErrorDevicesUnavailable")
            self.bound.append(number)

        return SimpleNamespace(use=use, mem_info=(5, 10))

    def malloc(self, nbytes: int) -> str:
        if self.lent + nbytes > (self.limit or TOTAL):
            raise OutOfMemoryError(nbytes)
        self.lent += nbytes
        return f"{nbytes} bytes"


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, None),
        ({"MPI_LOCALRANKID": "1"}, 1),
        ({"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}, 1),
    ],
)
def test_a_device_before_mpi(environment: dict[str, str], number: int | None) -> None:
    """By the launcher's number, more ranks than devices in turn; without one nothing is bound."""
    paper = Paper()
    assert bind_early(environment, paper.load) == number
    assert paper.bound == ([] if number is None else [number])


def test_what_cannot_be_bound_is_said_later() -> None:
    said = {"MPI_LOCALRANKID": "1"}
    assert bind_early(said, Paper(count=0).load) is None
    assert bind_early(said, Paper(busy=(1,)).load) is None
    wanted = r"device 1 cannot be used: cudaErrorDevicesUnavailable; take another \(CUDA_VISIBLE_DEVICES\)"
    with pytest.raises(InputError, match=wanted):
        open_device(1, load=Paper(busy=(1,)).load)
    with pytest.raises(
        InputError, match=r"no GPU can be used: CuPy sees no GPU; ask the scheduler.*--device cpu"
    ):
        open_device(1, load=Paper(count=0).load)


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("headers", "Failed to find CUDA headers"), ("driver", "CUDA_ERROR_UNSUPPORTED"),
        ("types", r'source file "vector_types\.h"; it needs'), ("cuBLAS", r"libcublas\.so\.13"),
    ],
)  # fmt: skip
def test_what_cupy_does_not_bring_along(without: str, said: str) -> None:
    """It asks for each at first use, in a first step: a run ends before that, with what to install."""
    paper = Paper(without=without)
    with pytest.raises(InputError, match=rf"cannot compute on it: .*{said}.*ctk.*CUDA_PATH.*--device cpu"):
        open_device(0, load=paper.load)
    assert bind_early({"MPI_LOCALRANKID": "0"}, paper.load) == 0, "which is only taken there"


@pytest.mark.parametrize(
    ("limit", "found"), [(None, 0), (0.25, TOTAL // 4), (3e8, 300_000_000), (1e12, TOTAL)]
)
def test_a_limit_is_the_pools(limit: float | None, found: int) -> None:
    paper = Paper()
    device, room = open_device(3, limit, paper.load)
    assert isinstance(device, CupyDevice) and device.number == 1 and paper.bound == [1]
    assert paper.limit == found and (room.limit_bytes or 0) == found == (limit_of(limit, TOTAL) or 0)
    assert (room.identity, room.total_bytes) == ("bus 1 01", TOTAL)


@pytest.mark.parametrize(
    ("limit", "most"), [(None, "1,073,741,824 of the device"), (1e6, "limit of 1,000,000")]
)
def test_every_array_comes_through_one_door(limit: float | None, most: str) -> None:
    paper = Paper()
    device, room = open_device(0, limit, paper.load)
    assert paper.allocator(1000) == "1000 bytes" and device.used_bytes == 1000
    with pytest.raises(
        MemoryShortError, match=rf"Paper \(device 0\): no memory for .* 1,000 bytes, of .*{most}"
    ) as told:
        paper.allocator(1 << 31)
    error = told.value
    assert (error.asked_bytes, error.used_bytes, error.room) == (1 << 31, 1000, room)
    assert isinstance(error, RunError) and error.exit_code == 3 and not error.everywhere
    assert str(MemoryShortError("told by another rank")) == "told by another rank", "as `agreed` makes it"
