"""A run inside a batch job: what Slurm gave it, and how long it has."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ASK_S = 5.0
"""Seconds that the scheduler has to answer; a run without an answer knows no time limit."""


@dataclass(frozen=True)
class Allocation:
    """What a run was given by Slurm.

    Parameters
    ----------
    job_id : int
        Its number; each task of an array has one of its own.
    name : str
        ``"123"``, or ``"123_4"`` for task 4 of array 123: the same after a requeue.
    array_task : int or None
    restarts : int
        How often the job was requeued before.
    tasks, nodes : int
        Ranks and nodes of this step; of the whole job where nothing was started by srun.
    end_s : float or None
        When the time limit ends, in seconds since 1970, where Slurm told it in the environment (newer ones do).
    """

    job_id: int
    name: str
    array_task: int | None
    restarts: int
    tasks: int
    nodes: int
    end_s: float | None


def read_allocation(environment: Mapping[str, str]) -> Allocation | None:
    """Return what the environment says about the job; None outside of one."""
    job_id = _number(environment, "SLURM_JOB_ID")
    if job_id is None:
        return None
    array, task = _number(environment, "SLURM_ARRAY_JOB_ID"), _number(environment, "SLURM_ARRAY_TASK_ID")
    return Allocation(
        job_id=job_id,
        name=f"{job_id}" if array is None or task is None else f"{array}_{task}",
        array_task=task,
        restarts=_number(environment, "SLURM_RESTART_COUNT") or 0,
        tasks=_number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or 1,
        nodes=_number(environment, "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES") or 1,
        end_s=_number(environment, "SLURM_JOB_END_TIME"),
    )


def ranks_on_node(environment: Mapping[str, str]) -> int | None:
    """Return how many ranks srun started on this node; None where srun did not start this process.

    Slurm lists them as ``"4(x2),3"``: four on each of two nodes, then three.
    """
    listed, node = environment.get("SLURM_STEP_TASKS_PER_NODE", ""), _number(environment, "SLURM_NODEID")
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node is not None and node < len(counts) else None


def time_left(
    allocation: Allocation,
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run,
    now: Callable[[], float] = time.time,
) -> float | None:
    """Return the seconds until the time limit of the job, None if there is none or Slurm does not answer.

    For rank 0 alone, once: what starts in its own time on thousands of ranks is a load for the scheduler.
    """
    if allocation.end_s is not None:
        return allocation.end_s - now()
    command = ["squeue", "--noheader", "--format=%L", f"--jobs={allocation.job_id}"]
    try:
        answer = run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.SubprocessError):  # no squeue on this node, or no answer
        return None
    return parse_left(answer.stdout) if answer.returncode == 0 else None


def parse_left(text: str) -> float | None:
    """Return the seconds of ``"[[days-]hours:]minutes:seconds"``; None for words such as ``"UNLIMITED"``."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def words(allocation: Allocation, left_s: float | None) -> str:
    """Return the line with which a run says where it finds itself."""
    again = f", restart {allocation.restarts}" if allocation.restarts else ""
    ranks = "1 rank" if allocation.tasks == 1 else f"{allocation.tasks} ranks"
    nodes = "1 node" if allocation.nodes == 1 else f"{allocation.nodes} nodes"
    left = "no time limit known" if left_s is None else f"{max(0.0, left_s) / 60:.0f} min left"
    return f"job {allocation.name}{again}: {ranks} on {nodes}, {left}"


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    """Return the first of some variables that is a whole number."""
    return next((int(environment[name]) for name in names if environment.get(name, "").isdigit()), None)
