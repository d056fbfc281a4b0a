"""Direct convolution of several groups in one call against the reference: layouts, threads, odd group widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.memory import Workspace, empty
from gridnn.compute.cpu.native import conv as direct
from gridnn.compute.cpu.native.walk import window as three
from gridnn.compute.cpu.reference import conv
from gridnn.compute.cpu.window import Window

from .native import each_dtype, each_layout, each_library, each_thread_count, library, place, untouched

SAME = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
HALF = Window((3, 3), (2, 2), (1, 1), (1, 0), (0, 1))

# Batch, groups, channels in and out of one, space, window; the last ones take several runs over taps and depth.
CASES: list[tuple[int, int, int, int, tuple[int, ...], Window]] = [
    (2, 4, 4, 8, (9, 11), SAME),
    (2, 3, 5, 7, (9, 11), HALF),
    (1, 8, 16, 16, (14, 14), SAME),
    (3, 2, 17, 33, (7, 6), HALF),
    (1, 5, 1, 3, (30,), Window((7,), (3,), (2,), (3,), (-1,))),
    (2, 3, 2, 8, (5, 6, 7), Window((3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 0, 1), (1, 1, 0))),
    (1, 4, 32, 32, (8, 7), SAME),
    (1, 2, 300, 5, (5, 5), SAME),
    (1, 2, 5, 300, (5, 5), SAME),
    (2, 6, 3, 3, (1, 1), Window((1, 1), (2, 2), (1, 1), (0, 0), (0, 0))),
]


@each_library
@each_dtype
@each_layout
@each_thread_count
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}of{case[2]}to{case[3]}")
def test_groups_are_apart(which: str, dtype: Any, layout: str, threads: int, case: Any) -> None:
    n, groups, c, k, space, window = case
    lib, work, win, rng = library(which, threads), Workspace(), three(window), np.random.default_rng(k)
    values, w64 = (
        rng.standard_normal((n, groups * c, *space)),
        rng.standard_normal((groups * k, c, *window.kernel)),
    )
    bias, of = rng.standard_normal(groups * k), window.keywords
    wanted = conv.forward(values, w64, **of, groups=groups)
    d = rng.standard_normal(wanted.shape)
    wanted_dw = conv.backward_weights(values, d, w64.shape, **of, groups=groups)
    near: dict[str, Any] = {"rtol": 0, "atol": 64 * np.finfo(dtype).eps * max(np.abs(wanted_dw).max(), 64)}

    x, dy, w = (
        place(values.astype(dtype), layout),
        place(d.astype(dtype), layout),
        place(w64.astype(dtype), "dense"),
    )
    y, dx, dw = place(np.ones_like(dy), layout), place(np.ones_like(x), layout), empty(w.shape, dtype)
    direct.forward(lib, work, x, w, y, win, groups)(x, w, y, bias.astype(dtype), True)
    np.testing.assert_allclose(y, np.maximum(wanted + bias.reshape(-1, *(1,) * len(space)), 0), **near)
    direct.backward_data(lib, work, dy, w, dx, win, groups)(dy, w, dx)
    np.testing.assert_allclose(dx, conv.backward_data(d, w64, values.shape, **of, groups=groups), **near)
    assert untouched(y)
    assert untouched(dx)
    weights = direct.backward_weights(lib, work, x, dy, dw, win, groups)
    weights(x, dy, dw)
    np.testing.assert_allclose(dw, wanted_dw, **near)
    weights(x, dy, dw, add=True)
    np.testing.assert_allclose(dw, 2 * wanted_dw, **near)
