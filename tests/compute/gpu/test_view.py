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
from tests.compute.gpu.test_conv import CASES, Ints, close, drawn, split
from tests.compute.gpu.test_conv_calls import CPU, NEEDS_CXX, given
from tests.support.shim.device import ShimDevice


@NEEDS_CXX
def test_parts_are_what_is_put_together() -> None:
    """Halos in arrays of their own give the bits of one array."""
    for case, dtype in product(CASES, (np.float32, np.float64)):
        engine = Engine(ShimDevice())
        x, w, _, dy = drawn(case, dtype)
        pieces = split(x, case.own)
        parts = Parts(engine.take(pieces.own), {side: engine.take(p) for side, p in pieces.halos.items()})
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
