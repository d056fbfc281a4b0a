"""``gridnn explain``: why the grids of a plan are as they are, and a picture of the network under them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gridnn.commands.show import finite, table
from gridnn.commands.stages import stage_lines
from gridnn.commands.words import (
    Say,
    add_plan,
    check_target,
    mismatch_lines,
    parser,
    read_job,
    with_mismatch,
    write_whole,
)
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.plan.explain.stages import Staged
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job

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
    if plan.stages:
        _staged(job, plan, arguments, say)
        return
    if arguments.equations:
        from gridnn.plan.explain.equations import equation_lines

        for line in [*equation_lines(job, plan.schemes), *mismatch_lines(job, plan.dtype)]:
            say(line)
        return
    explanation = explain(job, plan.schemes, arguments.every)
    if arguments.svg:  # before the words: who reads only some of those closes the pipe
        write_whole(arguments.svg, picture(explanation))
    if arguments.json:
        values = with_mismatch(as_json(explanation), job, plan.dtype)
        say(json.dumps(finite(values), indent=2, allow_nan=False))
    else:
        for line in [*lines(explanation), *mismatch_lines(job, plan.dtype)]:
            say(line)
    if arguments.svg and not arguments.json:
        say(f"\npicture written to {arguments.svg}")


def _staged(job: Job, plan: Plan, arguments: argparse.Namespace, say: Say) -> None:
    """Explain a pipelined plan: its stages, what they wait for, and its cuts."""
    from gridnn.plan.explain.picture import by_exact_traffic, picture
    from gridnn.plan.explain.stages import explain_stages, pipeline_of, stage_outcome
    from gridnn.plan.explain.stagewords import headline
    from gridnn.plan.explain.why import explain

    for option, given in (("--equations", arguments.equations), ("--every", arguments.every)):
        if given:
            raise InputError(
                f"{option} knows no stages, and {arguments.plan} has {len(plan.stages)}; leave it out"
            )
    found = pipeline_of(job, plan)
    staged, result = explain_stages(job, found), stage_outcome(job, found)
    if arguments.svg:
        about = f"{headline(staged)}; bars: one layer after the other"
        drawn = by_exact_traffic(explain(job, plan.schemes, rivals=False))
        write_whole(arguments.svg, picture(drawn, about=about))
    if arguments.json:
        values = with_mismatch(_values(job, plan, staged, result), job, plan.dtype)
        say(json.dumps(finite(values), indent=2, allow_nan=False))
        return
    for line in [*stage_lines(job, staged, result), *_why(staged), *mismatch_lines(job, plan.dtype)]:
        say(line)
    if arguments.svg:
        say(f"\npicture written to {arguments.svg}")


def _why(staged: Staged) -> list[str]:
    """Return why the cuts are where they are: what they cost elsewhere."""
    from gridnn.plan.explain.stagewords import CUTS, cut_rows, cuts_text

    if not staged.cuts:
        return []
    about = "a layer and what follows it moves to the stage beside it; all else stays, and the plan is priced anew"
    return ["", f"cuts        {about}", "", *table(CUTS, cut_rows(staged), left=5), "", cuts_text(staged)]


def _values(job: Job, plan: Plan, staged: Staged, result: Outcome) -> dict[str, Any]:
    from gridnn.commands.stages import layer_values, result_values
    from gridnn.plan.explain.stagewords import as_json

    return {
        "network": job.network.name, "digest": job.network.digest, "machine": job.machine.name, "procs": job.procs,
        "batch": job.batch, **as_json(staged), **result_values(result),
        "layers": [{"name": name, **of} for name, of in layer_values(result, staged).items()],
    }  # fmt: skip
