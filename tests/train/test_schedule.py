"""The learning rate of a step, and the factor of clipping."""

from __future__ import annotations

import math

import pytest

from gridnn.train.schedule import clip_scale, lr_at
from gridnn.train.sections import TrainSection


def _rates(steps, steps_per_epoch=10, total=40, **train):
    config = TrainSection(lr=0.8, **train)
    return [lr_at(step, config, steps_per_epoch, total) for step in steps]


def test_constant():
    assert _rates([0, 1, 39]) == [0.8, 0.8, 0.8]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_and_reaches_lr(schedule):
    assert _rates(range(4), warmup_steps=4, schedule=schedule) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert _rates([4], warmup_steps=4, schedule=schedule) == [0.8]


def test_step_falls_at_its_milestones_in_epochs():
    rates = _rates([0, 9, 10, 24, 25, 39], schedule="step", milestones=(1, 2.5), gamma=0.5)
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_cosine_falls_from_lr_to_zero():
    first, middle, last, beyond = _rates([0, 20, 39, 50], schedule="cosine")
    assert (first, middle) == (0.8, pytest.approx(0.4))
    assert last == pytest.approx(0.4 * (1 + math.cos(math.pi * 39 / 40)))
    assert beyond == 0.0


def test_cosine_starts_after_warm_up():
    assert _rates([10, 25], warmup_steps=10, schedule="cosine") == pytest.approx([0.8, 0.4])


def test_a_run_all_of_warm_up_divides_nothing_by_zero():
    assert _rates([39, 40], warmup_steps=40, schedule="cosine") == [0.8, 0.8]


def test_clipping():
    assert clip_scale(5.0, None) == 1.0
    assert clip_scale(0.5, 1.0) == 1.0
    assert clip_scale(0.0, 1.0) == 1.0
    assert clip_scale(4.0, 1.0) == pytest.approx(0.25, rel=1e-6)
    with pytest.raises(AssertionError, match="finite"):
        clip_scale(math.nan, 1.0)
