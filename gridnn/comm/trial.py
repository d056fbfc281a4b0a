"""A trial of NCCL before a run relies on it: one number of every device, summed over all of them and looked at.

    every rank   identity (by MPI)  --> | communicator - sum - the number read |  at most so long
                                          in a thread: what hangs there holds up nobody
    all ranks    what each found    --> "" or why not, the same on all

A library may be there and not work: no shared memory in a container, no route between hosts, two ranks on one device
under two names.  Whoever asked can then do without.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from gridnn.comm.cuda_aware import Choice
from gridnn.comm.links import LOOK_S, MOVES, said
from gridnn.comm.nccl import Nccl
from gridnn.comm.world import World
from gridnn.compute.gpu.device import Device
from gridnn.errors import InputError

TRIAL_S = 60.0
"""Seconds of a trial: thousands of ranks take tens of them to connect."""
LATE = "no answer within"


def tried(world: World, device: Device, nccl: Nccl, limit_s: float = TRIAL_S) -> str:
    """Return "" if NCCL works between all ranks, else why not, the same on all.  Collective.

    Parameters
    ----------
    device
        Of this rank.
    limit_s
        After which no answer is an answer.
    """
    ranks = tuple(range(world.size))
    identity, wrong = nccl.links.identity(world, ranks)
    if not wrong:
        found = [f"{LATE} {limit_s:g} s"]

        def work() -> None:
            try:
                found[0] = _summed(world, device, nccl, ranks, identity, limit_s)
            except Exception as error:  # of any library below
                found[0] = said(error)

        thread = threading.Thread(target=work, name="nccl-trial", daemon=True)
        thread.start()
        thread.join(limit_s)
        wrong = found[0]
    told = world.comm.allgather(wrong)
    failed = [rank for rank, words in enumerate(told) if words]
    if not failed:
        return ""
    nccl.links.close(world, orderly=False)
    # Where one fails the others wait for it: that says less.
    first = next((rank for rank in failed if not told[rank].startswith(LATE)), failed[0])
    return f"rank {first}: {told[first]}"


def instead(asked: str, wrong: str) -> Choice:
    """Return how arrays of devices travel where NCCL was chosen and a trial of it failed; the same on all ranks.

    Parameters
    ----------
    asked
        The transport that the user asked for; with "auto" messages go by the host.
    wrong
        What `tried` found.

    Raises
    ------
    InputError
        Where NCCL was asked for.
    """
    words = f"NCCL is here and does not work between these ranks ({wrong})"
    if asked == "nccl":
        error = InputError(f"{words}; NCCL_DEBUG=WARN says more, comm.transport = 'staged' goes without it")
        error.everywhere = True
        raise error
    return Choice("gpu", "staged", words)


def _summed(
    world: World, device: Device, nccl: Nccl, ranks: tuple[int, ...], identity: object, limit_s: float
) -> str:
    """Sum a number of each rank; return what is wrong with the sum."""
    links = nccl.links
    links.streams.bind()
    links.make(world, MOVES, ranks, identity)
    array = device.from_host(np.full(1, world.rank + 1.0, np.float32))
    stop_s = time.monotonic() + limit_s
    launched = nccl.start_first(world, ranks, array)
    while not launched.done:
        if time.monotonic() > stop_s:
            return f"{LATE} {limit_s:g} s, to a sum of one number"
        time.sleep(LOOK_S)
    launched.Wait()
    got, wanted = float(device.to_host(array)[0]), world.size * (world.size + 1) / 2
    return "" if got == wanted else f"a sum of 1 to {world.size} was {got:g}"
