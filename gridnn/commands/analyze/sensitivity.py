"""``gridnn analyze sensitivity``: over latency, bandwidth, batch, image or processes; and which strategy wins where."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gridnn.commands.analyze.scaling import names
from gridnn.commands.analyze.words import (
    add_answer,
    add_procs,
    add_study,
    answer,
    check_pictures,
    parser,
    study_of,
    whole,
)
from gridnn.commands.words import Say, source_of
from gridnn.errors import InputError

OVER = ("alpha", "beta", "batch", "image", "procs")
MOST_CELLS = 33

_EXAMPLES = """\
  gridnn analyze sensitivity alexnet --batch 2048 --procs 512 --over beta
  gridnn analyze sensitivity alexnet -b 2048 -p 512 --over batch --values 256,512,1024,2048,4096 --json
  gridnn analyze sensitivity resnet50 -b 256 -p 64 --machine h100 --over image --values 224,448 --svg image.svg
  gridnn analyze sensitivity alexnet -b 256 -p 512 --map beta,alpha --svg flips.svg       who wins where
  gridnn analyze sensitivity alexnet -b 256 -p 512 --map procs,batch --cells 5
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer with a row for each value and strategy, or for each flip point of a map."""
    words = parser("sensitivity", "What changes with one quantity, or who wins over two.", _EXAMPLES)
    add_study(words)
    add_procs(words)
    what = words.add_mutually_exclusive_group()
    what.add_argument("--over", choices=OVER, default="beta", help="the quantity; left out, beta")
    what.add_argument("--map", type=_pair, metavar="ACROSS,UP",
                      help="where the fastest strategy changes over two of them, such as beta,alpha")  # fmt: skip
    add = words.add_argument
    add("--values", type=_numbers, metavar="V,V",
        help="factors of alpha or beta, or batches, pixels or processes; left out, from 1/16 to 16 times")  # fmt: skip
    add("--strategies", type=names, metavar="A,B",
        help="some of data, model, owt, fc-only, uniform, domain, layer-wise; left out, all (of a map, all but "
        "layer-wise, which is never slower)")  # fmt: skip
    add(
        "--cells",
        type=whole,
        metavar="N",
        help="cells along an axis of a map; left out, 9, or 5 without alpha and beta",
    )
    add_answer(words)
    arguments = words.parse_args(argv)
    from gridnn.analysis.flips import RIVALS, flip_map
    from gridnn.analysis.sensitivity import sensitivity, sensitivity_chart
    from gridnn.analysis.strategies import KNOWN

    _check(arguments)
    check_pictures(arguments)
    study, source, procs = study_of(arguments), source_of(arguments), arguments.procs
    if arguments.map:
        across, up = arguments.map
        table, chart = flip_map(
            study, procs, across, up, arguments.strategies or RIVALS, arguments.cells, source=source
        )
        found = {"x": chart.x, "y": chart.y, "cells": chart.cells, "texts": chart.texts}
        answer(say, arguments, [table], [chart], {"map": {"across": across, "up": up, **found}})
        return
    table = sensitivity(study, procs, arguments.over, arguments.values, arguments.strategies or KNOWN, source)
    answer(say, arguments, [table], [sensitivity_chart(table)])


def _check(arguments: argparse.Namespace) -> None:
    if arguments.map and arguments.values:
        raise InputError("--values are those of --over; a map takes --cells")
    if arguments.cells and not arguments.map:
        raise InputError("--cells are those of a map; name one with --map beta,alpha")
    if arguments.cells and not 2 <= arguments.cells <= MOST_CELLS:
        raise InputError(f"--cells {arguments.cells}: give 2 to {MOST_CELLS}")


def _pair(text: str) -> tuple[str, str]:
    parts = tuple(part.strip() for part in text.split(","))
    if len(parts) != 2 or not set(parts) <= set(OVER) or parts[0] == parts[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: write two of {', '.join(OVER)}, such as beta,alpha")
    return parts[0], parts[1]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers such as 0.25,1,4") from None
