"""A pool of ranks that runs one distributed test after another.

    pytest (no MPI) ---- socket ---- rank 0 \\
                    \\--- socket ---- rank 1  } mpiexec -n N python -m tests.support.worker
                     \\-- socket ---- rank 2 /

A test ends in one of four ways, and only the first two leave the pool alive:

| what the ranks do | what is done |
|---|---|
| all finish, none fails (or all fail alike) | the pool serves the next test |
| one fails, the others finish | the report is the first failure; the pool ends |
| one fails, the others wait for it | after `GRACE_S` their stacks are taken; the pool is killed |
| one dies, or none ever finishes | the same, at once or at the timeout |
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import launch
from tests.support.wire import Link, Message

GRACE_S = 2.0  # what peers of a failed rank get to finish by themselves
START_S = 120.0  # MPI_Init and collection on a busy machine
STACKS_S = 1.0  # what a signalled rank gets to write its stacks
DYING_S = 0.2  # the same, when mpiexec is already killing the peers of a dead rank


class PoolError(Exception):
    """A pool that could not be started; the message holds what its ranks printed."""


@dataclass
class Member:
    """One rank as seen from pytest, and what it said about the test that runs."""

    rank: int
    pid: int
    link: Link
    reports: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    lost: bool = False
    known: bool = True
    errors: str = ""

    @property
    def failed(self) -> bool:
        """Whether a phase of the test failed here."""
        return any(report["outcome"] == "failed" for report in self.reports)


@dataclass
class Outcome:
    """What became of one test on all ranks.

    Attributes
    ----------
    members : list of Member
        By rank.
    first_failed : int or None
        The rank whose failure was heard of first.
    stacks, output : dict of int to str
        By rank: the stacks of ranks that did not finish; what ranks printed.
    launcher : str
        What mpiexec said, if the pool ended.
    timed_out : bool
        No rank failed or died, but not all had finished in time.
    """

    members: list[Member]
    first_failed: int | None = None
    stacks: dict[int, str] = field(default_factory=dict)
    output: dict[int, str] = field(default_factory=dict)
    launcher: str = ""
    timed_out: bool = False


class Pool:
    """Ranks under one mpiexec, started at once and kept until `close` or until a test breaks them.

    Parameters
    ----------
    size : int
        Number of ranks.
    arguments : sequence of str
        Arguments for the pytest session on every rank (files and options).
    cwd : Path
        Where pytest was called.
    """

    def __init__(self, size: int, arguments: Sequence[str], cwd: Path) -> None:
        self.size = size
        self.alive = True
        self.members: list[Member] = []
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self._segments: set[Path] = set()
        self._selector = selectors.DefaultSelector()
        try:
            self._start(arguments, cwd)
        except BaseException:
            self.kill()
            raise

    def usable(self) -> bool:
        """Whether the pool can serve a test; ends it when a rank died after the last one."""
        if self.alive:
            for member, message in self._messages(0.0):
                self._note(member, message)
            if any(member.lost for member in self.members):
                self.kill()
        return self.alive

    def run(self, nodeid: str, nextid: str | None, timeout_s: float) -> Outcome:
        """Run one test on all ranks; afterwards `usable` says whether the pool can serve another."""
        for member in self.members:
            member.reports, member.done = [], False
            with contextlib.suppress(OSError):  # a rank that died while idle: the loop below hears it
                member.link.send({"run": nodeid, "next": nextid})
        outcome = Outcome(self.members)
        deadline_s = time.monotonic() + timeout_s
        while not all(member.done for member in self.members):
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0 or any(member.lost for member in self.members):
                break
            for member, message in self._messages(remaining_s):
                self._note(member, message)
                if member.failed and outcome.first_failed is None:
                    outcome.first_failed = member.rank
                    deadline_s = min(deadline_s, time.monotonic() + GRACE_S)
        self._settle(outcome)
        return outcome

    def close(self) -> None:
        """End the ranks in order, so that MPI is finalized; kill those that do not go."""
        if not self.alive:
            return
        for member in self.members:
            with contextlib.suppress(OSError):
                member.link.send({"quit": True})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._mpiexec.wait(5.0)
        self.kill()

    def kill(self) -> None:
        """End the ranks at once and remove what they left behind."""
        self.alive = False
        for member in self.members:
            with contextlib.suppress(ProcessLookupError):
                # While mpiexec lives, the pids are its ranks'. 0 (no hello yet) would mean ourselves.
                if member.pid and self._mpiexec.poll() is None:
                    os.kill(member.pid, signal.SIGKILL)
            member.link.close()
        if hasattr(self, "_mpiexec"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpiexec.wait(2.0)
            launch.end_job(self._mpiexec)
        self._selector.close()
        for path in self._segments:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, arguments: Sequence[str], cwd: Path) -> None:
        """Start mpiexec, wait until every rank has said hello and has collected its tests."""
        with socket.socket(socket.AF_UNIX) as door, open(self._folder / "mpiexec.out", "w") as out:
            door.bind(str(self._folder / "socket"))
            door.listen(self.size)
            door.settimeout(0.1)
            program = [sys.executable, "-m", "tests.support.worker", str(self._folder)]
            self._mpiexec = subprocess.Popen(
                launch.command(self.size, program),
                cwd=cwd,
                # With CI set, hypothesis draws the same examples on all ranks.
                env=launch.environment(self.size, {"CI": "1"}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for pytest, which then ends the ranks in order
                text=True,
            )
            deadline_s = time.monotonic() + START_S
            while len(self.members) < self.size:
                self._check_start(deadline_s)
                with contextlib.suppress(TimeoutError):
                    self.members.append(Member(-1, 0, Link(door.accept()[0])))
        for member in self.members:
            self._selector.register(member.link, selectors.EVENT_READ, member)
        self._await_all("hello", deadline_s)
        self.members.sort(key=lambda member: member.rank)
        if [member.rank for member in self.members] != list(range(self.size)):
            other = f"{launch.mpiexec()} started single ranks"
            raise PoolError(f"{other}: it belongs to another MPI than the one mpi4py found")
        for member in self.members:
            member.link.send({"job": list(arguments)})
        self._await_all("ready", deadline_s)
        self._segments = {path for member in self.members for path in launch.shared_memory(member.pid)}

    def _await_all(self, key: str, deadline_s: float) -> None:
        """Wait until every rank has sent a message that holds `key`."""
        waiting = self.size
        while waiting:
            self._check_start(deadline_s)
            for member, message in self._messages(0.1):
                waiting -= key in message
                self._note(member, message)

    def _check_start(self, deadline_s: float) -> None:
        """Raise PoolError when the pool will not come up any more."""
        ended = self._mpiexec.poll() is not None or any(member.lost for member in self.members)
        if ended or time.monotonic() > deadline_s:
            time.sleep(0.2)  # let the last words reach the files
            words = "\n".join(path.read_text(errors="replace") for path in self._folder.glob("*.out"))
            raise PoolError(f"a pool of {self.size} ranks did not start:\n{words}")

    def _messages(self, wait_s: float) -> Iterator[tuple[Member, Message]]:
        """What ranks send within `wait_s`; a rank that is gone is marked lost."""
        for key, _ in self._selector.select(wait_s):
            member: Member = key.data
            messages = member.link.receive()
            if messages is None:
                member.lost = True
                self._selector.unregister(member.link)
            for message in messages or ():
                yield member, message

    @staticmethod
    def _note(member: Member, message: Message) -> None:
        """Enter a message into the member it came from."""
        if "report" in message:
            member.reports.append(message["report"])
        elif "done" in message:
            member.done, member.known = True, message["known"]
        elif "hello" in message:
            member.rank, member.pid = message["hello"], message["pid"]
        elif "ready" in message:
            member.errors = message["errors"]

    def _settle(self, outcome: Outcome) -> None:
        """Gather the evidence of a test that went wrong, and end the pool unless all ranks are well."""
        unfinished = [member for member in self.members if not member.done]
        failed = sum(member.failed for member in self.members)
        if not unfinished and not failed:
            return
        lost = any(member.lost for member in self.members)
        outcome.timed_out = bool(unfinished) and outcome.first_failed is None and not lost
        outcome.stacks = self._take_stacks(unfinished)
        for member in self.members:
            outcome.output[member.rank] = self._read(f"{member.pid}.out")
        # All failing alike is the everyday failure (a typo): nobody waits, the pool is still good.
        if unfinished or failed < self.size:
            if lost:  # mpiexec needs a moment to say how the rank died
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._mpiexec.wait(1.0)
                outcome.launcher = f"{self._read('mpiexec.out')}\n(exit code {self._mpiexec.poll()})"
            self.kill()

    def _take_stacks(self, members: Sequence[Member]) -> dict[int, str]:
        """Stacks of ranks that are still there, as faulthandler writes them."""
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                if not member.lost:
                    os.kill(member.pid, signal.SIGUSR2)
        wait_s = DYING_S if any(member.lost for member in members) else STACKS_S
        deadline_s, before, texts = time.monotonic() + wait_s, None, dict[int, str]()
        while members and time.monotonic() < deadline_s and (texts != before or not all(texts.values())):
            before = texts
            time.sleep(0.05)
            texts = {member.rank: self._read(f"{member.pid}.stacks") for member in members}
        return {rank: text for rank, text in texts.items() if text}

    def _read(self, name: str) -> str:
        """A file the ranks or mpiexec wrote, as far as it exists."""
        path = self._folder / name
        return path.read_text(errors="replace").strip("\0\n") if path.exists() else ""
