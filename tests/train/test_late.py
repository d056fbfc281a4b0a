"""What momentum leads to until a late update: as the rule itself goes on without any gradient."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gridnn.compute.cpu.reference.update import sgd
from gridnn.train.late import form, led, missed
from gridnn.train.sections import TrainSection

CASES = list(product((0, 1, 2, 3), (0, 4), (True, False)))  # delay, first step, Nesterov


@pytest.mark.parametrize(("delay", "first", "nesterov"), CASES)
def test_weights_led_to_are_those_of_updates_without_gradients(
    delay: int, first: int, nesterov: bool
) -> None:
    """Of a pipeline that fills from any step on, with a rate that differs from step to step."""
    config = TrainSection(momentum=0.8, nesterov=nesterov, late="predict")

    def rate(step: int) -> float:
        return 0.1 / (1 + step)

    for step in range(first, first + 7):
        weight, velocity, none = np.array([1.0]), np.array([0.7]), np.zeros(1)
        for s in range(step - missed(step, first, delay), step):
            late = form(config, missed(s, first, delay))
            sgd(weight, none, velocity, lr=rate(s), momentum=config.momentum, **late)
        assert 1.0 - 0.7 * led(config, rate, step, first, delay) == pytest.approx(weight[0], rel=1e-13)
        assert (weight[0] != 1.0) == (delay > 0 and step > first)


@pytest.mark.parametrize(
    "words", [{"late": "spike"}, {"late": "plain"}, {"optimizer": "adam", "late": "predict"}]
)
def test_nothing_is_predicted_for_other_rules(words: dict[str, str]) -> None:
    assert led(TrainSection(**words), lambda _: 0.1, 9, 0, 2) == 0.0  # type: ignore[arg-type]
