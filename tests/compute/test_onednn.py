"""The oneDNN provider against the NumPy reference, what it refuses, and that it compiles a shape once."""

from __future__ import annotations

import _ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridnn.compute.cpu.onednn import conv, library, linear
from gridnn.compute.cpu.onednn.header import NAME, OneDnnError
from gridnn.compute.cpu.reference import conv as reference
from gridnn.errors import InputError
from tests.compute.onednn import ONES, Array, Case, block, cases, check, close, lib, needs_onednn


@needs_onednn
@settings(max_examples=150, deadline=None, derandomize=True)
@given(case=cases(), bias=st.booleans(), relu=st.booleans())
def test_what_is_done_is_the_reference(
    case: tuple[tuple[int, ...], tuple[int, ...], Case], bias: bool, relu: bool
) -> None:
    x, w, kw = case
    check(x, w, kw, bias=bias, relu=relu)


@needs_onednn
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("x", "w", "stride", "pad", "groups"),
    [
        ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1),
        ((2, 3, 15, 13), (8, 3, 5, 3), 2, 1, 1),
        ((2, 17, 9, 7), (5, 17, 3, 3), 1, 1, 1),
        ((3, 32, 8, 8), (64, 32, 1, 1), 1, 0, 1),
        ((3, 16, 8, 8), (16, 1, 3, 3), 1, 1, 16),
        ((2, 200, 7, 7), (24, 200, 3, 3), 1, 1, 1),
        ((2, 12, 8, 8), (18, 4, 3, 3), 1, 1, 3),
        ((2, 16, 40), (8, 16, 3), 1, 1, 1),
        ((1, 5, 6, 7, 8), (3, 5, 3, 3, 3), 1, 1, 1),
    ],
)  # fmt: skip
def test_usual_windows_are_done(
    x: tuple[int, ...], w: tuple[int, ...], stride: int, pad: int, groups: int, bias: bool, relu: bool
) -> None:
    n = len(x) - 2
    kw: Case = {"stride": (stride,) * n, "dilation": (1,) * n, "groups": groups}
    kw |= {"pad_lo": (pad,) * n, "pad_hi": (pad, *(0,) * (n - 1))}
    assert check(x, w, kw, bias=bias, relu=relu) == [True] * 3


@needs_onednn
def test_rows_cropped_off_one_sample_are_done_and_others_refused() -> None:
    """One sample without its first and last rows is dense; two samples, or columns cropped, are not."""
    rows: Case = {**ONES, "pad_lo": (-2, 1), "pad_hi": (-1, 1)}
    columns: Case = {**ONES, "pad_lo": (1, -2)}
    assert check((1, 5, 9, 7), (3, 5, 3, 3), rows, bias=True, relu=False) == [True] * 3
    assert check((2, 5, 9, 7), (3, 5, 3, 3), rows, bias=True, relu=False) == [False] * 3
    assert check((1, 5, 9, 7), (3, 5, 3, 3), columns, bias=True, relu=False) == [False] * 3
    assert (
        check((1, 5, 3, 7), (3, 5, 3, 3), {**rows, "pad_hi": (-1, 1)}, bias=False, relu=False) == [False] * 3
    )


@needs_onednn
@pytest.mark.parametrize("empty", range(4))
def test_empty_blocks_are_refused(empty: int) -> None:
    n, c, k, s = (0 if i == empty else 2 for i in range(4))
    assert check((n, c, s, 5), (k, c, 3, 3), ONES, bias=True, relu=False) == [False] * 3


@needs_onednn
def test_other_memory_is_refused() -> None:
    """Float64, channels outermost, and the middle of a buffer with margins, for each array in turn."""
    x, w, y = block((2, 3, 5, 5), 1), block((4, 3, 3, 3), 2), block((2, 4, 5, 5))

    def others(a: Array) -> list[Array]:
        margin = block((*a.shape[:2], *(s + 2 for s in a.shape[2:])), 3)[:, :, 1:-1, 1:-1]
        return [a.astype(np.float64), np.ascontiguousarray(a), margin]

    refused = [conv.forward(lib(), a, w, None, y, **ONES) for a in others(x)]
    refused += [conv.forward(lib(), x, a, None, y, **ONES) for a in others(w)]
    refused += [conv.forward(lib(), x, w, None, a, **ONES) for a in others(y)]
    refused += [conv.forward(lib(), x, w, np.ones(8, np.float32)[::2], y, **ONES)]
    refused += [conv.backward_data(lib(), y, w, a, **ONES) for a in others(x)]
    refused += [conv.backward_weights(lib(), x, y, a, **ONES) for a in others(w)]
    assert refused == [False] * 16
    assert np.isnan(y).all()


@needs_onednn
def test_a_shape_is_compiled_once() -> None:
    """New arrays of a known shape compile nothing, also after larger shapes moved the shared buffers."""
    for size in (11, 11, 29, 11):
        before = lib().created
        assert check((2, 6, size, size), (7, 6, 3, 3), ONES, bias=True, relu=False) == [True] * 3
        first, before = lib().created - before, lib().created
        assert check((2, 6, size, size), (7, 6, 3, 3), ONES, bias=True, relu=False) == [True] * 3
        assert lib().created == before
    assert first == 0
    fresh = library.find(lib().path)
    assert fresh is not None
    x, w, y = block((2, 6, 11, 11), 1), block((7, 6, 3, 3), 2), block((2, 7, 11, 11))
    assert conv.forward(fresh, x, w, None, y, **ONES)
    assert fresh.created >= 1
    close(y, reference.forward(x.astype(float), w.astype(float), **ONES))


@needs_onednn
@pytest.mark.parametrize(("n", "c", "k"), [(1, 1, 1), (3, 5, 7), (17, 64, 10), (2, 130, 33)])
def test_linear(n: int, c: int, k: int) -> None:
    x, w, dy = block((n, c), 1), block((k, c), 2), block((n, k), 3)
    bias = np.linspace(-2, 2, k, dtype=np.float32)
    plain = x.astype(float) @ w.astype(float).T
    for b, relu in ((None, False), (None, True), (bias, False), (bias, True)):
        wanted = plain if b is None else plain + b
        y = np.full((n, k), np.nan, np.float32)
        assert linear.forward(lib(), x, w, b, y, relu=relu)
        close(y, np.maximum(wanted, 0) if relu else wanted)
    dx, dw = np.full((n, c), np.nan, np.float32), np.full((k, c), np.nan, np.float32)
    assert linear.backward_data(lib(), dy, w, dx)
    assert linear.backward_weights(lib(), x, dy, dw)
    close(dx, dy.astype(float) @ w.astype(float))
    close(dw, dy.astype(float).T @ x.astype(float))


@needs_onednn
def test_linear_refuses_what_it_cannot() -> None:
    x, w, y = np.ones((2, 6), np.float32), np.ones((3, 6), np.float32), np.full((2, 3), np.nan, np.float32)
    assert not linear.forward(lib(), x.astype(float), w.astype(float), None, y.astype(float))
    assert not linear.forward(lib(), x[:, ::2], w[:, ::2], None, y)
    assert not linear.forward(lib(), x[:0], w, None, y[:0])
    assert not linear.backward_data(lib(), y, w, np.ones((4, 6), np.float32)[::2])
    assert not linear.backward_weights(lib(), x[:, :0], y, w[:, :0])
    assert np.isnan(y).all()


@needs_onednn
def test_a_failed_call_names_itself() -> None:
    """A y of another shape than the convolution has is a bug of the caller."""
    with pytest.raises(OneDnnError, match="convolution_forward") as caught:
        conv.forward(lib(), block((1, 2, 5, 5), 1), block((3, 2, 3, 3), 2), None, block((1, 3, 4, 5)), **ONES)
    assert caught.value.status == 2
    assert caught.value.call == "dnnl_convolution_forward_primitive_desc_create"


@needs_onednn
def test_a_prefix_or_a_file_may_be_given(tmp_path: Path) -> None:
    given = Path(lib().path)
    if not given.is_file():
        pytest.skip("the loader found oneDNN, its path is not known")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / NAME).symlink_to(given)
    for path in (given, tmp_path, tmp_path / "lib"):
        found = library.find(str(path))
        assert found is not None
        assert found.version == lib().version
        assert found.version[0] == 3


def test_a_path_that_cannot_be_used_is_an_input_error(tmp_path: Path) -> None:
    text = tmp_path / "libdnnl.so.3"
    with pytest.raises(InputError, match="No oneDNN at"):
        library.find(str(text))
    with pytest.raises(InputError, match="No oneDNN at"):
        library.find(str(tmp_path))
    text.write_text("no library")
    with pytest.raises(InputError, match=r"cannot be used as oneDNN: .*Give another path"):
        library.find(str(text))
    with pytest.raises(InputError, match="cannot be used as oneDNN"):
        library.find(str(tmp_path))


def test_a_library_that_is_not_onednn_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"cannot be used as oneDNN: .*dnnl_version"):
        library.find(_ctypes.__file__)


def test_without_a_path_a_missing_library_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "NAME", "libdnnl-absent.so.3")
    assert library.find() is None
