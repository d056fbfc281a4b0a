"""Graphs of a device: what is captured is done at launches only, and what cannot be captured is refused.

The device is the tests' own, which does not do what it captures, as CUDA does not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu import pointwise, update
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.graph import CaptureError, Varying, obstacle
from gridnn.compute.random import Draw, dropout_mask
from tests.support import shim
from tests.support.shim.device import DeviceArray, ShimDevice


@pytest.fixture
def engine() -> Engine:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    return Engine(ShimDevice())


def seen(array: Any) -> Any:
    """Return what is in a device's memory, past all refusals."""
    return array.view(np.ndarray).copy()


def work(engine: Engine, x: Any, w: Any, total: Any) -> list[Any]:
    """Do something of each sort: kernels, products, NumPy's operations, in new memory and in place, on views."""
    y = pointwise.activate(engine, "relu", x)
    product = engine.device.empty(16, np.float64).reshape(4, 4)
    engine.device.matmul(y, w, product)
    chosen = np.where(product > 0.5, product, 0).sum(axis=0)
    best = np.argmax(product, axis=1)
    taken = np.take_along_axis(product, best[:, None], axis=1)[:, 0]
    narrow = (chosen * 2).astype(np.float32)
    total += product.reshape(-1)[:8].reshape(2, 4)
    total[:, 1:3] = -1
    total[0] += taken
    halves = np.split(product, 2, axis=1)
    joined = engine.device.empty(16, np.float64).reshape(4, 4)
    np.concatenate(halves[::-1], axis=1, out=joined)
    return [y, product, chosen, best, taken, narrow, joined, np.zeros_like(chosen), chosen.sum()]


def test_nothing_is_done_before_a_launch(engine: Engine) -> None:
    """What memory holds afterwards is, bit for bit, what the same calls leave at once: for every content of it."""
    rng = np.random.default_rng(2)
    w, batches = engine.take(rng.standard_normal((5, 4))), [rng.standard_normal((4, 5)) for _ in range(3)]
    x, total, found = engine.take(batches[0]), engine.take(np.ones((2, 4))), list[Any]()
    launches = len(engine.device.launches)  # type: ignore[attr-defined]
    graph = engine.device.capture(lambda: found.extend(work(engine, x, w, total)))
    assert (seen(total) == 1).all()
    for array in found:
        assert isinstance(array, DeviceArray)
        assert array.size and (np.frombuffer(seen(array).tobytes(), np.uint8) == 0xFF).all(), (
            "it was computed"
        )
    assert len(engine.device.launches) == launches + 1  # type: ignore[attr-defined]
    addresses = [array.ctypes.data for array in found]
    expected = engine.take(np.ones((2, 4)))
    for batch in (batches[1], batches[2], batches[1]):
        x[...] = engine.take(batch)
        graph.launch()
        wanted = work(engine, engine.take(batch), w, expected)
        for got, want in zip([*found, total], [*wanted, expected], strict=True):
            np.testing.assert_array_equal(seen(got), seen(want))
    assert [array.ctypes.data for array in found] == addresses
    assert graph.nbytes >= sum(array.nbytes for array in found[:2])


READS: dict[str, Callable[[Engine, Any], Any]] = {
    "to_host": lambda engine, x: engine.give(x),
    "float": lambda engine, x: float(x[0, 0]),
    "bool": lambda engine, x: bool(x[0, 0] > 0),
    "item": lambda engine, x: x[0].sum().item(),
    "from_host": lambda engine, x: engine.take(np.ones(3)),
    "pinned": lambda engine, x: engine.device.pinned(8),
    "synchronize": lambda engine, x: engine.synchronize(),
    "read_later": lambda engine, x: engine.device.read_later(x),
    "table of addresses": lambda engine, x: np.concatenate([x] * 9),
}


@pytest.mark.parametrize("how", READS)
def test_what_waits_for_the_device_is_no_part_of_a_capture(engine: Engine, how: str) -> None:
    """And afterwards the device is as before."""
    x = engine.take(np.ones((2, 3)))
    READS[how](engine, x)
    with pytest.raises(CaptureError):
        engine.device.capture(lambda: READS[how](engine, x))
    assert not engine.device.capturing
    READS[how](engine, x)
    assert (seen(x + 1) == 2).all()


def test_memory_that_nobody_keeps(engine: Engine) -> None:
    """An array made before belongs to who made it; one made meanwhile to the graph."""
    given, y = [engine.take(np.ones((2, 3)))], engine.take(np.zeros((2, 3)))

    def tripled() -> None:
        y[...] = given[0] * 2 + given[0]

    graph = engine.device.capture(tripled)
    gc.collect()
    graph.launch()
    assert (seen(y) == 3).all()
    given.clear()
    gc.collect()
    with pytest.raises(shim.ShimError, match="nobody keeps"):
        graph.launch()


def test_numbers_by_value_stay(engine: Engine) -> None:
    """The hazard that `Varying` is for."""
    y, factor = engine.take(np.ones(3)), 2.0

    def scaled() -> None:
        nonlocal y
        y *= factor

    graph = engine.device.capture(scaled)
    factor = 10.0
    graph.launch()
    assert (seen(y) == 2).all()


def test_numbers_that_change(engine: Engine) -> None:
    """Their place stays; outside of captures they follow by themselves, for launches when they are moved."""
    varying, made = Varying(engine.device), list[int]()

    def of(at: int) -> Any:
        made.append(at)
        return np.array([at, at // 2])

    place = varying.told("pass", "a", 4, of)
    assert seen(place).tolist() == [4, 2]
    assert varying.told("pass", "a", 6, of) is place and seen(place).tolist() == [6, 3]
    made.clear()
    assert varying.told("pass", "a", 6, of) is place and made == []
    other = varying.told("update", "a", 1, lambda at: np.array([0.5 * at]))
    y = engine.take(np.zeros(2, np.int64))

    def copied() -> None:
        y[...] = varying.told("pass", "a", 9, of)
        with pytest.raises(CaptureError, match="new"):
            varying.told("pass", "b", 9, of)

    graph = engine.device.capture(copied)
    graph.launch()
    assert seen(y).tolist() == [6, 3], "a capture writes nothing"
    for at in (9, 11):
        varying.move("pass", at)
        graph.launch()
        assert seen(y).tolist() == [at, at // 2]
    assert seen(other).tolist() == [0.5]
    varying.move("update", 7)
    assert seen(other).tolist() == [3.5]


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
def test_an_update_that_is_announced(engine: Engine, rule: str) -> None:
    """Three launches with other learning rates and numbers give what three calls give; without a word they do not."""
    rng = np.random.default_rng(3)
    words: dict[str, Any] = {"momentum": 0.9} if rule == "sgd" else {"weight_decay": 0.1}
    states = 1 if rule == "sgd" else 2
    arrays = [rng.uniform(0.1, 1, 40) for _ in range(2 + states)]

    def updated(here: Engine, mine: list[Any], step: int, lr: float) -> None:
        more = {"step": step} if "adam" in rule else {}
        getattr(update.rules(here, np.float64), rule)(*mine, lr=lr, **words, **more)

    results = []
    for announced in (True, False):
        mine = [engine.take(a) for a in arrays]
        updated(engine, mine, 1, 0.5)
        graph = engine.device.capture(partial(updated, engine, mine, 2, 0.25))
        for step, lr in ((2, 0.25), (3, 0.1), (4, 0.3)):
            if announced:
                update.announce(engine, update.Now(step, lr))
            graph.launch()
        results.append(seen(mine[0]))
    other = Engine(ShimDevice())
    mine = [other.take(a) for a in arrays]
    for step, lr in ((1, 0.5), (2, 0.25), (3, 0.1), (4, 0.3)):
        updated(other, mine, step, lr)
    np.testing.assert_array_equal(results[0], seen(mine[0]))
    assert not np.array_equal(results[1], results[0])


def test_dropout_of_the_pass_that_is_launched(engine: Engine) -> None:
    box = ((0, 3), (0, 4))
    draw, found = Draw(5, "dropout:drop", (3, 4), box, 0, 0.5), list[Any]()
    x = engine.take(np.ones((3, 4)))
    pointwise.dropout_forward(engine, x, draw)
    graph = engine.device.capture(lambda: found.append(pointwise.dropout_forward(engine, x, draw)[0]))
    for number in (3, 1, 8):
        engine.device.varying.move("pass", number)
        graph.launch()
        mask = dropout_mask(5, "dropout:drop", (3, 4), box, number, 0.5, np.float64)
        np.testing.assert_array_equal(seen(found[0]), mask)


def test_a_copy_that_is_asked_for_before(engine: Engine) -> None:
    """It brings what was there then, and only its own wait waits."""
    device, x = engine.device, engine.take(np.arange(3.0))
    sent = device.read_later(x)
    x += 5
    assert not np.array_equal(sent.array, [0, 1, 2]), "it is not there yet"  # type: ignore[attr-defined]
    assert sent.wait().tolist() == [0, 1, 2]
    assert device.waits == 0 and device.late_waits == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({}, None), ({"passes": 2}, "stages"), ({"stages": True}, "stages"), ({"by_host": True}, "take one rank"),
    ],
)  # fmt: skip
def test_what_may_be_captured(words: dict[str, Any], why: str | None) -> None:
    found = obstacle(**{"passes": 1, "stages": False, "by_host": False} | words)
    assert found is None if why is None else why in str(found)
