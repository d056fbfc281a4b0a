"""``gridnn analyze compare``: predicted, counted and measured, from the folders of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gridnn.commands.analyze.words import add_answer, answer, check_pictures, parser
from gridnn.commands.words import Say, add_machine, check_target, write_whole
from gridnn.errors import InputError

if TYPE_CHECKING:
    import argparse

    from gridnn.analysis.compare import Comparison

TABLES = ("runs", "orders", "swaps", "layers", "collectives", "movements", "residue", "schedules", "stages")
SHORT = ("runs", "schedules", "stages", "orders", "swaps", "collectives", "residue")
"""What several runs say at once; of one, and to programs, all is said."""
STAGED = ("schedules", "stages")
"""What is said where some run has stages."""

_EXAMPLES = """\
  gridnn analyze compare runs                                   all finished runs of a folder
  gridnn analyze compare run1 run2 --show layers,movements      the passes and movements of every layer
  gridnn analyze compare gpipe delayed --show schedules,stages  throughput and accuracy of pipelines
  gridnn analyze compare runs --write-machine refit.toml        a machine file with the constants that fit the runs
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Compare runs with what was predicted of them."""
    words = parser(
        "compare", "Say what became of the plans of some runs: predicted, counted, measured.", _EXAMPLES
    )
    words.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or a folder of several")
    add_machine(words, "the one that each run was planned on")
    words.add_argument("--show", metavar="TABLE,...", help=f"only these: {', '.join(TABLES)}, or all")
    words.add_argument(
        "--write-machine", metavar="FILE.toml", help="write the machine as the runs would have it"
    )
    add_answer(words)
    arguments = words.parse_args(argv)
    shown = _shown(arguments.show)
    check_pictures(arguments)
    _check_machine_file(arguments.write_machine)
    from gridnn.analysis.compare import compare, compare_chart

    found = compare(arguments.runs, arguments.machine)
    if arguments.write_machine:
        _write_machine(found, arguments)
    if shown is None:
        several = len(found.runs) > 1 and not (arguments.json or arguments.csv)
        shown = SHORT if several else TABLES
        shown = tuple(name for name in shown if name != "swaps" or len(found.runs) > 1)
        shown = tuple(name for name in shown if name not in STAGED or len(getattr(found, name)))
    tables = [getattr(found, name) for name in shown]
    more = {"machine_file": arguments.write_machine} if arguments.write_machine else None
    answer(say, arguments, tables, [compare_chart(found)], more)
    if arguments.write_machine and not (arguments.json or arguments.csv):
        say(f"\nmachine written to {arguments.write_machine}")


def _shown(text: str | None) -> tuple[str, ...] | None:
    """Return the tables asked for."""
    if text is None:
        return None
    names = tuple(part.strip() for part in text.split(","))
    if names == ("all",):
        return TABLES
    for name in names:
        if name not in TABLES:
            raise InputError(
                f'--show "{name}": there is no such table; use some of {", ".join(TABLES)}, or all'
            )
    return names


def _check_machine_file(path: str | None) -> None:
    """Refuse a machine file that could not be written or would not be found."""
    if path is not None and Path(path).suffix != ".toml":
        raise InputError(f"--write-machine {path}: name a file that ends in .toml")
    check_target(path)


def _write_machine(found: Comparison, arguments: argparse.Namespace) -> None:
    """Write the machine of the runs; its profile, if it has one, is copied beside it."""
    if found.machine is None:
        raise InputError(f"no machine can be fitted to these runs: {' '.join(found.residue.notes)}")
    from gridnn.cost.machine import dumps

    profile = None
    if found.machine.profile is not None:
        from gridnn.cost.profile import write_profile

        beside = Path(arguments.write_machine).with_suffix(".profile.json")
        check_target(str(beside))
        part = beside.with_name(f".{beside.name}.part")
        write_profile(found.machine.profile, part)
        part.replace(beside)
        profile = beside.name
    write_whole(arguments.write_machine, dumps(found.machine, profile))
