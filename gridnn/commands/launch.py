"""``gridnn launch``: train on some ranks, and start again on those that are left when one is lost.

| the job ended with             | what it means                             | what follows                            |
|--------------------------------|-------------------------------------------|-----------------------------------------|
| 0, of all ranks                | done                                      | 0                                       |
| 2, 3, 4                        | wrong input, or it cannot go on: it said  | the same code                           |
| 85                             | saved, and wants to be started again      | again, with as many ranks               |
| 1                              | a rank failed with an error               | again, with as many ranks               |
| 3 of a watchdog, anything else | a rank hangs, or was killed               | again, with a rank less, or those of    |
|                                |                                           | hosts that no longer answer             |
| any, after a signal passed on  | somebody wants it to end                  | the same code                           |

Every start resumes from the newest checkpoint.  Starts in a row that end without a new one are counted, and after some
it gives up.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gridnn.commands.mpiexec import Ended, find_mpiexec, mpiexec_words, run
from gridnn.commands.words import Say, parser
from gridnn.errors import InputError
from gridnn.train.checkpoint.folders import CHECKPOINTS, step_of, steps_in

REQUEUE_CODE, STUCK_CODE = 85, 3
_FINAL = (0, 2, 4, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_PROBE_S = 15.0  # that a host has to start a program
_EXAMPLES = """\
  gridnn launch -n 4 job.toml --run-dir runs/job
  gridnn launch -n 8 --hosts a:4,b:4 --min-ranks 4 --run-dir runs/job -- job.toml --set train.batch=256
"""
Runner = Callable[[Sequence[str]], Ended]


@dataclass(frozen=True)
class Fate:
    """What the end of a job means."""

    words: str
    final: bool = False
    lost: bool = False
    host: str | None = None
    """Of the rank that was lost, where its guard said so."""


def main(argv: Sequence[str], say: Say, runner: Runner = run) -> int:
    """Train, and start again as long as that helps; returns the exit code of the last job."""
    options, train = _split(argv)
    if options.n < 1 or not 1 <= options.min_ranks <= options.n:
        raise InputError(
            f"-n {options.n} --min-ranks {options.min_ranks}: give at least 1 rank, and no more than -n as the least"
        )
    if options.restarts < 0:
        raise InputError(
            f"--restarts {options.restarts}: give 0, or how often a start without progress is repeated"
        )
    mpiexec = find_mpiexec(options.mpiexec)
    slots = _slots(options.hosts, options.n)
    folder, made = _run_dir(train)
    if made:
        train = [*train, "--run-dir", str(folder)]
        say(f"run folder: {folder}")
    program = (
        shlex.split(options.program) if options.program else [sys.executable, "-m", "gridnn.train.guard"]
    )
    ranks, vain, newest, first = options.n, 0, _newest(folder), True
    while True:
        words = [*program, *train]
        words += [] if first and any(w.split("=")[0] == "--resume" for w in train) else ["--resume", "auto"]
        words += [] if ranks == options.n else ["--plan", "auto"]  # the given plan was for another number
        ended = runner([*mpiexec_words(mpiexec, ranks, slots), *words])
        fate, first = judge(ended, ranks), False
        if fate.final:
            return _exit_code(ended.code)
        reached = _newest(folder)
        vain, newest = (0 if reached > newest else vain + 1), reached
        if vain > options.restarts:
            say(f"{fate.words}; given up: {vain} starts in a row ended without a new checkpoint (--restarts)")
            return _failed_code(ended.code)
        if fate.lost:
            slots, ranks, gone = _left(mpiexec, slots, ranks, fate.host)
            if ranks < options.min_ranks:
                say(
                    f"{fate.words}{gone}; given up: {ranks} ranks are left, --min-ranks is {options.min_ranks}"
                )
                return _failed_code(ended.code)
            fate = Fate(fate.words + gone)
        since = f"step {newest}" if newest >= 0 else "the start, there is no checkpoint"
        say(f"{fate.words}; starting again on {ranks} rank{'s' * (ranks > 1)} from {since}")


def judge(ended: Ended, ranks: int) -> Fate:
    """Return what the end of a job of some ranks means."""
    # MPICH's mpiexec may end with 0 after a rank that left with 0 while others went on, and were ended.
    alone = ended.code == 0 and 0 < len(ended.left) < ranks
    if ended.told or (ended.code in _FINAL and not alone):
        return Fate("", final=True)
    if ended.code == REQUEUE_CODE:
        return Fate("the run saved and wants to go on")
    if ended.stuck:
        return Fate(f"the run was stuck ({ended.stuck})", lost=True)
    if ended.code == STUCK_CODE:
        return Fate("", final=True)
    if ended.code == 1:
        return Fate("a rank failed with an error")
    if not ended.left:
        return Fate(f"mpiexec ended with {ended.code}", lost=True)
    first = ended.left[0]  # its guard spoke before the launcher ended the others
    if first.status < 0:
        name = (
            signal.Signals(-first.status).name
            if -first.status in set(signal.Signals)
            else f"signal {-first.status}"
        )
        how = f"was killed by {name}"
    else:
        how = f"left with exit code {first.status} before the run had ended"
    return Fate(f"rank {first.rank} on host {first.host} {how}", lost=True, host=first.host)


def _split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the words for training."""
    words = parser(
        "launch",
        "Train on some ranks; when one is lost, start again on those that are left, from the newest checkpoint.  "
        "What this command does not know, and all after --, goes to python -m gridnn.train.",
        _EXAMPLES,
    )
    words.usage = "gridnn launch -n N [options] [--] [what python -m gridnn.train takes]"
    add = words.add_argument
    add("-n", type=int, required=True, metavar="N", help="ranks to start with")
    add("--min-ranks", type=int, default=1, metavar="N", help="give up with fewer (1)")
    add(
        "--restarts",
        type=int,
        default=3,
        metavar="N",
        help="give up after so many without a new checkpoint (3)",
    )
    add("--hosts", metavar="A[:N],B[:N],...", help="hosts, and ranks of each; left out, what mpiexec takes")
    add("--mpiexec", metavar="PATH", help="left out, the one beside this Python, else the one on PATH")
    add("--program", help=argparse.SUPPRESS)
    given = list(argv)
    at = given.index("--") if "--" in given else len(given)
    options, rest = words.parse_known_args(given[:at])
    return options, [*rest, *given[at + 1 :]]


def _run_dir(train: Sequence[str]) -> tuple[Path, bool]:
    """Return the folder of the run, and whether its name was made up here."""
    for at, word in enumerate(train):
        name, equals, value = word.partition("=")
        if name == "--run-dir" and (equals or at + 1 < len(train)):
            return Path(value if equals else train[at + 1]), False
    start = f"runs/launch-{datetime.now():%Y%m%d-%H%M%S}"
    numbered = (Path(start if number == 1 else f"{start}-{number}") for number in range(1, 1000))
    return next(path for path in numbered if not path.exists()), True


def _newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, -1 if there is none."""
    return next((step for path in steps_in(folder / CHECKPOINTS) if (step := step_of(path)) is not None), -1)


def _slots(hosts: str | None, ranks: int) -> dict[str, int]:
    """Return how many ranks each host takes; empty where no host was named."""
    if hosts is None:
        return {}
    named = [word.partition(":") for word in hosts.split(",")]
    counted = {host: int(count) for host, _, count in named if count.isdigit()}
    names = [host for host, _, _ in named]
    if not all(names) or (counted and (sum(counted.values()) != ranks or set(counted) != set(names))):
        raise InputError(
            f"--hosts {hosts}: give each host its number of ranks, {ranks} together, or none of them"
        )
    if len(set(names)) != len(names) or any(count and not count.isdigit() for _, _, count in named):
        raise InputError(f"--hosts {hosts}: name each host once, as A or A:4")
    return counted or {host: ranks // len(names) + (i < ranks % len(names)) for i, host in enumerate(names)}


def _left(
    mpiexec: str, slots: dict[str, int], ranks: int, host: str | None
) -> tuple[dict[str, int], int, str]:
    """Return the hosts and ranks that are left, and words about hosts that are not."""
    dead = _silent_hosts(mpiexec, [host for host, count in slots.items() if count])
    if dead:
        slots = {name: 0 if name in dead else count for name, count in slots.items()}
        return slots, sum(slots.values()), f"; no answer from host{'s' * (len(dead) > 1)} {', '.join(dead)}"
    if slots:  # all answer: the rank may have met what its host is short of
        name = host if slots.get(host or "") else max(slots, key=lambda each: slots[each])
        slots = slots | {str(name): slots[str(name)] - 1}
    return slots, ranks - 1, ""


def _silent_hosts(mpiexec: str, hosts: Sequence[str]) -> list[str]:
    """Return the hosts on which mpiexec can start nothing."""

    def answers(host: str) -> bool:
        command = [*mpiexec_words(mpiexec, 1, {host: 1}), "true"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    if not hosts:
        return []
    with ThreadPoolExecutor(len(hosts)) as pool:
        return [host for host, good in zip(hosts, pool.map(answers, hosts), strict=True) if not good]


def _exit_code(code: int) -> int:
    """Return the code of a job as one of this process: a launcher killed by a signal has one below 0."""
    return code if code >= 0 else 128 - code


def _failed_code(code: int) -> int:
    """Return the code of a job that did not reach its end, whatever its launcher made of it."""
    return _exit_code(code) or 1
