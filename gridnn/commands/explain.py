"""``gridnn explain``: why the grids of a plan are as they are, and a picture of the network under them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gridnn.commands.show import finite
from gridnn.commands.words import Say, add_plan, check_target, parser, read_job, write_whole

_EXAMPLES = """\
  gridnn explain plan.json                                per layer: seconds, bytes, what came second
  gridnn explain plan.json --machine h100 --svg plan.svg  the same plan on another machine, and a picture
  gridnn explain runs/last/plan.json --json               what a run used
  gridnn explain plan.json --equations                    by the equations of Gholami et al. 2018 as printed
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Explain a plan file, and draw it if asked to."""
    words = parser(
        "explain",
        "Say why a plan is as it is, what came second, and when that would win.",
        _EXAMPLES,
    )
    add_plan(words)
    words.add_argument(
        "--every", action="store_true", help="look for the next best among all sizes of axes up to P"
    )
    words.add_argument(
        "--equations",
        action="store_true",
        help="price it by the equations of Gholami et al. 2018, beside its traffic",
    )
    words.add_argument("--svg", metavar="FILE.svg", help="draw the network with its grids")
    arguments = words.parse_args(argv)
    from gridnn.plan.explain.picture import picture
    from gridnn.plan.explain.tell import as_json, lines
    from gridnn.plan.explain.why import explain

    check_target(arguments.svg)
    job, plan = read_job(arguments.plan, arguments)
    if arguments.equations:
        from gridnn.plan.explain.equations import equation_lines

        for line in equation_lines(job, plan.schemes):
            say(line)
        return
    explanation = explain(job, plan.schemes, arguments.every)
    if arguments.svg:  # before the words: who reads only some of those closes the pipe
        write_whole(arguments.svg, picture(explanation))
    if arguments.json:
        say(json.dumps(finite(as_json(explanation)), indent=2, allow_nan=False))
    else:
        for line in lines(explanation):
            say(line)
    if arguments.svg and not arguments.json:
        say(f"\npicture written to {arguments.svg}")
