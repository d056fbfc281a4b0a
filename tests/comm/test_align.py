"""Clocks compared by messages: known offsets and drifts are found to within what is promised."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gridnn.comm.align import Line, Reading, between, compare, read_clocks
from gridnn.comm.world import World
from gridnn.geometry.traffic import Traffic


class _Two:
    """A clock ahead of another and drifting away from it, and a network between them that takes its time."""

    def __init__(self, ahead_s: float, drift: float, seed: int) -> None:
        self.true_s, self.ahead_s, self.drift = 1000.0, ahead_s, drift
        self.random = random.Random(seed)

    def theirs(self) -> float:
        return self.true_s

    def mine(self) -> float:
        return self.true_s * (1 + self.drift) + self.ahead_s

    def ask(self) -> float:
        self._travel()
        read = self.theirs()
        self._travel()
        return read

    def _travel(self) -> None:
        self.true_s += 1e-6 + self.random.expovariate(1 / 20e-6)


@pytest.mark.parametrize("seed", range(20))
def test_an_offset_is_found_to_within_its_uncertainty(seed: int) -> None:
    two = _Two(-37.25, 0.0, seed)
    reading = compare(two.mine, two.ask)
    assert abs(reading.ahead_s - -37.25) <= reading.uncertainty_s + 1e-12
    assert 1e-6 < reading.uncertainty_s < 20e-6  # of the shortest trip, not of any
    few = compare(two.mine, two.ask, trips=1)
    assert abs(few.ahead_s - -37.25) <= few.uncertainty_s + 1e-12


def test_a_network_without_delays_leaves_nothing_in_doubt() -> None:
    two = _Two(5.0, 0.0, 0)
    assert compare(two.mine, two.theirs) == Reading(1005.0, 5.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_drift_is_followed(seed: int) -> None:
    """Fifty millionths over ten seconds: half a millisecond, far above a round trip."""
    two = _Two(12.5, 50e-6, seed)
    before = compare(two.mine, two.ask)
    pairs = []
    for _ in range(10):
        two.true_s += 1.0
        pairs.append((two.mine(), two.true_s))
    after = compare(two.mine, two.ask)
    line = between(before, after)
    mine, true = np.array(pairs).T
    bound_s = before.uncertainty_s + after.uncertainty_s
    assert line.drift == pytest.approx(50e-6, abs=bound_s / 10)
    np.testing.assert_allclose(line.onto(mine), true, rtol=0, atol=bound_s + 1e-9)
    assert np.abs(mine - true - (before.ahead_s)).max() > 10 * bound_s  # one reading alone would be wrong


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_drift(seed: int) -> None:
    two = _Two(3.0, 0.0, seed)
    before = compare(two.mine, two.ask)
    two.true_s += 1e-4
    after = compare(two.mine, two.ask)
    line = between(before, after)
    assert line.drift == 0.0
    assert line.uncertainty_s == min(before.uncertainty_s, after.uncertainty_s)
    assert abs(line.ahead_s - 3.0) <= line.uncertainty_s + 1e-12


def test_the_line_goes_through_both_readings() -> None:
    line = between(Reading(10.0, 1.0, 1e-3), Reading(20.0, 1.5, 2e-3))
    assert line == Line(15.0, 1.25, 0.05, 2e-3)
    np.testing.assert_allclose(line.onto(np.array([10.0, 15.0, 20.0])), [9.0, 13.75, 18.5], rtol=1e-15)


@pytest.mark.ranks(3)
def test_ranks_of_one_computer_have_one_clock(comm: Any) -> None:
    with World(comm) as world:
        true, ahead_s = world.clock.now, (0.0, 1234.5, 0.0)[world.rank]
        world.clock.now = lambda: true() + ahead_s
        for ranks in ((0, 1, 2), (0, 2), (0,)):
            reading = read_clocks(world, ranks)
            assert (reading is not None) == (world.rank in ranks)
            if reading is not None:
                assert abs(reading.ahead_s - ahead_s) <= reading.uncertainty_s
                assert (reading.uncertainty_s > 0) == (world.rank > 0)
        assert world.ledger == Traffic()
