"""What tests of the oneDNN provider share: blocks, random convolutions, and the check against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn import conv, library
from gridnn.compute.cpu.reference import conv as reference

Array = NDArray[Any]
Case = dict[str, Any]

FOUND = library.find()
ONES: Case = {"stride": (1, 1), "dilation": (1, 1), "pad_lo": (1, 1), "pad_hi": (1, 1)}
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 17])

needs_onednn = pytest.mark.skipif(
    FOUND is None, reason="no libdnnl.so.3 here: install the wheel onednn-cpu-gomp"
)


def lib() -> library.Library:
    assert FOUND is not None
    return FOUND


def block(shape: tuple[int, ...], seed: int | None = None) -> Array:
    """A dense channels-last float32 array of logical shape (N, C, *S): normal numbers, or NaN without a seed."""
    base = np.full((shape[0], *shape[2:], shape[1]), np.nan, np.float32)
    x = np.moveaxis(base, -1, 1)
    if seed is not None:
        x[...] = np.random.default_rng(seed).standard_normal(shape)
    return x


def close(got: Array, wanted: Array) -> None:
    """Equal up to rounding of float32 sums; the reference is in float64."""
    np.testing.assert_allclose(got, wanted, atol=2e-6 * (1 + np.abs(wanted).max(initial=0)) ** 1.5)


def check(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], kw: Case, *, bias: bool, relu: bool,
    by: library.Library | None = None,
) -> list[bool]:  # fmt: skip
    """Forward and both gradients: what was done is right, what was refused is untouched; returns what was done."""
    by = by or lib()
    x, w = block(x_shape, 1), block(w_shape, 2)
    wide_x, wide_w = x.astype(float), w.astype(float)
    wanted = reference.forward(wide_x, wide_w, **kw)
    dy = block(wanted.shape, 3)
    wanted_dx = reference.backward_data(dy.astype(float), wide_w, x_shape, **kw)
    wanted_dw = reference.backward_weights(wide_x, dy.astype(float), w_shape, **kw)
    b = np.linspace(-1, 1, w_shape[0], dtype=np.float32) if bias else None
    if b is not None:
        reference.add_bias(wanted, b)
    if relu:
        wanted = np.maximum(wanted, 0)
    y, dx, dw = block(wanted.shape), block(x_shape), block(w_shape)
    done = [
        conv.forward(by, x, w, b, y, **kw, relu=relu),
        conv.backward_data(by, dy, w, dx, **kw),
        conv.backward_weights(by, x, dy, dw, **kw),
    ]
    for ok, got, right in zip(done, (y, dx, dw), (wanted, wanted_dx, wanted_dw), strict=True):
        if ok:
            close(got, right)
        else:
            assert np.isnan(got).all()
    return done


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Case]:
    """A convolution of 1, 2 or 3 dims; x, w and the window."""
    dims = draw(st.integers(1, 3))

    def each(lo: int, hi: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(lo, hi)) for _ in range(dims))

    groups, inner, outer = draw(st.integers(1, 3)), draw(CHANNELS), draw(CHANNELS)
    x = (draw(st.integers(1, 3)), groups * inner, *each(1, {1: 13, 2: 9, 3: 5}[dims]))
    pads = draw(st.sampled_from([(0, 3), (0, 3), (-2, 3)]))
    kw = {
        "stride": each(1, 3), "dilation": each(1, 2), "pad_lo": each(*pads), "pad_hi": each(*pads), "groups": groups,
    }  # fmt: skip
    return x, (groups * outer, inner, *each(1, 3)), kw
