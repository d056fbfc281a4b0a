"""Convolution against plain loops and scipy, and its two adjoints, over windows, groups and empty blocks."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from gridnn.compute.cpu.reference import conv, window

from . import loops

Case = dict[str, Any]


@st.composite
def cases(draw: st.DrawFn, least: int = 1) -> Case:
    """A convolution of 1, 2 or 3 dims; `least` 0 lets every extent be empty."""
    dims = draw(st.integers(1, 3))
    most = {1: 11, 2: 7, 3: 4}[dims]

    def each(lo: int, hi: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(lo, hi)) for _ in range(dims))

    groups = draw(st.integers(1, 3))
    inner, outer = draw(st.integers(least, 2)), draw(st.integers(least, 3))
    return {
        "x": (draw(st.integers(least, 3)), groups * inner, *each(least, most)),
        "w": (groups * outer, inner, *each(1, 3 if dims < 3 else 2)),
        "stride": each(1, 3), "dilation": each(1, 2), "pad_lo": each(-2, 3), "pad_hi": each(-2, 3),
        "groups": groups, "seed": draw(st.integers(0, 999)),
    }  # fmt: skip


def arrays(case: Case) -> tuple[loops.Array, loops.Array, dict[str, Any]]:
    """x, w and the window keywords of a case."""
    rng = np.random.default_rng(case["seed"])
    keys = ("stride", "dilation", "pad_lo", "pad_hi", "groups")
    x, w = np.asarray(rng.standard_normal(case["x"])), np.asarray(rng.standard_normal(case["w"]))
    return x, w, {k: case[k] for k in keys}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(case=cases())
def test_forward_is_the_loop(case: Case) -> None:
    x, w, kw = arrays(case)
    y = conv.forward(x, w, **kw)
    assert y.flags.c_contiguous
    np.testing.assert_allclose(y, loops.conv(x, w, *kw.values()), atol=1e-12)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(case=cases())
def test_gradients_are_adjoint(case: Case) -> None:
    """<conv(x, w), dy> = <x, dx> = <w, dw>: conv is linear in each, so this fixes both gradients."""
    x, w, kw = arrays(case)
    y = conv.forward(x, w, **kw)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    product, scale = np.vdot(y, dy), 1 + np.linalg.norm(y) * np.linalg.norm(dy)
    dx = conv.backward_data(dy, w, x.shape, **kw)
    dw = conv.backward_weights(x, dy, w.shape, **kw)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert dx.flags.c_contiguous
    assert dw.flags.c_contiguous
    assert abs(np.vdot(x, dx) - product) < 1e-12 * scale
    assert abs(np.vdot(w, dw) - product) < 1e-12 * scale


@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(least=0))
def test_empty_blocks_give_empty_or_zero(case: Case) -> None:
    x, w, kw = arrays(case)
    y = conv.forward(x, w, **kw)
    np.testing.assert_allclose(y, loops.conv(x, w, *kw.values()), atol=1e-12)
    dx = conv.backward_data(y, w, x.shape, **kw)
    dw = conv.backward_weights(x, y, w.shape, **kw)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    if 0 in x.shape or 0 in w.shape:
        assert not y.any()
        assert not dx.any()
        assert not dw.any()


@pytest.mark.parametrize("empty", range(4))
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_each_extent_may_be_zero(dims: int, empty: int) -> None:
    """N, C, K or the first spatial extent of a block is zero: a rank with nothing to do."""
    n, c, k, s = (0 if i == empty else 2 for i in range(4))
    x, w = np.ones((n, c, s, *[5] * (dims - 1))), np.ones((k, c, *[3] * dims))
    kw: dict[str, Any] = {
        "stride": (1,) * dims, "dilation": (1,) * dims, "pad_lo": (1,) * dims, "pad_hi": (1,) * dims,
    }  # fmt: skip
    y = conv.forward(x, w, **kw)
    assert y.shape == (n, k, s, *[5] * (dims - 1))
    assert not y.any()
    dx, dw = conv.backward_data(y, w, x.shape, **kw), conv.backward_weights(x, y, w.shape, **kw)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert not dx.any()
    assert not dw.any()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_forward_is_scipys_correlation(dims: int) -> None:
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 3, *[6] * dims)), rng.standard_normal((4, 3, *[3] * dims))
    ones, zeros = (1,) * dims, (0,) * dims
    y = conv.forward(x, w, stride=ones, dilation=ones, pad_lo=zeros, pad_hi=zeros)
    for n in range(2):
        for k in range(4):
            wanted = sum(signal.correlate(x[n, c], w[k, c], mode="valid") for c in range(3))
            np.testing.assert_allclose(y[n, k], wanted, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("strip_bytes", [1, 4000, 60_000])
@pytest.mark.parametrize("stride", [1, 2])
def test_strips_change_nothing(
    monkeypatch: pytest.MonkeyPatch, strip_bytes: int, groups: int, stride: int
) -> None:
    """Strips of one row, some rows, one sample and several give what one strip gives."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((5, 12, 9, 7)), rng.standard_normal((36, 12 // groups, 3, 2))
    kw: dict[str, Any] = {
        "stride": (stride, 1), "dilation": (2, 1), "pad_lo": (2, -1), "pad_hi": (1, 1), "groups": groups,
    }  # fmt: skip
    whole = conv.forward(x, w, **kw)
    dx, dw = conv.backward_data(whole, w, x.shape, **kw), conv.backward_weights(x, whole, w.shape, **kw)
    monkeypatch.setattr(window, "STRIP_BYTES", strip_bytes)
    np.testing.assert_allclose(conv.forward(x, w, **kw), whole, atol=1e-10)
    np.testing.assert_allclose(conv.backward_data(whole, w, x.shape, **kw), dx, atol=1e-10)
    np.testing.assert_allclose(conv.backward_weights(x, whole, w.shape, **kw), dw, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("extent", [2, 7])
def test_one_by_one_windows(groups: int, extent: int) -> None:
    """Below and above the number of positions for which a 1x1 window multiplies in place."""
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, 6, extent, extent)), rng.standard_normal((9, 6 // groups, 1, 1))
    kw: dict[str, Any] = {
        "stride": (1, 1), "dilation": (1, 1), "pad_lo": (0, 0), "pad_hi": (0, 0), "groups": groups,
    }  # fmt: skip
    y = conv.forward(x, w, **kw)
    np.testing.assert_allclose(y, loops.conv(x, w, *kw.values()), atol=1e-12)
    dx = conv.backward_data(y, w, x.shape, **kw)
    np.testing.assert_allclose(np.vdot(x, dx), np.vdot(y, y), rtol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_read_forwards_backward_data_is_transposed_convolution(stride: int) -> None:
    """Each input element stamps the window onto the output; the output's edges are cropped by the pads."""
    rng = np.random.default_rng(6)
    z, w = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 2, 4))
    stamped = np.zeros((2, 2, 3 * stride + 4))
    for i in range(4):
        stamped[:, :, i * stride : i * stride + 4] += np.einsum("nk,kcr->ncr", z[:, :, i], w)
    for lo, hi in [(0, 0), (1, 2), (-2, 1), (2, -1)]:
        extent = 3 * stride + 4 - lo - hi
        kw: dict[str, Any] = {"stride": (stride,), "dilation": (1,), "pad_lo": (lo,), "pad_hi": (hi,)}
        y = conv.backward_data(z, w, (2, 2, extent), **kw)
        frame = np.pad(stamped, [(0, 0), (0, 0), (max(-lo, 0), max(-hi, 0))])
        np.testing.assert_allclose(y, frame[:, :, max(lo, 0) : frame.shape[2] - max(hi, 0)], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_of_the_output_is_that_of_the_input(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((2, 3, 5, 5)).astype(dtype), rng.standard_normal((4, 3, 3, 3)).astype(dtype)
    kw: dict[str, Any] = {"stride": (2, 1), "dilation": (1, 1), "pad_lo": (1, 1), "pad_hi": (1, 1)}
    y = conv.forward(x, w, **kw)
    results = [y, conv.backward_data(y, w, x.shape, **kw), conv.backward_weights(x, y, w.shape, **kw)]
    assert [r.dtype for r in [*results, conv.bias_gradient(y)]] == [np.dtype(dtype)] * 4


def test_a_gradient_of_the_wrong_shape_is_a_bug() -> None:
    kw: dict[str, Any] = {"stride": (1,), "dilation": (1,), "pad_lo": (0,), "pad_hi": (0,)}
    with pytest.raises(AssertionError, match="is not the output"):
        conv.backward_data(np.ones((1, 1, 4)), np.ones((1, 1, 3)), (1, 1, 5), **kw)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (2, 4, 3, 2), (0, 4, 3), (3, 0)])
def test_bias(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(8)
    y, bias = rng.standard_normal(shape), rng.standard_normal(shape[1])
    before = y.copy()
    assert conv.add_bias(y, bias) is y
    for k in range(shape[1]):
        np.testing.assert_allclose(y[:, k], before[:, k] + bias[k])
    np.testing.assert_allclose(
        conv.bias_gradient(y), [y[:, k].sum() if prod(shape) else 0.0 for k in range(shape[1])]
    )
