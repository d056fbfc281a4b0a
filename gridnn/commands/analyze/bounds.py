"""``gridnn analyze bounds``: what each layer moves beside the least that any algorithm must."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from gridnn.commands.analyze.words import (
    add_answer,
    add_grid,
    add_procs,
    add_study,
    answer,
    parser,
    plan_of,
    study_of,
)
from gridnn.commands.words import Say

_EXAMPLES = """\
  gridnn analyze bounds alexnet --batch 2048 --procs 512                        batch parallel
  gridnn analyze bounds vgg16 --batch 256 --procs 64 --grid "k8 n8"             one grid for every layer
  gridnn analyze bounds resnet50 --batch 256 --procs 16 --grid dynamic --json   what the planner finds
  gridnn analyze bounds alexnet --batch 256 --procs 16 --memory 0.05            ranks with 50 MB each
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Compare the traffic of a plan with communication lower bounds, layer by layer."""
    words = parser(
        "bounds", "What each weighted layer moves in a step, beside the least that must be moved.", _EXAMPLES
    )
    add_study(words)
    add_procs(words)
    add_grid(words)
    words.add_argument(
        "--memory", type=_gigabytes, metavar="GB",
        help="memory of a rank in units of 10^9 bytes, for the bound that follows from it; left out, the machine's",
    )  # fmt: skip
    add_answer(words, charts=False)
    arguments = words.parse_args(argv)
    from gridnn.analysis.bounds import bounds

    job = study_of(arguments).job(arguments.procs)
    schemes, name = plan_of(arguments, job)
    table = bounds(job, schemes, arguments.memory)
    answer(say, arguments, [table], more={"network": job.network.name, "batch": job.batch, "procs": job.procs,
                                          "machine": job.machine.name, "plan": name})  # fmt: skip


def _gigabytes(text: str) -> int:
    """Read a size in 10^9 bytes."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in GB above 0, such as 16 or 0.5")
    return round(size * 1e9)
