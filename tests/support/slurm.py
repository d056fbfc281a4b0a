"""A real Slurm for tests: started by scripts/slurm_test_cluster, asked about its jobs, and gone afterwards.

Jobs are started as a user starts them, by scripts/slurm/submit; what is looked at is what Slurm says of them, what they
wrote, and which processes there are.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.launch import ROOT, environment, shared_memory

SCRIPT, SUBMIT = ROOT / "scripts" / "slurm_test_cluster", ROOT / "scripts" / "slurm" / "submit"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
PATIENCE_S = 120.0
"""For what takes a few seconds on a quiet machine."""


def missing() -> str | None:
    """Say why no Slurm can be started here, or return None."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [p for p in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(p, path=path) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install --no-install-recommends slurm-wlm"
    try:
        import mpi4py.MPI  # noqa: F401  (never initialised here: it only says which MPI the ranks would have)
    except ImportError:
        return "no MPI"
    return None


@dataclass(frozen=True)
class Cluster:
    """A running Slurm, and the folder from which jobs are submitted."""

    folder: Path
    work: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a user of this cluster has in the environment."""
        outer = ("SLURM", "SBATCH_", "SRUN_", "GRIDNN_")  # the tests may themselves be a job
        found = {name: value for name, value in environment(4).items() if not name.startswith(outer)}
        return found | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "GRIDNN_PYTHON": sys.executable,
            "GRIDNN_RUNS": str(self.work / "runs"),
            "XDG_CACHE_HOME": str(self.work / "cache"),
            **(extra or {}),
        }

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm, or a script that calls one, to its end."""
        return subprocess.run(
            command, env=self.environment(env), cwd=self.work, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def submit(self, *words: str, env: Mapping[str, str] | None = None) -> int:
        """Submit a batch script by its name, options of sbatch first; returns the number of the job."""
        done = self.run(str(SUBMIT), "--parsable", *words, env=env)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def show(self, job: int | str) -> list[dict[str, str]]:
        """What Slurm says of a job; of an array, of each task."""
        done = self.run("scontrol", "--oneliner", "show", "job", str(job))
        assert done.returncode == 0, done.stderr
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in done.stdout.splitlines()]

    def show_one(self, job: str) -> dict[str, str]:
        """What Slurm says of a job, or of one task of an array ("12_3")."""
        (found,) = self.show(job)
        return found

    def end(self, job: int) -> list[tuple[str, str]]:
        """Wait for the end of a job; returns state and exit code ("code:signal"), of an array those of each task."""
        wait_for(lambda: all(task["JobState"] in OVER for task in self.show(job)), f"the end of job {job}")
        return [(task["JobState"], task["ExitCode"]) for task in self.show(job)]

    def out(self, pattern: str = "*.out") -> str:
        """What the jobs have written."""
        return "\n".join(path.read_text() for path in sorted(self.work.glob(pattern)))

    def processes(self, job: int) -> list[int]:
        """Processes that run in a job: its script, srun, ranks."""
        marks = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_CONF={self.folder}/slurm.conf".encode()}
        return [pid for pid in _pids() if marks <= set(_words(pid, "environ"))]

    def ranks(self, job: int) -> list[int]:
        """The ranks among them."""
        return [pid for pid in self.processes(job) if _is_rank(_words(pid, "cmdline"))]


@contextmanager
def cluster(work: Path, nodes: int = 2, cpus: int = 4) -> Iterator[Cluster]:
    """Bring a Slurm up, and down again whatever happens: it also watches this process."""
    folder = work / "slurm"
    command = [str(SCRIPT), "up", "--dir", str(folder), "--nodes", str(nodes), "--cpus", str(cpus)]
    done = subprocess.run(
        [*command, "--owner", str(os.getpid())], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout) == ["export", f"SLURM_CONF={folder}/slurm.conf"]
    try:
        yield Cluster(folder, work)
    finally:
        subprocess.run([str(SCRIPT), "down", str(folder)], timeout=60, check=True)


@contextmanager
def swept(ranks: list[int]) -> Iterator[None]:
    """Remove afterwards what ranks that are killed leave behind in memory."""
    files = {file for pid in ranks for file in shared_memory(pid)}
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def wait_for(happened: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Look until something has happened."""
    deadline_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline_s, f"waited {patience_s:g} s for {what}"
        time.sleep(0.1)


def _is_rank(command: list[bytes]) -> bool:
    return b"python" in command[0] and b"gridnn.train" in command


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _words(pid: int, file: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is not ours
        return [b""]
