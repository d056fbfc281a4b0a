"""Processes that work beside this one: what takes seconds is begun in one of them before it is wanted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

from gridnn.errors import RunError

T = TypeVar("T")
Pool = ProcessPoolExecutor | None


@contextmanager
def processes(count: int) -> Iterator[Pool]:
    """Give processes that work beside this one; None for none.

    Raises
    ------
    RunError
        If one of them is killed.
    """
    if count < 1:
        yield None
        return
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise RunError(
                "a process that made a part of the answer was killed, perhaps for its memory; ask for fewer "
                "processes, or a shorter --range"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)  # nothing is left to do, or there will be no answer


def asked_of(pool: Pool, call: Callable[..., T], *words: Any) -> Callable[[], T]:
    """Return what gives the result of a call: another process makes it, or this one where none has begun by then."""
    if pool is None:
        return partial(call, *words)
    future = pool.submit(call, *words)

    def result() -> T:
        return call(*words) if future.cancel() else future.result()

    return result


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
