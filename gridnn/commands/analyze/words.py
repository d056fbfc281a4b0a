"""What the questions of ``gridnn analyze`` share: options of a study, and the forms of an answer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gridnn.commands.words import ITEMSIZE, Say, add_json, add_network, check_target, source_of, write_whole
from gridnn.commands.words import parser as command_parser
from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridnn.analysis.chart import Chart
    from gridnn.analysis.study import Study
    from gridnn.analysis.table import Table
    from gridnn.geometry.grid import Scheme
    from gridnn.plan.job import Job

DEFAULT_MACHINE = "cori-knl"
MOST_PROCS = 10_000_000


def parser(question: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a question."""
    return command_parser(f"analyze {question}", description, examples)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add a network, a batch and a machine."""
    add = parser.add_argument
    add("network", metavar="NETWORK", help="a network of gridnn, such as alexnet, or a file model.onnx")
    add("--batch", "-b", type=whole, required=True, metavar="B", help="samples in a step")
    add("--machine", "-m", default=DEFAULT_MACHINE, metavar="NAME|FILE",
        help=f"a machine of gridnn or a .toml file; left out, {DEFAULT_MACHINE}")  # fmt: skip
    add("--passes", type=whole, default=1, metavar="N", help="passes a step is made of; left out, 1")
    add("--dtype", choices=list(ITEMSIZE), default="float32", help="type of an element; left out, float32")
    add_network(parser)


def add_procs(parser: argparse.ArgumentParser) -> None:
    """Add one number of processes."""
    parser.add_argument("--procs", "-p", type=whole, required=True, metavar="P", help="processes")


def add_grid(parser: argparse.ArgumentParser, default: str = "data") -> None:
    """Add the choice of a plan: a grid, a strategy, or a plan file."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--grid", "-g", default=default, metavar="GRID|STRATEGY",
        help='one grid for every layer, such as "k16 n32", or a strategy: data, model, owt, fc-only, uniform, '
        f"dynamic; left out, {default}")  # fmt: skip
    add("--plan", metavar="plan.json", help="a plan file instead")


def add_answer(parser: argparse.ArgumentParser, charts: bool = True) -> None:
    """Add the forms of an answer: text, JSON, CSV, and pictures."""
    form = parser.add_mutually_exclusive_group()
    add_json(form)  # type: ignore[arg-type]
    form.add_argument("--csv", action="store_true", help="answer in comma-separated values")
    if charts:
        parser.add_argument("--svg", metavar="FILE.svg", help="draw it")
        parser.add_argument("--png", metavar="FILE.png", help="draw it")


def whole(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or not 0 < int(text) <= MOST_PROCS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_PROCS:,}")
    return int(text)


def several(text: str) -> tuple[int, ...]:
    """Read whole numbers: "8,32,128", or "8-4096" for doublings from the first up to the last."""
    first, dash, last = text.partition("-")
    if not dash:
        return tuple(sorted({whole(part.strip()) for part in text.split(",")}))
    low, high = whole(first.strip()), whole(last.strip())
    if low > high:
        raise argparse.ArgumentTypeError(f"{text!r}: the first is above the last; write {high}-{low}")
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    return tuple(found if found[-1] == high else [*found, high])


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the study of a command line.

    Raises
    ------
    InputError
        If the network or the machine is not known, or an option does not fit.
    """
    from gridnn.analysis.study import Study
    from gridnn.cost.machine import load_machine
    from gridnn.network.source import open_network

    network = open_network(source_of(arguments))
    machine, itemsize = load_machine(arguments.machine), ITEMSIZE[arguments.dtype]
    machine = machine.at(Widths(itemsize, itemsize))
    return Study(network, machine, arguments.batch, arguments.passes, itemsize)


def plan_of(arguments: argparse.Namespace, job: Job) -> tuple[Mapping[str, Scheme], str]:
    """Return the schemes of a command line's plan, and what to call it.

    Raises
    ------
    InputError
        If the plan file is one for another job, or the grid does not fit.
    """
    from pathlib import Path

    from gridnn.analysis.study import schemes_of
    from gridnn.plan.plan import read_plan

    if arguments.plan:
        path = Path(arguments.plan)
        return read_plan(path, job.network, job.batch, job.procs, job.passes).schemes, path.name
    return schemes_of(job, arguments.grid), arguments.grid


def check_pictures(arguments: argparse.Namespace) -> None:
    """Refuse pictures that could not be written or drawn, before work is done that would be lost.

    Raises
    ------
    InputError
    """
    wanted = [path for path in (arguments.svg, arguments.png) if path]
    for path in wanted:
        check_target(path)
    if wanted:
        from gridnn.analysis.draw import check_drawing

        check_drawing(*wanted)


def answer(
    say: Say,
    arguments: argparse.Namespace,
    tables: Sequence[Table],
    charts: Sequence[Chart] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Give an answer in the form that was asked for; with several tables JSON has a list of them.

    Parameters
    ----------
    more
        Keys that JSON has beside those of the tables.

    Raises
    ------
    InputError
        If a picture cannot be written.
    """
    failure: InputError | None = None
    if charts and (arguments.svg or arguments.png):
        from gridnn.analysis.draw import draw

        try:  # before the words: who reads only some of those closes the pipe
            for path in filter(None, (arguments.svg, arguments.png)):
                write_whole(path, draw(charts, path.rsplit(".", 1)[-1].lower()))
        except InputError as error:  # the words are said all the same
            failure = error
    if arguments.json:
        found = [table.as_json() for table in tables]
        values = found[0] if len(found) == 1 else {"tables": found}
        say(json.dumps({**(more or {}), **values}, indent=2, allow_nan=False))
    elif arguments.csv:
        say("\n".join(table.csv() for table in tables).rstrip("\n"))
    else:
        for at, table in enumerate(tables):
            for line in [""] * bool(at) + table.lines():
                say(line)
        for path in filter(None, (getattr(arguments, "svg", None), getattr(arguments, "png", None))):
            if failure is None:
                say(f"\npicture written to {path}")
    if failure is not None:
        raise failure
