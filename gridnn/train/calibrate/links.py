"""Seconds of messages and collectives between ranks, all ranks of a level at once, as in a run.

    ranks      0   1   2   3  |  4   5   6   7          two nodes of four

    level 0    0 <-> 1 2 <-> 3   4 <-> 5 6 <-> 7         neighbours inside a node swap
    level 1    0 <----------->   4                       one stream between two nodes: alpha and beta
    level 1    0 .. 3 <-----> 4 .. 7                     all of them at once: how many links they share

A swap is a receive and a send at once, the step all the collectives of a plan are made of.  Beside it are measured,
for comparison, a ping-pong (other programs' latency) and the swap as `gridnn.comm.mover` makes it (with its Python).
Collectives are called as `gridnn.comm.collectives` calls them; sums of whole buckets, which follow one another in a
backward pass and of which several are under way, as many at once as that.

Where ranks compute on devices swaps and collectives are of their arrays, by the run's transport (`swaps`).  The
ping-pong stays the host's: what lies between the two is what the transport takes.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from gridnn.comm.collectives import all_gather_shares, finish, start_reduce_scatter, start_sum
from gridnn.comm.world import Array, World
from gridnn.compute.gpu.engine import Engine
from gridnn.cost.machine import COLLECTIVES
from gridnn.errors import InputError
from gridnn.train.calibrate.swaps import KEY, moving, ping_pong, swapping

SIZES, QUICK_SIZES = tuple(8 << shift for shift in range(0, 24, 3)), (8, 512, 32 << 10, 1 << 20)
"""Bytes of messages: 8 B to 16 MB."""
SUMS, QUICK_SUMS = tuple(1 << shift for shift in range(10, 24, 3)), (1 << 10, 32 << 10, 1 << 20)
"""Bytes of the buffers of collectives: 1 KB to 4 MB."""
BUCKET, BUCKETS = 4 << 20, 6
"""Bytes of a sum as large as a run's, of which so many are queued."""


@dataclass(frozen=True)
class Nodes:
    """Where the ranks are: the number of each one's node, and how many share a node."""

    of_rank: tuple[int, ...]
    ranks: int

    @property
    def count(self) -> int:
        """Nodes."""
        return len(self.of_rank) // self.ranks

    def on(self, node: int) -> tuple[int, ...]:
        """Return the ranks on a node, ascending."""
        return tuple(rank for rank, found in enumerate(self.of_rank) if found == node)

    @property
    def in_order(self) -> bool:
        """Whether neighbours in rank are neighbours in space, as a machine file has it."""
        return list(self.of_rank) == sorted(self.of_rank)


@dataclass(frozen=True)
class Message:
    """A measured message.

    Parameters
    ----------
    level
        "node" or "network".
    how
        "swap", "ping-pong", or "mover" for the swap that the mover makes.
    streams
        Out of a unit of the level below, at once.
    """

    level: str
    how: str
    streams: int
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class Collective:
    """A measured collective: over groups of `members[-1]` ranks, `members[l]` of them in a unit of level l."""

    kind: str
    members: tuple[int, ...]
    nbytes: int
    seconds: float


def find_nodes(world: World, ranks_per_node: int | None) -> Nodes:
    """Return the nodes of a job: by host name, or of as many ranks as the user says.  Collective.

    Raises
    ------
    InputError
        On all ranks, if nodes have different numbers of ranks.
    """
    names = world.comm.allgather(platform.node())
    if ranks_per_node is not None:
        if ranks_per_node < 1 or world.size % ranks_per_node:
            raise InputError(
                f"--ranks-per-node {ranks_per_node}: {world.size} ranks are not whole nodes of so many; "
                "give a divisor of the number of ranks"
            )
        names = [str(rank // ranks_per_node) for rank in range(world.size)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    counts = sorted({names.count(name) for name in numbers})
    if len(counts) > 1:
        raise InputError(
            f"nodes have {' and '.join(map(str, counts))} ranks; a machine has equal nodes: start the same number "
            "on each (mpiexec -ppn N, srun --ntasks-per-node=N)"
        )
    return Nodes(tuple(numbers[name] for name in names), counts[0])


def levels_of(nodes: Nodes) -> tuple[str, ...]:
    """Return the levels that messages can be measured on, from the inside out."""
    return ("node",) * (nodes.ranks > 1) + ("network",) * (nodes.count > 1)


def measure_messages(
    world: World, nodes: Nodes, quick: bool, say: Callable[[str], None], device: Engine | None = None
) -> Iterator[Message]:  # fmt: skip
    """Yield measured messages, the same on all ranks.  Collective.

    Parameters
    ----------
    device
        What computes where arrays are on a device, whose messages are measured then; None is the host.
    """
    for level in levels_of(nodes):
        counts = [1] if level == "node" else sorted({1, *_doubled(nodes.ranks)})
        for streams in counts:
            peer = _peer(nodes, level, streams, world.rank)
            sizes = QUICK_SIZES if quick else SIZES
            for nbytes in sizes if streams == 1 else sizes[-2:]:
                with swapping(world, peer, nbytes, device) as work:
                    yield Message(level, "swap", streams, nbytes, _seconds(world, work, nbytes, quick))
                if streams == 1:
                    there_and_back_s = _seconds(world, ping_pong(world, peer, nbytes), nbytes, quick)
                    yield Message(level, "ping-pong", 1, nbytes, there_and_back_s / 2)
        with moving(world, _peer(nodes, level, 1, world.rank), device) as work:
            yield Message(level, "mover", 1, 8, _seconds(world, work, 8, quick))
        say(f"links: {level} measured, {counts[-1]} stream{'s' * (counts[-1] > 1)} at once")


def measure_collectives(
    world: World, nodes: Nodes, quick: bool, say: Callable[[str], None], device: Engine | None = None
) -> Iterator[Collective]:  # fmt: skip
    """Yield measured collectives over groups of 2, 4, ... and all ranks, the same on all ranks.  Collective.

    Parameters
    ----------
    device
        As in `measure_messages`.
    """
    for procs in sorted({*_doubled(world.size), world.size} - {1}):
        first = world.rank // procs * procs
        ranks = tuple(range(first, first + procs)) if first + procs <= world.size else ()
        inside = (min(procs, nodes.ranks),) if nodes.ranks > 1 else ()
        members = (*inside, procs) if nodes.count > 1 else (procs,)
        for nbytes in QUICK_SUMS if quick else SUMS:
            for kind in COLLECTIVES:
                arrays = _buffers(nbytes, BUCKETS if kind == "allreduce" and nbytes >= BUCKET else 1, device)
                work = partial(_called, kind, world, ranks, arrays, device) if ranks else None
                yield Collective(kind, members, nbytes, _seconds(world, work, nbytes, quick) / len(arrays))
        say(f"links: collectives over {procs} ranks measured")


def _seconds(world: World, work: Callable[[], object] | None, nbytes: int, quick: bool) -> float:
    """Return the median seconds of some work on the slowest rank; None is a rank that looks on.  Collective."""
    inner = max(
        1, min(50, (1 << 19) // max(nbytes, 1))
    )  # short ones in a row: the clock and the barrier cost too
    taken = []
    for _ in range(1 + (5 if quick else 11)):
        world.comm.Barrier()
        started_s = time.perf_counter()
        if work is not None:
            for _ in range(inner):
                work()
        taken.append((time.perf_counter() - started_s) / inner)
    mine = statistics.median(taken[1:]) if work is not None else 0.0
    return float(max(world.comm.allgather(mine)))


def _peer(nodes: Nodes, level: str, streams: int, rank: int) -> int | None:
    """Return with whom a rank exchanges messages on a level; None if it looks on."""
    mine = nodes.on(nodes.of_rank[rank])
    at = mine.index(rank)
    if level == "node":
        return mine[at ^ 1] if at ^ 1 < len(mine) else None
    other = nodes.of_rank[rank] ^ 1
    return nodes.on(other)[at] if at < streams and other < nodes.count else None


def _buffers(nbytes: int, count: int, device: Engine | None) -> list[Array]:
    made = [np.zeros(nbytes // 4, np.float32) for _ in range(count)]
    return made if device is None else [device.take(array) for array in made]


def _called(
    kind: str, world: World, ranks: tuple[int, ...], arrays: list[Array], device: Engine | None
) -> None:  # fmt: skip
    """Make a collective, or as many as there are arrays at once, until a device has what they bring."""
    _CALLS[kind](world, ranks, arrays)
    if device is not None:
        device.synchronize()


def _all_reduce(world: World, ranks: tuple[int, ...], arrays: list[Array]) -> None:
    for request in [start_sum(world, ranks, array, [(KEY, array.size)]) for array in arrays]:
        finish(world, request, "allreduce")


def _reduce_scatter(world: World, ranks: tuple[int, ...], arrays: list[Array]) -> None:
    (array,) = arrays
    request, _ = start_reduce_scatter(world, ranks, array, [(KEY, array.size)])
    finish(world, request, "reduce_scatter")


def _all_gather(world: World, ranks: tuple[int, ...], arrays: list[Array]) -> None:
    (array,) = arrays
    all_gather_shares(world, ranks, array, [(KEY, array.size)])


def _doubled(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to `most`."""
    return [1 << shift for shift in range(most.bit_length()) if 1 << shift <= most]


_CALLS = {"allreduce": _all_reduce, "allgather": _all_gather, "reduce_scatter": _reduce_scatter}
