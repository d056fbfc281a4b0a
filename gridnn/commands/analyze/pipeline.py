"""``gridnn analyze pipeline``: stages that work at the same time, by schedule and number of stages."""

from __future__ import annotations

from collections.abc import Sequence

from gridnn.commands.analyze.scaling import names
from gridnn.commands.analyze.words import (
    add_answer,
    add_procs,
    add_study,
    answer,
    check_pictures,
    parser,
    several,
    study_of,
)
from gridnn.commands.words import Say

_EXAMPLES = """\
  gridnn analyze pipeline alexnet --batch 256 --procs 8 --machine h100
  gridnn analyze pipeline vgg16 -b 256 -p 16 --stages 2,4 --schedules gpipe,1f1b --passes 8 --picture
  gridnn analyze pipeline resnet50 -b 256 -p 8 -m h100 --passes 4 --csv          batch norm: say how many passes
  gridnn analyze pipeline alexnet -b 256 -p 8 -m h100 --svg pipeline.svg
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer with a row for each schedule and number of stages."""
    words = parser(
        "pipeline", "Stages that work at the same time, by schedule and number of stages.", _EXAMPLES
    )
    add_study(words)
    add_procs(words)
    add = words.add_argument
    add("--stages", type=several, default=(), metavar="K|K-K|K,K",
        help="numbers of stages; left out, 2, 4 and 8 as far as network and processes go")  # fmt: skip
    add("--schedules", type=names, metavar="A,B",
        help="some of sequential, gpipe, 1f1b, local, delayed replay, delayed stash; left out, all")  # fmt: skip
    add("--picture", action="store_true",
        help="show, in text, when each stage of the fastest pipeline works")  # fmt: skip
    add_answer(words)
    arguments = words.parse_args(argv)
    from gridnn.analysis.pipeline import (
        NAMES,
        fastest,
        pipeline_chart,
        pipeline_lanes,
        pipeline_table,
        pipelines,
    )
    from gridnn.plan.pipeline.picture import picture

    check_pictures(arguments)
    job = study_of(arguments).job(arguments.procs)
    rows, refused = pipelines(job, arguments.schedules or NAMES, arguments.stages)
    table = pipeline_table(job, rows, refused)
    answer(say, arguments, [table], (pipeline_chart(table), pipeline_lanes(fastest(rows))))
    if arguments.picture and not (arguments.json or arguments.csv):
        for line in ("", *picture(fastest(rows).timeline)):
            say(line)
