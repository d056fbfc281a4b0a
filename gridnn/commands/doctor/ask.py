"""Asking a process that may die or never answer: started, listened to for a limited time, ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any, NamedTuple

PROGRAM = (sys.executable, "-m", "gridnn.comm.probe")
LIMIT_S = 60.0
"""Seconds for all of it: MPI takes some tens of them to start thousands of ranks."""
# What launchers and MPI libraries say and are told.  Not more: a pipe takes 64 KB at once from who cannot wait.
_TOLD = re.compile("PMI|MPI|OMPI|SLURM|PALS|MV2|OMP_")
_LEAVE_S = 10.0  # that the program has to end after its answer
_LINES = 12  # of what a program that died had said


class Answer(NamedTuple):
    """What came back.

    Parameters
    ----------
    report : dict or None
        What all ranks found, None where MPI did not bring them together.
    rank : int or None
        The number of this rank, as MPI has it; None where it was not told.
    error : str
        What went wrong, "" for nothing.
    died : bool
        The program ended by itself without an answer.
    facts : dict or None
        What this process alone found, where that is all there is.
    cut : str
        The attempt in whose midst the program came to its end, or to nothing: `report` is what was found before, with
        what became of it; "" for none.
    others_s : float
        Then, seconds within which other ranks say so, too: they wait for this one.
    """

    report: dict[str, Any] | None
    rank: int | None = None
    error: str = ""
    died: bool = False
    facts: dict[str, Any] | None = None
    cut: str = ""
    others_s: float = 0.0


class Heard(NamedTuple):
    """What a program told before it ended or the time did.

    Parameters
    ----------
    stage : str
        What it did last, in the words of "it stopped while ...".
    found : dict or None
        Its answer.
    so_far : mapping
        What it had found before an attempt, empty without one.
    attempt : mapping
        The last it announced.
    late : bool
        It did not come to the end of that in its time.
    """

    stage: str = "it started"
    found: dict[str, Any] | None = None
    so_far: Mapping[str, Any] = MappingProxyType({})
    attempt: Mapping[str, Any] = MappingProxyType({})
    late: bool = False


@contextlib.contextmanager
def ask(
    environment: Mapping[str, str], transport: str, device: str, limit_s: float,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Answer]:  # fmt: skip
    """Find what a process of its own finds that starts as this rank of a run; at the end of the block it is ended.

    Parameters
    ----------
    environment
        Of this process.
    transport, device
        What the user asks for.
    program
        It takes the number of a descriptor to answer on.
    """
    deadline_s = time.monotonic() + limit_s
    told = {name: value for name, value in environment.items() if _TOLD.match(name)}
    request = {"environment": told, "transport": transport, "device": device, "limit_s": limit_s}
    into, out = os.pipe()
    os.set_inheritable(out, True)
    with tempfile.TemporaryFile() as noise, os.fdopen(into, "rb", buffering=0) as answers:
        # Descriptors stay open: launchers speak to MPI through some.
        process = subprocess.Popen(
            [*program, str(out)], stdin=subprocess.PIPE, stdout=noise, stderr=noise, close_fds=False,
            env={**yielding(environment), **environment},
        )  # fmt: skip
        os.close(out)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once; the reason is found below
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            heard = _listen(answers, deadline_s)
            found, stage = heard.found, heard.stage
            if found is not None:
                # Said before it is waited for: a rank that failed is about to end all others, this one included.
                yield Answer(
                    found.get("report"), found["rank"], found.get("error", ""), False, found.get("facts")
                )
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LEAVE_S)
            elif heard.late:
                allowed_s = limit_s if time.monotonic() >= deadline_s else heard.attempt["within_s"]
                yield _cut(heard, f"no answer within {allowed_s:g} s") or Answer(
                    None, error=_late(stage, limit_s)
                )
            else:  # the end of its pipe: it is dead, or about to be
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LEAVE_S)
                how, last = _dead(process.poll(), noise)
                yield _cut(heard, f"{how}; {last}", died=True) or Answer(
                    None, error=f"{how}, while {stage}; {last}", died=True
                )
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):  # what it never read
                process.stdin.close()


def yielding(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what lets waiting ranks sleep where they are more than cores, as a run does it."""
    on_node = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    ranks = int(on_node[0] if on_node else environment.get("MPI_LOCALNRANKS") or 1)
    cores = (os.cpu_count() or 1) if on_node else len(os.sched_getaffinity(0))
    return {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"} if ranks > cores else {}


def _listen(answers: IO[bytes], deadline_s: float) -> Heard:
    """Return what a program tells until it answers, or does not come to the end of an attempt, or the time ends."""
    heard, rest, until_s = Heard(), b"", deadline_s
    while (left_s := until_s - time.monotonic()) > 0:
        if not select.select([answers], [], [], left_s)[0]:
            break
        more = os.read(answers.fileno(), 1 << 16)
        if not more:
            return heard
        *whole, rest = (rest + more).split(b"\n")
        for line in whole:
            told = json.loads(line)
            if "stage" not in told:
                return heard._replace(found=told)
            heard = heard._replace(stage=told["stage"])
            if "so_far" in told:
                heard = heard._replace(so_far={**heard.so_far, **told["so_far"]}, attempt=told)
                until_s = min(deadline_s, time.monotonic() + told["within_s"])
    return heard._replace(late=True)


def _cut(heard: Heard, why: str, died: bool = False) -> Answer | None:
    """Return what was found before an attempt that came to no end; None where there was none."""
    name = heard.attempt.get("trying")
    if not name:
        return None
    tried = {**heard.so_far["tried"], name: {"tried": True, "why": why}}
    report, within_s = {**heard.so_far, "tried": tried}, heard.attempt["within_s"]
    return Answer(report, heard.attempt["rank"], "", died, cut=name, others_s=within_s)


def _late(stage: str, limit_s: float) -> str:
    return (
        f"no answer within {limit_s:g} s, while {stage}; a rank may be missing or stuck, or a network that MPI chose "
        "may not work between hosts: try fewer ranks or one host, or a larger --limit"
    )


def _dead(status: int | None, noise: IO[bytes]) -> tuple[str, str]:
    """Return how the program ended, and what it said."""
    noise.seek(0)
    said = [line for line in noise.read().decode(errors="replace").splitlines() if line.strip()]
    how = "ended"
    if status is not None and status < 0:
        known = {int(number): number.name for number in signal.Signals}
        how = f"was killed by {known.get(-status, f'signal {-status}')}"
    elif status:
        how = f"ended with exit code {status}"
    last = "it said:\n  " + "\n  ".join(said[-_LINES:]) if said else "it said nothing"
    return f"the process that was to try it {how}", last
