"""What a doctor tries between devices: NCCL, arrays on their way, device memory handed to MPI; on devices of the tests.

Their memory is the host's, so MPI takes it; what does not work is made so.  What a CUDA-aware MPI, NCCL and a driver do
with the same calls the tests cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gridnn.comm import attempts, neighbours
from gridnn.comm.attempts import LINKS, NAMES, NCCL, attempt, nothing_tried
from gridnn.comm.carrier import Mpi
from gridnn.comm.cuda_aware import OPERATIONS
from gridnn.comm.handed import ELEMENTS, handed
from gridnn.comm.nccl import Nccl
from gridnn.comm.world import World
from gridnn.compute.gpu.engine import Engine
from gridnn.errors import RunError
from tests.support import shim
from tests.support.lazy import LazyStreams, StreamDevice
from tests.support.nccl import Library
from tests.support.nccl_calls import REDUCE

pytestmark = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")
MESSAGES, BLOCKING, NON_BLOCKING = OPERATIONS
FINE = {"tried": True, "why": ""}


class Doctor:
    """One rank that tries; what it announces.

    Parameters
    ----------
    takes
        What MPI says that it takes.
    """

    def __init__(self, world: World, takes: tuple[str, ...] = OPERATIONS) -> None:
        self.world, self.engine = world, Engine(StreamDevice())
        self.ranks = [{"cuda": {"operations": list(takes), "why": "it says so"}}] * world.size
        self.announced: list[str] = []

    def begin(self, name: str, words: str, within_s: float, found: dict[str, Any]) -> None:
        assert 0 < within_s < 60 and words
        assert set(found) == {"use", "tried", "device_links"} and not found["tried"][name]["tried"]
        assert all(found["tried"][before]["tried"] for before in self.announced)
        self.announced.append(name)

    def tries(self, transport: str, asked: str = "auto") -> dict[str, Any]:
        """What is found where a run would take a transport; the same on all ranks, and host messages go as before."""
        use = {"device": "gpu", "transport": transport, "why": "so", "error": ""}
        before = self.world.transport
        found = attempt(self.world, self.engine, asked, self.ranks, use, self.begin, 40.0)
        assert self.world.transport is before
        assert self.world.comm.allgather(found) == [found] * self.world.size
        assert set(found["tried"]) == set(NAMES) and self.world.ledger.messages == 0
        assert {name for name, what in found["tried"].items() if what["tried"]} == set(self.announced)
        return found


@contextmanager
def of_tests(
    comm: Any, monkeypatch: pytest.MonkeyPatch, takes: tuple[str, ...] = OPERATIONS
) -> Iterator[Doctor]:
    """A rank with NCCL of the tests, where links are measured in a moment."""
    monkeypatch.setattr(neighbours, "SIZES", (4 << 10,))
    monkeypatch.setattr(neighbours, "_SIZE_S", 0.01)
    with World(comm) as world:
        doctor = Doctor(world, takes)
        streams = LazyStreams(doctor.engine.device)  # type: ignore[arg-type]
        library = Library(world.comm, doctor.engine.device, streams)  # type: ignore[arg-type]
        world.also_close(library.close)
        carrier = Nccl(doctor.engine.device, streams, library)
        monkeypatch.setattr(attempts, "open_nccl", lambda device: carrier)
        yield doctor


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("way", ["nccl", "staged", "cuda-mpi"])
def test_all_is_fine(comm: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Links are those of the transport; what MPI does is tried whatever a run would take, after what a run takes."""
    with of_tests(comm, monkeypatch) as doctor:
        found = doctor.tries(way)
        assert found["use"]["transport"] == way
        mine = [LINKS, *OPERATIONS] if way == "staged" else [*OPERATIONS, LINKS]
        assert doctor.announced == ([NCCL, LINKS, *OPERATIONS] if way == "nccl" else mine)
        assert all(found["tried"][name] == FINE for name in doctor.announced)
        assert [link["ranks"] for link in found["device_links"]] == [
            [at, at + 1] for at in range(comm.size - 1)
        ]
        assert all(0 < link["latency_s"] < 1 < link["bytes_per_s"] for link in found["device_links"])


@pytest.mark.ranks(2)
def test_links_go_by_the_transport(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that NCCL carries are given to no MPI, and those of `staged` are of the host when they are."""
    seen: list[bool] = []
    honest = Mpi.swap

    def swap(self: Mpi, world: Any, path: Any, rooms: Any, messages: Any) -> Any:
        made = messages()
        seen.extend(doctor.engine.holds(each) for each in (*rooms, *made))
        return honest(self, world, path, rooms, lambda: made)

    monkeypatch.setattr(Mpi, "swap", swap)
    for way, there in (("nccl", set()), ("staged", {False}), ("cuda-mpi", {True})):
        seen.clear()
        with of_tests(comm, monkeypatch, OPERATIONS if way == "cuda-mpi" else ()) as doctor:
            assert doctor.tries(way)["tried"][LINKS] == FINE
        assert set(seen) == there


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("call", "name", "words"),
    [
        ("swap", MESSAGES, "Irecv and Isend"), ("all_reduce", BLOCKING, "Allreduce (sum)"),
        ("share", BLOCKING, "Allgatherv in place"), ("start_sum", NON_BLOCKING, "Iallreduce in place"),
        ("start_shares", NON_BLOCKING, "Ireduce_scatter"), ("all_gather", NON_BLOCKING, "Iallgatherv"),
        ("swap", MESSAGES, ""), ("share", BLOCKING, ""), ("start_sum", NON_BLOCKING, ""),
    ],
)  # fmt: skip
def test_a_class_that_fails(
    comm: Any, monkeypatch: pytest.MonkeyPatch, call: str, name: str, words: str
) -> None:
    """A library that brings nothing to the last rank, or (no `words`) says on all that it cannot; others are tried."""

    class Nothing:
        def Wait(self) -> None:
            """Be there at once."""

    class Rests(list[Any]):
        Wait = Nothing.Wait

    honest = getattr(Mpi, call)

    def faulty(self: Mpi, world: World, *arguments: Any) -> Any:
        if not words:
            raise RuntimeError("invalid device context")
        arrays = [
            a
            for each in arguments
            for a in (each if isinstance(each, list) else [each])
            if isinstance(a, np.ndarray)
        ]
        before = [np.array(a.view(np.ndarray)) for a in arrays]
        started = honest(self, world, *arguments)
        if hasattr(started, "Wait"):
            started.Wait()
        elif started:
            self.wait(world, started)
        if world.rank == world.size - 1:
            for array, old in zip(arrays, before, strict=True):
                array.view(np.ndarray)[...] = old
        return Rests()

    with of_tests(comm, monkeypatch) as doctor:
        monkeypatch.setattr(Mpi, call, faulty)
        found = doctor.tries("staged", "staged") if call != "swap" else doctor.tries("cuda-mpi")
        wanted = f"rank {comm.size - 1}: {words}: " if words else "rank 0: invalid device context"
        assert found["tried"][name]["tried"] and found["tried"][name]["why"].startswith(wanted), found[
            "tried"
        ]
        for other in set(OPERATIONS) - {name}:
            assert found["tried"][other] == FINE
        if call == "swap":  # it would not go by that either
            assert found["tried"][LINKS] == {"tried": False, "why": "messages of device memory fail"}


@pytest.mark.ranks(2, 3)
def test_what_comes_is_looked_at(comm: Any) -> None:
    """Small and large arrays of every class, on the device."""
    with World(comm) as world:
        engine = Engine(StreamDevice())
        copied: list[int] = []
        honest = engine.device.to_host
        engine.device.to_host = lambda array, out=None: copied.append(array.size) or honest(array, out)  # type: ignore[func-returns-value,method-assign]
        for name, arrays in zip(OPERATIONS, (2, 3, 3), strict=True):
            copied.clear()
            assert handed(world, engine, name) == ""
            assert len(copied) == 2 * arrays and max(copied) == ELEMENTS[1]


@pytest.mark.ranks(2)
@pytest.mark.parametrize("asked", ["auto", "nccl"])
@pytest.mark.parametrize("how", ["sum", "load"])
def test_nccl_that_does_not_work(comm: Any, monkeypatch: pytest.MonkeyPatch, asked: str, how: str) -> None:
    """A run would go by the host then, or end where it was asked for or cannot be loaded at all; so it is said."""
    with of_tests(comm, monkeypatch, ()) as doctor:
        if how == "sum":
            monkeypatch.setitem(REDUCE, 0, np.maximum)
        elif comm.rank == 1:
            monkeypatch.setattr(attempts, "open_nccl", lambda device: fail("no such file"))
        found = doctor.tries("nccl", asked)
        why = "rank 0: a sum of 1 to 2 was 2" if how == "sum" else "rank 1: no such file"
        assert found["tried"][NCCL] == {"tried": True, "why": why}
        words = f"NCCL is here and does not work between these ranks ({why})"
        if asked == "auto" and how == "sum":
            assert found["use"] == {"device": "gpu", "transport": "staged", "why": words, "error": ""}
            assert found["tried"][LINKS] == FINE and len(found["device_links"]) == 1
        else:
            assert found["use"]["transport"] == "" and found["use"]["error"].startswith(words)
            assert not found["tried"][LINKS]["tried"] and found["device_links"] == []


def fail(words: str) -> Any:
    raise RunError(words)


@pytest.mark.ranks(2)
def test_what_is_not_tried(comm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MPI does not say that it takes would kill the process; who asks for it gets it."""
    with of_tests(comm, monkeypatch, (MESSAGES, BLOCKING)) as doctor:
        found = doctor.tries("staged")["tried"]
        assert found[MESSAGES] == found[BLOCKING] == FINE
        assert found[NCCL] == {"tried": False, "why": "a run would take staged"}
        why = "the documentation of this MPI excludes it; --transport cuda-mpi tries it"
        assert found[NON_BLOCKING] == {"tried": False, "why": why}
    with of_tests(comm, monkeypatch, ()) as doctor:
        found = doctor.tries("staged")["tried"]
        why = "it says so; --transport cuda-mpi tries it"
        assert all(found[name] == {"tried": False, "why": why} for name in OPERATIONS)
    with of_tests(comm, monkeypatch, ()) as doctor:
        found = doctor.tries("cuda-mpi", "cuda-mpi")["tried"]
        assert all(found[name] == FINE for name in OPERATIONS)
    found = nothing_tried({"device": "cpu"}, "no rank has a GPU")
    assert all(what == {"tried": False, "why": "no rank has a GPU"} for what in found["tried"].values())
