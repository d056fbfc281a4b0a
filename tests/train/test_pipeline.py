"""Laws 1 and 4 for pipelines with a flush: they train what one process trains, and move what is predicted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gridnn.comm.world import World
from tests.support.nets import build
from tests.support.pipelines import alone, cut_randomly, same, trained

NETS = ("linear-chain", "conv-groups", "residual", "inception", "unet", "dropout")
SIZES = {2: (1, 1), 3: (1, 2), 4: (1, 2, 1), 6: (2, 4), 7: (4, 1, 1, 1), 8: (1, 4, 2, 1)}
"""Ranks of the stages, by their sum."""


def hold(comm: Any, name: str, seed: object) -> None:
    """Batches that passes do not divide; cuts and grids drawn."""
    network, rng = build(name), random.Random(f"{seed} {name} {comm.size}")
    with World(comm) as world:
        for schedule, passes in (("gpipe", 3), ("1f1b", 4), ("sequential", 2)):
            cut = cut_randomly(network, SIZES[comm.size], 7 // passes, rng)
            got = trained(world, network, cut, 7, passes, schedule)
            same(got, alone(network, 7, passes), f"{schedule} {cut}")
            assert got.staleness == [{0}] * comm.size


@pytest.mark.ranks(2, 4, 7)
@pytest.mark.parametrize("name", NETS)
def test_exact_schedules_equal_one_process(comm: Any, name: str, sample_seed: int) -> None:
    hold(comm, name, sample_seed)


@pytest.mark.sweep
@pytest.mark.ranks(3, 6, 8)
@pytest.mark.parametrize("name", NETS)
def test_more_cuts(comm: Any, name: str) -> None:
    for seed in range(8):
        hold(comm, name, seed)


@pytest.mark.ranks(4)
def test_what_an_update_needs_of_all(comm: Any) -> None:
    """Norms over all stages, shares of the optimizer's state."""
    network = build("residual")
    with World(comm) as world:
        for settings in ({"clip_norm": 0.5}, {"optimizer": "lars", "lr": 1.0}, {"cut_optimizer": True}):
            cut = cut_randomly(network, (2, 2), 3, random.Random(5))
            got = trained(world, network, cut, 6, 2, **settings)
            same(got, alone(network, 6, 2, **settings), str(settings), 1e-9)
