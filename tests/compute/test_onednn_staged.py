"""Products of oneDNN whose factors are copied first: in float32, where nothing may change, and in bfloat16."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn import conv, header, library, linear, stage
from gridnn.compute.cpu.onednn.precision import BFLOAT16, FLOAT32, Operands, has_bfloat16
from gridnn.compute.cpu.reference import conv as reference
from tests.compute.onednn import FOUND, ONES, Array, Case, block, cases, check, close, lib, needs_onednn

STAGED = FLOAT32._replace(staged=True)

needs_bfloat16 = pytest.mark.skipif(
    FOUND is None or not has_bfloat16(FOUND), reason="no AVX512-BF16 or AMX-BF16 in this processor"
)


def fresh(operands: Operands) -> library.Library:
    made = library.find(lib().path, operands)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def staged() -> library.Library:
    return fresh(STAGED)


def rounded(x: Array) -> NDArray[np.float32]:
    """Float32 numbers rounded to the nearest bfloat16, ties to even: the upper half of their bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + ((bits >> 16) & 1) & np.uint32(0xFFFF0000)
    result: NDArray[np.float32] = bits.astype(np.uint32).view(np.float32)
    return result


@needs_onednn
@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(), bias=st.booleans(), relu=st.booleans())
def test_copies_of_float32_change_nothing(
    staged: library.Library, case: tuple[tuple[int, ...], tuple[int, ...], Case], bias: bool, relu: bool
) -> None:
    x, w, kw = case
    done = check(x, w, kw, bias=bias, relu=relu, by=staged)
    assert done == check(x, w, kw, bias=bias, relu=relu), "staging refuses and takes the same"


@needs_onednn
@pytest.mark.parametrize("groups", [1, 4])
def test_usual_windows_are_staged(staged: library.Library, groups: int) -> None:
    """Larger shapes move the buffers under plans that were compiled before."""
    for size in (9, 30, 9):
        kw: Case = {**ONES, "groups": groups}
        assert (
            check((2, 16, size, 7), (8, 16 // groups, 3, 3), kw, bias=True, relu=True, by=staged)
            == [True] * 3
        )
    cropped: Case = {**ONES, "pad_lo": (-2, 1), "pad_hi": (-1, 1)}
    assert check((1, 5, 9, 7), (3, 5, 3, 3), cropped, bias=True, relu=False, by=staged) == [True] * 3


@needs_onednn
def test_factors_are_copied_and_results_are_not() -> None:
    """A linear layer, all of whose layouts are plain, moves nothing by itself."""
    x, w, y = np.ones((4, 6), np.float32), np.ones((3, 6), np.float32), np.zeros((4, 3), np.float32)
    plain, copied = fresh(FLOAT32), fresh(STAGED)
    for made, moves in ((plain, 0), (copied, 2)):
        for run in (
            lambda made=made: linear.forward(made, x, w, np.ones(3, np.float32), y),
            lambda made=made: linear.backward_data(made, y, w, x.copy()),
            lambda made=made: linear.backward_weights(made, x, y, w.copy()),
        ):
            before = made.created
            assert run()
            assert made.created - before == 1 + moves
    assert all(buffer.size == 0 for buffer in plain.staging)
    # x, w and dy went through the buffers; their copies are there, and dy is all sevens.
    assert [buffer.size >= n for buffer, n in zip(copied.staging, (96, 72, 48), strict=True)] == [True] * 3
    assert (y == 7).all() and (x == 1).all() and (w == 1).all()


@needs_onednn
@pytest.mark.parametrize(("n", "c", "k"), [(1, 1, 1), (3, 5, 7), (17, 64, 10), (2, 130, 33)])
def test_linear_is_staged(staged: library.Library, n: int, c: int, k: int) -> None:
    x, w, dy = block((n, c), 1), block((k, c), 2), block((n, k), 3)
    y, dx, dw = (np.full(shape, np.nan, np.float32) for shape in ((n, k), (n, c), (k, c)))
    bias = np.linspace(-2, 2, k, dtype=np.float32)
    assert linear.forward(staged, x, w, bias, y, relu=True)
    assert linear.backward_data(staged, dy, w, dx)
    assert linear.backward_weights(staged, x, dy, dw)
    close(y, np.maximum(x.astype(float) @ w.astype(float).T + bias, 0))
    close(dx, dy.astype(float) @ w.astype(float))
    close(dw, dy.astype(float).T @ x.astype(float))


@needs_onednn
def test_a_move_rounds_to_the_nearest_bfloat16() -> None:
    """OneDNN rounds on any processor; what needs the instructions is the product."""
    made = fresh(BFLOAT16)
    x = np.random.default_rng(5).standard_normal((40, 30)).astype(np.float32)
    x[0, :5] = (0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2.0**100)  # ties go to even
    bits = np.zeros(x.shape, np.uint16)
    layouts = [made.layout(x.shape, (30, 1), kind) for kind in (header.F32, header.BF16)]
    stage.reorder(made, *layouts)(x.ctypes.data, bits.ctypes.data)
    got = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, rounded(x))
    assert 0 < np.abs(got - x).max() <= 2**-8 * np.abs(x).max()


@pytest.fixture(params=["imitated", pytest.param("real", marks=needs_bfloat16)])
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> library.Library:
    """A library that multiplies rounded factors; imitated, it stages float32 and rounds what lies in its buffers."""
    if request.param == "real":
        return fresh(BFLOAT16)
    reorder = stage.reorder

    def rounding(made: library.Library, source: int, target: int) -> stage.Run:
        move, size = reorder(made, source, target), made.size(target)

        def run(there: int, here: int) -> None:
            move(there, here)
            if any(here == buffer.address for buffer in made.staging):
                copy = np.ctypeslib.as_array((ctypes.c_float * (size // 4)).from_address(here))
                copy[:] = rounded(copy)

        return run

    monkeypatch.setattr(stage, "reorder", rounding)
    return fresh(STAGED)


@needs_onednn
def test_instructions_of_the_processor_are_asked_for() -> None:
    """AVX-512 alone has bfloat16 primitives too, which imitate: they do not count."""
    made = fresh(FLOAT32)
    made.isa = 0x67
    assert not has_bfloat16(made)
    made.isa = 0  # not an x86 processor
    assert not has_bfloat16(made)
    if not lib().isa & 0x20:
        made.isa = 0xE7
        assert not has_bfloat16(made), "AVX2 has no primitive for it, whatever is said of the instructions"


@needs_onednn
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        ((2, 3, 15, 13), (8, 3, 3, 3), 1),
        ((2, 17, 9, 7), (5, 17, 3, 3), 1),
        ((3, 64, 8, 8), (64, 64, 1, 1), 1),
        ((3, 16, 8, 8), (16, 1, 3, 3), 16),
        ((2, 12, 8, 8), (18, 4, 3, 3), 3),
        ((2, 16, 40), (8, 16, 3), 1),
    ],
)
def test_convolution_of_rounded_factors(
    near: library.Library, x_shape: tuple[int, ...], w_shape: tuple[int, ...], groups: int
) -> None:
    n = len(x_shape) - 2
    kw: Case = dict.fromkeys(ONES, (1,) * n) | {"groups": groups}
    x, w = block(x_shape, 1), block(w_shape, 2)
    near_x, near_w = rounded(x).astype(float), rounded(w).astype(float)
    wanted = reference.forward(near_x, near_w, **kw)
    exact = reference.forward(x.astype(float), w.astype(float), **kw)
    dy = block(wanted.shape, 3)
    near_dy = rounded(dy).astype(float)
    bias = np.linspace(-1, 1, w_shape[0], dtype=np.float32)  # is not rounded
    for sums in (wanted, exact):
        reference.add_bias(sums, bias)
    y, dx, dw = block(wanted.shape), block(x_shape), block(w_shape)
    assert conv.forward(near, x, w, bias, y, **kw)
    assert conv.backward_data(near, dy, w, dx, **kw)
    assert conv.backward_weights(near, x, dy, dw, **kw)
    close(y, wanted)
    close(dx, reference.backward_data(near_dy, near_w, x_shape, **kw))
    close(dw, reference.backward_weights(near_x, near_dy, w_shape, **kw))
    assert np.abs(y - exact).max() > 1e-4, "something was rounded"


@needs_onednn
@pytest.mark.parametrize(("n", "c", "k"), [(1, 1, 1), (17, 64, 10), (2, 130, 33)])
def test_linear_of_rounded_factors(near: library.Library, n: int, c: int, k: int) -> None:
    x, w, dy = block((n, c), 1), block((k, c), 2), block((n, k), 3)
    near_x, near_w, near_dy = (rounded(a).astype(float) for a in (x, w, dy))
    y, dx, dw = (np.full(shape, np.nan, np.float32) for shape in ((n, k), (n, c), (k, c)))
    assert linear.forward(near, x, w, None, y)
    assert linear.backward_data(near, dy, w, dx)
    assert linear.backward_weights(near, x, dy, dw)
    close(y, near_x @ near_w.T)
    close(dx, near_dy @ near_w)
    close(dw, near_dy.T @ near_x)
