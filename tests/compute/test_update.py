"""Update rules against the papers' formulas, one float64 element after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gridnn.compute.cpu.reference import update

STEPS = 6
# one more than a slice of the rules, so that the seam is met
SIZES = (0, 1, 7, update._SLICE + 1)
# Adam divides by sqrt(v) + eps: where a direction cancels to less than eps, float32 keeps no digit of the
# step.  A large eps keeps the problem well conditioned, and shows if it stands in the wrong place.
EPS = 1e-2
TOLERANCE = {np.float64: 1e-13, np.float32: 2e-6}


def _problem(size, dtype, seed=3):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=size).astype(dtype)
    gradients = [rng.normal(size=size).astype(dtype) for _ in range(STEPS)]
    return w, gradients


def _close(w, wanted, dtype):
    np.testing.assert_allclose(w, np.asarray(wanted), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def _sgd(w, gradients, lr, momentum, nesterov, decay, scale, delay):
    directions: list[float] = []
    for (
        g
    ) in gradients:  # the i-th direction before this one moves by momentum^i, this one by all it has missed
        directions.insert(0, scale * g + decay * w)
        moved = sum(momentum ** (i + delay + nesterov) * d for i, d in enumerate(directions))
        w = w - lr * (moved + sum(momentum**i for i in range(delay + nesterov)) * directions[0])
    return w


def test_a_late_gradient_moves_by_what_it_has_missed():
    # Of one gradient and then none, late by 2: after n updates the weight is where the heavy ball was after n + 2.
    in_time, late = np.zeros((2, 1)), np.zeros((2, 1))
    path = []
    for step in range(6):
        g = np.full(1, float(step == 0))
        update.sgd(in_time[0], g, in_time[1], lr=1.0, momentum=0.5)
        update.sgd(late[0], g, late[1], lr=1.0, momentum=0.5, **update.sgd_form(0.5, False, 2))
        path.append((in_time[0, 0], late[0, 0]))
    assert [there for _, there in path[:4]] == [here for here, _ in path[2:]]


def _adam(w, gradients, lr, b1, b2, eps, decay, decoupled, scale):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        d = scale * g + (0.0 if decoupled else decay * w)
        if decoupled:
            w = w - lr * decay * w
        m = b1 * m + (1 - b1) * d
        v = b2 * v + (1 - b2) * d * d
        w = w - lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
    return w


def _lars(w, gradients, lr, momentum, decay, rate, scale):
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity + lr * rate * (scale * g + decay * w)
        w = w - velocity
    return w


def _each(rule, w, gradients, *coefficients):
    """The reference of every element on its own, in Python's floats."""
    rows = zip(*(g.tolist() for g in gradients), strict=True)
    return [rule(x, row, *coefficients) for x, row in zip(w.tolist(), rows, strict=True)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("momentum", "nesterov", "decay", "scale"),
    [(0.0, False, 0.0, 1.0), (0.0, False, 0.1, 0.5), (0.9, False, 0.01, 1.0), (0.9, True, 0.01, 0.3)],
)
@pytest.mark.parametrize("delay", [0, 3])
def test_sgd(dtype, size, momentum, nesterov, decay, scale, delay):
    w, gradients = _problem(size, dtype)
    wanted = _each(_sgd, w, gradients, 0.1, momentum, nesterov, decay, scale, delay)
    velocity = np.zeros_like(w) if momentum else None
    for g in gradients:
        update.sgd(
            w, g, velocity, lr=0.1, momentum=momentum, weight_decay=decay, grad_scale=scale,
            **update.sgd_form(momentum, nesterov, delay)
        )  # fmt: skip
    _close(w, wanted, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(("decay", "scale"), [(0.0, 1.0), (0.1, 0.3)])
def test_adam(dtype, size, decoupled, decay, scale):
    w, gradients = _problem(size, dtype)
    wanted = _each(_adam, w, gradients, 0.01, 0.8, 0.95, EPS, decay, decoupled, scale)
    m, v = np.zeros_like(w), np.zeros_like(w)
    rule = update.adamw if decoupled else update.adam
    for step, g in enumerate(gradients, 1):
        rule(
            w, g, m, v, step=step, lr=0.01, beta1=0.8, beta2=0.95, eps=EPS, weight_decay=decay,
            grad_scale=scale,
        )  # fmt: skip
    _close(w, wanted, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", SIZES)
def test_lars(dtype, size):
    w, gradients = _problem(size, dtype)
    wanted = _each(_lars, w, gradients, 2.0, 0.9, 0.01, 0.02, 0.5)
    velocity = np.zeros_like(w)
    for g in gradients:
        update.lars(w, g, velocity, lr=2.0, rate=0.02, momentum=0.9, weight_decay=0.01, grad_scale=0.5)
    _close(w, wanted, dtype)


def test_lars_rate():
    assert update.lars_rate(3.0, 4.0, trust=0.1, weight_decay=0.5, eps=0.25) == pytest.approx(0.3 / 5.75)
    for norms in ((0.0, 4.0), (3.0, 0.0)):
        assert update.lars_rate(*norms, trust=0.1, weight_decay=0.0, eps=1e-8) == 1.0


def test_the_gradient_is_left_alone():
    w, (g, *_) = _problem(9, np.float64)
    before = g.copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    update.sgd(w, g, m, lr=0.1, momentum=0.9, carried=0.9, spike=1.0, weight_decay=0.1, grad_scale=0.5)
    update.adamw(w, g, m, v, step=1, lr=0.1, weight_decay=0.1, grad_scale=0.5)
    update.lars(w, g, m, lr=0.1, rate=0.1, momentum=0.9, weight_decay=0.1, grad_scale=0.5)
    assert np.array_equal(g, before)


def test_arrays_that_differ_are_refused():
    w = np.zeros(4)
    for g in (np.zeros(3), np.zeros(4, np.float32), np.zeros((2, 2))):
        with pytest.raises(AssertionError, match="differ"):
            update.sgd(w, g, None, lr=0.1)
