"""The linear layer on a device, against the CPU's reference with the same arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import linear as cpu
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.gpu import linear
from gridnn.compute.gpu.engine import Engine
from tests.compute.gpu.conftest import near
from tests.support.shim.device import ShimDevice

CPU = CpuEngine(None)
SIZES = [(3, 5, 7), (1, 1, 1), (0, 5, 7), (3, 0, 7), (3, 5, 0), (0, 0, 0)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "c", "k"), SIZES)
@pytest.mark.parametrize("gaps", [False, True])
def test_the_three_functions(order: str, n: int, c: int, k: int, gaps: bool, dtype: Any) -> None:
    rng, device = np.random.default_rng(4), ShimDevice(order)
    engine, bounds = Engine(device), (1e-13, 1e-13) if dtype == np.float64 else (1e-5, 1e-5)

    def there(array: Any) -> Any:
        """Return an array on the device, whose rows and columns have others between them if there are gaps."""
        if not gaps:
            return engine.take(array)
        wide = engine.empty([2 * extent for extent in array.shape], array.dtype)
        wide[tuple(slice(None, None, 2) for _ in array.shape)] = engine.take(array)
        return wide[tuple(slice(None, None, 2) for _ in array.shape)]

    x, w, dy, bias = (rng.standard_normal(e).astype(dtype) for e in ((n, c), (k, c), (n, k), (k,)))
    calls = [(None, False), (None, True), (bias, False), (bias, True)]
    found = []
    for b, relu in calls:
        given = None if b is None else engine.take(b)
        found.append(linear.forward(engine, there(x), there(w), bias=given, relu=relu))
    dx = linear.backward_data(engine, there(dy), there(w))
    weights = []
    for add in (False, True):
        dw = there(np.full((k, c), 0.5, dtype))
        linear.backward_weights(engine, there(x), there(dy), dw, add=add)
        weights.append(dw)
    assert device.waits == 0
    assert gaps or engine.reorders == 0
    for (b, relu), y in zip(calls, found, strict=True):
        near(engine.give(y), cpu.forward(CPU, x, w, bias=b, relu=relu), bounds)
    near(engine.give(dx), cpu.backward_data(CPU, dy, w), bounds)
    for add, dw in zip((False, True), weights, strict=True):
        wanted = np.full((k, c), 0.5, dtype)
        cpu.backward_weights(CPU, x, dy, wanted, add=add)
        near(engine.give(dw), wanted, bounds)
        assert dw.dtype == dtype


def test_types_are_those_of_the_input() -> None:
    """Weights are cast to the type of x; the gradient by them keeps its own."""
    engine = Engine(ShimDevice())
    x, w = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.linspace(0, 1, 6).reshape(2, 3)
    y = linear.forward(engine, engine.take(x), engine.take(w))
    assert y.dtype == np.float32 and linear.backward_data(engine, y, engine.take(w)).dtype == np.float32
    dw = engine.take(w)
    linear.backward_weights(engine, engine.take(x), y, dw, add=False)
    assert dw.dtype == np.float64
    near(engine.give(y), x @ w.T, (1e-5, 1e-6))
    near(engine.give(dw), (x @ w.T).T @ x, (1e-5, 1e-5))
