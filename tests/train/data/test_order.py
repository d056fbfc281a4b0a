"""Orders: pure in the step, every sample once."""

from __future__ import annotations

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.train.data.order import EvaluationOrder, Order, PassOrder


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (7, 7), (23, 5), (24, 6), (100, 33)])
def test_an_epoch_has_no_sample_twice(count, batch):
    order = Order(count, batch, seed=3)
    steps = order.steps_per_epoch
    assert steps == count // batch
    left_out = []
    for epoch in range(4):
        taken = np.concatenate([order.indices(epoch * steps + k) for k in range(steps)])
        assert len(taken) == len(np.unique(taken)) == steps * batch
        assert set(taken.tolist()) <= set(range(count))
        left_out.append(frozenset(range(count)) - set(taken.tolist()))
        assert {order.epoch(epoch * steps + k) for k in range(steps)} == {epoch}
        assert order.valid(epoch * steps) == batch
    if count % batch > 1:
        assert len(set(left_out)) > 1


def test_any_step_alone_gives_what_the_run_gave():
    """Resuming in the middle of an epoch needs the step and nothing else."""
    run = Order(50, 8, seed=1)
    seen = [run.indices(step) for step in range(20)]
    for step in (13, 2, 19, 6, 5):
        assert np.array_equal(Order(50, 8, seed=1).indices(step), seen[step])
        assert np.array_equal(run.indices(step), seen[step])
    assert not np.array_equal(Order(50, 8, seed=2).indices(0), seen[0])


def test_without_shuffling():
    order = Order(10, 4, seed=0, shuffle=False)
    assert [order.indices(step).tolist() for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (1, 4), (7, 3), (6, 3), (3, 10)])
def test_evaluation_counts_every_sample_once(count, batch):
    order = EvaluationOrder(count, batch)
    counted = []
    for step in range(order.steps):
        indices = order.indices(step)
        assert len(indices) == batch
        assert set(indices.tolist()) <= set(range(count))
        counted += indices[: order.valid(step)].tolist()
    assert counted == list(range(count))


def test_too_few_samples():
    with pytest.raises(InputError, match=r"3 training samples do not fill one batch of 4; set train.batch"):
        Order(3, 4, seed=0)
    for count, batch in ((0, 1), (5, 0)):
        with pytest.raises(InputError, match="both must be at least 1"):
            EvaluationOrder(count, batch)


def test_passes_of_unequal_size_make_up_the_batch():
    order = Order(23, 7, seed=1)
    for passes, sizes in ((1, [7]), (2, [4, 3]), (3, [3, 2, 2]), (7, [1] * 7)):
        parts = PassOrder(order, passes)
        assert parts.batch == sizes[0]
        for step in range(4):
            numbers = range(step * passes, (step + 1) * passes)
            assert [parts.valid(n) for n in numbers] == sizes
            assert [parts.kind(n) for n in numbers] == [int(size < sizes[0]) for size in sizes]
            assert np.array_equal(np.concatenate([parts.indices(n) for n in numbers]), order.indices(step))
            assert {parts.epoch(n) for n in numbers} == {order.epoch(step)}
