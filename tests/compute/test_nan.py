"""What is not a number stays so: whoever computes a layer, a ReLU at its end rectifies as one behind it would.

A run that diverges has to be seen in its loss, and by every plan alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import conv, linear, norm, pointwise
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Memory
from gridnn.compute.cpu.window import Window

from .native import Array, each_dtype, each_library, library
from .onednn import FOUND, needs_onednn

CONVOLUTIONS = {  # kernel, groups of 16 channels
    "direct": (3, 1), "direct 1x1": (1, 1), "depthwise": (3, 16), "winograd 3": (3, 1), "winograd 5": (5, 1),
    "onednn": (3, 1), "onednn 1x1": (1, 1), "numpy": (3, 1),
}  # fmt: skip
CASES = [
    pytest.param(name, dtype, marks=needs_onednn if "onednn" in name else ())
    for name in CONVOLUTIONS for dtype in (np.float32, np.float64) if "onednn" not in name or dtype is np.float32
]  # fmt: skip


def prefers(which: str, name: str) -> Engine:
    """Return an engine whose convolutions and products are of one provider wherever it is able."""
    native = None if name == "numpy" else library(which)  # beside own kernels NumPy is never asked
    return Engine(native, Memory(), FOUND, Choice("fixed", prefer=name.partition(" ")[0]))


def drawn(engine: Engine, shape: tuple[int, ...], dtype: Any) -> Array:
    made: Array = engine.empty(shape, dtype)
    made[...] = np.random.default_rng(sum(shape)).standard_normal(shape)
    return made


def check(plain: Array, rectified: Array) -> None:
    """`plain` has both numbers and none; `rectified` is what a ReLU makes of it."""
    none = np.isnan(plain)
    assert none.any() and not none.all() and (plain < 0).any()
    np.testing.assert_array_equal(np.isnan(rectified), none)
    np.testing.assert_allclose(rectified, np.maximum(plain, 0), rtol=1e-6, atol=1e-6)


@each_library
@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("channels", [16, 19])
def test_convolutions(which: str, name: str, dtype: Any, channels: int) -> None:
    side, groups = CONVOLUTIONS[name]
    engine, outs = prefers(which, name), 16 if groups > 1 else channels
    window = Window((side, side), (1, 1), (1, 1), (side // 2,) * 2, (side // 2,) * 2)
    x = drawn(engine, (2, 16, 13, 13), dtype)
    w, bias = drawn(engine, (outs, 16 // groups, side, side), dtype), np.ones(outs, dtype)
    x[1, :, 4, 5] = np.nan
    words: dict[str, Any] = {"groups": groups, "bias": bias}
    check(*(conv.forward(engine, x, w, window, relu=relu, **words) for relu in (False, True)))


@each_library
@each_dtype
@pytest.mark.parametrize("name", ["onednn", "blas"])
def test_products(which: str, dtype: Any, name: str) -> None:
    engine = prefers(which, name)
    x, w = drawn(engine, (5, 33), dtype), drawn(engine, (21, 33), dtype)
    x[2, 7] = np.nan
    bias = np.ones(21, dtype)
    check(*(linear.forward(engine, x, w, bias=bias, relu=relu) for relu in (False, True)))


@each_library
@each_dtype
def test_norms_sums_and_biases(which: str, dtype: Any) -> None:
    engine = prefers(which, "")
    x, other = drawn(engine, (2, 19, 6, 7), dtype), drawn(engine, (2, 19, 7, 6), dtype).transpose(0, 1, 3, 2)
    (mean, variance), gamma, beta = np.ones((2, 19)), np.ones(19, dtype), np.zeros(19, dtype)
    found = norm.statistics(engine, norm.moments(engine, x, mean), 84, mean, variance, 0.1, 1e-5)
    x[0, 3, 2, 2] = np.nan
    check(*(norm.apply(engine, x, found, gamma, beta, relu=relu) for relu in (False, True)))
    check(*(pointwise.add(engine, [x, other], relu=relu) for relu in (False, True)))
    check(*(pointwise.add_bias(engine, x.copy(), gamma, relu=relu) for relu in (False, True)))
    check(x, pointwise.activate(engine, "relu", x))
