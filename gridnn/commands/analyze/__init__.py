"""``gridnn analyze``: the communication-cost analysis tool, one word for each question."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from gridnn.commands.words import Say

QUESTIONS = {
    "layers": "what each layer computes, moves and keeps under one plan",
    "grids": "all Pr x Pc of one number of processes, side by side",
    "scaling": "seconds and efficiency over processes, strong and weak, for every strategy",
    "sensitivity": "what changes with latency, bandwidth, batch or image size, and which strategy wins where",
    "pipeline": "layers in stages that work at the same time: schedules, bubbles, staleness, memory",
    "bounds": "what each layer moves beside the least that any algorithm must",
    "paper": "the figures of Gholami et al. 2018 and the traffic of Jia et al. 2018, recomputed",
    "compare": "predicted, counted and measured: what became of the plans of some runs",
    "report": "one page of everything, to send to a colleague",
    "trace": "the timeline of a run beside its prediction, for Perfetto",
}

_EPILOG = "\n".join(
    [
        "questions:",
        *(f"  {word:12} {what}" for word, what in QUESTIONS.items()),
        "",
        "examples:",
        "  gridnn analyze grids alexnet --batch 2048 --procs 512 --machine cori-knl",
        "  gridnn analyze scaling vgg16 --batch 512 --procs 8-4096 --machine h100 --svg scaling.svg",
        "  gridnn analyze report resnet50 --batch 2048 --procs 64 --machine h100 -o report.html",
        "  gridnn analyze layers --help                everything a question can be asked with",
    ]
)


def main(argv: Sequence[str], say: Say) -> None:
    """Answer a question."""
    parser = argparse.ArgumentParser(
        prog="gridnn analyze", description="Which grid, what does it cost, how far does it scale, was it right?",
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("question", choices=list(QUESTIONS), metavar="question", help="one of those below")
    words = list(argv)
    question = str(parser.parse_args(words[:1] or ["--help"]).question)
    # By name: who asks for one answer waits for no other.
    import_module(f"gridnn.commands.analyze.{question}").main(words[1:], say)
