"""``gridnn analyze trace``: the timeline of a run beside its prediction, for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gridnn.commands.analyze.words import parser
from gridnn.commands.words import Say, add_machine, check_target, write_whole

_EXAMPLES = """\
  gridnn analyze trace runs/digits-cnn-20250131-142233 -o trace.json      open it at ui.perfetto.dev
  gridnn analyze trace run -o trace.json --machine mine.toml              predicted on a machine of your own
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Write the measured and the predicted timeline of a run."""
    words = parser("trace", "Lay the timeline of a run beside its prediction: a Chrome trace.", _EXAMPLES)
    words.add_argument("run", metavar="RUN", help="a run folder; its run had run.trace_steps above 0")
    words.add_argument("--output", "-o", required=True, metavar="trace.json", help="the file to write")
    add_machine(words, "the one that the run was planned on")
    arguments = words.parse_args(argv)
    from gridnn.analysis.trace import trace

    check_target(arguments.output)
    text = trace(arguments.run, arguments.machine)
    write_whole(arguments.output, text)
    table = json.loads(text)
    about, events = table["otherData"], [e for e in table["traceEvents"] if e["ph"] == "X"]
    steps = sum(e["cat"] == "step" for e in events)
    pieces = len(events) - steps
    say(f"{about['network']}, plan {about['plan']}, {about['ranks']} ranks: {steps} steps, {pieces:,} pieces")
    say(f"clocks agree within {about['clock_uncertainty_us']:.3g} us")
    if "predicted_step_s" in about:
        told_ms, took_ms = 1e3 * about["predicted_step_s"], 1e3 * about["measured_step_s"]
        say(
            f"predicted on {about['machine']}: {told_ms:.3g} ms a step, measured {took_ms:.3g} ms (median of the run)"
        )
    if "note" in about:
        say(f"note: {about['note']}")
    say(f"written: {arguments.output}; open it at ui.perfetto.dev or chrome://tracing")
