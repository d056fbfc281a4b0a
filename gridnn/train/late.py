"""Late gradients: how many updates one has missed, and where momentum will have led the weights by then.

A stage whose gradients are D steps late, from step 0 on (`first`):

    step      0    1    2    3    4        D = 2
    forward   0    1    2    3    4
    update              0    1    2        batch 2 goes forward before the updates by 0 and 1, and is behind both
    missed              0    1    2        by its own: batches that fill the pipeline meet weights that stand still

At its forward a batch could know half of what it will miss: the velocity that is there moves the weights on, whatever
gradients come.  Where weights are stashed anyhow, it goes forward, and later backward, with the weights that this leads
to (weight prediction: Chen, Yang and Cheng 2018; beside spike compensation Kosson et al. 2021), so that its gradient is
one for the weights it will change.  How far is ours: as the rule of the update itself goes on, coming gradients zero.
"""

from __future__ import annotations

from collections.abc import Callable

from gridnn.compute.cpu.update import sgd_form
from gridnn.train.sections import TrainSection


def missed(step: int, first: int, delay: int) -> int:
    """Return the updates of a stage between the forward of a step's batch and the update by its gradient."""
    return min(delay, step - first)


def form(config: TrainSection, late: int) -> dict[str, float]:
    """Return `carried` and `spike` of sgd for a gradient that has missed so many updates."""
    return sgd_form(config.momentum, config.nesterov, 0 if config.late == "plain" else late)


def led(config: TrainSection, rate: Callable[[int], float], step: int, first: int, delay: int) -> float:
    """Return how often the velocity at the forward of a step's batch goes into the weights until its own update.

    Parameters
    ----------
    rate
        The learning rate of a step.
    first
        The step at which the pipeline began to fill.
    delay
        Steps by which gradients of the stage are late.
    """
    if config.optimizer != "sgd" or config.late != "predict":
        return 0.0
    before = range(step - missed(step, first, delay), step)  # batches that update first
    return sum(
        rate(s) * form(config, missed(s, first, delay))["carried"] * config.momentum ** (i + 1)
        for i, s in enumerate(before)
    )
