"""What a run knows of its job, and that all ranks leave, and save, after the same step."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.train.batch import (
    REASONS,
    REQUEUE_CODE,
    TERMINATED,
    TIME,
    WARNED,
    Allocation,
    Signals,
    Stopper,
    parse_left,
    ranks_on_node,
    read_allocation,
    time_left,
    words,
)
from tests.support.launch import ROOT

JOB = {"SLURM_JOB_ID": "712", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"}


def test_outside_of_a_job_there_is_no_allocation() -> None:
    assert read_allocation({}) is None
    assert read_allocation({"SLURM_JOB_ID": "", "SLURM_NTASKS": "4"}) is None


def test_a_job_is_read_from_its_environment() -> None:
    assert read_allocation(JOB) == Allocation(712, "712", None, 0, 4, 2, None)
    array = {"SLURM_ARRAY_JOB_ID": "700", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_END_TIME": "1800000000"}
    assert read_allocation(JOB | array | step) == Allocation(712, "700_3", 3, 2, 2, 1, 1.8e9)


def test_ranks_of_a_node_are_read_from_the_list() -> None:
    listed = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1"}
    found = [ranks_on_node(listed | {"SLURM_NODEID": str(node)}) for node in range(5)]
    assert found == [4, 4, 3, 1, None]
    assert ranks_on_node(listed) is None
    assert ranks_on_node({"SLURM_NODEID": "0"}) is None


@pytest.mark.parametrize("seconds", [0, 59, 60, 3599, 3600, 86399, 86400, 10 * 86400 + 3 * 3600 + 62])
def test_time_left_is_read_as_slurm_writes_it(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    short = f"{minutes}:{left:02d}"
    text = (
        f"{days}-{hours:02d}:{minutes:02d}:{left:02d}" if days else f"{hours}:{short:0>5}" if hours else short
    )
    assert parse_left(f" {text}\n") == seconds


@pytest.mark.parametrize("text", ["", "UNLIMITED", "INVALID", "NOT_SET", "12", "1:2:3:4", "-1:00"])
def test_no_time_is_read_from_words(text: str) -> None:
    assert parse_left(text) is None


def test_slurm_is_asked_for_the_time_only_where_it_did_not_tell() -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["timeout"] > 0, "a scheduler that is down must not hold the run"
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "1:02:03\n", "")

    told, silent = (Allocation(5, "5", None, 0, 1, 1, end_s) for end_s in (1060.0, None))
    assert time_left(told, answer, lambda: 1000.0) == 60.0
    assert not asked
    assert time_left(silent, answer) == 3723.0
    assert [command[0] for command in asked] == ["squeue"] and "--jobs=5" in asked[0]


def test_a_scheduler_without_an_answer_leaves_no_limit() -> None:
    silent = Allocation(5, "5", None, 0, 1, 1, None)

    def absent(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("squeue")

    def slow(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("squeue", 5)

    def refusing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "1:00\n", "error")

    assert [time_left(silent, run) for run in (absent, slow, refusing)] == [None] * 3


def test_the_words_of_a_job() -> None:
    assert (
        words(Allocation(7, "7", None, 0, 1, 1, None), None) == "job 7: 1 rank on 1 node, no time limit known"
    )
    again = words(Allocation(8, "7_1", 1, 2, 8, 2, None), 1830.0)
    assert again == "job 7_1, restart 2: 8 ranks on 2 nodes, 30 min left"


def test_signals_are_noted_and_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)]
    with Signals() as signals:
        assert signals.told == set()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.told == {WARNED}
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.told == {WARNED, TERMINATED}
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)] == before


@pytest.fixture
def handlers() -> Iterator[None]:
    """Give back what a test leaves changed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_rank_on_its_way_out_is_deaf() -> None:
    with Signals() as signals:
        signals.ignore()
    os.kill(os.getpid(), signal.SIGTERM)  # ends the tests if it were heard
    assert signals.told == set()


def test_another_thread_than_the_first_listens_to_nothing() -> None:
    told: list[object] = []

    def listen() -> None:
        with Signals() as signals:
            told.append(signals.told)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert told == [set()]


START = """
import sys
from gridnn.train.batch import Signals
with Signals() as signals:
    heavy = {"numpy", "mpi4py"} & set(sys.modules)
    print("listening", *heavy, flush=True)
    sys.stdin.readline()
    from gridnn.comm.world import World, world_comm
    from gridnn.train.batch import Stopper
    with World(world_comm()) as world, Stopper(world, signals, None, 0.0) as stopper:
        print(stopper.after_step().stop.words)
"""


def test_a_signal_that_comes_during_the_start_is_kept() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as job:
        assert job.stdin is not None and job.stdout is not None
        assert job.stdout.readline() == "listening\n", "neither MPI nor NumPy so early"
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
        out, _ = job.communicate("go\n", timeout=60)
    assert out == WARNED.words + "\n" and job.returncode == 0


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def alone() -> Any:
    return SimpleNamespace(size=1, rank=0)


def steps_until_time(left_s: float, margin_s: float, steps_s: list[float]) -> int | None:
    """Number of steps after which one rank leaves for lack of time."""
    clock = Clock()
    with Stopper(alone(), Signals(), left_s, margin_s, clock) as stopper:
        for number, step_s in enumerate(steps_s, 1):
            clock.now_s += step_s
            if stopper.after_step().stop is TIME:
                return number
    return None


def test_a_run_leaves_before_its_time_is_up() -> None:
    # 100 s, of which 10 are for leaving; a step of 2 s may be followed by another before the others know.
    assert steps_until_time(100.0, 10.0, [2.0] * 60) == 43  # 86 + 2 * 2 >= 90
    # One long step, and all that follow might be as long.
    assert steps_until_time(100.0, 10.0, [2.0, 20.0, *[2.0] * 60]) == 16  # 50 + 2 * 20 >= 90
    # A margin that is longer than the job leaves three quarters of it.
    assert steps_until_time(100.0, 1000.0, [1.0] * 100) == 73  # 73 + 2 >= 75
    assert steps_until_time(-5.0, 10.0, [1.0]) == 1


def test_a_single_rank_answers_at_once() -> None:
    signals = Signals()
    with Stopper(alone(), signals, None, 10.0) as stopper:
        assert stopper.after_step() == (None, False)
        assert stopper.after_step(save=True) == (None, True)
        assert stopper.after_step(save=True) == (None, True)
        assert stopper.after_step() == (None, False)
        signals.told.add(WARNED)
        assert stopper.after_step() == (WARNED, False)
        signals.told.add(TERMINATED)
        assert stopper.after_step(save=True) == (TERMINATED, True)


def test_a_job_that_is_being_ended_does_not_ask_to_come_back() -> None:
    assert REASONS[-1] is TERMINATED
    assert (TIME.exit_code, WARNED.exit_code, TERMINATED.exit_code) == (REQUEUE_CODE, REQUEUE_CODE, 143)


@pytest.mark.ranks(1, 2, 3, 4)
def test_all_ranks_leave_after_the_same_step(comm: Any, sample_seed: int) -> None:
    """Signals reach random ranks in random steps; rank 0 alone knows the time."""
    rng = random.Random(f"{sample_seed} {comm.size}")  # the same draws on every rank
    later = 0 if comm.size == 1 else 1
    with World(comm) as world:
        for _ in range(10):
            told = {reason: (rng.randrange(8), rng.randrange(comm.size)) for reason in (WARNED, TERMINATED)}
            first = min(step for step, _ in told.values())
            expected = TERMINATED if told[TERMINATED][0] == first else WARNED
            signals = Signals()
            with Stopper(world, signals, None, 0.0) as stopper:
                stop, step = None, -1
                while stop is None:
                    step += 1
                    signals.told |= {why for why, (at, on) in told.items() if (at, on) == (step, comm.rank)}
                    if rng.random() < 0.3:
                        time.sleep(rng.random() * 0.002 * comm.rank)  # ranks are not in step
                    stop, _ = stopper.after_step()
            seen = comm.allgather((step, stop))
            assert set(seen) == {(first + later, expected)}, (told, seen)


@pytest.mark.ranks(1, 2, 3)
def test_all_ranks_save_after_the_same_step(comm: Any) -> None:
    """Rank 0's clock decides; what it says twice, because the verdict is on its way, counts once."""
    later = 0 if comm.size == 1 else 1
    with World(comm) as world, Stopper(world, Signals(), None, 0.0) as stopper:
        saved, due = [], [3, 4, 9, 14]  # in steps; the one at 4 comes while that of 3 is not yet known
        for step in range(20):
            # As the loop of a run has it: it is time until a checkpoint has been made.
            say = bool(due) and step >= due[0] and comm.rank == 0
            if stopper.after_step(say).save:
                saved.append(step)
                due = [at for at in due if at > step]
        assert set(comm.allgather(tuple(saved))) == {
            tuple(at + later for at in ((3, 4, 9, 14), (3, 9, 14))[later])
        }


@pytest.mark.ranks(2, 3)
def test_the_time_of_rank_0_is_everybodys(comm: Any) -> None:
    clock = Clock()
    clock.now_s = 1e6 * comm.rank  # clocks of nodes know nothing of each other
    left_s = 100.0 if comm.rank == 0 else None
    with World(comm) as world, Stopper(world, Signals(), left_s, 10.0, clock) as stopper:
        step, stop = 0, None
        while stop is None:
            step, clock.now_s = step + 1, clock.now_s + 2.0
            stop = stopper.after_step().stop
    assert set(comm.allgather((step, stop))) == {(44, TIME)}  # known to rank 0 after 43, to all after 44


def test_the_house_keeps_signals_out_of_other_files() -> None:
    """One place listens: a second handler would silently replace the first."""
    users = [
        path.name
        for path in Path(ROOT, "gridnn").rglob("*.py")
        if "signal.signal(" in path.read_text(encoding="utf-8")
    ]
    assert users == ["batch.py"]
