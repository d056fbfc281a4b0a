r"""Learning rate and clipping as pure functions of the step: nothing to save, nothing to restore.

    lr |    /-------\___ step          lr |    /--.
       |   /            \____             |   /    `\
       |  / warm-up                       |  /       `.  cosine
       +------------------------ step     +-------------`---- total_steps
"""

from __future__ import annotations

import math

from gridnn.train.sections import TrainSection


def lr_at(step: int, config: TrainSection, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of one update.

    Parameters
    ----------
    step : int
        Number of the update, from 0.
    config : TrainSection
        ``lr``, ``warmup_steps``, ``schedule``, ``milestones`` (in epochs) and ``gamma`` are read.
    steps_per_epoch, total_steps : int
        Updates in an epoch and in the run.

    Notes
    -----
    Warm-up is linear and reaches ``lr`` at its last step (Goyal et al. 2017, section 2.2).  The
    cosine (Loshchilov and Hutter 2017, equation 5) falls from there towards zero at ``total_steps``.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    match config.schedule:
        case "constant":
            return config.lr
        case "step":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return config.lr * config.gamma**passed
        case "cosine":
            done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
            return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def clip_scale(global_norm: float, max_norm: float | None) -> float:
    """Factor on every gradient that brings their global norm down to ``max_norm``.

    The norm must be finite: a NaN scaled would spoil every weight, so the caller stops before.
    """
    if max_norm is None:
        return 1.0
    assert math.isfinite(global_norm), "the norm to clip must be finite"
    # the small term is PyTorch's, and keeps a zero norm from dividing by zero
    return min(1.0, max_norm / (global_norm + 1e-6))
