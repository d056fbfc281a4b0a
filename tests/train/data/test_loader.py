"""The loader: blocks of batches equal direct reading, read ahead, and errors reach the caller."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from gridnn.errors import InputError
from gridnn.train.data import Augment, EvaluationOrder, Loader, Order, open_data
from tests.train.data import files


def loader_of(data, order, box=None, target_box=None, augment=None, dtype=np.float64):
    box = box or tuple((0, n) for n in (order.batch, *data.input_shape))
    target_box = target_box or tuple((0, n) for n in (order.batch, *data.target_shape))
    return Loader(data, order, [(box, target_box)], dtype, augment or Augment(), 7)


def cut(array, box):
    return array[tuple(slice(a, b) for a, b in box)]


@pytest.mark.parametrize("target", ["class", "pixels", "image"])
@pytest.mark.parametrize(
    "augment", [Augment(), Augment(pad=2, flip=True, noise=0.1, mean=(0.5,), std=(0.2,))]
)
def test_blocks_are_blocks_of_the_whole_batch(target, augment):
    """Any cut of the batch and of space, uneven, overlapping or empty, over an epoch's end."""
    data = open_data("synthetic:2x5x7:3", "train", {"count": 11, "target": target, "target_channels": 3})
    order = Order(data.count, 4, seed=2)
    boxes = files.some_boxes((4, *data.input_shape), 5)
    target_boxes = files.some_boxes((4, *data.target_shape), 5, seed=1)
    with loader_of(data, order, augment=augment) as whole:
        wanted = [whole.batch(step) for step in range(4)]
    for box, target_box in zip(boxes, target_boxes, strict=True):
        with loader_of(data, order, box, target_box, augment) as loader:
            for step in range(4):
                batch = loader.batch(step)
                assert np.array_equal(batch.x, cut(wanted[step].x, box))
                assert np.array_equal(batch.target, cut(wanted[step].target, target_box))
                assert batch.x.flags.c_contiguous
                assert batch.target.flags.c_contiguous


def test_batch_is_the_samples_of_the_order():
    data = open_data("digits", "train")
    order = Order(data.count, 16, seed=2)
    with loader_of(data, order, dtype=np.float32) as loader:
        for step in (0, 1, 300):
            batch, rows = loader.batch(step), order.indices(step)
            raw = data.read(rows, ((0, 1), (0, 8), (0, 8)))
            assert batch.x.dtype == np.float32
            assert np.array_equal(batch.x, (raw / 16).astype(np.float32))
            assert batch.target.dtype == np.int64
            assert np.array_equal(batch.target, data.read_target(rows, ()))
            assert batch.valid == 16


def test_a_crop_and_flip_move_input_and_target_together():
    """Pixel labels are a function of the pixel, so they still are afterwards (but for the padding)."""
    data = open_data("synthetic:1x6x6:4", "train", {"count": 40, "target": "pixels"})
    with loader_of(data, Order(40, 40, 0), augment=Augment(pad=2, flip=True)) as loader:
        batch = loader.batch(0)
    assert np.array_equal(np.floor(batch.x[:, 0] * 4), batch.target)
    assert np.mean(batch.x == 0) > 0.1


def test_denoiser_has_a_clean_target():
    data = open_data("digits", "train", {"target": "image"})
    with loader_of(data, Order(data.count, 32, 0), augment=Augment(pad=1, noise=0.3)) as loader:
        batch = loader.batch(0)
    assert batch.x.shape == batch.target.shape
    assert 0.27 < (batch.x - batch.target).std() < 0.33
    assert set(np.unique(batch.target * 16).tolist()) <= set(range(17))


def test_evaluation_fills_the_last_batch():
    data = open_data("digits", "test")
    order = EvaluationOrder(data.count, 500)
    labels = []
    with loader_of(data, order) as loader:
        for step in range(order.steps):
            batch = loader.batch(step)
            assert len(batch.x) == 500
            labels += batch.target[: batch.valid].tolist()
        assert loader.batch(0).valid == 500  # and again from the start
    assert labels == data.read_target(np.arange(data.count), ()).tolist()


def test_resumes_anywhere():
    data = open_data("synthetic:1x4x4:3", "train", {"count": 20})
    augment = Augment(pad=1, flip=True, noise=0.1)
    with loader_of(data, Order(20, 6, 1), augment=augment) as loader:
        run = [loader.batch(step).x for step in range(8)]
    for step in (7, 4, 3):
        with loader_of(data, Order(20, 6, 1), augment=augment) as loader:
            assert np.array_equal(loader.batch(step).x, run[step])
            assert np.array_equal(loader.batch(1).x, run[1])


def test_reads_ahead_while_the_caller_works():
    reads = []
    data = open_data("digits", "train")

    def slow(indices, box):
        reads.append(threading.current_thread().name)
        time.sleep(0.05)
        return data.read(indices, box)

    with loader_of(replace(data, read=slow), Order(data.count, 8, 0)) as loader:
        loader.batch(0)
        assert loader.wait_s >= 0.05
        deadline = time.monotonic() + 20
        while not all(coming.done() for coming in loader._ahead.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(reads) == 3, "two batches ahead and no more"
        assert np.array_equal(loader.batch(1).x, loader.read(1).x)
        reads.remove(threading.current_thread().name)  # the direct read of the line above
        assert all(name.startswith("gridnn-data") for name in reads)


def test_errors_of_the_thread_reach_the_caller_at_their_step():
    data = open_data("digits", "train")
    order = Order(data.count, 8, 0)
    bad = order.indices(2)[0]

    def broken(indices, box):
        if bad in indices:
            raise InputError("the file broke")
        return data.read(indices, box)

    with loader_of(replace(data, read=broken), order) as loader:
        loader.batch(0)
        loader.batch(1)
        with pytest.raises(InputError, match="the file broke"):
            loader.batch(2)
        assert loader.batch(3).valid == 8


def test_no_thread_is_left():
    before = set(threading.enumerate())
    data = open_data("digits", "train")
    with (
        pytest.raises(RuntimeError, match="of the caller"),
        loader_of(data, Order(data.count, 8, 0)) as loader,
    ):
        loader.batch(0)
        assert set(threading.enumerate()) - before
        raise RuntimeError("of the caller")
    assert not set(threading.enumerate()) - before
