"""All ranks leave, and save, after the same step, whoever was told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gridnn.comm.world import World
from gridnn.train.leave import REASONS, REQUEUE_CODE, TERMINATED, TIME, WARNED, Signals, Stopper
from tests.support.launch import ROOT


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
from gridnn.train.leave import Signals
with Signals() as signals:
    heavy = {"numpy", "mpi4py"} & set(sys.modules)
    print("listening", *heavy, flush=True)
    sys.stdin.readline()
    from gridnn.comm.world import World, world_comm
    from gridnn.train.leave import Stopper
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
