"""``gridnn analyze paper``: figures of Gholami et al. 2018 recomputed, and the traffic of Jia et al. 2018."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gridnn.commands.analyze.words import add_answer, answer, check_pictures, parser, whole
from gridnn.commands.words import Say
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.analysis.chart import Chart

_EXAMPLES = """\
  gridnn analyze paper --figure 7                     bars of Fig. 7, panel by panel
  gridnn analyze paper --figure 6 --variant literal   by the equations as printed
  gridnn analyze paper --figure 10 --json             for programs
  gridnn analyze paper --figure 9 --svg fig9.svg
  gridnn analyze paper --optcnn                       bytes of data, model and one-weird-trick parallelism"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer the question.

    Raises
    ------
    InputError
        If there is no such figure or variant, or a picture cannot be drawn or written.
    """
    found = parser("paper", "Recompute the figures of two papers.", _EXAMPLES)
    which = found.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--figure", type=whole, metavar="N", help="figure of Gholami et al. 2018: 6, 7, 8, 9 or 10"
    )
    which.add_argument("--optcnn", action="store_true",
                       help="traffic of the baselines of Jia et al. 2018: AlexNet, VGG-16, Inception-v3")  # fmt: skip
    found.add_argument("--variant", metavar="as-used|literal",
                       help="what the figures were drawn with, or the equations; left out, as-used")  # fmt: skip
    add_answer(found)
    arguments = found.parse_args(argv)
    if arguments.optcnn and arguments.variant:
        raise InputError("--variant is of the figures of Gholami et al.; leave it out with --optcnn")
    check_pictures(arguments)

    from gridnn.analysis import paper as of

    charts: tuple[Chart, ...]
    if arguments.optcnn:
        table, head = of.optcnn(), {}
        shown, charts = of.optcnn_panels(table), of.optcnn_charts(table)
    else:
        variant = arguments.variant or "as-used"
        table, head = of.paper(arguments.figure, variant), {"figure": arguments.figure, "variant": variant}
        shown, charts = of.panels(table), of.paper_charts(table)
    if not arguments.json:
        answer(say, arguments, [table] if arguments.csv else shown, charts)
        return
    try:
        answer(lambda _: None, arguments, [table], charts)  # the pictures
    finally:
        say(json.dumps({**head, "bars": table.records()}, indent=2, allow_nan=False))
