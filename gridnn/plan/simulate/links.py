"""The devices of a machine: ranks, their two ports, and the streams that the ranks of a unit share.

4 ranks a node, links = 1 on level "network":

    rank 0 .. rank 3        compute
    rank 3 in, rank 3 out   what comes to a rank, what leaves it: one transfer after the other, whatever the levels
    node 0 network in 0     what comes to node 0 from other nodes, over its only stream; and "out"

A transfer is at the port of its narrow end, the rank that has most to receive or to send: one process takes in all
of it, as `cost.collectives.exchange_s` has it.  Its other end is not held up: ports are full duplex, and a rank that
many read from is the narrow end itself.  Where it crosses a level whose units have fewer `links` than ranks it is on
a stream of the unit as well, for its bytes alone; ranks are dealt to streams in blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.collectives import members
from gridnn.cost.machine import Machine
from gridnn.cost.movement import COLLECTIVE_S
from gridnn.plan.simulate.segment import Longs

Floats = NDArray[np.float64]


class Links:
    """Ports and streams of a job on a machine, and the seconds of its collectives.

    Attributes
    ----------
    names : list of str
        Every device; the ranks come first.
    shared : tuple of int
        Levels on which the ranks of a unit share streams.
    """

    def __init__(self, machine: Machine, procs: int) -> None:
        self.machine, self.procs = machine, procs
        self.names = [f"rank {r}{end}" for end in ("", " in", " out") for r in range(procs)]
        self._streams: dict[int, Longs] = {}  # of every rank over a level: in, out
        self._collective: dict[tuple[str, tuple[int, ...], float], float] = {}
        ranks = np.arange(procs)
        for at, (level, unit) in enumerate(zip(machine.levels[1:], machine.units, strict=True), 1):
            if not 0 < level.links < unit or procs <= unit:
                continue
            units, below = -(-procs // unit), machine.levels[at - 1].name
            here = ranks // unit * level.links + ranks % unit * level.links // unit
            self._streams[at] = len(self.names) + np.stack([here, here + units * level.links])
            self.names += [
                f"{below} {u} {level.name} {end} {i}"
                for end in ("in", "out") for u in range(units) for i in range(level.links)
            ]  # fmt: skip
        self.shared = tuple(self._streams)

    def ports(self, ranks: Longs, outgoing: bool) -> Longs:
        """Return the port of each rank on one side."""
        return ranks + self.procs * (2 if outgoing else 1)

    def streams(self, level: int, ranks: Longs, outgoing: bool) -> Longs:
        """Return the stream of each rank over a shared level."""
        found: Longs = self._streams[level][int(outgoing), ranks]
        return found

    def levels(self, ranks: Longs, others: Longs) -> Longs:
        """Return the level between each rank and each of the others."""
        found = np.zeros((len(ranks), len(others)), np.int64)
        for unit in self.machine.units:
            found += (ranks // unit)[:, None] != others // unit
        return found

    def crossed(self, ranks: Longs) -> list[int]:
        """Return the shared levels over which ranks of a group meet."""
        found = []
        for level in self.shared:
            around = self.machine.units[level:]
            outer, inner = ranks // around[0] if around else ranks * 0, ranks // self.machine.units[level - 1]
            if len(set(inner.tolist())) > len(set(outer.tolist())):
                found.append(level)
        return found

    def collective_s(self, kind: str, ranks: Longs, nbytes: float) -> float:
        """Return the seconds of a collective over some ranks, as `cost.price` has them."""
        at = (kind, members(self.machine, ranks.tolist()), nbytes)
        if at not in self._collective:
            self._collective[at] = float(COLLECTIVE_S[kind](self.machine, *at[1:], self.procs))
        return self._collective[at]
