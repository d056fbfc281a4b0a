"""``gridnn analyze layers``: what each layer computes, moves and keeps under one plan."""

from __future__ import annotations

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
  gridnn analyze layers alexnet --batch 2048 --procs 512 --grid "k16 n32"
  gridnn analyze layers resnet50 -b 2048 -p 64 --machine h100 --grid dynamic --csv
  gridnn analyze layers model.onnx -b 256 -p 16 --plan plan.json --json
  gridnn analyze layers alexnet -b 1000000 -p 1000000 --grid "n1000 k1000"
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer with a row a layer."""
    words = parser("layers", "What each layer computes, moves and keeps under one plan.", _EXAMPLES)
    add_study(words)
    add_procs(words)
    add_grid(words)
    add_answer(words, charts=False)
    arguments = words.parse_args(argv)
    from gridnn.analysis.layers import layers

    job = study_of(arguments).job(arguments.procs)
    schemes, _ = plan_of(arguments, job)
    answer(say, arguments, [layers(job, schemes)])
