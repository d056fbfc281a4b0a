"""`gridnn launch`: what follows which end of a job, with a stand-in for the job; mpiexec only where it matters.

That a real run goes on after it lost a rank is told in test_faults.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from gridnn.commands import launch
from gridnn.commands.launch import judge, main
from gridnn.commands.mpiexec import Ended, find_mpiexec, mpiexec_words, run
from gridnn.errors import InputError
from gridnn.train.guard import Left, read_line
from tests.support.launch import environment

KILLED = Ended(9, (Left(2, "b", -9), Left(0, "a", -15)))
STUCK = Ended(3, (Left(0, "a", 3),), "cause: rank 1 does not answer")
DONE = Ended(0)


class Job:
    """A stand-in for mpiexec: it ends as it is told, and keeps what it was asked for."""

    def __init__(self, ends: Iterable[Ended], before: Callable[[int], None] = lambda _: None) -> None:
        self.ends, self.before = list(ends), before
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Ended:
        self.before(len(self.asked))
        self.asked.append(list(command))
        return self.ends[len(self.asked) - 1]

    @property
    def ranks(self) -> list[int]:
        return [int(words[words.index("-n") + 1]) for words in self.asked]


def started(job: Job, *words: str) -> tuple[int, list[str]]:
    """The exit code of a launch, and what it said."""
    said: list[str] = []
    return main(words, said.append, job), said


@pytest.mark.parametrize(
    ("ended", "words", "final", "lost"),
    [
        (DONE, "", True, False),
        (Ended(2), "", True, False),
        (Ended(3), "", True, False),  # a loss that is not finite: it would be so again
        (Ended(4), "", True, False),
        (Ended(143), "", True, False),
        (Ended(85, told=(signal.SIGUSR1,)), "", True, False),
        (Ended(9, told=(signal.SIGTERM,)), "", True, False),
        (Ended(85), "the run saved and wants to go on", False, False),
        (Ended(1, (Left(2, "b", 1),)), "a rank failed with an error", False, False),
        (STUCK, "the run was stuck (cause: rank 1 does not answer)", False, True),
        (KILLED, "rank 2 on host b was killed by SIGKILL", False, True),
        (
            Ended(9, (Left(1, "a", 0),)),
            "rank 1 on host a left with exit code 0 before the run had ended",
            False,
            True,
        ),
        (  # as mpiexec has it where the one that left is noticed before those that are ended
            Ended(0, (Left(1, "a", 0),)),
            "rank 1 on host a left with exit code 0 before the run had ended",
            False,
            True,
        ),
        (Ended(0, (Left(1, "a", 0), Left(0, "a", 0))), "", True, False),
        (Ended(-9), "mpiexec ended with -9", False, True),
    ],
)
def test_what_an_end_means(ended: Ended, words: str, final: bool, lost: bool) -> None:
    fate = judge(ended, 2)
    assert (fate.words, fate.final, fate.lost) == (words, final, lost)


def test_a_lost_rank_is_left_out_and_the_plan_made_again(tmp_path: Path) -> None:
    job = Job([KILLED, Ended(85), Ended(1), STUCK, DONE])
    code, said = started(
        job, "-n", "4", "--restarts", "9", "job.toml", "--plan", "n4", "--run-dir", str(tmp_path)
    )
    assert code == 0 and job.ranks == [4, 3, 3, 3, 2]
    assert all(
        words[words.index("-m") + 1] == "gridnn.train.guard" and "job.toml" in words for words in job.asked
    )
    assert all(
        words.count("--resume") == 1 and words[words.index("--resume") + 1] == "auto" for words in job.asked
    )
    plans = [[words[i + 1] for i, word in enumerate(words) if word == "--plan"] for words in job.asked]
    assert plans == [["n4"], *[["n4", "auto"]] * 4]
    assert len(said) == 4 and said[0] == (
        "rank 2 on host b was killed by SIGKILL; starting again on 3 ranks from the start, there is no checkpoint"
    )


def test_it_gives_up_without_progress_and_not_with_it(tmp_path: Path) -> None:
    words = ("-n", "2", "--restarts", "2", "--run-dir", str(tmp_path))
    job = Job([Ended(1)] * 9)
    code, said = started(job, *words)
    assert (code, len(job.asked)) == (1, 3) and "given up: 3 starts" in said[-1]

    def save(start: int) -> None:
        if start % 2:
            (tmp_path / "checkpoints" / f"step-{start:08d}").mkdir(parents=True)

    job = Job([Ended(1)] * 8 + [DONE], save)
    code, said = started(job, *words)
    assert (code, len(job.asked)) == (0, 9) and said[-1].endswith("from step 7")


def test_it_stops_at_the_least_number_of_ranks(tmp_path: Path) -> None:
    job = Job([KILLED] * 9)
    code, said = started(job, "-n", "3", "--min-ranks", "2", "--restarts", "9", "--run-dir", str(tmp_path))
    assert (code, job.ranks) == (9, [3, 2]) and said[-1].endswith("1 ranks are left, --min-ranks is 2")


def test_a_run_that_did_not_reach_its_end_is_never_said_to_have(tmp_path: Path) -> None:
    job = Job([Ended(0, (Left(1, "a", 0),))])
    code, said = started(job, "-n", "3", "--restarts", "0", "--run-dir", str(tmp_path))
    assert code == 1 and "rank 1 on host a left with exit code 0" in said[-1]


def test_ranks_of_a_silent_host_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_silent_hosts", lambda _, hosts: ["b"] if "b" in hosts else [])
    job = Job([STUCK, KILLED, DONE])
    code, said = started(job, "-n", "5", "--hosts", "a:3,b:2", "--run-dir", str(tmp_path))
    assert (code, job.ranks) == (0, [5, 3, 2]) and "no answer from host b" in said[0]
    assert [words[words.index("-n") - 1] for words in job.asked] == ["a:3,b:2", "a:3", "a:2"]


def test_a_folder_is_made_up_once_and_the_first_resume_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job([Ended(85), DONE])
    code, said = started(job, "-n", "1", "--", "--resume", "old/step-00000007", "--set", "train.lr=1")
    folders = [words[words.index("--run-dir") + 1] for words in job.asked]
    assert code == 0 and folders[0] == folders[1] == said[0].removeprefix("run folder: ")
    assert [words[-1] for words in job.asked] == [folders[0], "auto"] and "old/step-00000007" in job.asked[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-n", "0"), "at least 1 rank"),
        (("-n", "2", "--min-ranks", "3"), "no more than -n"),
        (("-n", "2", "--restarts", "-1"), "--restarts -1"),
        (("-n", "2", "--hosts", "a:1,b:2"), "2 together"),
        (("-n", "2", "--hosts", "a,,b"), "number of ranks"),
        (("-n", "2", "--hosts", "a,a"), "each host once"),
        (("-n", "2", "--hosts", "a:x,b"), "A or A:4"),
        (("-n", "2", "--mpiexec", "no-such-mpiexec"), "no program no-such-mpiexec"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        started(Job([]), *words)


def test_a_guard_is_understood() -> None:
    assert read_line("gridnn guard: rank 12 on node-3.site left with -9\n") == Left(12, "node-3.site", -9)
    assert read_line("rank 12 left") is None


def ready_to_be_told(code: str, tmp_path: Path) -> list[str]:
    """A program that makes a file, then sleeps until a signal comes."""
    text = f"import pathlib, signal, sys, time\n{code}\npathlib.Path('ready').touch()\ntime.sleep(60)\n"
    (tmp_path / "program.py").write_text(text)
    return [sys.executable, str(tmp_path / "program.py")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 85), (signal.SIGTERM, 7)])
def test_signals_go_on_to_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = f"signal.signal({int(number)}, lambda *_: sys.exit({code}))"

    def tell() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell, daemon=True).start()
    ended = run(ready_to_be_told(handler, tmp_path))
    assert (ended.code, ended.told) == (code, (number,))
    assert judge(ended, 1).final


def test_what_a_job_says_is_passed_on_and_understood(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = ["=" * 40, "=   BAD TERMINATION OF", "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: x"]
    err = [
        "stuck: no step ended",
        "cause: rank 3 does not answer",
        "cause: rank 4 too",
        "gridnn guard: rank 1 on a left with 3",
    ]
    lines = [
        "import sys",
        f"print('a', 'b', *{noise}, sep='\\n')",
        f"print(*{err}, sep='\\n', file=sys.stderr)",
    ]
    (tmp_path / "talk.py").write_text("\n".join([*lines, "sys.exit(3)"]))
    ended = run([sys.executable, str(tmp_path / "talk.py")])
    assert ended == Ended(3, (Left(1, "a", 3),), "cause: rank 3 does not answer")
    out, told = capfd.readouterr()
    assert out.split() == ["a", "b"] and told.splitlines() == err[:3]


def test_a_guarded_rank_gives_its_exit_code_and_dies_with_its_guard(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\nfrom gridnn.train import guard, launch\n"
        "def main(argv):\n    print(os.getpid(), flush=True)\n    time.sleep(float(argv[0]))\n    return 85\n"
        "launch.main = main\nsys.exit(guard.main(sys.argv[1:]))\n"
    )
    (tmp_path / "guarded.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "guarded.py"), "0"], env=environment(1, {"PMI_RANK": "6"}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = read_line(done.stderr)
    assert done.returncode == 85 and left is not None and (left.rank, left.status) == (6, 85)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "guarded.py"), "60"],
        env=environment(1),
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdout is not None
        child = int(job.stdout.readline())
        job.kill()
    deadline_s = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_a_command_with_help() -> None:
    words = [sys.executable, "-m", "gridnn.cli", "launch"]
    helped = subprocess.run([*words, "--help"], capture_output=True, text=True, check=False)
    assert helped.returncode == 0 and "--min-ranks" in helped.stdout and "examples:" in helped.stdout
    wrong = subprocess.run([*words, "-n", "0"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr


def test_mpiexec_is_the_one_beside_this_python() -> None:
    words = mpiexec_words(find_mpiexec(), 3, {"a": 2, "b": 1, "c": 0})
    assert Path(words[0]).parent == Path(sys.executable).parent
    assert words[-2:] == ["-n", "3"] and words[-3] == "a:2,b:1"
