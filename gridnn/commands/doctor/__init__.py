"""``gridnn doctor``: what a run would find here, what it would use, and what would make it fail.

    every rank   ask       a process of its own starts MPI, asks it, and measures (`gridnn.comm.probe`)
                 judge     what is wrong, what is odd
    rank 0       words     lines, or one JSON object

The command itself starts no MPI and loads no library of a GPU, so it can say what became of a process that did.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import time
from collections.abc import Mapping, Sequence

from gridnn.commands.doctor.ask import LIMIT_S, Answer, ask
from gridnn.commands.doctor.judge import Verdict, judge
from gridnn.commands.doctor.words import cut_lines, lines
from gridnn.commands.words import Say, add_json, parser
from gridnn.train.guard import RANK_VARIABLES

FORMAT, VERSION = "gridnn-doctor", 1
WRONG_CODE = 1
_TRANSPORTS, _DEVICES = ("auto", "nccl", "staged", "cuda-mpi"), ("auto", "cpu", "gpu")
_FIRST_S = 1.0  # that rank 0 has to say what all ranks would say
_BEHIND_S = 5.0  # that it may come to the end of its patience behind the others
_EXAMPLES = """\
  gridnn doctor                                  this process alone
  mpiexec -n 4 gridnn doctor                     as mpiexec -n 4 gridnn train would find it
  srun -N 2 --ntasks-per-node=4 --mpi=pmi2 gridnn doctor --json
  mpiexec -n 2 gridnn doctor --device gpu --transport staged

exit codes:
  0  a run can start here; lines that begin with "note" are worth reading
  1  a run would fail: MPI does not start or does not see the other ranks, ranks have different versions
     of gridnn or MPI, the device or transport that was asked for cannot be had, or what a run would use fails
     when it is tried
  2  the command was not understood
"""


def main(argv: Sequence[str], say: Say, environment: Mapping[str, str]) -> int:
    """Ask, judge and say; returns the exit code.

    Parameters
    ----------
    environment
        Of this process: launchers and MPI libraries speak through it.
    """
    number = _number(environment)
    first = number == 0
    arguments = _parse(argv, quiet=not first)
    with ask(environment, arguments.transport, arguments.device, arguments.limit) as answer:
        if answer.died and not first:
            answer = answer._replace(error=f"rank {number}: {answer.error}")
        verdict = judge(answer)
        if answer.cut and answer.rank != 0:
            _wait_for_others(answer, None if arguments.json else say)
        elif _speaks(answer, first):
            for line in [_json(answer, verdict)] if arguments.json else lines(answer, verdict):
                say(line)
    return WRONG_CODE if verdict.problems else 0


def _speaks(answer: Answer, first: bool) -> bool:
    """Return whether this rank says what it has; `first` is rank 0 as the launcher counts."""
    if answer.report is not None:
        return answer.rank == 0
    if answer.rank is None and not first:
        # What one rank meets mostly all meet, and then rank 0 tells it for them: launchers end the rest meanwhile.
        # (One that dies alone before MPI knows it keeps the others waiting, for as long as the limit says.)
        time.sleep(_FIRST_S)
    # A failure of one rank is known to that rank only; what all meet together rank 0 tells.
    return first or answer.died or (answer.rank is not None and answer.facts is None)


def _wait_for_others(answer: Answer, say: Say | None) -> None:
    """Leave the report to rank 0, say what only this rank knows, and stay: launchers end all ranks when one is gone.

    Where the process of this rank died in an attempt that of rank 0 waits for it, until its time is over.
    """
    time.sleep(_FIRST_S)  # in which rank 0 speaks, and all are ended, where its process met the same
    if answer.died and say is not None:
        for line in cut_lines(answer):
            say(line)
    time.sleep(answer.others_s if answer.died else _BEHIND_S)


def _json(answer: Answer, verdict: Verdict) -> str:
    alone = {"ranks": [answer.facts] if answer.facts else [], "links": [], "use": None}
    report = answer.report or alone | {"tried": {}, "device_links": []}
    found = {"format": FORMAT, "version": VERSION, "ok": not verdict.problems, **verdict._asdict(), **report}
    return json.dumps(found, indent=1)


def _number(environment: Mapping[str, str]) -> int:
    """Return the number of this rank as the launcher has it, 0 without one."""
    said = (environment.get(name, "") for name in RANK_VARIABLES)
    return int(next((word for word in said if word.isdecimal()), "0"))


def _parse(argv: Sequence[str], quiet: bool) -> argparse.Namespace:
    """Read the command line; help and mistakes are told by one rank."""
    words = parser(
        "doctor",
        "Say what a run would find: ranks and where they are, cores, memory, MPI and whether it takes memory of GPUs, "
        "GPUs and NCCL, latency and bandwidth between neighbouring ranks; what it would use, what of that works when "
        "it is tried, and what is wrong.",
        _EXAMPLES,
    )
    add = words.add_argument
    add("--transport", choices=_TRANSPORTS, default="auto", help="how arrays of GPUs are to travel (auto)")
    add("--device", choices=_DEVICES, default="auto", help="where arrays are to live (auto)")
    add(
        "--limit", type=_seconds, default=LIMIT_S, metavar="S",
        help=f"seconds after which no answer is an answer ({LIMIT_S:g})",
    )  # fmt: skip
    add_json(words)
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return words.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
