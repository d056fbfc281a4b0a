"""Convolution as layers call it on a device, against the CPU's reference with the same arguments."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import conv as cpu
from gridnn.compute.cpu.engine import Engine as CpuEngine
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import conv
from gridnn.compute.gpu.engine import Engine
from tests.compute.gpu.conftest import near
from tests.compute.gpu.test_conv import CASES, DTYPES, Arrays, Case, Ints, close, drawn
from tests.support import shim
from tests.support.shim.device import ShimDevice

ONE = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
MORE = [
    Case((2, 5, 6, 7), 4, 1, ONE, ((0, 6), (0, 7))),
    Case((2, 4, 6, 7), 4, 2, ONE, ((0, 6), (0, 7))),
    Case((2, 3, 7, 8), 4, 1, ONE._replace(stride=(2, 3)), ((0, 7), (0, 8))),
    Case((1, 3, 8, 9), 4, 1, Window((3, 2), (1, 2), (2, 1), (-1, 2), (1, -2)), ((0, 8), (0, 9))),
]
EVERY = pytest.mark.parametrize("case", [*CASES, *MORE], ids=str)
LAID = ("dense", "margins", "more channels", "channels outermost")
CPU = CpuEngine(None)
NEEDS_CXX = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")


@pytest.fixture
def engine(order: str) -> Engine:
    return Engine(ShimDevice(order))


def laid(engine: Engine, x: Arrays, how: str) -> Any:
    """Return x on the device, dense or as a view of an array that has other elements; those are no numbers."""
    if how == "channels outermost":
        return engine.device.from_host(np.ascontiguousarray(x))
    around = {"dense": (0, 0, 0), "margins": (1, 0, 2), "more channels": (0, 3, 0)}[how]
    before = (*around[:2], *(around[2],) * (x.ndim - 2))
    wide = engine.empty([n + 2 * b for n, b in zip(x.shape, before, strict=True)], x.dtype)
    found = wide[tuple(slice(b, b + n) for n, b in zip(x.shape, before, strict=True))]
    found[...] = engine.take(x)
    return found


def given(engine: Engine, array: Any) -> Arrays:
    """Return an array of the device, which did not wait until now."""
    device = engine.device
    assert isinstance(device, ShimDevice) and device.waits == 0
    found = engine.give(array)
    device.waits = 0
    return found


def launched(engine: Engine) -> list[str]:
    assert isinstance(engine.device, ShimDevice)
    return [kernel for file, kernel in engine.device.launches if file == "conv"]


def hold(
    engine: Engine, case: Case, dtype: Any, how: str = "dense", out: str | None = None, add: bool = False
) -> None:
    """Hold all three functions to the CPU's."""
    x, w, _, dy = drawn(case, dtype)
    bias, was = np.linspace(-1, 1, case.outputs).astype(dtype), np.full(w.shape, 0.5, dtype)
    window, groups, bounds = case.window, case.groups, close(dtype)
    dx, dw, dby, dwy = laid(engine, x, how), engine.take(was), laid(engine, dy, how), engine.take(w)
    goals = [None if out is None else laid(engine, np.full_like(a, 3), out) for a in (dy, x)]
    for b, relu in ((None, False), (bias, True)):
        y = conv.forward(engine, dx, dwy, window, groups=groups, bias=None if b is None else engine.take(b),
                         relu=relu, out=goals[0])  # fmt: skip
        assert y is goals[0] or out is None
        near(given(engine, y), cpu.forward(CPU, x, w, window, groups=groups, bias=b, relu=relu), bounds)
    found = conv.backward_data(engine, dby, dwy, window, x.shape, groups=groups, out=goals[1])
    assert found is goals[1] or out is None
    near(given(engine, found), cpu.backward_data(CPU, dy, w, window, x.shape, groups=groups), bounds)
    conv.backward_weights(engine, dx, dby, window, dw, groups=groups, add=add)
    cpu.backward_weights(CPU, x, dy, window, was, groups=groups, add=add)
    near(given(engine, dw), was, bounds)


@DTYPES
@EVERY
def test_the_three_functions(engine: Engine, dtype: Any, case: Case) -> None:
    hold(engine, case, dtype)
    assert engine.reorders == 0
    product_of_matrices = case.window == ONE and case.groups == 1
    assert set(launched(engine)) >= (
        set() if product_of_matrices else {"forward", "backward_data", "backward_weights"}
    )
    assert not (product_of_matrices and launched(engine))


@NEEDS_CXX
@pytest.mark.parametrize("case", [CASES[2], CASES[3], MORE[0], MORE[1]], ids=str)
@pytest.mark.parametrize(
    ("how", "out"), [(LAID[i], LAID[j]) for i, j in ((1, 1), (2, 2), (3, 3), (0, 1), (1, 0))]
)
def test_memory_with_gaps(case: Case, how: str, out: str) -> None:
    engine = Engine(ShimDevice())
    hold(engine, case, np.float64, how, out, add=True)
    if case is MORE[0]:  # the product would copy a factor with gaps in silence
        assert bool(launched(engine)) == (how in ("margins", "more channels"))


@NEEDS_CXX
def test_gaps_are_not_copied() -> None:
    """Margins of x, dy and `out` cost no copy; what lies around `out` stays."""
    case, engine = CASES[2], Engine(ShimDevice())
    x, w, _, dy = drawn(case, np.float64)
    frame = engine.memory.zeros((*dy.shape[:2], *(n + 4 for n in dy.shape[2:])), x.dtype)
    frame += 7
    middle = frame[:, :, 2:-2, 2:-2]
    conv.forward(engine, laid(engine, x, "margins"), engine.take(w), case.window, groups=2, out=middle)
    conv.backward_data(engine, laid(engine, dy, "margins"), engine.take(w), case.window, x.shape, groups=2)
    conv.backward_weights(
        engine, laid(engine, x, "margins"), laid(engine, dy, "margins"), case.window, engine.take(w), groups=2
    )
    assert engine.reorders == 0
    found = given(engine, frame)
    near(found[:, :, 2:-2, 2:-2], cpu.forward(CPU, x, w, case.window, groups=2), close(np.float64))
    assert np.sum(found == 7) == found.size - dy.size


@NEEDS_CXX
@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize(
    ("x", "outputs"),
    [
        ((0, 3, 5, 4), 2),
        ((2, 0, 5, 4), 2),
        ((2, 3, 5, 4), 0),
        ((2, 3, 0, 4), 2),
        ((2, 3, 1, 4), 2),
        ((0, 0, 0, 0), 0),
    ],
)
def test_empty_blocks(x: Ints, outputs: int, one: bool) -> None:
    window = ONE if one else Window((3, 3), (1, 1), (1, 1), (1, 0), (0, 1))
    hold(Engine(ShimDevice()), Case(x, outputs, 1, window, ()), np.float64, add=True)
    hold(Engine(ShimDevice()), Case(x, outputs, 1, window, ()), np.float64)


@NEEDS_CXX
def test_no_position_of_a_transposed_block() -> None:
    """An output that no input reaches: the window says more positions than there are."""
    engine, w = Engine(ShimDevice()), np.ones((4, 3, 2))
    dy = engine.take(np.zeros((2, 4, 0)))
    dx = conv.backward_data(engine, dy, engine.take(w), Window((2,), (3,), (1,), (0,), (0,)), (2, 3, 5))
    assert not given(engine, dx).any()


@NEEDS_CXX
def test_other_types_of_weights_and_gradients() -> None:
    """Weights are cast to the type of x; the gradient keeps its own, also where its memory has gaps."""
    for case in (CASES[1], MORE[0]):
        engine = Engine(ShimDevice())
        x, w, _, dy = drawn(case, np.float32)
        w64, bounds = engine.take(w.astype(np.float64)), close(np.float32)
        bias = np.linspace(-1, 1, case.outputs)
        y = conv.forward(engine, engine.take(x), w64, case.window, bias=engine.take(bias))
        assert y.dtype == np.float32
        near(given(engine, y), cpu.forward(CPU, x, w, case.window, bias=bias.astype(np.float32)), bounds)
        for add in (False, True):
            dw = laid(engine, np.full(w.shape, 2.0), "more channels")
            conv.backward_weights(engine, engine.take(x), engine.take(dy), case.window, dw, add=add)
            wanted = np.full(w.shape, 2.0)
            cpu.backward_weights(CPU, x, dy, case.window, wanted, add=add)
            near(given(engine, dw), wanted, bounds)


def test_chunks_follow_from_shapes() -> None:
    for positions, tiles in product(
        (1, 15, 16, 255, 256, 257, 5000, 10**6, 3 * 10**9), (1, 3, 36, 511, 512, 4000)
    ):
        chunk = conv.chunk_of(positions, tiles)
        chunks = -(-positions // chunk)
        assert chunk % conv.DEPTH == 0 and 1 <= chunks <= max(1, conv.BLOCKS // tiles)
        assert chunks == 1 or chunk >= conv.LEAST - conv.DEPTH or positions < 2 * conv.LEAST
    assert conv.chunk_of(10**6, 1) == 1968  # 509 chunks: as many blocks as the device has room for


@NEEDS_CXX
def test_the_gradient_of_weights_in_chunks() -> None:
    """Some hundred positions a chunk, the last one shorter; the same bits in every order of blocks."""
    case = Case((3, 4, 21, 13), 5, 1, Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), ())
    x, w, _, dy = drawn(case, np.float32)
    wanted = np.empty_like(w)
    cpu.backward_weights(CPU, x, dy, case.window, wanted, add=False)
    found = []
    for order in shim.ORDERS:
        engine = Engine(ShimDevice(order))
        dw = engine.empty(w.shape, w.dtype)
        conv.backward_weights(engine, engine.take(x), engine.take(dy), case.window, dw, add=False)
        assert launched(engine) == ["backward_weights", "fold"]
        found.append(given(engine, dw))
        near(found[-1], wanted, close(np.float32))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_shapes_that_do_not_go_together_are_refused() -> None:
    engine, window = Engine(ShimDevice()), Window((3,), (1,), (1,), (1,), (1,))
    x, w, y = (engine.memory.zeros(shape, np.float64) for shape in ((2, 4, 9), (6, 4, 3), (2, 6, 9)))
    with pytest.raises(ValueError, match=r"an output \(2, 6, 8\) is given.* need \(2, 6, 9\)"):
        conv.forward(engine, x, w, window, out=y[:, :, 1:])
    with pytest.raises(ValueError, match=r"w \(6, 4, 3\) is given; x \(2, 4, 9\), 2 groups"):
        conv.backward_data(engine, y, w, window, (2, 4, 9), groups=2)
    with pytest.raises(ValueError, match=r"an output \(1, 6, 9\) is given"):
        conv.backward_weights(engine, x, y[:1], window, w)
    assert not launched(engine)
