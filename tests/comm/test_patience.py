"""Waiting where ranks share cores: it ends soon after what it is for, brings the same, and leaves the core alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gridnn.comm import patience
from gridnn.comm.collectives import all_gather_shares, all_reduce, finish, start_reduce_scatter, start_sum
from gridnn.comm.mover import Route, start
from gridnn.comm.patience import LEAST_S, MOST_S, SHARE, Patience
from gridnn.comm.world import World
from gridnn.geometry.exchange import Exchange
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.interval import Interval
from gridnn.geometry.traffic import Key
from gridnn.network.placement import rest

KEY = Key("fc6", "backward", "allreduce", "n")
LATE_S = 0.4


@pytest.mark.parametrize("done_s", [0.0, 1e-6, 1e-4, 3e-3, 0.7])
def test_a_wait_is_longer_by_a_share_and_looks_are_few(
    monkeypatch: pytest.MonkeyPatch, done_s: float
) -> None:
    now, slept, looks = 100.0, list[float](), 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    def done() -> bool:
        nonlocal looks
        looks += 1
        return now >= 100.0 + done_s

    monkeypatch.setattr(patience, "time", SimpleNamespace(perf_counter=lambda: now, sleep=sleep))
    Patience().until(done)
    assert now - 100.0 - done_s <= max(LEAST_S, min(MOST_S, SHARE * done_s))
    assert looks == len(slept) + 1 <= 80 + done_s / MOST_S
    assert bool(slept) == (done_s > 0)
    assert all(LEAST_S <= seconds <= MOST_S for seconds in slept) and slept == sorted(slept)


def halo(world: World) -> None:
    one, other = (rest((2, 4), Scheme(GridShape.of(**{axis: 2}))) for axis in "nk")
    mine = np.arange(8.0).reshape(2, 4)[world.rank : world.rank + 1]
    found = start(world, Route(Exchange(one, other), world.rank), mine.copy(), KEY, "float64").wait()
    np.testing.assert_array_equal(found, np.arange(8.0).reshape(2, 4)[:, 2 * world.rank :][:, :2])


def reduced(world: World) -> None:
    assert all_reduce(world, (0, 1), np.full(5, world.rank + 1.0), KEY).tolist() == [3.0] * 5


def shared(world: World) -> None:
    array = np.zeros(7)
    mine = slice(*Interval(0, 7).block(2, world.rank))
    array[mine] = np.arange(7.0)[mine]
    all_gather_shares(world, (0, 1), array, [(KEY, 7)])
    assert array.tolist() == list(range(7))


def summed(world: World) -> None:
    array = np.full(1000, world.rank + 1.0)
    finish(world, start_sum(world, (0, 1), array, [(KEY, 1000)]), "allreduce")
    assert (array == 3).all()


def scattered(world: World) -> None:
    request, share = start_reduce_scatter(world, (0, 1), np.full(9, world.rank + 1.0), [(KEY, 9)])
    finish(world, request, "reduce_scatter")
    assert (share == 3).all()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("work", [halo, reduced, shared, summed, scattered])
def test_a_patient_rank_leaves_its_core_to_others(comm: Any, work: Callable[[World], None]) -> None:
    """Time of the processor is counted, not that of the clock: a rank that spins has used most of what it waited."""
    with World(comm) as world:
        world.patience.on = True
        work(world)
        comm.Barrier()
        if world.rank == 1:
            time.sleep(LATE_S)
        used_s = time.thread_time()
        work(world)
        assert time.thread_time() - used_s < LATE_S / 3


@pytest.mark.ranks(3)
@pytest.mark.parametrize(
    ("machines", "cores", "wanted"),
    [
        ("aaa", [{0}, {1}, {2}], False),  # bound, a core each
        ("aaa", [{0, 1, 2}] * 3, False),  # bound to nothing
        ("aaa", [{0, 1}] * 3, True),
        ("aaa", [{0}, {1}, {1}], True),
        ("abc", [{0}] * 3, False),  # a core of that number on each machine
        ("aab", [{0}, {0}, {0, 1}], True),  # told to the third, too
    ],
)
def test_cores_are_shared_where_a_machine_has_more_ranks(
    comm: Any, machines: str, cores: list[set[int]], wanted: bool
) -> None:
    with World(comm) as world:
        assert world.share_cores(machines[world.rank], cores[world.rank]) is wanted
