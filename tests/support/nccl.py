"""NCCL of the tests: what `cupy.cuda.nccl` has, over MPI, on the arrays and lazy streams of the tests' device.

    host     puts kernels on streams; what they read is remembered, with what is said of it
    device   a thread: the first kernel of each stream sends and takes, by MPI; it is through, and the next one begins,
             when all came and all it sent was taken by kernels that had begun
    waited   for, and not before: what came is compared with what was expected, and written to memory

So ranks hold each other up as devices do, and streams do not; and what would go wrong on a device is an error here:

| a call                                                            | is refused, or found out                  |
|-------------------------------------------------------------------|-------------------------------------------|
| before the stream waited for all that computes                    | at once                                   |
| whose memory is written, or let go of, before it was waited for   | when it is waited for                     |
| of another kind, count, dtype, root or group than its peers'      | when it is waited for                     |
| in another order between communicators than its peers (`ordered`) | when it is waited for                     |
| to or from one peer outside of a group                            | at once: it would wait for its peer       |
| with a host's array, or none of the device                        | at once                                   |
| that a peer never makes, or that streams hold up in a circle      | after some seconds                        |
| that hosts hold up, which meet to connect (`connects`)            | after some seconds                        |
| after a call of its group was refused                             | with the group                            |
| of the end by force, while another communicator is under way      | at once, unless all end in one group      |
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from gridnn.comm.nccl import Nccl
from gridnn.comm.transport import Direct
from gridnn.compute.gpu.engine import Engine, Precision
from tests.support.lazy import LazyStreams, StreamDevice
from tests.support.nccl_calls import Call, Communicator, NcclError, Numbers, Part, Ticket

LIMIT_S, STEP_S, LOOK_S = 15.0, 1e-3, 1e-4
TAKEN = 1 << 16
"""Of tags: messages that say that another was taken."""
ID_BYTES = 128
CONNECT = 1 << 18
"""Of tags: hosts that meet to connect; the way of what goes, and that of what its peer calls it."""
WAYS = {"send": (0, 1), "recv": (1, 0), "all": (2, 2)}


class Library:
    """The module, as one rank sees it.

    Parameters
    ----------
    ordered
        All ranks start what they share in one order, whatever the communicator.
    connects
        Hosts wait for each other where ranks first send each other something on a communicator, as NCCL's do, and there
        and where one is made for all that runs on the device: NCCL asks for its memory.

    Attributes
    ----------
    limit_s
        How long a movement may take.
    broken
        What went wrong since movements were started.
    wrong
        What was refused within the group.
    """

    available = True
    NCCL_UINT8, NCCL_FLOAT32, NCCL_FLOAT64 = 1, 7, 8
    NCCL_SUM, NCCL_MAX, NCCL_MIN = 0, 2, 3
    NcclError = NcclError

    def __init__(
        self, comm: MPI.Intracomm, device: StreamDevice, streams: LazyStreams, ordered: bool = True,
        connects: bool = False,
    ) -> None:  # fmt: skip
        self.device, self.streams, self.ordered, self.connects = device, streams, ordered, connects
        self._meet, self._wire = comm.Dup(), comm.Dup()
        self.rank: int = comm.rank
        self.calls: list[str] = []
        self.broken: Exception | None = None
        self.wrong, self.limit_s = "", LIMIT_S
        self.communicators: list[Communicator] = []
        self._group: list[Call] | None = None
        self._ending: list[Communicator] = []
        self._connected: set[tuple[int, str, int]] = set()
        self._hellos: list[MPI.Request] = []
        self._ids = itertools.count()
        self._sent: list[tuple[MPI.Request, Any]] = []
        self.inbox: dict[Ticket, Any] = {}
        self._came: dict[tuple[int, int], int] = defaultdict(int)
        self._expected: dict[tuple[int, int], int] = defaultdict(int)
        self._orders: dict[int, int] = defaultdict(int)
        self._going: list[tuple[int, int, Any, bytes]] = []
        self._queues: dict[int, deque[Kernel]] = defaultdict(deque)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="device", daemon=True)
        self._thread.start()

    def get_version(self) -> int:
        return 22707

    def get_unique_id(self) -> bytes:
        return bytes((next(self._ids), self.rank)).ljust(ID_BYTES, b"\0")

    def NcclCommunicator(self, size: int, identity: bytes, rank: int) -> Communicator:
        """Meet the other ranks at the one that made the identity."""
        assert type(identity) is bytes and len(identity) == ID_BYTES  # as of CuPy 14
        self._ask_for_memory()
        number, first, *_ = identity
        if self.rank != first:
            self._meet.send((number, rank, self.rank), first, 1)
            found = self._heard(first, 2 + number)
        else:
            told = [(number, rank, self.rank)] + [self._heard(MPI.ANY_SOURCE, 1) for _ in range(size - 1)]
            found = {at: world for same, at, world in told if same == number}
            for world in found.values():
                if world != first:
                    self._meet.send(found, world, 2 + number)
        if sorted(found) != list(range(size)):
            raise NcclError(f"invalid usage: ranks {sorted(found)} of {size}")
        made = Communicator(self, [found[at] for at in range(size)], rank, 100 * first + number)
        self.communicators.append(made)
        return made

    def groupStart(self) -> None:
        assert self._group is None, "a group within a group"
        self._group, self.wrong = [], ""

    def groupEnd(self) -> None:
        assert self._group is not None, "no group was begun"
        calls, self._group = self._group, None
        if self.wrong:
            raise NcclError(self.wrong)
        for communicator in dict.fromkeys(call.communicator for call in calls):
            mine = [call for call in calls if call.communicator is communicator]
            pointers = {call.pointer for call in mine}
            assert len(pointers) == 1, "one stream a communicator and group"
            if self.connects:
                self._connect(communicator, [meeting for call in mine for meeting in call.meets])
            self.start(communicator, pointers.pop(), [call.make for call in mine])
        ending, self._ending = self._ending, []
        self._end(ending)

    def call(self, call: Call, alone: bool) -> None:
        """Take a call: now, or at the end of the group."""
        if self._group is not None:
            self._group.append(call)
        elif alone:
            self.start(call.communicator, call.pointer, [call.make])
        else:
            raise NcclError("a message to one peer outside of a group waits for it, and it for another")

    def abort(self, communicator: Communicator) -> None:
        """End a communicator by force: now, or with all others at the end of the group."""
        if self._group is None:
            self._end([communicator])
        else:
            self._ending.append(communicator)

    def _end(self, ending: Sequence[Communicator]) -> None:
        """End communicators whatever is under way on them; what they give back waits for all else on the device."""
        for communicator in ending:
            communicator.closed = "aborted"
        if ending:
            closed = all(kernel.communicator.closed for kernel in self._left())
            assert closed, "an end by force waits for another's kernels"

    def _heard(self, source: int, tag: int) -> Any:
        """Return what a host says to this one."""
        stop_s = time.monotonic() + self.limit_s
        while not self._meet.iprobe(source, tag):
            assert time.monotonic() < stop_s, "a host waits for ever for another one"
            time.sleep(LOOK_S)
        return self._meet.recv(None, source, tag)

    def _ask_for_memory(self) -> None:
        """Wait for all kernels of the device, as CUDA may."""
        stop_s = time.monotonic() + self.limit_s
        while self.connects and self._left():
            assert time.monotonic() < stop_s, "a host waits for ever for memory of its device"
            time.sleep(LOOK_S)

    def _left(self) -> list[Kernel]:
        """Return the kernels that are not through."""
        with self._lock:
            return [kernel for queue in self._queues.values() for kernel in queue if not kernel.through]

    def _connect(self, communicator: Communicator, meets: Sequence[tuple[str, int]]) -> None:
        """Meet the hosts of ranks that this one has not met so."""
        new = [each for each in dict.fromkeys(meets) if (communicator.tag, *each) not in self._connected]
        self._connected.update((communicator.tag, *each) for each in new)
        if new:
            self._ask_for_memory()
        tag = CONNECT + 4 * communicator.tag
        for way, peer in new:
            self._hellos.append(self._meet.isend(None, communicator.world[peer], tag + WAYS[way][0]))
        for way, peer in new:
            self._heard(communicator.world[peer], tag + WAYS[way][1])

    def start(
        self, communicator: Communicator, pointer: int, makes: Sequence[Callable[[Numbers], Part]]
    ) -> None:
        """Put calls on a stream as one kernel."""
        stream = self.streams.made.get(pointer)
        assert stream is not None, "messages are on the stream of kernels, which they would hold up"
        if stream.seen < self.device.started:
            raise AssertionError("messages begin before what they read is computed")
        assert not communicator.closed, "the communicator is closed"
        numbers = Numbers(self, communicator)
        with self._lock:
            self._going = []
            kernel = Kernel(self, communicator, [make(numbers) for make in makes], self._going)
            self._queues[pointer].append(kernel)
        stream.put(kernel)
        communicator.streams.append(stream)

    # What carries it --------------------------------------------------------------------------

    def going(self, to: int, tag: int, said: tuple[Any, ...], data: bytes) -> None:
        """Note what the kernel that is being made will send."""
        self._going.append((to, tag, said, data))

    def post(self, to: int, tag: int, said: tuple[Any, ...], data: bytes) -> None:
        self._sent.append((self._wire.isend((said, data), to, tag), data))
        self._sent = [each for each in self._sent if not each[0].Test()]

    def ticket(self, source: int, tag: int) -> Ticket:
        number = self._expected[source, tag]
        self._expected[source, tag] += 1
        return source, tag, number

    def order(self, peer: int) -> int:
        self._orders[peer] += 1
        return self._orders[peer]

    def here(self, ticket: Ticket) -> bool:
        """Return whether a message came."""
        status = MPI.Status()
        while (message := self._wire.improbe(MPI.ANY_SOURCE, MPI.ANY_TAG, status)) is not None:
            at = status.source, status.tag
            self.inbox[*at, self._came[at]] = message.recv()
            self._came[at] += 1
        return ticket in self.inbox

    def advance(self) -> None:
        """Let the device go on: on every stream the first kernel that is not through, and those behind it then."""
        with self._lock:
            for queue in self._queues.values():
                while queue and queue[0].advance():
                    queue.popleft()

    def _go_on(self) -> None:
        while not self._closed.wait(STEP_S):
            self.advance()

    def close(self, orderly: bool) -> None:
        """Free what was made of MPI.  Collective."""
        if not orderly:
            self._closed.set()
            return
        assert not any(stream.left for stream in self.streams.made.values()), "nobody waited for messages"
        self._meet.Barrier()  # what others still wait for to be taken has been taken
        self._closed.set()
        self._thread.join()
        for request in (*self._hellos, *(request for request, _ in self._sent)):
            request.wait()
        self._meet.Free()
        self._wire.Free()


class Kernel:
    """Calls that are one task of a stream.

    It begins when it is the first of its stream: then it sends, and takes what comes.  It is through when all came, and
    all that it sent was taken by kernels of others that had begun.
    """

    def __init__(
        self, library: Library, communicator: Communicator, parts: list[Part],
        going: list[tuple[int, int, Any, bytes]],
    ) -> None:  # fmt: skip
        self._library, self._parts, self._going = library, parts, going
        self.communicator = communicator
        self._wanted = [ticket for part in parts for ticket, _ in part.tickets]
        self._got: dict[Ticket, Any] = {}
        self._taken: list[Ticket] | None = None
        self.through = False

    def advance(self) -> bool:
        """Go on as far as possible; return whether it is through."""
        library = self._library
        if self._taken is None:
            self._taken = []
            for to, tag, said, data in self._going:
                library.post(to, tag, said, data)
                self._taken.append(library.ticket(to, TAKEN + tag))
        for ticket in self._wanted:
            if ticket not in self._got and library.here(ticket):
                self._got[ticket] = library.inbox.pop(ticket)
                library.post(ticket[0], TAKEN + ticket[1], (), b"")
        self.through = len(self._got) == len(self._wanted) and all(map(library.here, self._taken))
        return self.through

    def ready(self) -> bool:
        self._library.advance()
        return self.through

    def perform(self) -> None:
        library, stop_s = self._library, time.monotonic() + self._library.limit_s
        while not self.ready():
            if time.monotonic() > stop_s:
                raise AssertionError("a movement is not through: on a device it would wait for ever")
            time.sleep(LOOK_S)
        for part in self._parts:
            came = []
            for ticket, wanted in part.tickets:
                said, data = self._got[ticket]
                if said != wanted:
                    raise NcclError(
                        f"rank {ticket[0]} made the call {said}, and rank {library.rank} {wanted}"
                    )
                came.append(data)
            for block, content in (*part.reads, *part.writes):
                if block.view().tobytes() != content:
                    raise AssertionError(
                        "memory was written while messages were made of it, or before they came"
                    )
            for (block, _), result in zip(part.writes, part.apply(came), strict=True):
                block.view()[...] = np.frombuffer(result, np.uint8)


def on_device(
    world: Any, order: str = "forward", ordered: bool = True, precision: Precision = "float32",
    connects: bool = False,
) -> Any:  # fmt: skip
    """Return an engine whose device the world's arrays are on from now on, and hands messages on itself.

    Its transport's carrier has the library as `links.library` and the streams as `links.streams`.
    """
    device = StreamDevice(order)
    engine, streams = Engine(device, precision), LazyStreams(device)
    library = Library(world.comm, device, streams, ordered, connects)
    world.also_close(library.close)
    carrier = Nccl(device, streams, library)
    world.memory, world.transport = engine.memory, Direct(world.memory, engine, carrier)
    carrier.attach(world)
    return engine
