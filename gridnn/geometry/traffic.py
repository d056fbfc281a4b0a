"""Traffic: messages and bytes by layer, direction, collective and grid axes.

The same record is filled twice, by the ledger of a run (comm) and by the formulas (cost), and the two must be
equal for every rank.  The convention is bytes *received* by a rank:

| point to point | the message                                                                |
| all-gather     | the total less its own block                                               |
| reduce-scatter | (p - 1) times its own block                                                |
| all-reduce     | the sum of both, over the balanced blocks of the buffer                    |

A collective is one message for each rank that takes part.

Elements are as wide as `Widths` says:

| activations, their gradients, wherever they are moved as values        | `activation` |
| the same as terms of a sum that a reduce-scatter makes; largest logits | `parameter`  |
| gradients of parameters and their sums, parameters                     | `parameter`  |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gridnn.geometry.interval import Interval


@dataclass(frozen=True)
class Widths:
    """Bytes of an element: of arrays between layers, and of parameters and all sums."""

    activation: int
    parameter: int

    def moved(self, collective: str) -> int:
        """Return the bytes of an element of an activation that a collective moves."""
        return self.parameter if collective == "reduce_scatter" else self.activation


def widths_of(itemsize: int | Widths) -> Widths:
    """Return the widths of a job whose elements are all alike, or those that were given."""
    return itemsize if isinstance(itemsize, Widths) else Widths(itemsize, itemsize)


class Key(NamedTuple):
    """What traffic is counted under."""

    layer: str
    direction: str  # forward, backward or update
    collective: str  # halo, repartition, allgather, reduce_scatter or allreduce
    axes: str  # grid axes it runs along, such as "n h"


class Volume(NamedTuple):
    """Messages and bytes received."""

    messages: int = 0
    received_bytes: int = 0


class Traffic:
    """Volumes by key; adds, scales and compares."""

    def __init__(self) -> None:
        self._volumes: dict[Key, Volume] = {}

    def add(self, key: Key, messages: int, received_bytes: int, times: int = 1) -> None:
        """Add to the volume of a key; nothing at all leaves no entry."""
        if messages or received_bytes:
            old = self._volumes.get(key, Volume())
            self._volumes[key] = Volume(
                old.messages + messages * times, old.received_bytes + received_bytes * times
            )

    def merge(self, other: Traffic, times: int = 1) -> None:
        """Add `times` another traffic."""
        for key, volume in other.items():
            if times:
                self.add(key, volume.messages, volume.received_bytes, times)

    def items(self) -> Iterator[tuple[Key, Volume]]:
        """Iterate over keys and volumes, in order of first use."""
        return iter(self._volumes.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traffic) and self._volumes == other._volumes

    __hash__ = None  # type: ignore[assignment]

    @property
    def received_bytes(self) -> int:
        """All bytes."""
        return sum(v.received_bytes for v in self._volumes.values())

    @property
    def messages(self) -> int:
        """All messages."""
        return sum(v.messages for v in self._volumes.values())

    def by_layer(self) -> dict[str, int]:
        """Return bytes by layer."""
        totals: dict[str, int] = {}
        for key, volume in self.items():
            totals[key.layer] = totals.get(key.layer, 0) + volume.received_bytes
        return totals

    def differences(self, counted: Traffic) -> list[str]:
        """Return a line for each key in which `counted` differs from this prediction."""
        keys = dict.fromkeys([*self._volumes, *counted._volumes])
        lines = []
        for key in keys:
            mine, theirs = self._volumes.get(key, Volume()), counted._volumes.get(key, Volume())
            if mine != theirs:
                lines.append(
                    f"{' / '.join(key)}: predicted {tuple(mine)}, counted {tuple(theirs)} (messages, bytes)"
                )
        return lines


def owned(sizes: Iterable[int], procs: int, index: int) -> list[int]:
    """Return how much of each segment lies in the balanced block of rank `index`.

    The buffer is the segments side by side.
    """
    sizes = list(sizes)
    own, found, at = Interval(0, sum(sizes)).block(procs, index), [], 0
    for size in sizes:
        found.append((own & Interval(at, at + size)).size)
        at += size
    return found


def allreduce_shares(sizes: Iterable[int], procs: int, index: int) -> list[int]:
    """Return how many elements rank `index` of `procs` receives for each segment of an all-reduced buffer.

    It is reduce-scattered and all-gathered over its balanced blocks.
    """
    sizes = list(sizes)
    return [
        (procs - 1) * mine + size - mine for size, mine in zip(sizes, owned(sizes, procs, index), strict=True)
    ]
