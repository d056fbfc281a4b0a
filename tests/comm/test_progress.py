"""Messages move while a rank computes; the thread that moves them ends with the world."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from gridnn.comm.collectives import start_sum
from gridnn.comm.progress import every_s
from gridnn.comm.world import World
from gridnn.geometry.traffic import Key

KEY = Key("fc6", "backward", "allreduce", "n")


def _threads() -> int:
    return sum(thread.name == "progress" for thread in threading.enumerate())


@pytest.mark.ranks(2, 3)
def test_a_sum_is_done_without_a_call_of_this_rank(comm: Any) -> None:
    with World(comm) as world:
        world.progress.on = True
        array = np.full(1 << 18, world.rank + 1.0)
        request = start_sum(world, tuple(range(world.size)), array, [(KEY, array.size)])
        wanted, deadline_s = sum(range(1, world.size + 1)), time.monotonic() + 20
        # No call of MPI here: only memory is looked at.
        while not (array == wanted).all() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert (array == wanted).all()
        assert request is not None
        request.Wait()
        world.progress.rest()
        assert _threads() == 1
    assert _threads() == 0


@pytest.mark.ranks(1, 2)
def test_switched_off_there_is_no_thread(comm: Any) -> None:
    with World(comm) as world:
        array = np.ones(8)
        request = start_sum(world, tuple(range(world.size)), array, [(KEY, array.size)])
        assert _threads() == 0
        if request is not None:
            request.Wait()


@pytest.mark.parametrize(("beta", "seconds"), [(4e-10, 1e-3), (6e-8, 1.97e-3), (2e-7, 5e-3)])
def test_slow_links_are_looked_at_less_often(beta: float, seconds: float) -> None:
    assert every_s(beta) == pytest.approx(seconds, rel=0.01)


@pytest.mark.ranks(2)
def test_after_an_error_the_thread_is_gone_too(comm: Any) -> None:
    with pytest.raises(ValueError, match="of the test"), World(comm) as world:
        world.progress.on = True
        world.progress.begin()
        raise ValueError("of the test")
    assert _threads() == 0
