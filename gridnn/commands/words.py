"""What commands share: options of a network and a job, plan files read, files written whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gridnn.errors import InputError
from gridnn.geometry.traffic import Widths

if TYPE_CHECKING:
    from gridnn.cost.machine import Machine
    from gridnn.network.graph import Network
    from gridnn.network.source import Source
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job

Say = Callable[[str], None]


class Elements(NamedTuple):
    """A type of a job's elements: their bytes, and in which `compute.precision` that is computed."""

    widths: Widths
    precision: str


DTYPES = {
    "float32": Elements(Widths(4, 4), "float32"),
    "tf32": Elements(Widths(4, 4), "tf32"),
    "bf16": Elements(Widths(2, 4), "bf16"),
    "float64": Elements(Widths(8, 8), "float64"),
    "bfloat16": Elements(Widths(2, 2), "bf16"),
}
"""What `--dtype` may be; "bf16" is a run's: parameters and sums keep four bytes, which "bfloat16" does not."""
ITEMSIZE = {name: DTYPES[name].widths.parameter for name in ("float32", "float64", "bfloat16")}
"""Bytes of an element where all are alike, by type."""
DEFAULT_MACHINE = "laptop"


def parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    return argparse.ArgumentParser(
        prog=f"gridnn {name}", description=description, epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of a network."""
    add = parser.add_argument
    add(
        "--input",
        metavar="C,H,W",
        help="shape of a sample, such as 3,224,224; left out, that of the network's paper",
    )
    add("--classes", type=int, metavar="N", help="number of classes; left out, those of the network's paper")
    add(
        "--option",
        action="append",
        default=[],
        metavar="K=V",
        help="an option of the network; may be given again",
    )


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add a plan file, and what may stand in for things it does not say."""
    add = parser.add_argument
    add("plan", metavar="plan.json", help="a plan file")
    add("--network", metavar="NETWORK", help="the plan's network; left out, what the plan says")
    add_network(parser)
    add_machine(parser, "what the plan says")
    add_dtype(parser, "what the plan says")
    add_json(parser)


def add_dtype(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the choice of a type; `otherwise` says what it is when left out."""
    what = (
        "type of weights and activations; tf32, bf16: as compute.precision of a run; left out, " + otherwise
    )
    parser.add_argument("--dtype", choices=list(DTYPES), help=what)


def add_machine(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the choice of a machine that a plan file may make."""
    what = f"a machine of gridnn or a .toml file; left out, {otherwise}, or {DEFAULT_MACHINE}"
    parser.add_argument("--machine", "-m", metavar="NAME|FILE", help=what)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the choice of how to answer."""
    parser.add_argument("--json", action="store_true", help="answer in one JSON object")


def source_of(arguments: argparse.Namespace) -> Source:
    """Return where the network of a command line comes from."""
    from gridnn.network.source import parse_source

    return parse_source(arguments.network, arguments.input, arguments.classes, arguments.option)


def read_job(path: str, arguments: argparse.Namespace) -> tuple[Job, Plan]:
    """Return the job of a plan file, and the plan, whose dtype is the command line's if that has one.

    Raises
    ------
    InputError
        If the file does not say what its network is and the command line neither, or any of it cannot be.
    """
    from gridnn.cost.machine import load_machine
    from gridnn.network.source import open_network
    from gridnn.plan.plan import open_plan

    file = open_plan(Path(path))
    source = source_of(arguments) if arguments.network else file.model
    if source is None:
        raise InputError(
            f"plan file {path} does not say where its network comes from; name it with --network"
        )
    if not arguments.network and (arguments.input or arguments.classes or arguments.option):
        raise InputError("--input, --classes and --option are those of --network; name it, or leave them out")
    network = open_network(source)
    plan = file.plan(network)
    plan = replace(plan, dtype=getattr(arguments, "dtype", None) or plan.dtype)
    if plan.dtype not in DTYPES:
        raise InputError(f'plan file {path}: dtype "{plan.dtype}"; use one of {", ".join(DTYPES)}')
    machine = load_machine(arguments.machine or plan.machine or DEFAULT_MACHINE)
    return job_of(network, machine, plan.procs, plan.batch, plan.passes, plan.dtype), plan


def job_of(network: Network, machine: Machine, procs: int, batch: int, passes: int, dtype: str) -> Job:
    """Return the job of a type of `DTYPES`, its machine priced for the widths of that."""
    from gridnn.plan.problem import Job

    widths = DTYPES[dtype].widths
    narrow = widths.activation if widths.activation != widths.parameter else 0
    return Job(
        network, machine.at(widths), procs, batch, passes, widths.parameter, activation_bytes=narrow
    )  # fmt: skip


def mismatch_lines(job: Job, dtype: str) -> list[str]:
    """Return a line where the machine was measured in another precision than the type's, else none."""
    told = job.machine.mismatch(DTYPES[dtype].precision)
    return [f"note        {told}"] * bool(told)


def with_mismatch(values: Mapping[str, Any], job: Job, dtype: str) -> dict[str, Any]:
    """Return the values of an answer, and the same among its notes."""
    told = job.machine.mismatch(DTYPES[dtype].precision)
    return {**values, "notes": [*values.get("notes", ()), told]} if told else dict(values)


def check_target(path: str | None) -> None:
    """Refuse a file that cannot be written, before work is done that would be lost.

    Raises
    ------
    InputError
    """
    if path is None:
        return
    folder = Path(path).parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {folder}; make it, or name another")
    if Path(path).is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: name a file in a folder that can be written")


def write_whole(path: str, text: str | bytes) -> None:
    """Write a file; on failure what was there before still is.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    target = Path(path)
    try:
        number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(text.encode() if isinstance(text, str) else text)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)  # as a file that was simply opened would have
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name a file that can be written") from None
