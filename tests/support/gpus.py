"""Processes of a doctor that find GPUs: a `sitecustomize.py` after which their devices are those of the tests.

    python -m gridnn.comm.probe   finds two devices a host, of which one is taken; its arrays are the tests' (`lazy`),
                                  its NCCL that of the tests (`nccl`), its MPI says that it takes device memory
    any other process             is as it was

What CuPy, a driver, NCCL and a CUDA-aware MPI do it cannot tell: it is told what they do.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.launch import ROOT, run_ranks

SITE = """
import os, sys
if "gridnn.comm.probe" in sys.orig_argv:
    from tests.support import gpus
    gpus.install(takes={takes!r}, devices={devices})
    rank = int(os.environ.get("PMI_RANK", "0"))
{deed}
"""


def run_doctor(
    folder: Path, ranks: int, *words: str, takes: str = "all", devices: int = 8, deed: str = "",
    timeout_s: float = 60.0,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run `gridnn doctor` where there are GPUs.

    Parameters
    ----------
    folder
        For what Python starts with.
    takes
        What MPI says: that it takes device memory in "all" operations, in "part" of them, in "no".
    devices
        Of the host.
    deed
        Lines of Python that every process of the doctor begins with; `rank` is its number.
    """
    indented = "\n".join(f"    {line}" for line in deed.splitlines())
    (folder / "sitecustomize.py").write_text(SITE.format(takes=takes, devices=devices, deed=indented))
    env = {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), "XDG_CACHE_HOME": str(folder / "cache")}
    return run_ranks(ranks, ["-m", "gridnn.cli", "doctor", *words], extra_env=env, timeout_s=timeout_s)


def install(takes: str, devices: int) -> None:
    """Let this process find devices, and what is said to go with them."""
    from gridnn.comm import cuda_aware, nccl
    from gridnn.compute.gpu import device, found

    operations = {"all": cuda_aware.OPERATIONS, "part": cuda_aware.OPERATIONS[:2], "no": ()}[takes]
    patched: Mapping[Any, Mapping[str, Any]] = {
        found: {
            "find_devices": lambda: found.Found(_devices(found, devices), "", "14", 13000, 13000, 22707),
            "bind": lambda index: (1 << 29, 1 << 30),
            "prove": lambda: None,
        },
        cuda_aware: {"detect": lambda *asked: cuda_aware.Support(operations, "it is told so")},
        device: {"CupyDevice": _opened},
        nccl: {"open_nccl": _carrier},
    }
    for module, names in patched.items():
        for name, stand_in in names.items():
            setattr(module, name, stand_in)


def _devices(found: Any, devices: int) -> tuple[Any, ...]:
    return tuple(found.Device(n, "Paper", f"bus{n}", 1 << 30, "9.0") for n in range(devices))


def _opened(number: int) -> Any:
    from tests.support.lazy import StreamDevice

    return StreamDevice()


def _carrier(device: Any) -> Any:
    """NCCL of the tests; it ends with the process."""
    from mpi4py import MPI

    from gridnn.comm.nccl import Nccl
    from tests.support.lazy import LazyStreams
    from tests.support.nccl import Library

    streams = LazyStreams(device)
    library = Library(MPI.COMM_WORLD, device, streams)
    return Nccl(device, streams, library)
