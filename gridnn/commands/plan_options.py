"""What `gridnn plan` is asked: its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from gridnn.commands.stages import SCHEDULES
from gridnn.commands.words import DEFAULT_MACHINE, add_dtype, add_json, add_network, parser

METHODS = ("dynamic", "uniform", "data", "model", "owt", "fc-only", "mcmc")

_EXAMPLES = """\
  gridnn plan vgg16 --procs 16 --batch 512 --machine p100-cluster
  gridnn plan resnet50 --procs 64 --batch 2048 --machine h100 --memory 80 -o plan.json
  gridnn plan resnet20 --procs 4 --batch 64 --pin conv1="h2 w2" --pin linear1="k4" -o plan.json
  gridnn plan model.onnx --procs 8 --batch 256 --machine mine.toml --json
  gridnn plan alexnet --procs 8 --batch 256 --schedule auto                  with or without stages, whatever is faster
  gridnn plan vgg16 --procs 8 --batch 256 --schedule 1f1b --stages 2 --groups 6,2 --passes 8
  mpiexec -n 4 python -m gridnn.train --plan plan.json
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    words = parser(
        "plan", "Find the best grid for every layer of a network, and say what that gains.", _EXAMPLES
    )
    add = words.add_argument
    add("network", metavar="NETWORK|FILE.onnx", help="a network of the zoo, or an ONNX file")
    add("--procs", "-p", type=int, required=True, metavar="P", help="processes")
    add("--batch", "-b", type=int, required=True, metavar="B", help="samples of a step, over all processes")
    add(
        "--machine", "-m", default=DEFAULT_MACHINE, metavar="NAME|FILE",
        help=f"a machine that comes with gridnn, or a .toml file of your own ({DEFAULT_MACHINE})",
    )  # fmt: skip
    add(
        "--method",
        choices=METHODS,
        default="dynamic",
        help="how to search, or which known plan to take (dynamic)",
    )
    add(
        "--pin",
        action="append",
        default=[],
        metavar="LAYER=GRID",
        help="fix a layer's grid; may be given again",
    )
    add(
        "--memory", type=_positive, metavar="GB", help="what a process has, in 10^9 bytes; left out, no limit"
    )
    add("--every", action="store_true", help="all sizes of axes up to P, not only powers of two or divisors")
    add(
        "--passes",
        type=_whole(1),
        default=1,
        metavar="N",
        help="forward and backward passes a batch is split into (1; of stages, without batch norm, what is fastest)",
    )
    add_dtype(words, "float32")
    words.set_defaults(dtype="float32")
    add_network(words)
    add(
        "--schedule",
        choices=SCHEDULES,
        help="stages that work at the same time, in this order; auto: only if that is faster; left out, no stages",
    )
    add(
        "--stages",
        metavar="K|L,L",
        help="how many stages, or the first layer of each; left out, what is fastest",
    )
    add("--groups", type=_numbers, metavar="N,N", help="processes of each stage; left out, what is fastest")
    add(
        "--form",
        choices=("replay", "stash"),
        help="delayed: go forward again with new weights (replay), or keep all there was (stash)",
    )
    add("--seed", type=_whole(0), metavar="N", help="mcmc: of the walk (0)")
    add("--proposals", type=_whole(0), metavar="N", help="mcmc: how many to make")
    add("--seconds", type=_positive, metavar="S", help="mcmc: how long to walk")
    add_json(words)
    add(
        "-o",
        "--output",
        metavar="FILE.json",
        help="write the plan, for gridnn.train --plan and gridnn explain",
    )
    return words.parse_args(argv)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 4,2,2")
    return tuple(map(int, parts))


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read
