"""``gridnn plan``: the best grids of a network's layers on a machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gridnn.commands.show import GB, LAYERS, finite, layer_rows, table, totals
from gridnn.commands.words import (
    DEFAULT_MACHINE,
    ITEMSIZE,
    Say,
    add_json,
    add_network,
    check_target,
    parser,
    source_of,
    write_whole,
)
from gridnn.errors import InputError

if TYPE_CHECKING:
    from gridnn.geometry.grid import Scheme
    from gridnn.plan.outcome import Outcome
    from gridnn.plan.plan import Plan
    from gridnn.plan.problem import Job
    from gridnn.plan.search import Found

METHODS = ("dynamic", "uniform", "data", "model", "owt", "fc-only", "mcmc")

_EXAMPLES = """\
  gridnn plan vgg16 --procs 16 --batch 512 --machine p100-cluster
  gridnn plan resnet50 --procs 64 --batch 2048 --machine h100 --memory 80 -o plan.json
  gridnn plan resnet20 --procs 4 --batch 64 --pin conv1="h2 w2" --pin linear1="k4" -o plan.json
  gridnn plan model.onnx --procs 8 --batch 256 --machine mine.toml --json
  mpiexec -n 4 python -m gridnn.train --plan plan.json
"""


def main(argv: Sequence[str], say: Say) -> None:
    """Search, say what was found, and write it down if asked to."""
    arguments = _parse(argv)
    from gridnn.cost.machine import load_machine
    from gridnn.network.source import open_network
    from gridnn.plan.outcome import outcome
    from gridnn.plan.problem import Job

    check_target(arguments.output)
    source, machine = source_of(arguments), load_machine(arguments.machine)
    job = Job(
        open_network(source),
        machine,
        arguments.procs,
        arguments.batch,
        arguments.passes,
        ITEMSIZE[arguments.dtype],
    )
    pins = _pins(arguments.pin)
    found = _walk(job, pins, arguments) if arguments.method == "mcmc" else _search(job, pins, arguments)
    result = outcome(job, found.schemes)
    failure = _written(job, found, result, arguments)
    if arguments.json:
        layers = {name: str(scheme) for name, scheme in found.schemes.items()}
        values = {**predicted(job, found, result), "layers": layers}
        say(json.dumps(finite(values), indent=2, allow_nan=False))
    else:
        for line in _lines(job, found, result):
            say(line)
        if arguments.output and failure is None:
            say(f"\nplan written to {arguments.output}")
    if failure is not None:
        raise failure


def _written(job: Job, found: Found, result: Outcome, arguments: argparse.Namespace) -> InputError | None:
    """Write the plan if asked to; returns what went wrong: what was found is said all the same."""
    try:
        if arguments.output:
            write_whole(arguments.output, _plan(job, found, result, arguments).dumps())
    except InputError as error:
        return error
    return None


def predicted(job: Job, found: Found, result: Outcome) -> dict[str, Any]:
    """Return what is known of a found plan as plain values; seconds and bytes of a step, bytes of a rank."""
    return {
        "method": found.method, "network": job.network.name, "machine": job.machine.name, "procs": job.procs,
        "batch": job.batch, "search_s": found.search_s, "step_s": found.step_s, "lower_s": found.lower_s,
        "run_s": result.step_s if result.exact else None, "overlapped_s": result.overlapped_s,
        "compute_s": result.compute_s, "comm_s": result.comm_s, "bytes": result.received_bytes,
        "bytes_exact": result.exact, "memory_bytes": result.memory_bytes, "baselines": dict(found.baselines),
        "margin": found.margin, "verdict": found.verdict, "core": found.core, "candidates": found.candidates,
        "priced": found.priced, "notes": list(found.notes),
    }  # fmt: skip


def _lines(job: Job, found: Found, result: Outcome) -> list[str]:
    from gridnn.plan.explain.tell import time_text

    passes = f" in {job.passes} passes" if job.passes > 1 else ""
    head = (
        f"{job.network.name}, batch {job.batch}{passes}, {job.procs} processes of {job.machine.name}: "
        f"method {found.method}"
    )
    cost = "simulated" if found.method == "mcmc" else "by the cost of the search: everything added up"
    known = {found.method: found.step_s, **found.baselines}
    beside = [
        (name, time_text(seconds), f"{seconds / found.step_s:.3f}" if found.step_s else "-")
        for name, seconds in sorted(known.items(), key=lambda entry: entry[1])
    ]
    return [
        head, "", *table(LAYERS, layer_rows(result), left=3), "",
        f"step        {time_text(found.step_s)} {cost}",
        *totals(job, result), "", *table(("method", "step", "times this"), beside), "",
        f"verdict     {found.verdict}", f"search      {_proof(found)}",
        *(f"note        {note}" for note in found.notes),
    ]  # fmt: skip


def _proof(found: Found) -> str:
    """Return what a search did and what that proves."""
    from gridnn.plan.explain.tell import time_text

    text = time_text(found.search_s)
    if found.candidates:
        text += (
            f"; {found.candidates:,} grids of all layers, {found.priced:,} priced in pairs; "
            f"the network folds to {found.core} {'layer' if found.core == 1 else 'layers'}"
        )
    if found.method != "dynamic":
        return text
    gap_s = found.step_s - found.lower_s
    if gap_s <= 1e-9 * found.step_s:
        return text + "; optimal for this cost, proved"
    return text + f"; at most {time_text(gap_s)} ({gap_s / found.step_s:.1%}) above the optimum"


def _plan(job: Job, found: Found, result: Outcome, arguments: argparse.Namespace) -> Plan:
    from gridnn.plan.plan import Plan

    values = predicted(job, found, result)
    for key in ("network", "procs", "batch"):  # the file has them at its top
        del values[key]
    pinned = f", {len(arguments.pin)} pinned" if arguments.pin else ""
    return Plan(
        job.network.name, job.network.digest, job.procs, job.batch, found.schemes,
        f"gridnn plan: {found.method} on machine {job.machine.name}{pinned}", finite(values), job.passes,
        arguments.dtype, source_of(arguments), arguments.machine,
    )  # fmt: skip


def _search(job: Job, pins: Mapping[str, Scheme], arguments: argparse.Namespace) -> Found:
    from gridnn.plan.search import search

    if given := [
        f"--{key}" for key in ("seed", "proposals", "seconds") if getattr(arguments, key) is not None
    ]:
        raise InputError(f"{given[0]} is for --method mcmc; leave it out, or take that method")
    memory = None if arguments.memory is None else arguments.memory * GB
    return search(job, arguments.method, pins=pins, memory_bytes=memory, every=arguments.every)


def _walk(job: Job, pins: Mapping[str, Scheme], arguments: argparse.Namespace) -> Found:
    from gridnn.plan.walk import walk

    if arguments.memory is not None:
        raise InputError("method mcmc knows no memory limit; use --method dynamic")
    return walk(
        job, pins=pins, seed=arguments.seed or 0, proposals=arguments.proposals, seconds=arguments.seconds,
        every=arguments.every,
    )  # fmt: skip


def _pins(texts: Sequence[str]) -> dict[str, Scheme]:
    """Read pins such as ``fc6=k4``; of a layer given twice the later counts."""
    from gridnn.plan.plan import parse_scheme

    pins = {}
    for text in texts:
        # From the right: names out of an ONNX file may hold anything, grids hold no "=".
        name, equals, scheme = (part.strip() for part in text.rpartition("="))
        if not equals or not name or not scheme:
            raise InputError(f'pin "{text}": write a layer and its grid, such as --pin fc6="k4"')
        try:
            pins[name] = parse_scheme(scheme)
        except InputError as error:
            raise InputError(f"pin {name}: {error}") from None
    return pins


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    words = parser(
        "plan", "Find the best grid for every layer of a network, and say what that gains.", _EXAMPLES
    )
    add = words.add_argument
    add("network", metavar="NETWORK|FILE.onnx", help="a network of the zoo, or an ONNX file")
    add("--procs", "-p", type=int, required=True, metavar="P", help="processes")
    add("--batch", "-b", type=int, required=True, metavar="B", help="samples of a step, over all processes")
    add(
        "--machine", "-m", default=DEFAULT_MACHINE, metavar="NAME|FILE",
        help=f"a machine that comes with gridnn, or a .toml file of your own ({DEFAULT_MACHINE})",
    )  # fmt: skip
    add(
        "--method",
        choices=METHODS,
        default="dynamic",
        help="how to search, or which known plan to take (dynamic)",
    )
    add(
        "--pin",
        action="append",
        default=[],
        metavar="LAYER=GRID",
        help="fix a layer's grid; may be given again",
    )
    add(
        "--memory", type=_positive, metavar="GB", help="what a process has, in 10^9 bytes; left out, no limit"
    )
    add("--every", action="store_true", help="all sizes of axes up to P, not only powers of two or divisors")
    add(
        "--passes",
        type=_whole(1),
        default=1,
        metavar="N",
        help="forward and backward passes a batch is split into (1)",
    )
    add(
        "--dtype", choices=list(ITEMSIZE), default="float32", help="type of weights and activations (float32)"
    )
    add_network(words)
    add("--seed", type=_whole(0), metavar="N", help="mcmc: of the walk (0)")
    add("--proposals", type=_whole(0), metavar="N", help="mcmc: how many to make")
    add("--seconds", type=_positive, metavar="S", help="mcmc: how long to walk")
    add_json(words)
    add(
        "-o",
        "--output",
        metavar="FILE.json",
        help="write the plan, for gridnn.train --plan and gridnn explain",
    )
    return words.parse_args(argv)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read
