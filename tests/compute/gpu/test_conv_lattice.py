"""Windows of one element as products of copied rows: with strides, crops and gaps, and where they are not worth it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.memory import innermost
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import conv, lattice
from gridnn.compute.gpu.engine import Engine, Precision
from gridnn.compute.gpu.lattice import WORTH
from gridnn.compute.gpu.view import Parts
from gridnn.compute.storage import bfloat16
from tests.compute.gpu.calls import Arrays
from tests.compute.gpu.test_bfloat16_products import hold
from tests.compute.gpu.test_conv_calls import NEEDS_CXX, laid
from tests.support import shim
from tests.support.shim.device import ShimDevice

Ints = tuple[int, ...]


def window(stride: Ints, crop_lo: Ints | None = None, crop_hi: Ints | None = None) -> Window:
    ones, none = (1,) * len(stride), (0,) * len(stride)
    lo, hi = (tuple(-n for n in crop) if crop else none for crop in (crop_lo, crop_hi))
    return Window(ones, stride, ones, lo, hi)


CASES = [
    ((2, 64, 5, 6), 70, window((2, 2))),
    ((1, 66, 7, 5), 64, window((2, 3), (1, 0), (2, 1))),
    ((3, 64, 9), 65, window((2,), (2,))),
    ((2, 65, 4, 3, 5), 64, window((3, 1, 2))),
    ((2, 64, 3, 4), 64, window((1, 1), (1, 0), (0, 2))),
    ((2, 64, 3, 4), 66, window((1, 1))),
    ((2, 64, 1, 1), 64, window((2, 2))),
]
"""Extents of x (N, C, *S), outputs, window: strides, blocks that begin and end between points, all of x, one point."""
STORED: dict[Precision, tuple[Any, ...]] = {
    "float32": (np.float32, np.float64),
    "bf16": ("bfloat16",),
}
PRECISIONS = pytest.mark.parametrize(
    ("precision", "dtype"), [(name, dtype) for name, dtypes in STORED.items() for dtype in dtypes]
)


class Passes:
    """The arrays of a case on an engine, whatever is not read among them no number, and what float64 makes of them."""

    def __init__(
        self, engine: Engine, x: Ints, outputs: int, window: Window, dtype: Any, how: str = "dense"
    ) -> None:
        kind = np.dtype(bfloat16() if dtype == "bfloat16" else dtype)
        rng, out = np.random.default_rng(prod(x)), (x[0], outputs, *window.outs(x[2:]))
        shapes = {"x": x, "w": (outputs, x[1], *window.kernel), "dy": out}
        self.host = {name: rng.standard_normal(shape).astype(kind) for name, shape in shapes.items()}
        self.engine, self.window, self.kind = engine, window, kind
        self.bias = np.linspace(-1, 1, outputs)
        seen = np.zeros(x, bool)
        for at in np.ndindex(*out[2:]):
            place = (i * s - lo for i, s, lo in zip(at, window.stride, window.pad_lo, strict=True))
            seen[(slice(None), slice(None), *place)] = True
        self.seen = seen
        given = np.where(seen, self.host["x"].astype(np.float64), np.nan).astype(kind)
        self.x, self.dy = laid(engine, given, how), laid(engine, self.host["dy"], how)
        self.w = engine.take(self.host["w"])

    def of(self, absolute: bool) -> tuple[Arrays, Arrays, Arrays]:
        """Return y, dx and dw of float64, or of absolute values, which bound what rounding may do."""
        x, w, dy = (a.astype(np.float64) for a in self.host.values())
        if absolute:
            x, w, dy = abs(x), abs(w), abs(dy)
        words = self.window.keywords
        return (
            reference.forward(x, w, **words), reference.backward_data(dy, w, x.shape, **words),
            reference.backward_weights(x, dy, w.shape, **words),
        )  # fmt: skip

    def hold_all(self, out: tuple[str, str] = ("dense", "dense")) -> None:
        """Hold the three passes to float64."""
        engine, (y, dx, dw), sizes = self.engine, self.of(False), self.of(True)
        bias = self.bias.reshape(-1, *[1] * (y.ndim - 2))
        goals = [
            laid(engine, np.full(a.shape, 77).astype(self.kind), how)
            for a, how in zip((y, dx), out, strict=True)
        ]
        wide, narrow = (np.float64 if self.kind == np.float64 else np.float32), self.kind.name == "bfloat16"
        forward = conv.forward(
            engine,
            self.x,
            self.w,
            self.window,
            bias=engine.take(self.bias.astype(wide)),
            relu=True,
            out=goals[0],
        )
        # What cuBLAS writes is rounded before the bias is added.
        hold(engine.give(forward), np.maximum(y + bias, 0), sizes[0] + abs(bias), y.shape[1] + 1,
             2.0**-9 * sizes[0] * narrow)  # fmt: skip
        back = conv.backward_data(engine, self.dy, self.w, self.window, dx.shape, out=goals[1])
        assert forward is goals[0] and back is goals[1]
        hold(engine.give(back), dx, sizes[1], y.shape[1])
        assert not engine.give(back)[~self.seen].any()
        for add in (False, True):
            grad = engine.take(np.full(dw.shape, 2, wide))
            conv.backward_weights(engine, self.x, self.dy, self.window, grad, add=add)
            hold(engine.give(grad), dw + 2.0 * add, sizes[2] + 2, y.size // y.shape[1] + 1)


def kernels(engine: Engine) -> set[str]:
    """Return the files of convolution that were started."""
    assert isinstance(engine.device, ShimDevice)
    return {file for file, _ in engine.device.launches if file.startswith("conv")}


@NEEDS_CXX
@PRECISIONS
@pytest.mark.parametrize(("x", "outputs", "told"), CASES, ids=str)
def test_a_product_of_copied_rows(
    precision: Precision, dtype: Any, x: Ints, outputs: int, told: Window
) -> None:
    """What is not read is no number in x: it is in no result, and what is written is no 77."""
    engine = Engine(ShimDevice(), precision)
    Passes(engine, x, outputs, told, dtype).hold_all()
    assert not kernels(engine)


@NEEDS_CXX
@pytest.mark.parametrize("order", shim.ORDERS)
@pytest.mark.parametrize("how", ["margins", "more channels", "channels outermost"])
@pytest.mark.parametrize("at", [0, 5])
def test_memory_with_gaps(order: str, how: str, at: int) -> None:
    engine, (x, outputs, told) = Engine(ShimDevice(order)), CASES[at]
    Passes(engine, x, outputs, told, np.float32, how).hold_all((how, how))
    assert not kernels(engine)


@NEEDS_CXX
def test_each_pass_copies_once_and_margins_stay() -> None:
    x, outputs, told = CASES[0]
    engine = Engine(ShimDevice())
    given = Passes(engine, x, outputs, told, np.float32)
    conv.forward(engine, given.x, given.w, told)
    assert engine.reorders == 1
    conv.backward_weights(engine, given.x, given.dy, told, engine.memory.zeros(given.w.shape, np.float32))
    assert engine.reorders == 2
    frame = engine.memory.zeros((x[0], x[1], x[2] + 2, x[3] + 2), np.float32)
    frame[...] = 7
    conv.backward_data(engine, given.dy, given.w, told, x, out=frame[:, :, 1:-1, 1:-1])
    assert engine.reorders == 3
    found = engine.give(frame)
    middle = found[:, :, 1:-1, 1:-1].copy()
    hold(middle, given.of(False)[1], given.of(True)[1], outputs)
    found[:, :, 1:-1, 1:-1] = 7
    assert (found == 7).all()


@NEEDS_CXX
def test_neighbours_in_memory_are_copied_together() -> None:
    """Rows that lie as they are needed are no copy; a crop of the first dim of one sample is such."""
    x, told = (1, 64, 6, 4), window((1, 1), (2, 0), (1, 0))
    engine = Engine(ShimDevice())
    Passes(engine, x, 64, told, np.float32).hold_all()
    assert engine.reorders == 0 and not kernels(engine)


@NEEDS_CXX
@pytest.mark.parametrize(
    ("x", "outputs", "told", "groups"),
    [
        ((2, WORTH - 1, 5, 6), WORTH, window((2, 2)), 1),
        ((2, WORTH, 5, 6), WORTH - 1, window((2, 2)), 1),
        ((2, WORTH, 5, 6), WORTH, window((2, 2))._replace(pad_lo=(1, 0)), 1),
        ((2, WORTH, 5, 6), WORTH, window((2, 2))._replace(pad_hi=(2, 0)), 1),
        ((2, 2 * WORTH, 5, 6), 2 * WORTH, window((2, 2)), 2),
        ((1, WORTH, 5, 6), WORTH, window((2, 2))._replace(kernel=(1, 2)), 1),
    ],
)
def test_what_is_left_to_own_kernels(x: Ints, outputs: int, told: Window, groups: int) -> None:
    """Few channels or outputs, zeros around x before and behind, groups, larger windows."""
    engine = Engine(ShimDevice())
    rng = np.random.default_rng(3)
    given, w = rng.standard_normal(x), rng.standard_normal((outputs, x[1] // groups, *told.kernel))
    y = conv.forward(engine, engine.take(given), engine.take(w), told, groups=groups)
    wanted = reference.forward(given, w, **told.keywords, groups=groups)
    np.testing.assert_allclose(engine.give(y), wanted, rtol=1e-10, atol=1e-10)
    assert kernels(engine) == {"conv"} and engine.reorders == 0


def test_where_it_reads() -> None:
    """Also of blocks in parts, which kernels read where they lie, and of outputs that are none."""
    x, y = np.zeros((2, 64, 9, 8)), np.zeros((2, 64, 4, 3))
    told = window((2, 3), (1, 0))
    engine = Engine(ShimDevice())
    where = lattice.find(engine, x, y, told, 1)
    assert where == (slice(None), slice(1, 8, 2), slice(0, 7, 3), slice(None))
    assert innermost(x)[where].shape == (2, 4, 3, 64)
    assert lattice.find(engine, Parts(x), y, told, 1) is lattice.find(engine, x, Parts(y), told, 1) is None
    assert lattice.find(Engine(ShimDevice(), "tf32"), x, y, told, 1) is None
    assert lattice.find(engine, x, y[:, :, :0], told, 1) is None
    assert lattice.find(engine, x[:, :, :7], y, told, 1) is None  # it would end behind x
