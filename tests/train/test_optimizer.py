"""The optimizer: cuts change nothing, decay and LARS know their parameters, state can be carried over."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gridnn.compute.cpu.reference import update
from gridnn.train.optimizer import Optimizer, Piece
from gridnn.train.sections import TrainSection

RULES = {
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adam": {},
    "adamw": {},
    "lars": {"momentum": 0.9, "trust": 0.02},
}
SIZE = update._SLICE + 101  # a prime number beyond a slice


def _config(optimizer, **more):
    return TrainSection(**{"optimizer": optimizer, "weight_decay": 0.01} | RULES[optimizer] | more)


def _train(config, cuts, dtype, steps=4, optimizer=None, w=None, first=0):
    """Train one parameter of SIZE elements in the pieces between `cuts`; the gradients depend on w."""
    optimizer = optimizer or Optimizer(config)
    w = np.random.default_rng(1).normal(size=SIZE).astype(dtype) if w is None else w
    for step in range(first, first + steps):
        g = np.cos(w * (step + 1))
        squares = np.array([[float(np.sum(w * w)), float(np.sum(g * g))]], np.float64)
        bounds = [0, *cuts, SIZE]
        pieces = [Piece(f"w{i}", w[a:b], g[a:b], True, 0) for i, (a, b) in enumerate(pairwise(bounds))]
        optimizer.step(pieces, 0.05, squares if optimizer.needs_norms else None, grad_scale=0.7)
    return w, optimizer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cuts", [(5000,), (0, 3, 16385, SIZE)])
def test_a_cut_piece_is_bitwise_the_whole(rule, cuts, dtype):
    whole, _ = _train(_config(rule), (), dtype)
    cut, _ = _train(_config(rule), cuts, dtype)
    assert np.array_equal(whole, cut)


@pytest.mark.parametrize("rule", RULES)
def test_restored_state_continues_bitwise(rule):
    config = _config(rule)
    straight, _ = _train(config, (), np.float64, steps=5)
    w, before = _train(config, (), np.float64, steps=2)
    after = Optimizer(config)
    after.restore(before.state_arrays(), before.updates)
    _train(config, (), np.float64, steps=3, first=2, optimizer=before, w=w.copy())  # must not disturb `after`
    resumed, _ = _train(config, (), np.float64, steps=3, first=2, optimizer=after, w=w)
    assert np.array_equal(straight, resumed)
    assert after.updates == 5


@pytest.mark.parametrize("rule", RULES)
def test_biases_are_spared_decay_and_rate(rule):
    value = np.array([1.0, -2.0])
    gradient = np.zeros(2)
    optimizer = Optimizer(_config(rule, weight_decay=0.5))
    optimizer.step([Piece("bias", value, gradient, False, 0)], 0.1, np.array([[5.0, 0.0]]))
    assert value.tolist() == [1.0, -2.0]


def test_lars_uses_the_norms_of_the_whole_parameter():
    w, g = np.array([3.0]), np.array([2.0])
    config = TrainSection(optimizer="lars", momentum=0.0, trust=0.1, weight_decay=0.5, eps=1e-12)
    squares = np.array([[0.0, 0.0], [100.0, 64.0]])
    Optimizer(config).step([Piece("w", w, g, True, 1)], 2.0, squares, grad_scale=0.5)
    rate = 0.1 * 10 / (0.5 * 8 + 0.5 * 10)
    assert w[0] == pytest.approx(3.0 - 2.0 * rate * (0.5 * 2.0 + 0.5 * 3.0), rel=1e-12)
    with pytest.raises(AssertionError, match="LARS needs"):
        Optimizer(config).step([Piece("w", w, g, True, 1)], 2.0)


def test_lars_bias_moves_at_the_full_rate():
    b = np.array([3.0])
    config = TrainSection(optimizer="lars", momentum=0.0, weight_decay=0.5)
    Optimizer(config).step([Piece("b", b, np.array([2.0]), False, 0)], 0.25, np.array([[9.0, 4.0]]))
    assert b[0] == 3.0 - 0.25 * 2.0


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (TrainSection(momentum=0.0), set()),
        (TrainSection(), {"velocity"}),
        (TrainSection(optimizer="adam"), {"m", "v"}),
        (TrainSection(optimizer="lars"), {"velocity"}),
    ],
)
def test_state_is_what_the_rule_needs(config, kinds):
    optimizer = Optimizer(config)
    assert optimizer.state_arrays() == {}
    piece = Piece("w", np.ones(3, np.float32), np.ones(3, np.float32), True, 0)
    optimizer.step([piece], 0.1, np.ones((1, 2)))
    state = optimizer.state_arrays()["w"]
    assert set(state) == kinds
    assert all(array.shape == (3,) and array.dtype == np.float32 for array in state.values())


def test_a_piece_that_changes_size_is_a_bug():
    optimizer = Optimizer(TrainSection())
    optimizer.step([Piece("w", np.ones(3), np.ones(3), True, 0)], 0.1)
    with pytest.raises(AssertionError, match="w: state of another size"):
        optimizer.step([Piece("w", np.ones(4), np.ones(4), True, 0)], 0.1)
