"""Starting programs under mpiexec: which one, with which flags, in which environment.

The mpiexec beside the running Python comes first, because it belongs to the MPI that mpi4py
finds in that virtual environment; the one on PATH may belong to another MPI and then starts
N separate single ranks, or none.

| MPI | what it needs when there are more ranks than cores, or when root runs it |
|---|---|
| MPICH | `MPIR_CVAR_ENABLE_HEAVY_YIELD=1`, or waiting ranks eat the others' time slices |
| Open MPI | `--oversubscribe`, `--allow-run-as-root` |
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What a launcher leaves in the environment of its ranks. A second mpiexec that inherits it
# takes itself for a member of the first job.
_LAUNCHER_PREFIXES = ("PMI_", "PMIX_", "PMI2_", "OMPI_", "PRTE_", "HYDI_", "HYDRA_", "MPIEXEC_", "I_MPI_")


@functools.cache
def mpiexec() -> str:
    """Path of the mpiexec that belongs to this Python, else the one on PATH.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec")
    if found is None:
        raise FileNotFoundError(
            f"no mpiexec beside {sys.executable} and none on PATH; try: pip install 'gridnn[mpi]'"
        )
    return found


@functools.cache
def _flags() -> tuple[str, ...]:
    """Flags that let Open MPI start as root and with more ranks than cores."""
    version = subprocess.run([mpiexec(), "--version"], capture_output=True, text=True, check=False)
    open_mpi = "Open MPI" in version.stdout + version.stderr or "OpenRTE" in version.stdout
    return ("--allow-run-as-root", "--oversubscribe") if open_mpi else ()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(ranks: int, program: Sequence[str]) -> list[str]:
    """The command line that starts `program` on `ranks` ranks."""
    return [mpiexec(), *_flags(), "-n", str(ranks), *program]


def environment(ranks: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for `ranks` ranks: one thread each, no trace of an outer launcher.

    Parameters
    ----------
    ranks : int
        How many ranks will run; decides whether waiting ranks must give their core away.
    extra : mapping of str to str, optional
        Variables to set on top.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_PREFIXES)}
    env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # The tests need not be installed: ranks find `gridnn` and `tests` in this checkout.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
    if ranks > cores():
        env["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    return env | dict(extra or {})


def run_ranks(
    ranks: int,
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    timeout_s: float = 120.0,
    extra_env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python *arguments` on `ranks` ranks and wait for its end.

    For tests that look at a whole job from outside: its exit code and what it printed.

    Parameters
    ----------
    ranks : int
        Number of ranks; 0 starts Python alone, without mpiexec.
    arguments : sequence of str
        What follows `python`, such as ``["-m", "gridnn.train", "--dry-run"]``.
    cwd : Path, optional
        Working directory of the job.
    timeout_s : float
        After this many seconds the job is killed.
    extra_env : mapping of str to str, optional
        Environment variables to set.

    Raises
    ------
    subprocess.TimeoutExpired
        When the job took longer than `timeout_s`; it holds what was printed so far.
    """
    program = [sys.executable, *arguments]
    with subprocess.Popen(
        command(ranks, program) if ranks else program,
        cwd=cwd,
        env=environment(ranks, extra_env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            out, err = job.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            end_job(job)
            out, err = job.communicate()
            raise subprocess.TimeoutExpired(job.args, timeout_s, out, err) from None
        return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def end_job(job: subprocess.Popen[str], patience_s: float = 5.0) -> None:
    """End mpiexec and with it its ranks: asked first (it then ends the ranks), killed after `patience_s`."""
    job.terminate()
    try:
        job.wait(patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def shared_memory(pid: int) -> set[Path]:
    """Files in memory that MPICH mapped for `pid`; a rank that is killed or aborts leaves them behind."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    words = (word for line in maps.splitlines() for word in line.split())
    return {Path(word) for word in words if word.startswith("/dev/shm/mpich_shm_")}
