"""One rank of a pool: `mpiexec -n N python -m tests.support.worker FOLDER`.

A pytest session that takes its orders from another pytest (`tests.support.pool`) through a
socket in FOLDER, runs one test at a time, and sends each report as soon as it exists, so that
the other end learns of a failure while the peers still wait for this rank.

In FOLDER the rank leaves `PID.out` (all it prints, from Python, C and a dying interpreter) and
`PID.stacks` (its stacks, written when SIGUSR2 comes: that works inside a blocking MPI call).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.support.launch import shared_memory
from tests.support.wire import Link, Message


class Worker:
    """The pytest plugin of a rank.

    Parameters
    ----------
    link : Link
        The line to the pytest in command.
    orders : queue.Queue of dict
        What came over it.
    """

    def __init__(self, link: Link, orders: queue.Queue[Message]) -> None:
        self.link = link
        self.orders = orders
        self.config: pytest.Config
        self.errors: list[str] = []
        # A failed test may leave receives posted into arrays of its frames. The tracebacks keep
        # those frames, so that a late message never lands in memory used by another test.
        self.wreckage: list[object] = []

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Be silent: reports go over the line, what tests print goes to the file."""
        self.config = config
        config.pluginmanager.unregister(name="terminalreporter")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what went wrong while collecting, to explain tests that are missing."""
        if report.failed:
            self.errors.append(report.longreprtext)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is asked for until told to quit."""
        items = {item.nodeid: item for item in session.items}
        self.link.send({"ready": True, "errors": "\n".join(self.errors)})
        while "quit" not in (order := self.orders.get()):
            # Each test starts with an empty file: its content is then this test's output.
            sys.stdout.flush()
            os.ftruncate(1, 0)
            item = items.get(order["run"])
            if item is not None:
                # The test before may have named a next one that never came (-x, a new pool).
                session._setupstate.teardown_exact(item)
                runtestprotocol(item, nextitem=items.get(order["next"]), log=True)
            self.link.send({"done": order["run"], "known": item is not None})
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send a report on its way at once."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.link.send({"report": data})

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        """Hold on to the frames of a failed test."""
        if call.excinfo is not None:
            self.wreckage.append(call.excinfo)


def _listen(link: Link, orders: queue.Queue[Message], folder: Path) -> None:
    """Queue what comes; leave at once when pytest is gone, whatever the main thread waits for."""
    while (messages := link.receive()) is not None:
        for message in messages:
            orders.put(message)
    for path in shared_memory(os.getpid()):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(70)


def _redirect_output(path: Path) -> None:
    """Send descriptors 1 and 2 to `path`, unbuffered enough to survive a crash."""
    target = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def main(folder: Path) -> None:
    """Join the pool whose files are in `folder` and serve it to its end."""
    # The socket comes first: if MPI_Init hangs, closing it still ends this process.
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(folder / "socket"))
    link, orders = Link(sock), queue.Queue[Message]()
    threading.Thread(target=_listen, args=(link, orders, folder), daemon=True).start()
    _redirect_output(folder / f"{os.getpid()}.out")

    from mpi4py import MPI

    with open(folder / f"{os.getpid()}.stacks", "w") as stacks:
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
        link.send({"hello": MPI.COMM_WORLD.Get_rank(), "pid": os.getpid()})
        arguments = orders.get()["job"]
        own = ["--pool-rank", "-s", "-p", "no:cacheprovider", f"--basetemp={folder / str(os.getpid())}.tmp"]
        # Its plugin imports all of hypothesis, a second on every rank; @given needs no plugin.
        own += ["-p", "no:hypothesispytest"]
        pytest.main([*own, *arguments], plugins=[Worker(link, orders)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
