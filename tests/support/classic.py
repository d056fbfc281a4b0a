"""Pytest under mpiexec: `mpiexec -n 4 python -m pytest --with-mpi`.

Every rank is a pytest of its own and walks through the same marked tests in the same order:

    world of 4     test[ranks2]      test[ranks4]     unmarked test
    rank 0         runs              runs             runs
    rank 1         runs              runs             -
    ranks 2, 3     -                 runs             -

Only rank 0 speaks. A rank whose test fails prints the failure and aborts the world, because the
others may wait for it for ever; a test that takes too long prints all stacks and does the same.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.launch import shared_memory
from tests.support.marks import ranks_of, timeout_of
from tests.support.stacks import readable

if TYPE_CHECKING:
    from mpi4py import MPI


class Classic:
    """The plugin of one rank in a classic run.

    Parameters
    ----------
    config : pytest.Config
        Of this rank's pytest.
    """

    def __init__(self, config: pytest.Config) -> None:
        from mpi4py import MPI

        self.world = MPI.COMM_WORLD
        self.rank, self.size = self.world.Get_rank(), self.world.Get_size()
        self.early = False
        # Capture replaces descriptor 2 during tests; last words must go to the real one.
        self.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        if self.rank:
            # The mark of a helper of another pytest: writes no cache and no result file.
            config.workerinput = {"workerid": f"rank{self.rank}"}  # type: ignore[attr-defined]

    def communicator(self, ranks: int) -> MPI.Intracomm:
        """A fresh communicator of the first `ranks` ranks; only they call this."""
        group = self.world.Get_group().Incl(range(ranks))
        fresh = self.world.Create_group(group)
        group.Free()
        return fresh

    def pytest_configure(self, config: pytest.Config) -> None:
        """Rank 0 speaks, the others are silent."""
        if self.rank:
            config.pluginmanager.unregister(name="terminalreporter")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave to the other ranks what they take part in; say on rank 0 what does not fit."""
        if self.rank:
            items[:] = [item for item in items if self.rank < ranks_of(item) <= self.size]
        for item in items:
            if ranks_of(item) > self.size:
                reason = f"needs {ranks_of(item)} ranks, mpiexec started {self.size}"
                item.add_marker(pytest.mark.skip(reason=reason))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Watch the clock while a marked test runs."""
        if not 0 < ranks_of(item) <= self.size:
            return (yield)
        timeout_s = timeout_of(item)
        timer = threading.Timer(timeout_s, self._give_up, (item.nodeid, timeout_s))
        timer.daemon = True
        timer.start()
        try:
            return (yield)
        finally:
            timer.cancel()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        """End the whole job when a marked test fails on any rank."""
        report = yield
        if report.failed and ranks_of(item):
            self.stderr.write(f"\nrank {self.rank}: {report.nodeid} failed in {report.when}\n")
            self.stderr.write(f"{report.longreprtext}\n")
            for title, text in report.sections:
                self.stderr.write(f"----- {title} on rank {self.rank} -----\n{text}\n")
            self._abort()
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Note whether this rank leaves before its last test (-x, Ctrl-C, a broken plugin)."""
        broken = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
        self.early = broken or bool(session.shouldfail or session.shouldstop)
        if not self.early:
            self.world.Barrier()  # rank 0 must not sum up while another rank may still fail
        if self.rank and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # rank 0 alone had something to do

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End the other ranks when this one leaves early: they would wait for it."""
        if self.early:
            self._abort()

    def _give_up(self, nodeid: str, timeout_s: float) -> None:
        """Show where this rank waits, let the others do so too, and end the job."""
        self.stderr.write(f"\nrank {self.rank}: {nodeid} not finished after {timeout_s:g} s\n")
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            self.stderr.write(readable(file.read()) + "\n")
        threading.Event().wait(1.0)
        self._abort()

    def _abort(self) -> None:
        """End all ranks, with exit code 1."""
        sys.stdout.flush()
        self.stderr.flush()
        for path in shared_memory(os.getpid()):
            path.unlink(missing_ok=True)
        self.world.Abort(1)
