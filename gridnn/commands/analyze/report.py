"""``gridnn analyze report``: one page of everything, to send to a colleague."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from gridnn.commands.analyze.words import (
    add_grid,
    add_procs,
    add_study,
    check_pictures,
    parser,
    plan_of,
    several,
    study_of,
)
from gridnn.commands.words import Say, add_json, check_target, write_whole

_EXAMPLES = """\
  gridnn analyze report alexnet --batch 2048 --procs 512 --machine cori-knl -o alexnet.html
  gridnn analyze report vgg16 -b 512 -p 64 -m h100 --grid owt -o vgg16.html   another plan than the fastest
  gridnn analyze report model.onnx -b 256 -p 16 -o page.html --svg page.svg   its charts for a paper, too
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Write the page, and its charts if asked to."""
    words = parser(
        "report", "Write one page: grids, scaling, sensitivity, layers, bounds, a step.", _EXAMPLES
    )
    add_study(words)
    add_procs(words)
    add_grid(words, "dynamic")
    words.add_argument(
        "--range", type=several, default=(), metavar="P-P|P,P,...",
        help="processes of the scaling study; left out, halves and doublings of --procs from 8 to 4096",
    )  # fmt: skip
    words.add_argument("--output", "-o", required=True, metavar="FILE.html", help="where the page goes")
    words.add_argument("--svg", metavar="FILE.svg", help="draw its charts")
    words.add_argument("--png", metavar="FILE.png", help="draw its charts")
    add_json(words)
    arguments = words.parse_args(argv)
    from gridnn.analysis.report.contents import contents
    from gridnn.analysis.report.page import check_report, page
    from gridnn.analysis.several import cores

    check_target(arguments.output)
    check_pictures(arguments)
    check_report()
    study = study_of(arguments)
    plan = None
    if arguments.plan:
        schemes, name = plan_of(arguments, study.job(arguments.procs))
        plan = name, schemes
    found = contents(
        study, arguments.procs, arguments.grid, plan=plan, over=arguments.range,
        command="gridnn analyze report " + " ".join(map(shlex.quote, argv)), workers=min(4, cores()),
    )  # fmt: skip
    write_whole(arguments.output, page(found))
    pictures = [path for path in (arguments.svg, arguments.png) if path]
    if pictures:
        from gridnn.analysis.draw import draw

        for path in pictures:
            write_whole(path, draw([chart for _, chart in found.charts()], path.rsplit(".", 1)[-1].lower()))
    if arguments.json:
        say(json.dumps(found.data(), indent=2, allow_nan=False))
        return
    for sentence in found.answers:
        say(sentence)
    say(f"\npage written to {arguments.output}")
    for path in pictures:
        say(f"picture written to {path}")
