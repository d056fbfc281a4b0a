"""Sums in pieces: what whole ones give, whoever moves them on, on groups that overlap, beside other collectives."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from gridnn.comm import sums
from gridnn.comm.collectives import all_reduce, finish, start_reduce_scatter, start_sum
from gridnn.comm.world import Array, World
from gridnn.geometry.interval import Interval
from gridnn.geometry.traffic import Key

KEY = Key("fc6", "backward", "allreduce", "n")


def values(rank: int, number: int, size: int) -> Array:
    found: Array = np.arange(size) * 0.5 + 1000.0 * rank + number
    return found


def total(ranks: Iterable[int], number: int, size: int) -> Array:
    found: Array = np.sum([values(rank, number, size) for rank in ranks], axis=0)
    return found


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("patient", [False, True])
def test_groups_that_overlap_beside_blocking_sums(
    comm: Any, patient: bool, thread: bool, sample_seed: int
) -> None:
    """All ranks queue in one order, come late by different times, and sum on the same ranks while pieces are queued."""
    order, late = random.Random(sample_seed), random.Random(sample_seed + 7 * comm.rank)
    groups = [group for size in (2, 3) for group in combinations(range(comm.size), size)]
    todo = [(order.choice(groups), order.choice([1, 124, 125, 126, 999, 5003])) for _ in range(30)]
    with World(comm) as world:
        world.sums.piece_bytes = 1000
        world.progress.on, world.patience.on = thread, patient
        started = []
        for number, (group, size) in enumerate(todo):
            if world.rank in group:
                array = values(world.rank, number, size)
                started.append((number, array, start_sum(world, group, array, [(KEY, size)])))
            if number % 7 == 3:
                everyone = tuple(range(world.size))
                assert all_reduce(world, everyone, np.ones(3), KEY).tolist() == [world.size] * 3
            if late.random() < 0.2:
                time.sleep(late.random() * 0.01)
            world.sums.drive()
        world.progress.rest()
        order.shuffle(started)  # awaited in any order
        for number, array, handle in started:
            finish(world, handle, "allreduce")
            group, size = todo[number]
            np.testing.assert_array_equal(array, total(group, number, size))


@pytest.mark.ranks(2)
def test_few_pieces_are_under_way_at_once(comm: Any) -> None:
    with World(comm) as world:
        world.sums.piece_bytes = 1000
        posted = list[int]()

        def counting(array: Any) -> Any:
            posted.append(array.size)
            return world.group((0, 1), "sums").Iallreduce(MPI.IN_PLACE, array)

        data = np.full(1003, world.rank + 1.0)
        whole = Interval(0, data.size)
        pieces = [data[slice(*whole.block(10, i))] for i in range(10)]
        handle = world.sums.queue([partial(counting, piece) for piece in pieces])
        assert len(posted) == sums.WINDOW and handle.left >= 6
        while not handle.Test():
            time.sleep(0.001)
        assert posted == [101] * 3 + [100] * 7 and (data == 3).all()
        handle.Wait()


@pytest.mark.ranks(2)
def test_what_cannot_be_started_is_told_to_all_who_wait(comm: Any) -> None:
    def refused() -> MPI.Request:
        raise MPI.Exception(MPI.ERR_OTHER)

    with World(comm) as world:
        world.sums.piece_bytes = 1000
        # Nobody else keeps the array.
        first = world.sums.all_reduce(world.group((0, 1), "sums"), np.ones(125 * sums.WINDOW))
        second = world.sums.queue([refused])  # there is no room yet: whoever makes it starts it
        for handle in (first, second, second):
            with pytest.raises(MPI.Exception):
                while not handle.Test():
                    time.sleep(0.001)
            with pytest.raises(MPI.Exception):
                second.Wait()


@pytest.mark.ranks(3)
def test_scattered_sums_keep_their_place_in_the_queue(comm: Any) -> None:
    with World(comm) as world:
        world.sums.piece_bytes = 1000
        everyone = (0, 1, 2)
        first, last = values(world.rank, 0, 3000), values(world.rank, 2, 3000)
        handles = [start_sum(world, everyone, first, [(KEY, first.size)])]
        scattered, share = start_reduce_scatter(world, everyone, values(world.rank, 1, 100), [(KEY, 100)])
        handles += [scattered, start_sum(world, everyone, last, [(KEY, last.size)])]
        for handle in reversed(handles):
            finish(world, handle, "sum")
        for number, found in ((0, first), (1, share), (2, last)):
            size = 100 if number == 1 else 3000
            block = Interval(0, size).block(3, world.rank) if number == 1 else Interval(0, size)
            np.testing.assert_array_equal(found, total(everyone, number, size)[slice(*block)])
