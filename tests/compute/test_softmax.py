"""Cross-entropy in pieces against a loop over positions, for whole and cut classes, and its gradient."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from gridnn.compute.cpu.reference import softmax

from .loops import Array

CLASSES = 7
CUTS = [[0, 7], [0, 3, 7], [0, 3, 5, 7], [0, 2, 2, 4, 5, 6, 7]]  # the last has an empty block
SPACES = [(), (5,), (2, 3), (2, 3, 2)]


def reference(x: Array, labels: Array, smoothing: float) -> Array:
    """Loss of each position with math alone."""
    loss = np.zeros(labels.shape)
    for n, *s in np.ndindex(*labels.shape):
        row = [float(x[(n, k, *s)]) for k in range(x.shape[1])]
        log_z = max(row) + math.log(math.fsum(math.exp(v - max(row)) for v in row))
        target = [smoothing / len(row)] * len(row)
        target[labels[(n, *s)]] += 1 - smoothing
        loss[(n, *s)] = math.fsum(t * (log_z - v) for t, v in zip(target, row, strict=True))
    return loss


def draw(space: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Logits, labels and weights of 4 samples."""
    rng = np.random.default_rng(len(space))
    x = 5 * rng.standard_normal((4, CLASSES, *space))
    return x, rng.integers(0, CLASSES, (4, *space)), rng.random((4, *space))


def in_pieces(x: Array, labels: Array, cuts: list[int]) -> tuple[Array, Array, list[Array]]:
    """Top, sums over the blocks of classes, and the blocks: what ranks do, without ranks."""
    blocks = [x[:, a:b] for a, b in pairwise(cuts)]
    top = np.max([softmax.block_max(b) for b in blocks], axis=0)
    parts = [softmax.block_sums(b, top, labels, a) for a, b in zip(cuts, blocks, strict=False)]
    return top, np.sum(parts, axis=0), blocks


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("space", SPACES)
def test_losses(space: tuple[int, ...], cuts: list[int], smoothing: float) -> None:
    x, labels, _ = draw(space)
    _, sums, _ = in_pieces(x, labels, cuts)
    losses = softmax.losses(sums, CLASSES, smoothing)
    assert losses.shape == labels.shape
    np.testing.assert_allclose(losses, reference(x, labels, smoothing), atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("space", SPACES)
def test_gradient_is_the_directional_derivative(
    space: tuple[int, ...], cuts: list[int], smoothing: float
) -> None:
    x, labels, weight = draw(space)
    weight[0] = 0  # a sample that only fills the batch
    top, sums, blocks = in_pieces(x, labels, cuts)
    parts = [
        softmax.gradient(b, top, sums[0], labels, a, CLASSES, smoothing, weight)
        for a, b in zip(cuts, blocks, strict=False)
    ]
    dx = np.concatenate(parts, axis=1)
    direction = np.random.default_rng(9).standard_normal(x.shape)
    ahead, behind = (reference(x + h * direction, labels, smoothing) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(np.vdot(dx, direction), np.vdot(weight, ahead - behind) / 2e-5, rtol=1e-7)
    assert not dx[0].any()
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-14)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("space", SPACES)
def test_the_first_of_equal_classes_is_best(space: tuple[int, ...], cuts: list[int]) -> None:
    x = np.random.default_rng(3).integers(0, 3, (4, CLASSES, *space)).astype(float)
    top, _, blocks = in_pieces(x, np.zeros((4, *space), int), cuts)
    found = np.min([softmax.best_class(b, top, a) for a, b in zip(cuts, blocks, strict=False)], axis=0)
    for n, *s in np.ndindex(*top.shape):
        row = [x[(n, k, *s)] for k in range(CLASSES)]
        assert found[(n, *s)] == row.index(max(row))


def test_best_class_elsewhere() -> None:
    assert softmax.best_class(np.zeros((1, 2)), np.ones(1), 4) == softmax.NOT_HERE
    assert softmax.best_class(np.zeros((1, 0)), np.ones(1), 4) == softmax.NOT_HERE


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (2, 3, 2)])
def test_dtypes_and_empty_blocks(shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    positions = (shape[0], *shape[2:])
    labels, weight, one = np.zeros(positions, np.int64), np.ones(positions), np.ones(positions, np.float32)
    top, sums = softmax.block_max(x), softmax.block_sums(x, one, labels, 0)
    dx = softmax.gradient(x, one, np.full(positions, 3.0), labels, 0, 3, 0.1, weight)
    assert top.shape == positions
    assert top.dtype == np.float32
    assert sums.shape == (3, *positions)
    assert sums.dtype == np.float64
    assert dx.shape == shape
    assert dx.dtype == np.float32
    assert softmax.best_class(x, top, 0).shape == positions
    if shape[1] == 0:
        assert np.isneginf(top).all()
        assert not sums.any()


def test_huge_logits_do_not_overflow() -> None:
    x = np.array([[3e38, -3e38, 0.0]], np.float32)
    labels = np.array([1])
    with np.errstate(over="raise", invalid="raise"):
        top, sums, _ = in_pieces(x.astype(float), labels, [0, 3])
        dx = softmax.gradient(x.astype(float), top, sums[0], labels, 0, 3, 0.0, np.ones(1))
    np.testing.assert_allclose(dx, [[1, -1, 0]])


def test_a_label_of_no_class_picks_nothing() -> None:
    x = np.random.default_rng(4).standard_normal((2, 3))
    labels = np.array([-1, 2])
    top, sums, _ = in_pieces(x, labels, [0, 3])
    assert sums[1, 0] == 0
    assert sums[1, 1] == x[1, 2] - top[1]
    dx = softmax.gradient(x, top, sums[0], labels, 0, 3, 0.0, np.array([0.0, 1.0]))
    assert not dx[0].any()
    assert dx[1].any()
