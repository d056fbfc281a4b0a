"""Whether the MPI of this process takes memory of CUDA devices, and how arrays of devices travel therefore.

Asked in this order; the first that knows answers:

| what is asked                                       | "yes"                          | "no"                         |
|-----------------------------------------------------|--------------------------------|------------------------------|
| MPI 4.1: the key ``mpi_memory_alloc_kinds``         | it has ``cuda``                | never: nobody may have asked |
| Cray: ``MPICH_GPU_SUPPORT_ENABLED``                 | 1, and its GTL library is here | 1 without that library, or 0 |
| MPICH: ``MPIR_CVAR_ENABLE_GPU``                     |                                | 0                            |
| ``MPIX_GPU_query_support``, of MPICH                | it says so                     | it says so                   |
| ``MPIX_Query_cuda_support``, of Open MPI and others | it says so                     | it says so                   |
| (nobody)                                            |                                | the safe answer              |

No address of a device is handed to MPI to find out: a library that cannot take it dies of it, and a run with it.
``gridnn doctor`` does, in a process that may die (`gridnn.comm.attempts`).  This file needs no MPI itself: what only
MPI can say is handed to it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gridnn.errors import InputError

TRANSPORTS = ("auto", "nccl", "staged", "cuda-mpi")
"""What a user may ask for; beside it, where arrays are to live."""
DEVICES = ("auto", "cpu", "gpu")
HOST = "host"
"""The transport of arrays that live in host memory: MPI, and nothing between."""
FIRST_NCCL = 2700
"""The first version of NCCL with messages from point to point."""
OPERATIONS = ("messages", "blocking collectives", "non-blocking collectives")
"""Classes of operations that libraries support apart; a run needs all of them."""
KINDS_KEY = "mpi_memory_alloc_kinds"
_GTL = "libmpi_gtl_cuda"
# The C library of an MPI, not its Fortran and C++ parts: libmpi.so.12, libmpi_gnu_123.so.12, libmpich.so, libpmpi.so
_LIBRARY = re.compile(
    r"/lib(mpi|pmpi|mpich)(_(abi|cray|gnu|nvidia|intel|aocc)[\w-]*)?([.-][\w.-]*)?\.so[\w.]*$"
)
_CUDA = 0  # MPIX_GPU_SUPPORT_CUDA of MPICH
# Open MPI's documentation: messages and blocking collectives take device memory, non-blocking collectives do not.
_NEVER = {"Open MPI": ("non-blocking collectives",)}
Load = Callable[[str], Any]


class Support(NamedTuple):
    """Whether an MPI takes device memory.

    Parameters
    ----------
    operations : tuple of str
        Those of `OPERATIONS` for which it does; empty is "no".
    why : str
        Who said so.
    """

    operations: tuple[str, ...]
    why: str

    @property
    def any(self) -> bool:
        """Whether it takes it at all."""
        return bool(self.operations)

    @property
    def all(self) -> bool:
        """Whether it takes it wherever a run would hand it over."""
        return set(OPERATIONS) <= set(self.operations)


class Means(NamedTuple):
    """What a rank has for arrays of devices.

    Parameters
    ----------
    host : str
    device : str
        Identity of the device it takes, the same on all ranks of the host that take it, its address on the bus first;
        "" for none.
    support : Support
    nccl : int
        Version of NCCL, 22707 for 2.27.7; 0 for none.
    """

    host: str
    device: str
    support: Support
    nccl: int = 0


class Choice(NamedTuple):
    """Where arrays live, how they travel, and why; the same on all ranks."""

    device: str
    transport: str
    why: str


def mapped() -> str:
    """Return what is mapped into this process, a file at the end of each line; "" where that cannot be read."""
    try:
        return Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return ""


def mpi_libraries(maps: str) -> list[str]:
    """Return the paths of the MPI libraries among mapped files, in the order they are mapped."""
    names = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line)
    return [name for name in dict.fromkeys(names) if _LIBRARY.search(name)]


def detect(
    environment: Mapping[str, str], version: str, kinds: str | None, maps: str, load: Load = ctypes.CDLL
) -> Support:
    """Return whether the MPI of this process takes device memory.  After MPI has started.

    Parameters
    ----------
    environment
        Of this process.
    version
        The library's description of itself.
    kinds
        The value of `KINDS_KEY` among the hints of the world communicator; None where it has none.
    maps
        What is mapped: `mapped()`.
    load
        Opens a library by its path.
    """
    yes, why = _asked(environment, kinds, maps, load)
    never = next((ops for name, ops in _NEVER.items() if name in version), ())
    return Support(tuple(op for op in OPERATIONS if op not in never) if yes else (), why)


def choose_transport(asked: str, ranks: Sequence[Means], device: str = "auto") -> Choice:
    """Return where the arrays of a run live and how they travel.

    What a user asks for is taken where it can be; left to itself, the fastest that is certain: NCCL where ranks have a
    device each, then MPI where it takes device memory in all operations, else copies in host memory.  Never two at once
    for arrays of devices: NCCL and an MPI that both wait on one device may wait for each other.

    Parameters
    ----------
    asked
        One of `TRANSPORTS`.
    ranks
        What each has.
    device
        One of `DEVICES`; "auto" is the GPUs where every rank has one.

    Raises
    ------
    InputError
        If one of the words is unknown, or what it asks for cannot be had.
    """
    for name, word, known in (("transport", asked, TRANSPORTS), ("device", device, DEVICES)):
        if word not in known:
            raise InputError(f'{name} "{word}" is unknown; use one of {", ".join(known)}')
    without = [rank for rank, has in enumerate(ranks) if not has.device]
    if without or device == "cpu":
        which = "no rank has a GPU" if len(without) == len(ranks) else f"{_ranks(without)} no GPU"
        which = "device cpu was asked for" if device == "cpu" else which
        for name, word in (("device", device), ("transport", asked)):
            if word in ("gpu", "cuda-mpi", "nccl"):
                raise InputError(f"{name} {word} needs a GPU on every rank, and {which}; use {name} auto")
        return Choice("cpu", HOST, f"{which}, so arrays are in host memory, where MPI takes them")
    support = [has.support for has in ranks]
    worst = min(support, key=lambda each: len(each.operations))
    if asked == "cuda-mpi":
        doubt = "" if worst.all else f", against what was found: {_lacks(worst)}"
        return Choice("gpu", asked, f"it was asked for{doubt}")
    without_nccl = _without_nccl(ranks)
    if asked == "nccl" and without_nccl:
        raise InputError(f"transport nccl cannot be had: {without_nccl}; use transport auto")
    if asked != "auto":
        return Choice("gpu", asked, "it was asked for")
    if not without_nccl and len(ranks) > 1:
        return Choice("gpu", "nccl", f"every rank has a GPU of its own, and NCCL {_version(ranks[0].nccl)}")
    more = f"; no NCCL: {without_nccl}" if without_nccl and len(ranks) > 1 else ""
    if worst.all:
        return Choice("gpu", "cuda-mpi", f"MPI takes device memory ({worst.why}){more}")
    return Choice("gpu", "staged", f"{_lacks(worst)}{more}")


def _asked(environment: Mapping[str, str], kinds: str | None, maps: str, load: Load) -> tuple[bool, str]:
    if kinds is not None and any(_is_device(kind.strip()) for kind in kinds.split(",")):
        return True, f"{KINDS_KEY} is {kinds}"
    cray = environment.get("MPICH_GPU_SUPPORT_ENABLED", "")
    if cray == "1":
        there = _GTL in maps
        gone = f", but {_GTL} is not loaded: build mpi4py with the module of the accelerator, or preload that library"
        return there, f"MPICH_GPU_SUPPORT_ENABLED is 1{f' and {_GTL} is loaded' if there else gone}"
    for name in ("MPICH_GPU_SUPPORT_ENABLED", "MPIR_CVAR_ENABLE_GPU"):
        if environment.get(name) == "0":
            return False, f"{name} is 0"
    for path in mpi_libraries(maps):
        try:
            library = load(path)
        except OSError:
            continue
        told = _queried(library)
        if told is not None:
            name, yes = told
            return yes, f"{name} of {Path(path).name} says {'yes' if yes else 'no'}"
    return False, "nobody says that it does"


def _queried(library: Any) -> tuple[str, bool] | None:
    """Ask a loaded library itself; None where it has no answer."""
    query = getattr(library, "MPIX_GPU_query_support", None)
    if query is not None:
        yes = ctypes.c_int(0)
        if query(_CUDA, ctypes.byref(yes)) == 0:
            return "MPIX_GPU_query_support", bool(yes.value)
    query = getattr(library, "MPIX_Query_cuda_support", None)
    return None if query is None else ("MPIX_Query_cuda_support", query() == 1)


def _is_device(kind: str) -> bool:
    """Whether a kind of memory is that of CUDA devices: ``cuda``, or ``cuda:device`` among its restrictors."""
    name, *only = kind.split(":")
    return name == "cuda" and (not only or "device" in only)


def _lacks(support: Support) -> str:
    """Return what an MPI does not do with device memory."""
    if not support.any:
        return f"MPI takes no device memory ({support.why})"
    missing = [op for op in OPERATIONS if op not in support.operations]
    return f"MPI takes no device memory in {' and '.join(missing)} ({support.why})"


def _without_nccl(ranks: Sequence[Means]) -> str:
    """Return why ranks cannot use NCCL together, "" if they can."""
    without = [rank for rank, has in enumerate(ranks) if has.nccl < FIRST_NCCL]
    if without:
        return (
            f"{_ranks(without)} none that CuPy can load, or one before 2.7 (pip install nvidia-nccl-cu13, or -cu12 "
            "beside cupy-cuda12x)"
        )
    versions = sorted({has.nccl for has in ranks})
    if len(versions) > 1:
        return f"ranks have different versions, {', '.join(map(_version, versions))}"
    places: dict[tuple[str, str], list[int]] = {}
    for rank, has in enumerate(ranks):
        # By the address on the bus: slices of one device have it in common, and NCCL takes them for one.
        places.setdefault((has.host, has.device.split()[0]), []).append(rank)
    shared = [numbers for numbers in places.values() if len(numbers) > 1]
    return f"{_ranks(shared[0])} one GPU together, and it wants one for each" if shared else ""


def _version(code: int) -> str:
    """Return a version of NCCL in words; before 2.9 its numbers were shorter."""
    base = 10_000 if code >= 10_000 else 1000
    return f"{code // base}.{code % base // 100}.{code % 100}"


def _ranks(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]} has"
    return f"ranks {', '.join(map(str, numbers[:8]))}{' ...' * (len(numbers) > 8)} have"
