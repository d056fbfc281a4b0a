"""The pytest plugin for tests on several ranks.

    @pytest.mark.ranks(1, 2, 3, 4)          # once per size: test_x[ranks1], test_x[ranks2], ...
    def test_x(comm): ...                   # comm has exactly that many ranks, and is fresh

| called as | where the marked tests run |
|---|---|
| `pytest` | on pools of ranks, one per size, started when first needed (`tests.support.pool`) |
| `mpiexec -n 4 python -m pytest --with-mpi` | in place, on the first ranks (`tests.support.classic`) |
| by a pool, with `--pool-rank` | in place: this process is a rank (`tests.support.worker`) |

With plain `pytest` this process never starts MPI, so an unmarked test cannot use it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import report
from tests.support.classic import Classic
from tests.support.marks import ranks_of, timeout_of
from tests.support.pool import Pool, PoolError

if TYPE_CHECKING:
    from mpi4py import MPI

_MODE = pytest.StashKey["Classic | Pools | None"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; --with-mpi usually comes from pytest-mpi."""
    group = parser.getgroup("ranks", "tests on several MPI ranks")
    group.addoption("--ranks-timeout", type=float, default=60.0, help="seconds for a test on ranks (60)")
    group.addoption("--pool-rank", action="store_true", help="this process is a rank of a pool (internal)")
    group.addoption("--sample-seed", type=int, default=0, help="seed of sampled tests (0)")
    group.addoption("--sweep", action="store_true", help="run the exhaustive tests, marked sweep, too")
    with contextlib.suppress(ValueError):
        group.addoption("--with-mpi", action="store_true", help="pytest itself runs under mpiexec")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Decide where the marked tests run."""
    config.addinivalue_line("markers", "ranks(*sizes, timeout=60): run once per size, on that many MPI ranks")
    config.addinivalue_line("markers", "sweep: exhaustive and long; only runs with --sweep or -m sweep")
    if config.getoption("pool_rank"):
        config.stash[_MODE] = None
    elif config.getoption("with_mpi"):
        config.stash[_MODE] = Classic(config)
        config.pluginmanager.register(config.stash[_MODE], "ranks-classic")
        _make_hypothesis_agree()
    else:
        config.stash[_MODE] = Pools(config)
        config.pluginmanager.register(config.stash[_MODE], "ranks-pools")
        _keep_mpi_asleep()


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed, so that a failing sample can be repeated."""
    return f"sample seed: {config.getoption('sample_seed')} (--sample-seed)"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per size of the marker."""
    sizes = [size for mark in metafunc.definition.iter_markers("ranks") for size in mark.args]
    if not sizes:
        return
    if "ranks" not in metafunc.fixturenames:
        metafunc.fixturenames.append("ranks")
    metafunc.parametrize("ranks", sizes, indirect=True, ids=[f"ranks{size}" for size in sizes])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the sweep out, unless it is asked for."""
    if config.getoption("pool_rank") or config.getoption("sweep") or "sweep" in config.getoption("markexpr"):
        return
    sweep = [item for item in items if item.get_closest_marker("sweep")]
    if sweep:
        config.hook.pytest_deselected(items=sweep)
        items[:] = [item for item in items if not item.get_closest_marker("sweep")]


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> int:
    """Number of ranks of this test."""
    return int(request.param)


@pytest.fixture
def comm(ranks: int, request: pytest.FixtureRequest) -> Iterator[MPI.Intracomm]:
    """A fresh communicator of exactly the size the marker asks for."""
    from mpi4py import MPI

    world, mode = MPI.COMM_WORLD, request.config.stash[_MODE]
    fresh = mode.communicator(ranks) if isinstance(mode, Classic) else world.Dup()
    failures_before = request.session.testsfailed
    yield fresh
    # Freeing is collective, and after a failure the peers may be anywhere.
    if request.session.testsfailed == failures_before:
        fresh.Free()


@pytest.fixture
def shared_path(comm: MPI.Intracomm, tmp_path: Path) -> Path:
    """A temporary folder that is the same on all ranks of the test."""
    path: Path = comm.bcast(tmp_path)
    return path


@pytest.fixture(scope="session")
def sample_seed(request: pytest.FixtureRequest) -> int:
    """Seed of tests that sample a large space of cases: --sample-seed, the same on all ranks."""
    return int(request.config.getoption("sample_seed"))


class Pools:
    """The pools of this pytest run, by size, and the order of tests on each.

    Parameters
    ----------
    config : pytest.Config
        Of this run.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pools: dict[int, Pool] = {}
        self.queues: dict[int, list[pytest.Item]] = {}
        self.following: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Sort the tests by size; a rank keeps module fixtures as long as the next test uses them."""
        self.queues, self.following = {}, {}
        for item in session.items:
            if size := ranks_of(item):
                queue = self.queues.setdefault(size, [])
                if queue:
                    self.following[queue[-1].nodeid] = item.nodeid
                queue.append(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a marked test on its pool and log the reports as if it had run here."""
        size = ranks_of(item)
        if not size:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for each in self._reports(item, size):
            item.ihook.pytest_runtest_logreport(report=each)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # What the next test here needs is not what the test before this one left standing.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    def pytest_unconfigure(self) -> None:
        """End all pools."""
        for pool in self.pools.values():
            pool.close()

    def _reports(self, item: pytest.Item, size: int) -> list[pytest.TestReport]:
        """The reports of one marked test."""
        timeout_s = timeout_of(item)
        try:
            pool = self._pool(size)
        except (PoolError, FileNotFoundError) as error:
            return report.refuse(item, str(error))
        start_s = time.perf_counter()
        try:
            outcome = pool.run(item.nodeid, self.following.get(item.nodeid), timeout_s)
        except BaseException:  # Ctrl-C: the ranks are busy and would not hear a polite end
            pool.kill()
            raise
        return report.compose(item, outcome, time.perf_counter() - start_s, timeout_s)

    def _pool(self, size: int) -> Pool:
        """The pool of `size` ranks, a new one if there is none that works."""
        if size not in self.pools or not self.pools[size].usable():
            self.pools[size] = Pool(size, self._arguments(size), Path.cwd())
        return self.pools[size]

    def _arguments(self, size: int) -> list[str]:
        """Arguments for pytest on a rank: the files of its tests, and what shapes ids and tracebacks."""
        option = self.config.option
        arguments = [f"--rootdir={self.config.rootpath}", f"--tb={option.tbstyle}"]
        arguments += ["-c", str(self.config.inipath)] if self.config.inipath else []
        arguments += [f"--sample-seed={option.sample_seed}", *(["-l"] if option.showlocals else [])]
        arguments += ["-v"] * self.config.get_verbosity()
        return [*arguments, *dict.fromkeys(str(item.path) for item in self.queues[size])]


def _keep_mpi_asleep() -> None:
    """Let test modules import mpi4py here, without starting MPI in the process that starts mpiexec."""
    with contextlib.suppress(ImportError):
        import mpi4py

        mpi4py.rc.initialize = False


def _make_hypothesis_agree() -> None:
    """Let all ranks draw the same examples; a collective call needs the same arguments everywhere."""
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        checks = [HealthCheck.function_scoped_fixture]  # the one communicator serves all examples
        settings.register_profile(
            "ranks", derandomize=True, database=None, deadline=None, suppress_health_check=checks
        )
        settings.load_profile("ranks")
