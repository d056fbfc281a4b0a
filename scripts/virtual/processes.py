"""Programs by their identity, and those that belong to a cluster.

Numbers of processes are used again after their end, and so are those of namespaces.  So a process is known by its
number and its start together; and a program belongs to a cluster if it is in a namespace whose holder is alive, or if
the cluster's mark stands in the environment it was started with (its host may be gone).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

MARK = "GRIDNN_VIRTUAL_CLUSTER"
"""The variable that all programs of a cluster have: `FOLDER:TOKEN`."""


def identity(pid: int) -> list[int] | None:
    """Return a process as (number, start in clock ticks since boot); None if it is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold spaces
    return None if fields[0] in "ZX" else [pid, int(fields[19])]


def alive(known: Iterable[int]) -> bool:
    """Return whether a process is the one it was."""
    pid, started = known
    return identity(pid) == [pid, started]


def members(holders: Iterable[int], mark: str) -> Iterator[int]:
    """Yield the programs of a cluster, but for its holders and the one that asks.

    Parameters
    ----------
    holders
        Of the hosts, those alive.
    mark
        The value of `MARK`.
    """
    known = set(holders)
    spaces = {_namespace(pid) for pid in known} - {None, _namespace(os.getpid())}
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) in known | {os.getpid()}:
            continue
        try:
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        pid = int(folder.name)
        if (marked or _namespace(pid) in spaces) and identity(pid):
            yield pid


def end_members(holders: Iterable[int], mark: str, patience_s: float = 2.0) -> int:
    """Ask the programs of a cluster to end, kill those that do not; returns how many there were.

    Programs that start others while they end are met in the next round.
    """
    holders, met, asked_s = list(holders), set[int](), time.monotonic()
    while found := list(members(holders, mark)):
        if time.monotonic() - asked_s > patience_s + 10:
            raise TimeoutError(f"processes {found} cannot be ended; kernel waits hold them")
        kill = time.monotonic() - asked_s > patience_s
        for pid in found:
            if kill or pid not in met:
                send(pid, signal.SIGKILL if kill else signal.SIGTERM)
        met.update(found)
        time.sleep(0.05)
    return len(met)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def gone_within(known: Iterable[int], seconds: float) -> bool:
    """Wait for the end of a process; returns whether it came."""
    known, end_s = list(known), time.monotonic() + seconds
    while alive(known):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None
