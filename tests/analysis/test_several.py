"""Processes that work beside this one: who makes what is asked for."""

from __future__ import annotations

import os
import time

import pytest

from gridnn.analysis.several import asked_of, processes
from gridnn.errors import RunError


def test_what_none_has_begun_is_made_here_and_what_one_has_begun_there() -> None:
    with processes(1) as pool:
        begun = asked_of(pool, os.getpid)
        slow = asked_of(pool, time.sleep, 0.2)
        waiting = [asked_of(pool, os.getpid) for _ in range(8)]
        assert waiting[-1]() == os.getpid()  # the other has not even started
        assert begun() != os.getpid()
        assert slow() is None
        assert len({each() for each in waiting[:-1]} - {os.getpid()}) <= 1


def test_no_process_beside_this_one() -> None:
    with processes(0) as pool:
        assert pool is None
        assert asked_of(pool, os.getpid)() == os.getpid()


def test_errors_come_through_and_a_killed_process_is_told() -> None:
    with processes(1) as pool, pytest.raises(ZeroDivisionError):
        asked_of(pool, divmod, 1, 0)()
    with pytest.raises(RunError, match="was killed"), processes(1) as pool:
        asked_of(pool, time.sleep, 0)
        died = pool.submit(os._exit, 3)  # type: ignore[union-attr]
        died.result()
