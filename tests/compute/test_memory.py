"""The heap: places are lowest first, lives end with the last view, neighbours that are free become one."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import memory
from gridnn.compute.cpu.memory import Memory, Workspace


def test_channels_are_innermost() -> None:
    for make in (memory.empty, memory.zeros, Memory().empty, Memory().zeros):
        x: Any = make((2, 300, 5, 7), np.float32)
        assert x.shape == (2, 300, 5, 7) and x.strides[1] == 4
        assert memory.innermost(x).flags.c_contiguous
        assert make((4, 3000), np.float32).flags.c_contiguous


def test_a_view_keeps_its_place() -> None:
    heap = Memory()
    whole = heap.empty((4, 64, 32), np.float32)
    whole[...] = 1
    view = whole[1:2, 3:9].T
    del whole
    other = heap.empty((4, 64, 32), np.float32)
    other[...] = 2
    assert view.max() == 1
    place = view.__array_interface__["data"][0]
    del view
    again = heap.empty((4, 64, 32), np.float32)
    assert 0 <= place - again.__array_interface__["data"][0] < again.nbytes, "the lowest gap is taken"


def test_random_lives_never_overlap_and_all_is_given_back() -> None:
    heap, rng, live = Memory(), random.Random(5), list[tuple[Any, int]]()
    for i in range(3000):
        if live and rng.random() < 0.5:
            array, value = live.pop(rng.randrange(len(live)))
            assert (array == value).all(), "another array was written here"
        else:
            array = heap.empty((rng.randrange(1, 40), 97), rng.choice([np.float32, np.float64, np.int32]))
            array[...] = i % 1000
            live.append((array, i % 1000))
    del array
    live.clear()
    assert heap.used_bytes == 0 and heap._sizes == [len(heap._map)]


def test_the_second_time_costs_nothing() -> None:
    heap = Memory()

    def work() -> None:
        a = [heap.empty((n, 1000), np.float32) for n in (7, 3, 5)]
        del a[1]
        a.append(heap.empty((2, 1000), np.float32))

    work()
    asked, peak = heap.asked, heap.peak_bytes
    work()
    assert heap.asked == asked and heap.peak_bytes == peak == heap.touched_bytes
    heap.forget_peak()
    assert heap.peak_bytes == 0


def test_more_than_the_heap_has_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = Memory()
    monkeypatch.setattr(heap, "_sizes", [8192])
    large = heap.empty((10, 1000), np.float64)
    large[...] = 3
    assert heap.asked == 1 and heap.used_bytes == 0


def test_scratch_is_aligned_and_kept() -> None:
    work = Workspace()
    a = work.take("a", 100, np.float32)
    assert a.shape == (100,) and a.__array_interface__["data"][0] % 64 == 0
    a[...] = 7
    assert (work.take("a", 50, np.float32) == 7).all()
    assert work.take("b", 100, np.float64).shape == (100,)
    work.take("a", 10_000, np.float32)
    assert 40_000 < work.nbytes < 42_000


def test_the_last_view_may_go_in_another_thread() -> None:
    heap = Memory()
    views = [heap.empty((10, 1000), np.float32)[::2] for _ in range(200)]

    def drop() -> None:
        while views:
            views.pop()

    thread = threading.Thread(target=drop)
    thread.start()
    mine = [heap.empty((10, 1000), np.float32) for _ in range(500)]
    thread.join()
    places = {a.__array_interface__["data"][0] for a in mine}
    assert len(places) == 500
    mine.clear()
    assert heap.used_bytes == 0
