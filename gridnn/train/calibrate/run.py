"""``gridnn calibrate``: measure this machine and write it down, to be planned for.

find the nodes      which ranks share a host
links               messages on every level, collectives over groups            two ranks or more
overlap             sums beside products                                        two ranks or more
layers              blocks of networks, all ranks at once
                    ... of arrays on devices and by their engine, with --device gpu: links by the run's transport
                    ... in the precision of --precision, arrays between layers as it stores them; the file says which
fit                 alpha, beta, rates, algorithms; said with how well they fit
write               machine.toml, and machine.profile.json beside it            rank 0
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from gridnn.cost.machine import Machine, load_machine
from gridnn.cost.profile import PRECISIONS, Profile
from gridnn.train.launch import cache_folder, environment, threads_of, together

if TYPE_CHECKING:
    from gridnn.comm.world import World
    from gridnn.compute.gpu.engine import Engine
    from gridnn.train.console import Console

QUICK_S, FULL_S = 15.0, 150.0
"""Seconds for layers; links take a few more."""

_EXAMPLES = """\
examples:
  mpiexec -n 4 gridnn calibrate -o mine.toml              measure, in about three minutes
  mpiexec -n 4 gridnn calibrate -o mine.toml --quick      the same in half a minute, less exactly
  mpiexec -n 4 gridnn calibrate -o mine.toml --network resnet50 --batch 64
  srun -N 2 --ntasks-per-node=8 gridnn calibrate -o cluster.toml
  mpiexec -n 4 gridnn calibrate -o gpus.toml --device gpu     what runs with --device gpu are planned for
  mpiexec -n 4 gridnn calibrate -o bf16.toml --device gpu --precision bf16     ... with compute.precision = "bf16"
  gridnn plan resnet50 --machine mine.toml --procs 4 --batch 64
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the machine that the ranks run on; returns the exit code."""

    def measured(world: World, console: Console) -> None:
        calibrate(world, _parse(argv, world.rank > 0), console.say, environment())

    return together(measured, lambda: _asked_device(argv))


def _asked_device(argv: Sequence[str] | None) -> str:
    """Return the device before MPI starts; "cpu" where words are wrong, which is said afterwards."""
    try:
        return str(_parse(argv, quiet=True).device)
    except SystemExit:
        return "cpu"


def calibrate(
    world: World, arguments: argparse.Namespace, say: Callable[[str], None], surroundings: Mapping[str, str]
) -> None:  # fmt: skip
    """Measure, fit, say and write.  Collective.

    Parameters
    ----------
    arguments
        As `main` reads them.
    say
        The voice of rank 0; silent elsewhere.
    surroundings
        The environment of this process: launchers and MPI libraries speak through it.

    Raises
    ------
    InputError
        On all ranks: a file that is there or cannot be written, unequal nodes, an unknown network, a precision
        that is not the device's.
    """
    from gridnn.comm.agree import agreed
    from gridnn.comm.progress import every_s
    from gridnn.comm.world import mpi_version
    from gridnn.compute.gpu.engine import Engine
    from gridnn.cost.collectives import piece_bytes
    from gridnn.train.calibrate import blocks, fit, layers, links, overlap, report
    from gridnn.train.config import load_config
    from gridnn.train.engine import engine_of, keep_choices, words

    started_s, path, quick = time.perf_counter(), Path(arguments.output), arguments.quick
    threads, choices = threads_of(world), cache_folder() / "choices.json"
    settings = f"compute.precision={arguments.precision}", f"comm.transport={arguments.transport}"
    nodes = links.find_nodes(world, arguments.ranks_per_node)
    with agreed(world):
        config = load_config(None, settings, device=arguments.device)
        if world.rank == 0:
            report.check_target(path, arguments.force)
        jobs = blocks.jobs_of(arguments.network, arguments.batch or 32 * world.size, world.size, quick)
    engine = engine_of(world, config, threads, choices, surroundings)
    device = engine if isinstance(engine, Engine) else None
    precision = _precision(device, arguments.precision)
    memory_bytes = _memory_bytes(world, nodes.ranks, device)
    # Four arrays of a block's size live at once at the most; half of the memory is for everything else.
    todo = blocks.blocks_of(jobs, world.size, memory_bytes // 4)
    said = words(world, engine, config.compute, threads)
    where = f"{world.size} rank{'s' * (world.size > 1)} on {nodes.count} node{'s' * (nodes.count > 1)}"
    for line in [*said, where]:
        say(line)
    cores = len(os.sched_getaffinity(0))
    if os.getloadavg()[0] > max(1.0, 0.5 * cores):
        say(
            f"warning: {os.getloadavg()[0]:.1f} programs were busy on {cores} cores before this one; what "
            "others take is measured as if the machine had not got it"
        )
    if not nodes.in_order:
        say(
            "warning: neighbours in rank are on different nodes, but a machine file counts node by node; start ranks "
            "in blocks (mpiexec -ppn N, srun --distribution=block)"
        )

    messages = list(links.measure_messages(world, nodes, quick, say, device))
    levels, lines = fit.fit_levels(messages, nodes)
    if levels:  # sums are made as a run on this machine makes them
        beta = max(level.beta_s_per_byte for level in levels)
        world.sums.piece_bytes, world.progress.every_s = piece_bytes(beta), every_s(beta)
    collectives = list(links.measure_collectives(world, nodes, quick, say, device))
    with threadpool_limits(threads), np.errstate(all="ignore"):
        beside = overlap.measure_overlap(world, quick, say, device) if world.size > 1 else None
        tiny = list(layers.measure_blocks(world, engine, blocks.tiny_blocks(), QUICK_S, _nothing))
        budget_s = QUICK_S if quick else FULL_S
        large = list(layers.measure_blocks(world, engine, todo, budget_s, say))
        found = layers.telling(tiny, large)
    keep_choices(world, engine, threads, choices)

    if world.size == 1:
        levels = load_machine("laptop").levels
        say(
            'one rank: layers only; links are copied from the machine "laptop"; start two ranks to measure them'
        )
    layer_s = fit.fit_layer_s([p for block, times in tiny for p in layers.points_of(block, times)])
    product, touch = fit.fit_rates([p for b, times in found for p in layers.points_of(b, times)], layer_s)
    source = (
        f"gridnn calibrate{' --quick' * quick}: {said[0]}; {precision}; {where}, {mpi_version()}; "
        f"{', '.join(network.name for network, _ in jobs)}" + "; links copied from laptop" * (world.size == 1)
    )
    today = date.today().isoformat()
    samples = tuple(layers.sample_of(block, times) for block, times in found)
    profile = Profile(source, today, samples, precision)
    rates = (1 / product.unit_s, touch.unit_s, layer_s)
    machine = Machine(path.stem, source, today, *rates, memory_bytes, levels, profile=profile)
    machine = replace(machine, element_bytes=profile.element_bytes)  # that of the elements the rate is of
    if world.size > 1:
        fitted = fit.fit_algorithms(machine, collectives, world.size)
        machine = replace(
            machine,
            algorithms={kind: f.algorithm for kind, f in fitted.items()},
            speeds={kind: f.speed for kind, f in fitted.items()},
        )
        for line in [*report.link_lines(machine, lines, messages), "", *report.algorithm_lines(fitted), ""]:
            say(line)
    if beside is not None:
        machine = replace(machine, overlap=beside.share)
        say(report.overlap_line(beside))
    errors = fit.left_out(profile, [block for block, _ in found])
    for line in report.layer_lines(product, touch, layer_s, profile, errors):
        say(line)
    with agreed(world):
        if world.rank == 0:
            report.write_machine(machine, profile, path)
    say(f"written: {path} and {report.profile_path(path)}, in {time.perf_counter() - started_s:.0f} s")


def _memory_bytes(world: World, ranks: int, device: Engine | None) -> int:
    """Return what a rank has: the memory of the host over its ranks, or of a device over those that share it.

    Collective; of devices the least, the same on all ranks.
    """
    if device is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // ranks
    places = world.comm.allgather((platform.node(), device.room.identity))
    mine = device.room.total_bytes // places.count(places[world.rank])
    return int(min(world.comm.allgather(mine)))


def _precision(device: Engine | None, asked: str) -> str:
    """Return the precision that is measured: a device's own; a processor that `auto` fell back on knows no "tf32"."""
    if device is not None:
        return device.precision
    return asked if asked == "bfloat16" else "float32"


def _nothing(text: str) -> None:
    """Say nothing: the voice of every rank but 0."""


def _parse(argv: Sequence[str] | None, quiet: bool) -> argparse.Namespace:
    """Read the command line; help and mistakes are told by one rank."""
    parser = argparse.ArgumentParser(
        prog="gridnn calibrate",
        description="Measure this machine: links, collectives and layers, into a file that plans are priced by.",
        epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add(
        "-o",
        "--output",
        required=True,
        metavar="FILE.toml",
        help="the machine file; a profile goes beside it",
    )
    add("--network", metavar="NAME", help="measure the layers of this network; left out, of several")
    add("--batch", type=_count, metavar="B", help="samples over all ranks, with --network (32 a rank)")
    add("--quick", action="store_true", help="half a minute: fewer sizes, repeats and blocks")
    add(
        "--ranks-per-node", type=_count, metavar="N",
        help="take every N ranks as a node, where host names do not tell; left out, by host name",
    )  # fmt: skip
    add(
        "--device",
        choices=("auto", "cpu", "gpu"),
        default="cpu",
        help="where ranks compute, as in a run (cpu)",
    )
    add(
        "--precision", choices=tuple(PRECISIONS), default="float32",
        help="what layers are measured in, as compute.precision of a run: tf32, bf16 of a GPU, bfloat16 of a processor",
    )  # fmt: skip
    add(
        "--transport", choices=("auto", "nccl", "staged", "cuda-mpi"), default="auto",
        help="how messages of a GPU go, as comm.transport of a run (auto)",
    )  # fmt: skip
    add("--force", action="store_true", help="replace files that are there")
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        arguments = parser.parse_args(argv)
        if arguments.batch and not arguments.network:
            parser.error("--batch is that of a network; name one with --network")
        return arguments


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
