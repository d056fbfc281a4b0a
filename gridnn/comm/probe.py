"""What the ranks of a run would find: a program of its own, started by every rank of ``gridnn doctor``.

    gridnn doctor (rank r)  --request-->  python -m gridnn.comm.probe N   takes its device, starts MPI, asks, measures,
        no MPI in it        <--lines----  on descriptor N: stages,        and tries what devices would do
                                          then a report or an error

So a library that dies while it starts, or that waits for ever, takes this process with it and not the one that has to
say so.  Every rank gets the whole report, and before each attempt (`gridnn.comm.attempts`) what was found so far.  The
end of standard input ends the probe: it never outlives who asked.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gridnn import __version__
from gridnn.comm.cuda_aware import Means, Support, choose_transport
from gridnn.compute.gpu.cudnn import Found as Cudnn
from gridnn.compute.gpu.cudnn import find_cudnn
from gridnn.compute.gpu.found import Found, bind, device_of, find_devices, local_rank, prove
from gridnn.errors import GridnnError

if TYPE_CHECKING:
    from gridnn.comm.world import World
    from gridnn.compute.gpu.engine import Engine

Facts = dict[str, Any]
Taken = tuple[int | None, int, str]
_NONE: Taken = (None, 0, "")
TAKING, STARTING, ASKING = "its device was tried", "MPI started", "ranks were asked"
MEASURING = "messages between neighbours were measured"
"""Stages, in the words of "it stopped while ..."."""
_LIMIT_S, _REST_S = 60.0, 5.0
"""Seconds for all of it where nobody says; of those, what is left at the end to start and to end."""
_ABORTED = 1


def main() -> int:
    """Answer the request on standard input; returns the exit code."""
    out, started_s = int(sys.argv[1]), time.monotonic()
    request = json.loads(_first_line())
    threading.Thread(target=_end_with_input, daemon=True).start()
    tell = partial(_tell, out)
    environment, gpu = request["environment"], Found(missing="nobody looked: device cpu")
    if request["device"] != "cpu":
        gpu = find_devices()
    tell({"stage": TAKING})
    taken = _take(gpu, local_rank(environment))  # before MPI starts and settles on another
    tell({"stage": STARTING})
    try:
        from gridnn.comm.world import World, check_singletons, world_comm

        comm = world_comm()
        check_singletons(environment, comm.size)
    except GridnnError as error:  # no MPI, or as many MPIs as processes: each stands alone
        tell({"error": str(error), "rank": 0, "facts": _host_facts() | _gpu_facts(gpu, taken)})
        return 0
    from gridnn.comm import agree
    from gridnn.comm.neighbours import measure_neighbours

    try:
        with World(comm) as world:
            tell({"stage": ASKING})
            on_host = _rank_on_host(world)
            if taken == _NONE:  # no launcher said which rank of the host this is
                taken = _take(gpu, on_host)
            taken, engine = _opened(taken)
            mine = _host_facts() | _gpu_facts(gpu, taken) | _mpi_facts(world, environment)
            ranks = world.comm.allgather(mine)
            tell({"stage": MEASURING})
            report = {"ranks": ranks, "links": measure_neighbours(world)}
            left_s = request.get("limit_s", _LIMIT_S) - _REST_S - (time.monotonic() - started_s)
            report |= _tried(world, engine, request, report, partial(_announce, tell, comm.rank), left_s)
            tell({"report": report, "rank": comm.rank})
            world.comm.Barrier()  # a rank that leaves early is taken for one that failed
    except BaseException:
        words = f"rank {comm.rank} failed in the probe:\n{traceback.format_exc()}"
        if agree.speaks_for_all(comm):
            tell({"error": words, "rank": comm.rank, "facts": None})
        agree.abort(_ABORTED)
    return 0


def _first_line() -> bytes:
    """Return the first line of standard input; what follows is left to `_end_with_input`."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            os._exit(_ABORTED)
        line += more
    return line


def _end_with_input() -> None:
    """Wait until who asked is gone, or wants no answer any more."""
    while os.read(0, 1 << 16):
        pass
    os._exit(_ABORTED)


def _tell(out: int, what: Facts) -> None:
    line = (json.dumps(what) + "\n").encode()
    while line:
        line = line[os.write(out, line) :]


def _take(gpu: Found, local: int | None) -> Taken:
    """Take the device of a local rank and compute on it; returns its index, bytes free on it, and what went wrong."""
    index = None if local is None else device_of(local, len(gpu.devices))
    if index is None:
        return _NONE
    try:
        free = bind(index)[0]
        prove()
        return index, free, ""
    except GridnnError as error:
        return None, 0, f"device {index}: {error}"
    except Exception as error:  # CuPy's own classes: no context, no memory, a device that others hold alone
        return None, 0, f"device {index} cannot be used: {error}"


def _opened(taken: Taken) -> tuple[Taken, Engine | None]:
    """Return an engine of the device that was taken, as a run would have it; None where there is none, or it fails."""
    index, _, _ = taken
    if index is None:
        return taken, None
    from gridnn.compute.gpu.device import CupyDevice
    from gridnn.compute.gpu.engine import Engine

    try:
        return taken, Engine(CupyDevice(index))
    except GridnnError as error:
        return (None, 0, str(error)), None


def _rank_on_host(world: World) -> int:
    """Return how many ranks below this one are on its host.  Collective."""
    names = world.comm.allgather(platform.node())
    return names[: world.rank].count(names[world.rank])


def _host_facts() -> Facts:
    total, free = memory_of_host(Path("/"))
    return {
        "host": platform.node(), "cores": sorted(os.sched_getaffinity(0)), "host_cores": os.cpu_count() or 1,
        "memory_bytes": total, "free_bytes": free, "gridnn": __version__, "python": platform.python_version(),
        "numpy": np.__version__,
    }  # fmt: skip


def memory_of_host(root: Path) -> tuple[int, int]:
    """Return the bytes of memory that this host or its container has, and how many of them are free.

    Parameters
    ----------
    root
        Where the files of the system begin.
    """
    lines = _words(root / "proc/meminfo").splitlines()
    found = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    total = found.get("MemTotal", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    free = found.get("MemAvailable", total)
    limit, used = (_words(root / f"sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal() and int(limit) < total:
        total, free = int(limit), min(free, int(limit) - int(used))
    return total, max(0, free)


def _words(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _gpu_facts(gpu: Found, taken: Taken) -> Facts:
    cudnn = find_cudnn() if gpu.devices else Cudnn(missing="there is no GPU")
    told = gpu._asdict() | {
        "devices": [device._asdict() for device in gpu.devices],
        "cudnn": cudnn._asdict(),
    }
    return {"gpu": told | dict(zip(("taken", "free_bytes", "failed"), taken, strict=True))}


def _mpi_facts(world: World, environment: Mapping[str, str]) -> Facts:
    """Return what MPI says of itself, and the threads that kernels of this rank would have.  Collective."""
    from mpi4py import MPI

    from gridnn.comm.world import device_support, mpi_version

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
    }
    said = (environment.get(name, "") for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"))
    share = world.cores_per_rank(os.sched_getaffinity(0))
    return {
        "mpi": mpi_version(), "standard": ".".join(map(str, MPI.Get_version())),
        "threading": levels.get(MPI.Query_thread(), "multiple"), "cuda": device_support(environment)._asdict(),
        "threads": next((max(1, int(word)) for word in said if word.isdecimal()), share),
    }  # fmt: skip


def _tried(
    world: World, engine: Engine | None, request: Mapping[str, Any], report: Facts, announce: Callable[..., None],
    left_s: float,
) -> Facts:  # fmt: skip
    """Return what a run would use, and what came of trying it.  Collective."""
    from gridnn.comm.attempts import attempt, nothing_tried

    ranks = report["ranks"]
    use = _use(request, ranks)
    if use["error"]:
        return nothing_tried(use, "what was asked for cannot be had")
    if use["device"] == "cpu" or engine is None:
        return nothing_tried(use, f"arrays are in host memory ({use['why'].split(',')[0]})")
    if world.size == 1:
        return nothing_tried(use, "there is one rank, which sends nothing")
    announce("", MEASURING, request.get("limit_s", _LIMIT_S), report)
    return attempt(world, engine, request["transport"], ranks, use, announce, left_s)


def _announce(
    tell: Callable[[Facts], None], rank: int, name: str, words: str, within_s: float, found: Facts
) -> None:  # fmt: skip
    """Tell what is tried next, within how many seconds, and what is new of the report so far."""
    tell({"stage": words, "trying": name, "within_s": within_s, "rank": rank, "so_far": found})


def _use(request: Mapping[str, str], ranks: list[Facts]) -> Facts:
    """Return what a run would choose, or why it would end."""
    means = [_means(rank) for rank in ranks]
    try:
        return choose_transport(request["transport"], means, request["device"])._asdict() | {"error": ""}
    except GridnnError as error:
        return {"device": "", "transport": "", "why": "", "error": str(error)}


def _means(rank: Facts) -> Means:
    gpu, cuda = rank["gpu"], rank["cuda"]
    device = "" if gpu["taken"] is None else gpu["devices"][gpu["taken"]]["identity"]
    return Means(rank["host"], device, Support(tuple(cuda["operations"]), cuda["why"]), gpu["nccl"])


if __name__ == "__main__":
    sys.exit(main())
