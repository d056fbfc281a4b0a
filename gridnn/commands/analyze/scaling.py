"""``gridnn analyze scaling``: seconds and efficiency over processes, strong and weak, for every strategy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gridnn.commands.analyze.words import (
    add_answer,
    add_study,
    answer,
    check_pictures,
    parser,
    several,
    study_of,
)
from gridnn.commands.words import Say

if TYPE_CHECKING:
    from gridnn.analysis.chart import Chart
    from gridnn.analysis.study import Study
    from gridnn.analysis.table import Table
    from gridnn.plan.plan import Plan

_EXAMPLES = """\
  gridnn analyze scaling alexnet --batch 2048 --procs 8-65536
  gridnn analyze scaling vgg16 -b 512 -p 8-4096 --machine h100 --strategies data,uniform,layer-wise --svg scaling.svg
  gridnn analyze scaling resnet50 -b 256 -p 8-512 --mode weak --csv          256 samples at 8 processes, 16384 at 512
  gridnn analyze scaling alexnet -b 2048 -p 64-4096 --fixed k4 --plan plan.json
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Answer with a row for each strategy and number of processes."""
    words = parser("scaling", "Seconds and efficiency over processes, for every strategy.", _EXAMPLES)
    add_study(words)
    add = words.add_argument
    add("--procs", "-p", type=several, required=True, metavar="P-P|P,P",
        help="processes: 8-4096 for doublings, or 8,32,128")  # fmt: skip
    add("--mode", choices=("strong", "weak", "both"), default="strong",
        help="strong: the batch stays; weak: --batch is the smallest P's and grows; left out, strong")  # fmt: skip
    add("--strategies", type=names, metavar="A,B",
        help="some of data, model, owt, fc-only, uniform, domain, layer-wise; left out, all")  # fmt: skip
    add("--plan", action="append", default=[], metavar="plan.json",
        help="a plan file, for a row at its own number of processes; may be given again")  # fmt: skip
    add("--fixed", action="append", default=[], metavar="GRID",
        help='a grid such as "k4" for all layers, whose n grows with P; may be given again')  # fmt: skip
    add_answer(words)
    arguments = words.parse_args(argv)
    from gridnn.analysis.scaling import scaling, scaling_charts
    from gridnn.analysis.several import cores
    from gridnn.analysis.strategies import KNOWN

    check_pictures(arguments)
    study = study_of(arguments)
    modes = ("strong", "weak") if arguments.mode == "both" else (arguments.mode,)
    plans, counts = _plans(arguments, study), arguments.procs
    tables: list[Table] = []
    for mode in modes:
        own = {n: p for n, p in plans.items() if len(modes) == 1 or _fits(study, counts, mode, p)}
        tables.append(
            scaling(study, counts, mode, arguments.strategies or KNOWN, own, workers=min(2, cores()))
        )
    charts: list[Chart] = [chart for table in tables for chart in scaling_charts(table)]
    answer(say, arguments, tables, charts)


def names(text: str) -> tuple[str, ...]:
    """Read names of strategies, such as "data,uniform"."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: write names such as data,uniform")
    return found


def _plans(arguments: argparse.Namespace, study: Study) -> dict[str, Plan | str]:
    """Return the plans of a command line by the names of their files, and fixed grids by themselves."""
    from gridnn.plan.plan import open_plan

    found: dict[str, Plan | str] = {}
    for path in map(Path, arguments.plan):
        file = open_plan(path)
        procs = None if "procs" in file.table else arguments.procs[0] if len(arguments.procs) == 1 else None
        batch = None if "batch" in file.table else study.batch
        name = path.name if path.name not in found else str(path)
        found[name] = file.plan(study.network, procs=procs, batch=batch, passes=study.passes)
    found.update({" ".join(grid.split()): grid for grid in arguments.fixed})
    return found


def _fits(study: Study, counts: Sequence[int], mode: str, plan: Plan | str) -> bool:
    """Return whether a plan has a row in one of two modes; one that has it in none goes to strong, which refuses it."""
    if isinstance(plan, str):
        return True
    grown = {p: study.batch * p // counts[0] for p in counts}
    if mode == "weak":
        return grown.get(plan.procs) == plan.batch
    return plan.batch == study.batch or grown.get(plan.procs) != plan.batch
