"""How each side is started: our interpreter or the one with PyTorch, alone or as ranks, with its number of threads."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

from rounds import Worker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS, DEFAULT, LAST = "ours", "PyTorch", "PyTorch channels-last"
LAYOUTS = {DEFAULT: "default", LAST: "channels_last"}

# A second mpiexec that inherits what a first one left takes itself for a member of that job.
LAUNCHERS = ("PMI_", "PMIX_", "PMI2_", "OMPI_", "PRTE_", "HYDI_", "HYDRA_", "MPIEXEC_", "I_MPI_")


def environment(threads: int, **more: str) -> dict[str, str]:
    """Return a worker's environment: its threads, where its modules are, no trace of an outer launcher."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env |= {name: str(threads) for name in names}
    env["PYTHONPATH"] = os.pathsep.join((str(HERE), str(ROOT)))
    return env | more


def ours(threads: int) -> Worker:
    """Start one process of ours, as `gridnn.train` sets it up: threads sleep between kernels."""
    process = _start([sys.executable, str(HERE / "ours.py")], environment(threads, OMP_WAIT_POLICY="passive"))
    return Worker(OURS, [process], [_input(process)])


def ours_on_ranks(label: str, ranks: int, folder: Path) -> Worker:
    """Start an MPI job of ours, a thread a rank.

    Parameters
    ----------
    folder
        An empty folder for the pipes through which ranks above 0 are asked: a launcher gives its input to rank 0 only.
    """
    pipes = [folder / f"rank{rank}" for rank in range(1, ranks)]
    for pipe in pipes:
        os.mkfifo(pipe)
    yields = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"} if ranks > len(os.sched_getaffinity(0)) else {}
    program = [sys.executable, str(HERE / "ours.py"), "--commands", str(folder)]
    process = _start([*_mpiexec(), "-n", str(ranks), *program], environment(1, **yields))
    # Opened for reading too, so that this does not wait for a rank that may never come.
    lines = [os.fdopen(os.open(pipe, os.O_RDWR), "w") for pipe in pipes]
    return Worker(label, [process], [_input(process), *lines])


def torch(python: str, label: str, threads: int) -> Worker:
    """Start one process of PyTorch in the layout that the label names."""
    process = _start([python, "-m", "peer.worker", "--layout", LAYOUTS[label]], environment(threads))
    return Worker(label, [process], [_input(process)])


def torch_on_ranks(python: str, label: str, ranks: int) -> Worker:
    """Start a data-parallel group of PyTorch, a process a rank, a thread each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(ranks):
        group = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(ranks),
            "RANK": str(rank),
        }
        command = [python, "-m", "peer.worker", "--layout", LAYOUTS[label]]
        processes.append(_start(command, environment(1, **group)))
    return Worker(label, processes, [_input(process) for process in processes])


def _start(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _input(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None, "standard input must be a pipe"
    return process.stdin


def _mpiexec() -> list[str]:
    """Return the mpiexec beside this Python, else the one on PATH, and what Open MPI wants to hear."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(f"no mpiexec beside {sys.executable} and none on PATH")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    open_mpi = "Open MPI" in said or "OpenRTE" in said
    return [found, *(("--allow-run-as-root", "--oversubscribe") if open_mpi else ())]
