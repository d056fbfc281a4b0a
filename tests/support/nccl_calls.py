"""The calls of the NCCL of the tests (`nccl.py`): what each sends and to whom, and what it makes of what comes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tests.support.lazy import Block, LazyStream

if TYPE_CHECKING:
    from tests.support.nccl import Library

TYPES = {1: np.uint8, 7: np.float32, 8: np.float64}
REDUCE = {0: np.add, 2: np.maximum, 3: np.minimum}
"""Of the numbers of dtypes and operations."""
Ticket = tuple[int, int, int]
"""Of a message: who sends it, its tag, its number among those."""


class NcclError(RuntimeError):
    """As CuPy's."""


class Part(NamedTuple):
    """What one call does when its stream comes to it.

    Parameters
    ----------
    reads, writes
        Memory, and its content when it was called.
    tickets
        Of what comes, each with what its sender should say of it.
    apply
        Gives what is written, of what came.
    """

    reads: list[tuple[Block, bytes]]
    writes: list[tuple[Block, bytes]]
    tickets: list[tuple[Ticket, tuple[Any, ...]]]
    apply: Callable[[list[Any]], list[Any]]


class Call(NamedTuple):
    """A call that is taken down.

    Parameters
    ----------
    meets
        Ranks of the communicator, and what goes between: "send", "recv", or "all" of a collective.
    """

    communicator: Communicator
    pointer: int
    make: Callable[[Numbers], Part]
    meets: list[tuple[str, int]]


class Numbers:
    """The numbers of one kernel: the same at both ends of a message, if ranks do the same."""

    def __init__(self, library: Library, communicator: Communicator) -> None:
        self._library, self._communicator = library, communicator
        self._orders: dict[int, tuple[int, int]] = {}

    def of(self, peer: int) -> tuple[int, int]:
        """Return the number among all that was started with a rank, and among kernels of the communicator with it."""
        world = self._communicator.world[peer]
        if peer not in self._orders:
            self._communicator.kernels[peer] += 1
            order = self._library.order(world) if self._library.ordered else 0
            self._orders[peer] = order, self._communicator.kernels[peer]
        return self._orders[peer]


class Communicator:
    """A communicator of one rank."""

    def __init__(self, library: Library, world: list[int], rank: int, tag: int) -> None:
        self.library, self.world, self.rank, self.tag = library, world, rank, tag
        self.kernels: dict[int, int] = defaultdict(int)
        self.streams: list[LazyStream] = []
        self.closed = ""

    def send(self, source: int, count: int, kind: int, peer: int, stream: int) -> None:
        block = self._block(source, count, kind)

        def make(numbers: Numbers) -> Part:
            data = block.view().tobytes()
            self.library.going(self.world[peer], self.tag, ("p2p", count, kind, numbers.of(peer)), data)
            return Part([(block, data)], [], [], lambda came: [])

        self._call("send", stream, make, alone=False, meets=[("send", peer)])

    def recv(self, target: int, count: int, kind: int, peer: int, stream: int) -> None:
        block = self._block(target, count, kind)

        def make(numbers: Numbers) -> Part:
            ticket = self.library.ticket(self.world[peer], self.tag)
            tickets = [(ticket, ("p2p", count, kind, numbers.of(peer)))]
            return Part([], [(block, block.view().tobytes())], tickets, lambda came: came)

        self._call("recv", stream, make, alone=False, meets=[("recv", peer)])

    def allReduce(self, source: int, target: int, count: int, kind: int, how: int, stream: int) -> None:
        give = dict.fromkeys(range(len(self.world)), (source, count))
        self._collective(
            "allReduce", (count, kind, how), give, (target, count), kind, self._sum(kind, how), stream
        )

    def reduceScatter(self, source: int, target: int, count: int, kind: int, how: int, stream: int) -> None:
        size = np.dtype(TYPES[kind]).itemsize
        give = {peer: (source + peer * count * size, count) for peer in range(len(self.world))}
        self._collective(
            "reduceScatter", (count, kind, how), give, (target, count), kind, self._sum(kind, how), stream
        )

    def reduce(
        self, source: int, target: int, count: int, kind: int, how: int, root: int, stream: int
    ) -> None:
        mine = (target, count) if root == self.rank else None
        said = count, kind, how, root
        self._collective("reduce", said, {root: (source, count)}, mine, kind, self._sum(kind, how), stream)

    def allGather(self, source: int, target: int, count: int, kind: int, stream: int) -> None:
        give = dict.fromkeys(range(len(self.world)), (source, count))
        whole = target, count * len(self.world)
        self._collective("allGather", (count, kind), give, whole, kind, lambda all_: b"".join(all_), stream)

    def broadcast(self, source: int, target: int, count: int, kind: int, root: int, stream: int) -> None:
        give = dict.fromkeys(range(len(self.world)), (source, count)) if root == self.rank else {}
        said = count, kind, root
        self._collective(
            "broadcast", said, give, (target, count), kind, lambda all_: all_[0], stream, givers=[root]
        )

    def check_async_error(self) -> None:
        if self.library.broken is not None:
            raise self.library.broken

    def destroy(self) -> None:
        for stream in self.streams:
            stream.run()
        self.closed = "destroyed"

    def abort(self) -> None:
        self.library.abort(self)

    def _collective(
        self, name: str, said: tuple[Any, ...], give: dict[int, tuple[int, int]], target: tuple[int, int] | None,
        kind: int, joined: Callable[[list[bytes]], bytes], stream: int,
        givers: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Send parts to the ranks of `give`; what `givers` send to this rank and its own are joined in `target`."""
        from_ = range(len(self.world)) if givers is None else givers
        parts = {peer: self._block(*place, kind) for peer, place in give.items()}
        mine = None if target is None else self._block(*target, kind)

        def make(numbers: Numbers) -> Part:
            words = {
                peer: (name, said, numbers.of(peer)) for peer in range(len(self.world)) if peer != self.rank
            }
            data = {peer: block.view().tobytes() for peer, block in parts.items()}
            for peer, part in data.items():
                if peer != self.rank:
                    self.library.going(self.world[peer], self.tag, words[peer], part)
            reads = [(parts[peer], part) for peer, part in data.items()]
            if mine is None:
                return Part(reads, [], [], lambda came: [])
            others = [peer for peer in from_ if peer != self.rank]
            tickets = [(self.library.ticket(self.world[peer], self.tag), words[peer]) for peer in others]

            def apply(came: list[Any]) -> list[Any]:
                got = dict(zip(others, came, strict=True)) | {self.rank: data.get(self.rank)}
                return [joined([got[peer] for peer in from_])]

            return Part(reads, [(mine, mine.view().tobytes())], tickets, apply)

        meets = [("all", peer) for peer in range(len(self.world)) if peer != self.rank]
        self._call(name, stream, make, alone=True, meets=meets)

    def _sum(self, kind: int, how: int) -> Callable[[list[bytes]], bytes]:
        def joined(parts: list[bytes]) -> bytes:
            return bytes(REDUCE[how].reduce([np.frombuffer(part, TYPES[kind]) for part in parts]).tobytes())

        return joined

    def _block(self, address: int, count: int, kind: int) -> Block:
        try:
            return self.library.device.block(address, count * np.dtype(TYPES[kind]).itemsize)
        except RuntimeError as error:
            self.library.wrong = str(error)
            raise

    def _call(
        self, name: str, stream: int, make: Callable[[Numbers], Part], alone: bool, meets: list[tuple[str, int]]
    ) -> None:  # fmt: skip
        self.library.calls.append(name)
        self.library.call(Call(self, stream, make, meets), alone)
