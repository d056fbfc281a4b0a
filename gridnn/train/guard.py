"""The guard of a rank: a process above it that tells how it ended, which a rank that is killed cannot do itself.

    mpiexec --- guard of rank 0 --- rank 0
             |- guard of rank 1 --- rank 1      killed: its guard says so, then leaves; mpiexec ends the others

MPICH's mpiexec names the process that it noticed last, not the one that died first, and no rank.  ``gridnn launch``
starts ranks this way and takes the line that comes first for the cause.  The rank is a fork made before anything large
is imported, so a guard costs neither time nor memory worth a number.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NamedTuple

RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
"""What launchers call the number of a rank."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_LINE = "gridnn guard: rank {rank} on {host} left with {status}"
_READ = re.compile(_LINE.format(rank=r"(\d+)", host=r"(\S+)", status=r"(-?\d+)"))
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class Left(NamedTuple):
    """How a rank left: `status` is its exit code, or less than 0 the signal that killed it."""

    rank: int
    host: str
    status: int


def main(argv: Sequence[str] | None = None) -> int:
    """Train as one rank, in a process of its own; returns its exit code, 128 and more for a signal."""
    rank = next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name, "").isdigit()), "0")
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        from gridnn.train.launch import main as train

        return train(argv)

    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # One write, so that it is not mixed with those of others.
    os.write(2, (_LINE.format(rank=rank, host=platform.node(), status=status) + "\n").encode())
    return status if status >= 0 else 128 - status


def read_line(line: str) -> Left | None:
    """Return what a guard says in a line of output; None for any other line."""
    found = _READ.fullmatch(line.strip())
    return Left(int(found[1]), found[2], int(found[3])) if found else None


def _die_with(parent: int) -> None:
    """Let this process be killed when its parent is: launchers know the guards only."""
    with contextlib.suppress(OSError, AttributeError):  # no Linux
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # gone before it could be asked for
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
