"""Which GPUs a process finds and takes, with a CuPy made of paper: no GPU is needed, and none is asked."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gridnn.compute.gpu.found import bind, device_of, find_devices, local_rank
from tests.support.launch import ROOT, environment


class Paper:
    """A CuPy that was asked for; what is not given is as on a host with two devices."""

    def __init__(self, count: Any = 2, nccl: Any = 22707, props: dict[str, Any] | None = None) -> None:
        self.used: list[int] = []
        self.count, self.nccl, self.props = count, nccl, props or {}

    def load(self, name: str) -> Any:
        if name == "cupy.cuda.nccl":
            if isinstance(self.nccl, Exception):
                raise self.nccl
            return SimpleNamespace(available=self.nccl > 0, get_version=lambda: self.nccl)
        assert name == "cupy"
        runtime = SimpleNamespace(
            driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 12080, getDeviceCount=self._count,
            getDeviceProperties=lambda number: {
                "name": b"Paper 100", "totalGlobalMem": (number + 1) << 30, "major": 9, "minor": 0,
                "uuid": bytes([number, 7]), **self.props,
            },
            deviceGetPCIBusId=lambda number: f"0000:{number:02d}:00.0",
        )  # fmt: skip
        return SimpleNamespace(
            __version__="14.2.0", cuda=SimpleNamespace(runtime=runtime, Device=self._device)
        )

    def _count(self) -> int:
        if isinstance(self.count, Exception):
            raise self.count
        return int(self.count)

    def _device(self, number: int) -> Any:
        return SimpleNamespace(use=lambda: self.used.append(number), mem_info=(5, 10))


def test_what_there_is() -> None:
    found = find_devices(Paper().load)
    assert (found.cupy, found.driver, found.runtime, found.nccl, found.missing) == (
        "14.2.0", 13000, 12080, 22707, "",
    )  # fmt: skip
    assert [tuple(device) for device in found.devices] == [
        (0, "Paper 100", "0000:00:00.0 0007", 1 << 30, "9.0"),
        (1, "Paper 100", "0000:01:00.0 0107", 2 << 30, "9.0"),
    ]


def test_slices_of_a_device_differ_and_a_uuid_may_be_missing() -> None:
    """Slices have one address; a CuPy without UUIDs still tells devices apart."""
    paper = Paper(props={"uuid": None, "name": "Words"})
    assert [device.identity for device in find_devices(paper.load).devices] == [
        "0000:00:00.0",
        "0000:01:00.0",
    ]
    assert find_devices(paper.load).devices[0].name == "Words"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (RuntimeError("cudaErrorInsufficientDriver: too old\nmore"), "cudaErrorInsufficientDriver: too old)"),
        (0, "CuPy sees no GPU"),
    ],
)
def test_no_device_is_no_error(count: Any, words: str) -> None:
    found = find_devices(Paper(count).load)
    assert found.devices == () and words in found.missing and "more" not in found.missing
    assert found.cupy == "14.2.0", "what was found before is kept"


@pytest.mark.parametrize("error", [ImportError("no libnccl"), AttributeError("get_version"), 0])
def test_no_nccl_is_no_error(error: Any) -> None:
    found = find_devices(Paper(nccl=error).load)
    assert found.nccl == 0 and len(found.devices) == 2


def test_no_cupy_is_no_error() -> None:
    def load(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'")

    found = find_devices(load)
    assert found.devices == () and found.cupy == ""
    assert "No module named 'cupy'" in found.missing and "pip install" in found.missing

    def broken(name: str) -> Any:
        raise OSError("libcuda is cut short")

    assert "libcuda is cut short" in find_devices(broken).missing


def test_warnings_of_an_import_are_not_told() -> None:
    paper = Paper()

    def load(name: str) -> Any:
        warnings.warn("nccl library could not be loaded", stacklevel=1)
        return paper.load(name)

    assert len(find_devices(load).devices) == 2  # pytest makes an error of a warning


def test_ranks_take_devices_in_turn() -> None:
    assert [device_of(rank, 2) for rank in range(5)] == [0, 1, 0, 1, 0]
    assert [device_of(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [device_of(rank, 1) for rank in range(3)] == [0, 0, 0], "as where each rank is shown its own"
    assert device_of(3, 0) is None


def test_the_device_that_is_taken_is_used() -> None:
    paper = Paper()
    assert bind(1, paper.load) == (5, 10)
    assert paper.used == [1]


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"MPI_LOCALRANKID": "3"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({"SLURM_LOCALID": "1"}, 1),
        ({"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "3"}, 3),  # mpiexec in a batch script
        ({"SLURM_LOCALID": "", "OMPI_COMM_WORLD_LOCAL_RANK": "x"}, None),
    ],
)
def test_the_launcher_says_the_rank_on_the_host(environment: dict[str, str], rank: int | None) -> None:
    assert local_rank(environment) == rank


def test_cupy_is_imported_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise ImportError('asked for')\n")
    program = (
        "from gridnn.compute.gpu import found; import sys; print('import', 'cupy' in sys.modules);"
        "print(found.find_devices().missing)"
    )
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", program], env={**environment(1), "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == "import False" and "asked for" in second
