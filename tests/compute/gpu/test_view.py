"""Own block and halos in arrays of their own, as convolution reads them: no concatenation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import conv as cpu
from gridnn.compute.gpu import conv
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.view import Parts
from tests.compute.gpu.conftest import near
from tests.compute.gpu.test_conv import CASES, Arrays, Ints, close, drawn, middle, split
from tests.compute.gpu.test_conv_calls import CPU, NEEDS_CXX, given
from tests.support.shim.device import ShimDevice


def taken(engine: Engine, x: Arrays, own: tuple[tuple[int, int], ...]) -> Parts:
    """Return x on the device, its own part and each halo in arrays of their own."""
    pieces = split(x, own)
    return Parts(engine.take(pieces.own), {side: engine.take(p) for side, p in pieces.halos.items()})


@NEEDS_CXX
def test_parts_are_what_is_put_together() -> None:
    """Halos in arrays of their own give the bits of one array."""
    for case, dtype in product(CASES, (np.float32, np.float64)):
        engine = Engine(ShimDevice())
        x, w, _, dy = drawn(case, dtype)
        parts = taken(engine, x, case.own)
        assert parts.shape == x.shape and parts.dtype == dtype
        if case.window.kernel != (
            1,
            1,
        ):  # else one of the two is a matrix product, whose order of sums is its own
            words: dict[str, Any] = {"groups": case.groups, "relu": True}
            one, other = (
                conv.forward(engine, x_, engine.take(w), case.window, **words)
                for x_ in (engine.take(x), parts)
            )
            np.testing.assert_array_equal(given(engine, other), given(engine, one))
        dw = engine.empty(w.shape, dtype)
        conv.backward_weights(engine, parts, engine.take(dy), case.window, dw, groups=case.groups, add=False)
        wanted = np.empty_like(w)
        cpu.backward_weights(CPU, x, dy, case.window, wanted, groups=case.groups, add=False)
        near(given(engine, dw), wanted, close(dtype))
        assert engine.reorders == 0


@NEEDS_CXX
def test_parts_of_an_output_are_what_is_put_together() -> None:
    """As a transposed convolution reads its input: to the same bits, and its gradient by weights region by region."""
    for case, dtype in product(CASES, (np.float32, np.float64)):
        engine = Engine(ShimDevice())
        x, w, _, dy = drawn(case, dtype)
        parts, groups = taken(engine, dy, middle(dy)), case.groups
        assert parts.shape == dy.shape and parts.halos
        found = given(
            engine, conv.backward_data(engine, parts, engine.take(w), case.window, x.shape, groups=groups)
        )
        if case.window.kernel != (1, 1):
            whole = conv.backward_data(
                engine, engine.take(dy), engine.take(w), case.window, x.shape, groups=groups
            )
            np.testing.assert_array_equal(found, given(engine, whole))
        near(found, cpu.backward_data(CPU, dy, w, case.window, x.shape, groups=groups), close(dtype))
        for add, both in product((False, True), repeat=2):
            dw, wanted = engine.take(np.full(w.shape, 2, dtype)), np.full(w.shape, 2, dtype)
            read = taken(engine, x, case.own) if both else engine.take(x)
            conv.backward_weights(engine, read, parts, case.window, dw, groups=groups, add=add)
            cpu.backward_weights(CPU, x, dy, case.window, wanted, groups=groups, add=add)
            near(given(engine, dw), wanted, close(dtype))
        assert engine.reorders == 0 or case.window.kernel == (1, 1)  # rows of a product are copied together


@NEEDS_CXX
def test_a_part_that_is_not_there_is_zero() -> None:
    case, engine = CASES[1], Engine(ShimDevice())
    x, w, _, _ = drawn(case, np.float64)
    pieces = split(x, case.own)
    here = {side: engine.take(p) for side, p in pieces.halos.items() if side != (-1, 1)}
    x[:, :, :1, 6:] = 0
    found = conv.forward(engine, Parts(engine.take(pieces.own), here), engine.take(w), case.window)
    near(given(engine, found), cpu.forward(CPU, x, w, case.window), close(np.float64))
    # Whatever order or type a part comes in.
    wide = engine.device.from_host(np.ascontiguousarray(pieces.halos[0, 1].astype(np.float32)))
    again = conv.forward(
        engine, Parts(engine.take(pieces.own), {**here, (0, 1): wide}), engine.take(w), case.window
    )
    near(given(engine, again), given(engine, found), (1e-6, 1e-5))
    assert engine.reorders == 1


@pytest.mark.parametrize(
    ("halos", "words"),
    [
        ({(0, 0): (1, 2, 3, 4)}, r"\(0, 0\) is no side"),
        ({(1,): (1, 2, 3, 4)}, "is no side of a block of 2 dims"),
        ({(2, 0): (1, 2, 3, 4)}, "is no side"),
        ({(0, 1): (1, 2, 4, 1)}, r"\(1, 2, 4, 1\), its neighbours need \(1, 2, 3, 1\)"),
        ({(-1, 0): (1, 2, 2, 4), (-1, 1): (1, 2, 1, 1)}, "neighbours need"),
    ],
)
def test_parts_that_do_not_fit_are_refused(halos: dict[Ints, Ints], words: str) -> None:
    parts = Parts(np.zeros((1, 2, 3, 4)), {side: np.zeros(extents) for side, extents in halos.items()})
    with pytest.raises(ValueError, match=words):
        assert parts.shape
