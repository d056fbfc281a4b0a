"""What a run would rely on between devices, tried: NCCL, arrays on their way, what MPI does with device memory.

| name                     | is tried where                          | by                                             |
|--------------------------|-----------------------------------------|------------------------------------------------|
| nccl                     | a run would take it                     | a sum (`gridnn.comm.trial`)                    |
| links                    | arrays would be on devices              | round trips as a run makes them (`neighbours`) |
| messages, blocking,      | MPI says that it takes device memory in | calls of a run, whose results are known        |
| non-blocking collectives | them; the user asks for ``cuda-mpi``    | (`gridnn.comm.handed`)                         |

A library that cannot do it may raise, bring wrong numbers, wait for ever, or die and take this process with it.  So
each attempt is announced before it is made, together with what was found so far: who listens then knows what came to
an end, and in what.

Order: NCCL decides how arrays travel; what may kill a process comes last.  NCCL and an MPI that takes device memory
are never under way together: all ranks come to the end of an attempt before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gridnn.comm.cuda_aware import OPERATIONS
from gridnn.comm.handed import handed
from gridnn.comm.links import said
from gridnn.comm.nccl import Nccl, open_nccl
from gridnn.comm.neighbours import DeviceWire, measure_neighbours
from gridnn.comm.transport import Aware, Direct, Staged, Transport
from gridnn.comm.trial import LATE, TRIAL_S, instead, tried
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.errors import GridnnError

Facts = dict[str, Any]
Begin = Callable[[str, str, float, Facts], None]
NCCL, LINKS = "nccl", "links"
NAMES = (NCCL, LINKS, *OPERATIONS)
LINKS_S, CLASS_S = 30.0, 15.0
"""Seconds within which an attempt comes to an end; kernels may be compiled in the first."""


def nothing_tried(use: Facts, why: str) -> Facts:
    """Return what is found where nothing is tried."""
    return {"use": use, "tried": {name: _not_tried(why) for name in NAMES}, "device_links": []}


def attempt(
    world: World, engine: Engine, asked: str, ranks: Sequence[Mapping[str, Any]], use: Facts, begin: Begin,
    left_s: float,
) -> Facts:  # fmt: skip
    """Try what a run would rely on between devices; returns what is found, the same on all ranks.  Collective.

    Parameters
    ----------
    asked
        The transport that the user asks for.
    ranks
        What each rank has.
    use
        What a run would choose: arrays on devices.
    begin
        Is told of each attempt before it is made: its name, the same in words, the seconds within which it comes to an
        end, and what is found so far.
    left_s
        Seconds for all of it.

    Returns
    -------
    dict
        ``use`` with what is known now; ``tried``, of each of `NAMES` whether it was and why not or what is wrong, ""
        for nothing; ``device_links`` as `measure_neighbours`.
    """
    found = nothing_tried(use, "it did not come to that")
    not_nccl = f"a run would take {use['transport']}"
    reasons = {NCCL: "" if use["transport"] == NCCL else not_nccl} | {
        n: _why_not(n, asked, ranks) for n in OPERATIONS
    }
    found["tried"] |= {name: _not_tried(why) for name, why in reasons.items() if why}

    def step(name: str, words: str, within_s: float, work: Callable[[], str]) -> str:
        begin(name, words, within_s, found)
        try:
            wrong = work()
        except Exception as error:  # of any library below
            wrong = said(error)
        why = first_of(world.comm.allgather(wrong))
        found["tried"][name] = {"tried": True, "why": why}
        return why

    def links(transport: Transport) -> str:
        host, world.transport = world.transport, transport
        try:
            found["device_links"] = measure_neighbours(world, DeviceWire(engine))
        finally:
            world.transport = host
        return ""

    transport: Transport = Staged(world.memory, engine)
    if use["transport"] == NCCL:
        limit_s = world.comm.bcast(round(min(TRIAL_S, max(1.0, left_s / 2)), 1))
        opened: list[Nccl] = []
        wrong = step(NCCL, "NCCL was tried", limit_s + CLASS_S, lambda: _nccl(world, engine, limit_s, opened))
        if wrong:
            # Without a trial it was not even loaded: then a run ends, whatever was asked for.
            found["use"] = without_nccl(asked if opened else NCCL, use, wrong)
        else:
            transport = Direct(world.memory, engine, opened[0])
    way = found["use"]["transport"]
    if way in (NCCL, "staged"):
        step(LINKS, f"messages of devices were measured ({way})", LINKS_S, lambda: links(transport))
    for name in OPERATIONS:
        if not reasons[name]:
            words = f"device memory was given to MPI in {name}"
            step(name, words, CLASS_S, partial(handed, world, engine, name))
    if way == "cuda-mpi" and found["tried"]["messages"]["why"]:
        found["tried"][LINKS] = _not_tried("messages of device memory fail")
    elif way == "cuda-mpi":
        words = "messages of devices were measured (cuda-mpi)"
        step(LINKS, words, LINKS_S, lambda: links(Aware(world.memory, engine)))
    elif not way:
        found["tried"][LINKS] = _not_tried("what was asked for cannot be had")
    return found


def first_of(told: Sequence[str]) -> str:
    """Return what the first rank with something wrong says, "" where nothing is."""
    rank, words = next(((rank, words) for rank, words in enumerate(told) if words), (0, ""))
    return f"rank {rank}: {words}" if words and not words.startswith("rank ") else words


def without_nccl(asked: str, use: Facts, wrong: str) -> Facts:
    """Return what a run would do after a trial of NCCL that failed, or why it would end."""
    try:
        return use | instead(asked, wrong)._asdict()
    except GridnnError as error:
        return {"device": "", "transport": "", "why": "", "error": str(error)}


def _nccl(world: World, engine: Engine, limit_s: float, opened: list[Nccl]) -> str:
    """Return what is wrong with NCCL, the same on all ranks; the carrier is in `opened` where all have one."""
    wrong = ""
    try:
        opened.append(open_nccl(engine.device))
    except GridnnError as error:  # the others wait to be told
        wrong = str(error)
    wrong = first_of(world.comm.allgather(wrong))
    if wrong:
        opened.clear()
    else:
        wrong = tried(world, engine.device, opened[0], limit_s)
        if LATE in wrong and limit_s < TRIAL_S:
            wrong += (
                f"; a run waits {TRIAL_S:g} s for it, and so does gridnn doctor --limit {2 * TRIAL_S + 30:g}"
            )
    return wrong


def _why_not(name: str, asked: str, ranks: Sequence[Mapping[str, Any]]) -> str:
    """Return why device memory is not given to MPI in a class of operations, "" if it is."""
    if asked == "cuda-mpi":
        return ""
    without = next((rank["cuda"] for rank in ranks if name not in rank["cuda"]["operations"]), None)
    if without is None:
        return ""
    known = "the documentation of this MPI excludes it" if without["operations"] else without["why"]
    return f"{known}; --transport cuda-mpi tries it"


def _not_tried(why: str) -> Facts:
    return {"tried": False, "why": why}
