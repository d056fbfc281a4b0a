"""``gridnn diff``: what a plan does differently from another, and what that costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gridnn.commands.words import Say, add_machine, add_network, parser, read_job

if TYPE_CHECKING:
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job

_EXAMPLES = """\
  gridnn diff plan.json edited.json                  layers that differ, seconds and bytes of both
  gridnn diff data.json best.json --machine h100     both priced on another machine
"""
SHOWN = ("step_s", "bytes", "memory_bytes", "method", "machine")
"""What is shown of the predictions in the files."""


def main(argv: Sequence[str], say: Say) -> None:
    """Compare two plan files."""
    words = parser("diff", "Say what differs between two plans: layers, seconds, bytes.", _EXAMPLES)
    words.add_argument("first", metavar="a.json", help="a plan file")
    words.add_argument("second", metavar="b.json", help="another")
    words.add_argument("--network", metavar="NETWORK", help="network of both; left out, what the plans say")
    add_network(words)
    add_machine(words, "what the first plan says")
    arguments = words.parse_args(argv)
    from gridnn.plan.explain.difference import difference

    job, first = read_job(arguments.first, arguments)
    both = argparse.Namespace(**{**vars(arguments), "machine": arguments.machine or first.machine or None})
    other, second = read_job(arguments.second, both)
    outcomes = _outcome(job, first), _outcome(other, second)
    say(f"{arguments.first} and {arguments.second}, on {job.machine.name}")
    for line in difference(job.network, _shown(first), _shown(second), outcomes):
        say(line)


def _outcome(job: Job, plan: Plan) -> Outcome:
    """Return what a plan costs, its stages at the same time where it has some."""
    from gridnn.plan.explain.stages import pipeline_of, stage_outcome
    from gridnn.plan.outcome import outcome

    return stage_outcome(job, pipeline_of(job, plan)) if plan.stages else outcome(job, plan.schemes)


def _shown(plan: Plan) -> Plan:
    """Return a plan with the predictions that can be set side by side."""
    values = plan.predicted.items()
    return replace(
        plan, predicted={k: v for k, v in values if k in SHOWN and isinstance(v, str | int | float)}
    )
