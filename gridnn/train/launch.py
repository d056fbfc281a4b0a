"""The porch of training: words in, exit code out, and no rank left waiting for another.

| what happens                                   | what ends the run                                         |
|------------------------------------------------|-----------------------------------------------------------|
| an error all ranks know of (`everywhere`)      | rank 0 says it, all leave with its code                   |
| an error of some ranks, a full disk, or a bug  | one of them says it, and aborts all                       |
| a rank that is stuck, stopped or cut off       | the watchdog of the lowest rank that is not               |
| a rank that is killed                          | the launcher (mpiexec, srun -K); `gridnn launch` says who |
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from gridnn.errors import GridnnError, InputError, RunError
from gridnn.train.batch import ranks_on_node, read_allocation, time_left
from gridnn.train.batch import words as allocation_words
from gridnn.train.console import Console, shout
from gridnn.train.leave import Signals

if TYPE_CHECKING:
    from gridnn.comm.world import World

# What a disk says that is full, or that fails.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a training job; returns the exit code (0, or `GridnnError.exit_code`)."""
    with Signals() as signals:  # from here on: what comes while MPI starts counts, too
        asked = partial(_asked_device, argv)
        code = together(lambda world, console: _job(world, console, argv, signals), asked)
        signals.ignore()
    return code


def together(job: Callable[[World, Console], int | None], device: Callable[[], str] = lambda: "cpu") -> int:
    """Run a job on all started ranks; returns the exit code (that of the job, or `GridnnError.exit_code`).

    Parameters
    ----------
    device
        Returns where the job is asked to compute: "cpu", "gpu" or "auto".
    """
    yield_if_crowded()
    sleep_between_kernels()
    take_device(device())
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
            world.patience.on = world.share_cores(_machine(), os.sched_getaffinity(0))
            return job(world, Console(world.rank, sys.stdout, "OMPI_COMM_WORLD_SIZE" not in os.environ)) or 0
    except GridnnError as error:
        if error.everywhere or comm.size == 1:
            return _say(f"error: {error}", error.exit_code) if comm.rank == 0 else error.exit_code
        words, code = f"error on rank {comm.rank}: {error}\nall ranks are stopped", error.exit_code
    except SystemExit as done:  # from the argument parser, on all ranks alike
        return int(done.code or 0)
    except KeyboardInterrupt:
        words, code = f"rank {comm.rank}: interrupted", 130
    except BaseException as error:
        words, code = _unforeseen(comm.rank, error)
    if agree.speaks_for_all(comm):
        shout(words)
    agree.abort(code)


def _unforeseen(rank: int, error: BaseException) -> tuple[str, int]:
    """Return what is said about an error that nobody turned into words, and the exit code; inside its handler."""
    if isinstance(error, OSError) and error.errno in _DISK:
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = error.filename or f"by {Path(at.filename).name}, line {at.lineno}"
        return (
            f"error on rank {rank}: a file cannot be written ({what}): {error.strerror}\nall ranks are stopped; make "
            "room, and go on with --resume auto",
            RunError.exit_code,
        )
    return (
        f"rank {rank} failed; this is a bug of gridnn or its surroundings, all ranks are stopped\n"
        + traceback.format_exc(),
        1,
    )


def yield_if_crowded() -> None:
    """Before MPI starts: let waiting ranks sleep where there are more of them than cores.

    MPICH spins while it waits, and ranks without a core of their own then wait for each other's time slices;
    its mpiexec and Slurm tell the number of ranks on the host.  Open MPI yields by itself.
    """
    ranks, cores = int(os.environ.get("MPI_LOCALNRANKS") or 1), len(os.sched_getaffinity(0))
    if on_node := ranks_on_node(os.environ):  # a rank that srun has bound sees its own cores only
        ranks, cores = on_node, os.cpu_count() or 1
    if ranks > cores:
        os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


def _machine() -> str:
    """Return what tells this machine from others: containers and namespaces have names of their own, but one kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def sleep_between_kernels() -> None:
    """Before OpenMP starts: let its threads sleep while they have nothing to do, unless the user says otherwise.

    Threads that spin lose their time slices to whatever else runs, and the next kernel waits for them: with one other
    program on two cores a step of two threads took two to six times as long.  On quiet cores waking costs microseconds.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def take_device(asked: str) -> None:
    """Before MPI starts: take the device of this rank, where one is asked for and the launcher says which it is.

    Whatever is wrong with it is said when all ranks can be told (`engine.engine_of`).
    """
    if asked != "cpu":
        from gridnn.compute.gpu.device import bind_early

        bind_early(os.environ)


def threads_of(world: World) -> int:
    """Return the threads of a rank's kernels: what the user or Slurm says, else its share of the cores."""
    for variable in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        if os.environ.get(variable, "").isdigit():
            return max(1, int(os.environ[variable]))
    return world.cores_per_rank(os.sched_getaffinity(0))


def environment() -> Mapping[str, str]:
    """Return the environment of this process, through which launchers and MPI libraries speak."""
    return os.environ


def cache_folder() -> Path:
    """Return where gridnn keeps what it measured on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridnn"


def _asked_device(argv: Sequence[str] | None) -> str:
    """Return `compute.device` before MPI starts; "cpu" where words or files are wrong, which is said afterwards."""
    from gridnn.train.arguments import parse_arguments
    from gridnn.train.config import default_job, load_config

    try:
        arguments = parse_arguments(argv, quiet=True)
        path = arguments.config or default_job(arguments.overrides)
        return load_config(path, arguments.overrides, device=arguments.device).compute.device
    except (GridnnError, SystemExit):
        return "cpu"


def _job(world: World, console: Console, argv: Sequence[str] | None, signals: Signals) -> int:
    from gridnn.comm.agree import agreed
    from gridnn.comm.watchdog import Watchdog
    from gridnn.compute.gpu.room import MemoryShortError
    from gridnn.train import memory
    from gridnn.train import run as job
    from gridnn.train.arguments import parse_arguments
    from gridnn.train.config import default_job, dump_toml, load_config
    from gridnn.train.resume import open_start
    from gridnn.train.tables import show_plan

    arguments = parse_arguments(argv, quiet=world.rank > 0)
    with agreed(world):
        path = arguments.config or default_job(arguments.overrides)
        config = load_config(path, arguments.overrides, arguments.plan, arguments.run_dir, arguments.device)
    if arguments.print_config:
        console.say(dump_toml(config).rstrip())
        return 0
    allocation, left_s = read_allocation(os.environ), None
    if allocation is not None and world.rank == 0:
        left_s = time_left(allocation)
        console.say(allocation_words(allocation, left_s))
    threads = config.compute.threads or threads_of(world)
    with Watchdog(world, config.comm.timeout_s, shout) as watchdog:
        prepared = job.prepare(world, config, console, threads, cache_folder() / "choices.json", os.environ)
        watchdog.heard()
        show_plan(world, prepared.job, config.train, console)
        fits = memory.check_fits(prepared, Path(arguments.write_plan) if arguments.write_plan else None)
        if fits is not None:
            console.say(fits)
        if arguments.write_plan:
            with agreed(world):
                if world.rank == 0:
                    memory.write(Path(arguments.write_plan), prepared.job.plan.dumps())
            console.say(f"plan written to {arguments.write_plan}")
        if arguments.dry_run:
            return 0
        start = open_start(world, config, arguments.resume, console)
    if start.finished and start.checkpoint is not None and start.step >= job.steps_of(prepared):
        console.say(f"the run in {start.folder} is finished: {start.step} steps; raise train.epochs to go on")
        return 0
    if start.checkpoint is not None:
        console.say(f"resumed from {start.checkpoint.folder}: {start.step} steps are made")
    prepared.signals, prepared.left_s = signals, left_s
    # A run that diverges ends with one message of its own (RunError), not with one of each rank and operation.
    with threadpool_limits(threads), np.errstate(all="ignore"):
        try:
            result = job.train(prepared, start)
        except MemoryShortError as error:
            if error.everywhere:  # all ranks have it, and one of them said what it had
                raise
            raise memory.short(prepared, error) from error
    if not isinstance(result, job.Left):
        console.summary_table(result, str(start.folder))
        return 0
    saved, code = f"saved in {start.folder}", result.reason.exit_code
    if result.saved is None:  # to come back would be to start anew
        saved, code = "nothing was saved (checkpoint.keep = 0)", RunError.exit_code
    console.say(f"left after step {result.step}: {result.reason.words}; {saved}")
    return code


def _say(text: str, code: int) -> int:
    shout(text)
    return code
