"""The rank pool, tried on tests that go wrong in every way we know of.

One pytest runs the file `WRONG` below; each test here looks at what became of one test there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support import launch

WRONG = """
import ctypes, os, signal, sys
import pytest

@pytest.fixture(autouse=True)
def note_pid():
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\\\n")

@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("word", ["a", "b"])
def test_good(comm, shared_path, word):
    assert len(set(comm.allgather(shared_path))) == 1
    assert comm.size == len(comm.allgather(word))

@pytest.mark.ranks(2)
def test_one_fails(comm):
    print("spoken by", comm.rank)
    assert comm.rank != 1, "only one"

@pytest.mark.ranks(2)
def test_all_fail(comm):
    assert comm.allreduce(1) == 5

@pytest.mark.ranks(2)
def test_raise_then_hang(comm):
    if comm.rank == 1:
        raise ValueError("raised alone")
    comm.recv(source=1)  # the line that waits

@pytest.mark.ranks(2, timeout=1)
def test_deadlock(comm):
    comm.recv(source=1 - comm.rank)

@pytest.mark.ranks(2)
def test_killed(comm):
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.barrier()

@pytest.mark.ranks(2)
def test_segfault(comm):
    if comm.rank == 1:
        ctypes.string_at(0)
    comm.barrier()

@pytest.mark.ranks(2)
def test_abort(comm):
    if comm.rank == 0:
        comm.Abort(7)
    comm.barrier()

@pytest.mark.ranks(2)
def test_exit(comm):
    if comm.rank == 0:
        os._exit(0)
    comm.barrier()

@pytest.mark.ranks(2)
def test_skip(comm):
    pytest.skip("all agree")

@pytest.mark.ranks(2)
def test_skip_alone(comm):
    if comm.rank == 1:
        pytest.skip("one alone")

@pytest.mark.ranks(2)
def test_good_again(comm):
    comm.barrier()
"""

SMALL = """
import os
import pytest

@pytest.mark.ranks(2, 5)
def test_good(comm):
    comm.barrier()

def test_serial():
    with open("serial", "a") as file:
        file.write("once ")

@pytest.mark.ranks(3)
@pytest.mark.skipif("FAULT" not in os.environ, reason="no fault wanted")
def test_faulty(comm):
    assert os.environ["FAULT"] == "hang" or comm.rank != 1, "only one"
    if os.environ["FAULT"] != "fail alone":
        comm.recv(source=comm.rank - 1)
"""

HANG = """
import os, time
import pytest

@pytest.mark.ranks(2)
def test_hang(comm):
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    comm.recv(source=1 - comm.rank)
"""

PYTEST = ["-m", "pytest", "--color=no", "-p", "no:hypothesispytest"]


def prepare(folder: Path, source: str) -> Path:
    """A folder with the plugin switched on and one test file."""
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.support.plugin"]\n')
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(source)
    return folder


def gone(folder: Path, patience_s: float = 10.0) -> bool:
    """Whether all processes named in the file `pids` end within the time."""
    pids = {int(line) for line in (folder / "pids").read_text().split()}
    deadline_s = time.monotonic() + patience_s
    while (alive := {pid for pid in pids if running(pid)}) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return not alive


def running(pid: int) -> bool:
    """Whether a process exists and is more than an unreaped exit code."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in ("", "Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("wrong"), WRONG.replace("\\\\", "\\"))


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    done = launch.run_ranks(0, [*PYTEST, "-v", "-rA", "--durations=5"], cwd=folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def verdict(output: str, name: str) -> str:
    """PASSED, FAILED or SKIPPED, as the running list says."""
    found = re.search(rf"::{name}\S* (\w+)", output)
    assert found, output
    return found[1]


def story(output: str, name: str) -> str:
    """The part of the output that tells about one failure."""
    return re.split(rf"\n_+ {name}\[\S+ _+\n", output)[1].split("\n____")[0]


def test_all_sizes_and_parameters_run(output: str) -> None:
    good = re.findall(r"::test_good\[(\S+)\] PASSED", output)
    assert sorted(set(good)) == sorted(f"ranks{size}-{word}" for size in (1, 2, 3) for word in "ab")


def test_the_failing_rank_gives_the_traceback(output: str) -> None:
    text = story(output, "test_one_fails")
    assert "AssertionError: only one" in text
    assert "first failure on rank 1" in text
    assert "rank 0: finished" in text
    assert "spoken by 1" in text


def test_all_ranks_may_fail(output: str) -> None:
    text = story(output, "test_all_fail")
    assert "assert 2 == 5" in text
    assert text.count(": failed: assert 2 == 5") == 2


def test_peers_of_a_failed_rank_show_where_they_wait(output: str) -> None:
    text = story(output, "test_raise_then_hang")
    assert "ValueError: raised alone" in text
    assert "rank 0: still waiting" in text
    line = WRONG[: WRONG.index("# the line that waits")].count("\n") + 1
    assert f"line {line} in test_raise_then_hang" in text.split("where rank 0 waits")[1]


def test_a_deadlock_ends_with_all_stacks(output: str) -> None:
    text = story(output, "test_deadlock")
    assert "ranks 0, 1 had not finished after 1 s" in text
    assert text.count("in test_deadlock") == 2


@pytest.mark.parametrize("name", ["test_killed", "test_segfault", "test_abort", "test_exit"])
def test_a_death_is_reported(output: str, name: str) -> None:
    assert verdict(output, name) == "FAILED"
    assert "died in this test" in story(output, name)


def test_what_a_dying_rank_wrote_is_shown(output: str) -> None:
    assert "Segmentation fault" in story(output, "test_segfault")
    assert "mpi_abort" in story(output, "test_abort").lower()  # each MPI spells it its way


def test_a_skip_must_be_common(output: str) -> None:
    assert verdict(output, "test_skip") == "SKIPPED"
    assert "disagree" in story(output, "test_skip_alone")


def test_tests_after_a_disaster_pass(output: str) -> None:
    assert verdict(output, "test_good_again") == "PASSED"
    assert "7 passed, 9 failed, 1 skipped" in output or "9 failed, 7 passed, 1 skipped" in output


def test_no_rank_is_left(output: str, folder: Path) -> None:
    assert output
    assert gone(folder)


def test_lf_x_and_k_select(tmp_path: Path) -> None:
    prepare(tmp_path, SMALL)
    fault = {"FAULT": "fail alone"}
    first = launch.run_ranks(0, [*PYTEST, "-x", "-k", "faulty or serial"], cwd=tmp_path, extra_env=fault)
    assert "1 failed, 1 passed, 2 deselected" in first.stdout
    again = launch.run_ranks(0, [*PYTEST, "-x", "--lf"], cwd=tmp_path, extra_env=fault)
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ranks_end_when_pytest_dies(tmp_path: Path, number: signal.Signals) -> None:
    prepare(tmp_path, HANG)
    job = subprocess.Popen(
        [sys.executable, *PYTEST], cwd=tmp_path, env=launch.environment(1), stdout=subprocess.DEVNULL,
        # A shell starts what it puts in the background deaf to interrupts, and children inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline_s = time.monotonic() + 30
    pids = tmp_path / "pids"
    while not (pids.exists() and pids.read_text().count("\n") == 2) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    os.kill(job.pid, number)
    job.wait(20)
    assert pids.read_text().count("\n") == 2
    assert gone(tmp_path)


def test_classic_runs_in_place(tmp_path: Path) -> None:
    prepare(tmp_path, SMALL)
    done = launch.run_ranks(3, [*PYTEST, "--with-mpi", "-rs"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test session starts") == 1
    assert "2 passed, 2 skipped" in done.stdout
    assert "needs 5 ranks, mpiexec started 3" in done.stdout
    assert (tmp_path / "serial").read_text() == "once "


@pytest.mark.parametrize(
    ("fault", "words"),
    [("fail", "rank 1: test_it.py::test_faulty[ranks3] failed in call"), ("hang", "not finished")],
)
def test_classic_ends_all_ranks_when_one_fails(tmp_path: Path, fault: str, words: str) -> None:
    prepare(tmp_path, SMALL)
    arguments = [*PYTEST, "--with-mpi", "--ranks-timeout=1"]
    done = launch.run_ranks(3, arguments, cwd=tmp_path, extra_env={"FAULT": fault}, timeout_s=30)
    assert done.returncode != 0
    assert words in done.stderr
    assert "in test_faulty" in done.stderr or "only one" in done.stderr
