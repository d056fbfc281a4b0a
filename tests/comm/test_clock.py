"""Seconds by phase, on a clock that moves when told."""

from __future__ import annotations

import pytest

from gridnn.comm.clock import NOWHERE, Clock, Span


class _Time:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def time():
    return _Time()


def test_inner_phases_are_taken_from_the_outer(time):
    clock = Clock(time)
    time.now_s += 50  # outside every phase: nobody's
    with clock.phase("compute"):
        time.now_s += 8
        with clock.phase("allreduce"):
            time.now_s += 12
        time.now_s += 4
    time.now_s += 50
    assert clock.take() == {"compute": 12.0, "allreduce": 12.0}


def test_a_phase_inside_itself_counts_once(time):
    clock = Clock(time)
    with clock.phase("compute"), clock.phase("compute"):
        time.now_s += 3
    assert clock.take() == {"compute": 3.0}


def test_take_starts_again_and_splits_an_open_phase(time):
    clock = Clock(time)
    with clock.phase("compute"):
        time.now_s += 1
        assert clock.take() == {"compute": 1.0}
        time.now_s += 2
    assert clock.take() == {"compute": 2.0}
    assert clock.take() == {}


def test_an_error_closes_its_phases(time):
    clock = Clock(time)
    with pytest.raises(ZeroDivisionError), clock.phase("outer"), clock.phase("inner"):
        time.now_s += 1
        _ = 1 / 0
    time.now_s += 10
    with clock.phase("next"):
        time.now_s += 2
    assert clock.take() == {"outer": 0.0, "inner": 1.0, "next": 2.0}


CONV, RELU = (("conv",), "forward"), (("relu",), "forward")


def test_spans_end_where_phase_or_layer_does(time):
    clock = Clock(time)
    clock.keep()
    time.now_s += 5  # outside every phase: no span
    with clock.phase("compute"):
        clock.at(CONV)
        time.now_s += 1
        clock.at(CONV)  # no change
        time.now_s += 1
        with clock.phase("compute", CONV):  # none either
            time.now_s += 1
        clock.at(RELU)
        time.now_s += 4
        with clock.phase("halo wait", CONV):
            time.now_s += 8
        time.now_s += 16  # the relu goes on
    assert clock.kept() == [
        Span("compute", CONV, 105, 108),
        Span("compute", RELU, 108, 112),
        Span("halo wait", CONV, 112, 120),
        Span("compute", RELU, 120, 136),
    ]
    assert clock.take() == {"compute": 23, "halo wait": 8}


def test_spans_that_do_not_meet_stay_apart(time):
    clock = Clock(time)
    clock.keep()
    for _ in range(2):
        with clock.phase("data"):
            time.now_s += 1
        time.now_s += 1
    assert clock.kept() == [Span("data", NOWHERE, 100, 101), Span("data", NOWHERE, 102, 103)]


def test_only_what_is_asked_for_is_kept(time):
    clock = Clock(time)
    with clock.phase("compute"):
        clock.at(CONV)  # nobody looks
        time.now_s += 1
        clock.keep()
        time.now_s += 2
        spans = clock.kept()
        clock.at(RELU)
        time.now_s += 4
    assert spans == [Span("compute", NOWHERE, 101, 103)]
    assert clock.kept() == []
    assert clock.take() == {"compute": 7}
