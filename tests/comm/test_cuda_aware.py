"""Whether an MPI takes device memory, asked of libraries made of paper; and what follows for arrays of devices."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from gridnn.comm.cuda_aware import (
    OPERATIONS,
    Choice,
    Means,
    Support,
    choose_transport,
    detect,
    mapped,
    mpi_libraries,
)
from gridnn.errors import InputError

MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11, package: x"
LINE = "7f00-7f01 r-xp 00000000 08:01 77    {}\n"
LIB = LINE.format("/opt/mpi/lib/libmpi.so.12.1")


class Library:
    """A library that answers as it is told; what is None it does not have."""

    def __init__(self, gpu: int | None = None, cuda: int | None = None, code: int = 0) -> None:
        self.asked: list[str] = []
        if gpu is not None:

            def query(kind: int, answer: Any) -> int:
                self.asked.append("gpu")
                assert kind == 0, "the number of CUDA"
                ctypes.cast(answer, ctypes.POINTER(ctypes.c_int))[0] = gpu
                return code

            self.MPIX_GPU_query_support = query
        if cuda is not None:

            def old() -> int:
                self.asked.append("cuda")
                return cuda

            self.MPIX_Query_cuda_support = old


def found(
    environment: dict[str, str] | None = None, kinds: str | None = None, maps: str = LIB,
    library: Library | None = None, version: str = MPICH,
) -> Support:  # fmt: skip
    return detect(environment or {}, version, kinds, maps, lambda _: library or Library())


def test_kinds_of_memory_come_first() -> None:
    """The library would say no, the environment too."""
    no = Library(gpu=0)
    for kinds in ("mpi,system,cuda", "system, cuda:device", "mpi,cuda:host:device"):
        support = found({"MPIR_CVAR_ENABLE_GPU": "0"}, kinds, library=no)
        assert support.all and kinds in support.why
    assert not no.asked


@pytest.mark.parametrize("kinds", ["mpi,system", "cuda:host", "rocm:device", "notcuda", ""])
def test_other_kinds_say_nothing(kinds: str) -> None:
    assert not found({}, kinds, library=Library(gpu=0)).any
    assert found({}, kinds, library=Library(gpu=1)).all


def test_cray_needs_its_library() -> None:
    asked, gtl = {"MPICH_GPU_SUPPORT_ENABLED": "1"}, LINE.format("/opt/cray/pe/lib64/libmpi_gtl_cuda.so.0")
    assert found(asked, maps=LIB + gtl, library=Library(gpu=0)).all
    without = found(asked, library=Library(gpu=1))
    assert not without.any and "libmpi_gtl_cuda is not loaded" in without.why
    off = found({"MPICH_GPU_SUPPORT_ENABLED": "0"}, maps=LIB + gtl, library=Library(gpu=1))
    assert not off.any and off.why == "MPICH_GPU_SUPPORT_ENABLED is 0"


def test_mpich_that_was_told_not_to() -> None:
    library = Library(gpu=1)
    assert not found({"MPIR_CVAR_ENABLE_GPU": "0"}, library=library).any and not library.asked
    assert found({"MPIR_CVAR_ENABLE_GPU": "1"}, library=library).all and library.asked == ["gpu"]


def test_the_library_itself() -> None:
    assert found(library=Library(gpu=1, cuda=0)).why == "MPIX_GPU_query_support of libmpi.so.12.1 says yes"
    no = found(library=Library(gpu=0, cuda=1))
    assert not no.any and no.why.endswith("says no")
    failed = Library(gpu=1, cuda=0, code=17)  # it has the question, and no answer
    assert not found(library=failed).any and failed.asked == ["gpu", "cuda"]
    assert found(library=Library(cuda=1)).all
    assert found(library=Library()).why == "nobody says that it does"


def test_open_mpi_takes_it_in_part() -> None:
    support = found(library=Library(cuda=1), version=OPEN_MPI)
    assert support.any and not support.all
    assert set(OPERATIONS) - set(support.operations) == {"non-blocking collectives"}
    assert not found(library=Library(cuda=0), version=OPEN_MPI).any


def test_libraries_that_cannot_be_opened_are_passed_over() -> None:
    def load(path: str) -> Any:
        if "first" in path:
            raise OSError("gone")
        return Library(cuda=1)

    maps = LINE.format("/first/libmpi.so.40") + LINE.format("/second/libmpi.so.40")
    assert detect({}, MPICH, None, maps, load).all


@pytest.mark.parametrize(
    ("name", "is_mpi"),
    [
        ("libmpi.so.12", True), ("libmpi.so.40.30.4", True), ("libmpich.so.12", True), ("libpmpi.so.12", True),
        ("libmpi_gnu_123.so.12", True), ("libmpi_cray.so.12", True), ("libmpi_nvidia.so.12.0.0", True),
        ("libmpi_abi.so.1", True), ("libmpi-1a2b3c4d.so.12.5.1", True), ("libmpicxx.so.12", False),
        ("libmpifort.so.12", False), ("libmpi_gtl_cuda.so.0", False), ("libmpi_mpifh.so.40", False),
        ("libmpi_usempif08.so.40", False), ("MPI.mpich.cpython-311-x86_64-linux-gnu.so", False),
        ("libgridnn-avx2.so", False),
    ],
)  # fmt: skip
def test_names_of_libraries(name: str, is_mpi: bool) -> None:
    assert mpi_libraries(LINE.format(f"/a b/lib/{name}")) == ([f"/a b/lib/{name}"] if is_mpi else [])


def test_each_library_once() -> None:
    assert mpi_libraries(LIB * 3 + "7f00-7f01 rw-p 0 00:00 0 \n" + LIB) == ["/opt/mpi/lib/libmpi.so.12.1"]


@pytest.mark.ranks(1)
def test_the_mpi_that_is_here(comm: Any) -> None:
    """It is found where it is mapped, and answers; the wheels of CI are built without CUDA, sites may have it."""
    from mpi4py import MPI

    assert mpi_libraries(mapped()), "no MPI library was found in this process, which runs one"
    support = detect({}, MPI.Get_library_version(), None, mapped())
    assert " says " in support.why, "the library was not asked"


# How arrays travel -------------------------------------------------------------------------------

ALL, PART, NONE = (
    Support(OPERATIONS, "it says yes"),
    Support(OPERATIONS[:2], "half"),
    Support((), "it says no"),
)


def ranks(count: int, devices: int, support: Support = NONE, hosts: int = 1, nccl: int = 0) -> list[Means]:
    """Ranks on hosts of `devices` devices each, which they take in turn."""
    each = count // hosts
    return [
        Means(f"h{r // each}", f"gpu{r % each % devices} id" if devices else "", support, nccl)
        for r in range(count)
    ]


@pytest.mark.parametrize(
    ("means", "device", "transport"),
    [
        (ranks(2, 0), "cpu", "host"),
        (ranks(2, 2), "gpu", "staged"),
        (ranks(4, 2, hosts=2), "gpu", "staged"),
        (ranks(2, 2, support=ALL), "gpu", "cuda-mpi"),
        (ranks(2, 2, support=PART), "gpu", "staged"),
        (ranks(4, 2, support=ALL), "gpu", "cuda-mpi"),
        ([*ranks(1, 1), *ranks(1, 0)], "cpu", "host"),
        ([*ranks(1, 1, ALL), *ranks(1, 1, PART)], "gpu", "staged"),
        (ranks(2, 2, nccl=22707), "gpu", "nccl"),
        (ranks(4, 2, hosts=2, nccl=22707), "gpu", "nccl"),
        (ranks(2, 2, support=ALL, nccl=2804), "gpu", "nccl"),
        (ranks(1, 1, nccl=22707), "gpu", "staged"),
        (ranks(4, 2, nccl=22707), "gpu", "staged"),
        (ranks(4, 2, support=ALL, nccl=22707), "gpu", "cuda-mpi"),
        (ranks(2, 2, nccl=2408), "gpu", "staged"),
        ([*ranks(1, 1, nccl=22707), *ranks(2, 2, nccl=22605)[1:]], "gpu", "staged"),
    ],
)
def test_what_is_taken(means: list[Means], device: str, transport: str) -> None:
    choice = choose_transport("auto", means)
    assert (choice.device, choice.transport) == (device, transport) and choice.why


def test_why_nccl_is_taken_or_not() -> None:
    """And never beside an MPI that is handed device memory."""
    assert (
        choose_transport("auto", ranks(2, 2, nccl=22707)).why
        == "every rank has a GPU of its own, and NCCL 2.27.7"
    )
    assert choose_transport("auto", ranks(2, 2, nccl=2804)).why.endswith("NCCL 2.8.4")
    assert choose_transport("cuda-mpi", ranks(2, 2, support=ALL, nccl=22707)).transport == "cuda-mpi"
    slices = [Means("h", f"bus {at}", NONE, 22707) for at in "ab"]
    for means, words in (
        (
            ranks(2, 2),
            "no NCCL: ranks 0, 1 have none that CuPy can load, or one before 2.7 (pip install nvidia-nccl-",
        ),
        (ranks(4, 2, nccl=22707), "no NCCL: ranks 0, 2 have one GPU together, and it wants one for each"),
        ([*ranks(1, 1, nccl=22707), *ranks(2, 2, nccl=22605)[1:]], "have different versions, 2.26.5, 2.27.7"),
        (slices, "ranks 0, 1 have one GPU together"),
    ):
        choice = choose_transport("auto", means)
        assert choice.transport == "staged" and words in choice.why
        with pytest.raises(InputError, match=r"transport nccl cannot be had: .*; use transport auto"):
            choose_transport("nccl", means)


def test_a_rank_without_a_gpu_is_named() -> None:
    assert "rank 1 has no GPU" in choose_transport("auto", [*ranks(1, 1), *ranks(1, 0)]).why


def test_what_is_asked_for_is_taken() -> None:
    assert choose_transport("staged", ranks(2, 2)) == Choice("gpu", "staged", "it was asked for")
    assert choose_transport("staged", ranks(2, 0)).transport == "host"
    assert choose_transport("auto", ranks(2, 2), "cpu").device == "cpu"
    against = choose_transport("cuda-mpi", ranks(2, 2))
    assert against.transport == "cuda-mpi" and "it says no" in against.why
    assert choose_transport("cuda-mpi", ranks(2, 2, support=ALL)).why == "it was asked for"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: choose_transport("rdma", ranks(2, 2)), r'"rdma".*auto, nccl, staged, cuda-mpi'),
        (lambda: choose_transport("nccl", ranks(2, 0)), "nccl needs a GPU.*no rank has a GPU"),
        (lambda: choose_transport("auto", ranks(2, 2), "tpu"), r'"tpu".*auto, cpu, gpu'),
        (lambda: choose_transport("cuda-mpi", ranks(2, 0)), "cuda-mpi needs a GPU.*no rank has a GPU"),
        (lambda: choose_transport("auto", ranks(2, 0), "gpu"), "device gpu needs a GPU"),
        (lambda: choose_transport("cuda-mpi", ranks(2, 2), "cpu"), "device cpu was asked for"),
    ],
)
def test_what_cannot_be_had_is_refused(ask: Callable[[], Choice], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ask()
