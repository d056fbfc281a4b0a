"""``gridnn analyze grids``: all Pr x Pc of one number of processes, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.commands.analyze.words import (
    add_answer,
    add_procs,
    add_study,
    answer,
    check_pictures,
    parser,
    study_of,
)
from gridnn.commands.words import Say

_EXAMPLES = """\
  gridnn analyze grids alexnet --batch 2048 --procs 512                    every layer on Pr x Pc
  gridnn analyze grids alexnet -b 2048 -p 512 --cut fc-only --svg bars.svg
  gridnn analyze grids alexnet -b 2048 -p 512 --source paper --json        Eq. 8 and 9 as printed
  gridnn analyze grids vgg16 -b 1000000 -p 1000000 --source paper --csv
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer with a row for every Pr x Pc."""
    words = parser("grids", "All Pr x Pc of one number of processes, side by side.", _EXAMPLES)
    add_study(words)
    add_procs(words)
    words.add_argument(
        "--cut", choices=("all", "fc-only"), default="all",
        help="who is on Pr x Pc: every layer, or fully connected ones, others by batch; left out, all",
    )  # fmt: skip
    words.add_argument(
        "--source", choices=("machine", "paper"), default="machine",
        help="communication by exact traffic on the machine, or by the equations as printed; left out, machine",
    )  # fmt: skip
    add_answer(words)
    arguments = words.parse_args(argv)
    from gridnn.analysis.grids import grids, grids_chart

    check_pictures(arguments)
    table = grids(study_of(arguments).job(arguments.procs), arguments.cut, arguments.source)
    answer(say, arguments, [table], [grids_chart(table)])
