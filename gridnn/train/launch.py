"""The porch of training: words in, exit code out, and no rank left waiting for another.

| what happens                                   | what ends the run                                        |
|------------------------------------------------|----------------------------------------------------------|
| an error all ranks know of (`everywhere`)      | rank 0 says it, all leave with its code                  |
| an error of some ranks, or a bug               | one of them says it, and aborts all                      |
| a rank that is stuck or lost                   | the watchdog, or the launcher (mpiexec, srun -K)         |
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from gridnn.errors import GridnnError, InputError
from gridnn.train.console import Console, shout

if TYPE_CHECKING:
    from gridnn.comm.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """Run a training job; returns the exit code (0, or `GridnnError.exit_code`)."""
    return together(lambda world, console: _job(world, console, argv))


def together(job: Callable[[World, Console], None]) -> int:
    """Run a job on all started ranks; returns the exit code (0, or `GridnnError.exit_code`)."""
    yield_if_crowded()
    sleep_between_kernels()
    try:
        from gridnn.comm import agree
        from gridnn.comm.world import World, check_singletons, world_comm
    except InputError as error:  # no MPI: nobody to tell but this process
        return _say(f"error: {error}", error.exit_code)
    comm = world_comm()
    try:
        check_singletons(os.environ, comm.size)
    except InputError as error:
        numbers = (os.environ.get(v) for v in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"))
        first = next(filter(None, numbers), "0") == "0"
        return _say(f"error: {error}", error.exit_code) if first else error.exit_code
    try:
        with World(comm) as world:
            job(world, Console(world.rank, sys.stdout, "OMPI_COMM_WORLD_SIZE" not in os.environ))
        return 0
    except GridnnError as error:
        if error.everywhere or comm.size == 1:
            return _say(f"error: {error}", error.exit_code) if comm.rank == 0 else error.exit_code
        words, code = f"error on rank {comm.rank}: {error}\nall ranks are stopped", error.exit_code
    except SystemExit as done:  # from the argument parser, on all ranks alike
        return int(done.code or 0)
    except KeyboardInterrupt:
        words, code = f"rank {comm.rank}: interrupted", 130
    except BaseException:
        words = (
            f"rank {comm.rank} failed; this is a bug of gridnn or its surroundings, all ranks are stopped\n"
            + traceback.format_exc()
        )
        code = 1
    if agree.speaks_for_all(comm):
        shout(words)
    agree.abort(code)
    return 1


def yield_if_crowded() -> None:
    """Before MPI starts: let waiting ranks sleep where there are more of them than cores.

    MPICH spins while it waits, and ranks without a core of their own then wait for each other's time slices;
    its mpiexec tells the number of ranks on the host.  Open MPI yields by itself.
    """
    ranks = int(os.environ.get("MPI_LOCALNRANKS") or 1)
    if ranks > len(os.sched_getaffinity(0)):
        os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


def sleep_between_kernels() -> None:
    """Before OpenMP starts: let its threads sleep while they have nothing to do, unless the user says otherwise.

    Threads that spin lose their time slices to whatever else runs, and the next kernel waits for them: with one other
    program on two cores a step of two threads took two to six times as long.  On quiet cores waking costs microseconds.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def threads_of(world: World) -> int:
    """Return the threads of a rank's kernels: what the user or Slurm says, else its share of the cores."""
    for variable in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        if os.environ.get(variable, "").isdigit():
            return max(1, int(os.environ[variable]))
    return world.cores_per_rank(os.sched_getaffinity(0))


def cache_folder() -> Path:
    """Return where gridnn keeps what it measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridnn"


def _job(world: World, console: Console, argv: Sequence[str] | None) -> None:
    from gridnn.comm.agree import agreed
    from gridnn.train import run as job
    from gridnn.train.arguments import parse_arguments
    from gridnn.train.config import default_job, dump_toml, load_config
    from gridnn.train.tables import show_plan

    arguments = parse_arguments(argv, quiet=world.rank > 0)
    with agreed(world):
        path = arguments.config or default_job(arguments.overrides)
        config = load_config(path, arguments.overrides, arguments.plan, arguments.run_dir)
    if arguments.print_config:
        console.say(dump_toml(config).rstrip())
        return
    threads = config.compute.threads or threads_of(world)
    prepared = job.prepare(world, config, console, threads, cache_folder() / "choices.json")
    show_plan(world, prepared.job, config.train, console)
    if arguments.write_plan:
        with agreed(world):
            if world.rank == 0:
                _write(Path(arguments.write_plan), prepared.job.plan.dumps())
        console.say(f"plan written to {arguments.write_plan}")
    if arguments.dry_run:
        return
    folder = job.open_record(world, config, config.model.name)
    # A run that diverges ends with one message of its own (RunError), not with one of each rank and operation.
    with threadpool_limits(threads), np.errstate(all="ignore"):
        summary = job.train(prepared, folder)
    console.summary_table(summary, str(folder))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot write the plan to {path}: {error.strerror}; name a file that can be written"
        ) from None


def _say(text: str, code: int) -> int:
    shout(text)
    return code
