"""Starting ranks with mpiexec: which one, with which words, and what it said when it ended.

| MPI      | what it needs                                        | how hosts are named       |
|----------|------------------------------------------------------|---------------------------|
| MPICH    | nothing                                              | ``-hosts a:2,b:2``        |
| Open MPI | a word to run as root, or more ranks than cores      | ``--host a:2,b:2``        |

The mpiexec beside the running Python comes first: it belongs to the MPI that mpi4py finds there.  One of another MPI
starts separate single ranks, or none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from gridnn.errors import InputError
from gridnn.train.guard import Left, read_line

PATIENCE_S = 20.0
"""How long mpiexec may take to end after a rank failed; one that cannot reach a host waits for ever."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_STUCK, _CAUSE = "stuck: ", "cause: "  # how the watchdog's message begins
_LONGEST = 1 << 16  # bytes of a line
_TICK_S = 0.2
# What MPICH says about a rank that was lost: it names the process it noticed last, which is seldom the one that died.
_NOISE = (
    "=" * 20,
    "=   ",
    "YOUR APPLICATION TERMINATED WITH",
    "This typically refers to a",
    "Please see the FAQ page",
)


class Ended(NamedTuple):
    """How a job ended.

    Parameters
    ----------
    code : int
        Exit code of mpiexec.
    left : tuple of Left
        What the guards of ranks said, first to last.
    stuck : str
        The cause that a watchdog named, "" if none did.
    told : tuple of int
        Signals that were passed on to the job.
    """

    code: int
    left: tuple[Left, ...] = ()
    stuck: str = ""
    told: tuple[int, ...] = ()


def find_mpiexec(named: str | None = None) -> str:
    """Return the path of mpiexec.

    Raises
    ------
    InputError
        If the one that was named, or any, is not there.
    """
    beside = Path(sys.executable).parent / "mpiexec"
    if named is None and os.access(beside, os.X_OK):
        return str(beside)
    found = shutil.which(named or "mpiexec")
    if found is None:
        what = (
            f"there is no program {named}"
            if named
            else f"no mpiexec beside {sys.executable} and none on PATH"
        )
        raise InputError(f'{what}; name one with --mpiexec, or install an MPI: pip install "gridnn[mpi]"')
    return found


def mpiexec_words(mpiexec: str, ranks: int, slots: Mapping[str, int] | None = None) -> list[str]:
    """Return the words that start some ranks: mpiexec and its options; a program is to follow.

    Parameters
    ----------
    slots
        How many ranks each host takes; None or empty leaves hosts to mpiexec.
    """
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False).stdout
    open_mpi = "Open MPI" in version or "OpenRTE" in version
    words = [mpiexec, *(("--allow-run-as-root", "--oversubscribe") if open_mpi else ())]
    if slots:
        names = ",".join(f"{host}:{count}" for host, count in slots.items() if count)
        words += ["--host" if open_mpi else "-hosts", names]
    return [*words, "-n", str(ranks)]


def run(command: Sequence[str], passed_on: Sequence[signal.Signals] = PASSED_ON) -> Ended:
    """Run a job to its end: what it says goes on to this process's output, signals go on to the job.

    Lines of guards are kept for `Ended`, and what MPICH says about lost processes is left out.
    """
    told: list[int] = []
    with _Job(command) as job, _signals(job, told, passed_on):
        code = job.wait()
    return Ended(code, tuple(job.left), job.stuck, tuple(told))


class _Job:
    """A running mpiexec and the two threads that read what it says."""

    def __init__(self, command: Sequence[str]) -> None:
        # A session of its own: Ctrl-C at the terminal reaches this process, which passes it on, and nobody twice.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.left: list[Left] = []
        self.stuck = ""
        self._failed_s: float | None = None
        streams = ((self.process.stdout, 1), (self.process.stderr, 2))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]

    def __enter__(self) -> _Job:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for reader in self._readers:
            reader.join(2.0)  # a process that got away may hold the other end

    def wait(self) -> int:
        """Return the exit code; ends an mpiexec that does not end after its ranks did."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(_TICK_S)
            if self._failed_s is not None and time.monotonic() > self._failed_s + PATIENCE_S:
                self.process.kill()

    def _read(self, stream: IO[bytes], target: int) -> None:
        noise = False
        with stream:
            while line := stream.readline(_LONGEST):
                text = line.decode(errors="replace").rstrip("\n")
                left = read_line(text)
                noise = left is None and (text.startswith(_NOISE) or (noise and not text))
                if left is not None:
                    self.left.append(left)
                elif not noise:
                    self._note(text)
                    with contextlib.suppress(OSError):  # nobody listens any more; the job goes on
                        os.write(target, line)
                if self._failed_s is None and (self.stuck or (left is not None and left.status)):
                    self._failed_s = time.monotonic()

    def _note(self, text: str) -> None:
        if text.startswith(_STUCK):
            self.stuck = self.stuck or text.removeprefix(_STUCK)
        elif text.startswith(_CAUSE) and self.stuck and not self.stuck.startswith(_CAUSE):
            self.stuck = text


@contextlib.contextmanager
def _signals(job: _Job, told: list[int], passed_on: Sequence[signal.Signals]) -> Iterator[None]:
    """Pass signals on while inside; the second one that asks for the end is not asked nicely."""

    def pass_on(number: int, _: FrameType | None) -> None:
        ends = number != signal.SIGUSR1
        if job.process.poll() is None:
            job.process.send_signal(signal.SIGKILL if ends and number in told else number)
        told.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python lets no other one
        before = {number: signal.signal(number, pass_on) for number in passed_on}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> None:
    """Become mpiexec: for scripts that start some ranks of any program on this machine."""
    words = argparse.ArgumentParser(description="Start a program on some ranks of this machine.")
    words.add_argument("--mpiexec", metavar="PATH")
    words.add_argument("ranks", type=int)
    words.add_argument("program", nargs=argparse.REMAINDER)
    arguments = words.parse_args(argv)
    try:
        command = mpiexec_words(find_mpiexec(arguments.mpiexec), arguments.ranks)
    except InputError as error:
        words.error(str(error))
    os.execv(command[0], [*command, *arguments.program])


if __name__ == "__main__":
    main()
