"""The command ``gridnn``: one word for each thing it does.

| word                          | who does it                   | needs                         |
|-------------------------------|-------------------------------|-------------------------------|
| plan explain simulate diff    | `gridnn.commands`             | neither MPI nor kernels       |
| analyze                       | `gridnn.commands.analyze`     | the same                      |
| checkpoint                    | `gridnn.commands.checkpoint`  | the same                      |
| launch                        | `gridnn.commands.launch`      | mpiexec, which it starts      |
| doctor                        | `gridnn.commands.doctor`      | nothing: it says what is here |
| train calibrate               | `gridnn.train`                | MPI: all ranks run the word   |
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from gridnn import __version__
from gridnn.errors import GridnnError

COMMANDS = {
    "plan": "find the best grid for every layer",
    "explain": "why a plan is as it is, and a picture of it",
    "simulate": "what a plan costs, without a search; a timeline of its step",
    "diff": "what differs between two plans",
    "analyze": "which grid, what it costs, how far it scales, was it right: tables, pictures, a page",
    "checkpoint": "what a checkpoint holds, whether it is whole, its weights for others",
    "doctor": "what a run would find and use here, and what is wrong",
    "calibrate": "measure this machine",
    "train": "train a network by a plan",
    "launch": "train on some ranks, start again on those that are left when one is lost",
}
UNDER_MPI = {"train": "gridnn.train.launch", "calibrate": "gridnn.train.calibrate.run"}

_EPILOG = "\n".join(
    [
        "commands:",
        *(f"  {word:10} {what}" for word, what in COMMANDS.items()),
        "",
        "examples:",
        "  gridnn plan resnet50 --procs 64 --batch 2048 --machine h100 -o plan.json",
        "  gridnn explain plan.json --svg plan.svg",
        "  gridnn analyze scaling alexnet --batch 2048 --procs 8-4096",
        '  mpiexec -n 4 gridnn train --plan "n2 k2"',
        "  gridnn launch -n 4 job.toml --run-dir runs/job",
        "  mpiexec -n 4 gridnn doctor",
        "  gridnn plan --help                        everything a command can do",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="gridnn", description="Plan, run and explain parallel training of neural networks.",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"gridnn {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="command", help="one of those below")
    words = list(sys.argv[1:] if argv is None else argv)
    command = str(parser.parse_args(words[:1] or ["--help"]).command)
    # Imported after the parser and by name: who plans needs no MPI, who asks for help nothing at all.
    if command in UNDER_MPI:
        return int(import_module(UNDER_MPI[command]).main(words[1:]))
    try:
        door = (os.environ,) if command == "doctor" else ()  # where launchers and libraries have their say
        code = import_module(f"gridnn.commands.{command}").main(words[1:], _say, *door)
        sys.stdout.flush()
    except GridnnError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `gridnn plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(code or 0)


def _say(text: str) -> None:
    print(text, flush=True)  # what is said stands before what a started program says


if __name__ == "__main__":
    sys.exit(main())
