"""Instructions of tensor cores: the lanes of the manual, the rounding of the formats, and mistakes to be noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.source import read_source
from tests.compute.gpu.conftest import Launch
from tests.compute.gpu.test_conv import Case, output, shape, view
from tests.compute.gpu.test_conv_tensor import (
    BFLOAT16,
    CASES,
    FORMATS,
    NEEDS_CXX,
    TF32,
    backward_weights,
    both,
    drawn,
    forward,
    hold,
    known,
    stored,
)
from tests.support import shim


@FORMATS
def test_rounding(module: Launch, kind: Any) -> None:
    """One product of x and 1 and a bias: TF32 goes away from zero between two numbers, bfloat16 to the even one."""
    ulp = 2.0**-10 if kind == TF32 else 2.0**-7
    below = 2.0**-23
    half = ulp / 2
    x = np.array([1.0, 1 + half, 1 + half - below, -1 - half, 1 + 3 * half, 1 + half + below, np.inf, np.nan])
    if kind == TF32:
        wanted = np.array([1.0, 1 + ulp, 1, -1 - ulp, 1 + 2 * ulp, 1 + ulp, np.inf, np.nan])
        given, bias = x.astype(np.float32), np.zeros(8, np.float32)
    else:
        wanted = np.array([1.0, 1, 1, -1, 1 + 2 * ulp, 1 + ulp, np.inf, np.nan])
        given = stored(np.where(np.isfinite(x), np.sign(x), x).astype(np.float32), np.uint16)
        bias = np.where(np.isfinite(x), x - np.sign(x), 0).astype(np.float32)
    window = Window((1,), (1,), (1,), (0,), (0,))
    case = Case((8, 1, 1), 8, 1, window, ((0, 1),))
    y, (seen, _kept) = np.zeros((8, 8, 1), kind), view(given.reshape(8, 1, 1), case.own)
    module("conv_tensor", kind).launch(
        "forward", (1, 1, 1), (16, 16),
        [seen, stored(np.ones((8, 1, 1)), kind), bias, output(y), shape(case, window)],
    )  # fmt: skip
    np.testing.assert_array_equal(known(y[np.arange(8), np.arange(8), 0]), wanted)


INSTRUCTION = """
extern "C" __global__ void instruction(const unsigned* a, const unsigned* b, float* c) {
    const int lane = thread_number();
    multiply_add(c + 4 * lane, a + 4 * lane, b + 2 * lane);
}
extern "C" __global__ void matrices(const real* from, unsigned* plain, unsigned* transposed) {
    __shared__ Vector held[32];
    const int lane = thread_number();
    for (int i = 0; i < VECTOR; ++i) held[lane].of[i] = from[lane * VECTOR + i];
    __syncwarp();
    load_matrices<false>(plain + 4 * lane, held[lane].of);
    if (!TF32) load_matrices<true>(transposed + 4 * lane, held[lane].of);
}
"""


@FORMATS
def test_lanes_hold_what_the_manual_says(module: Launch, kind: Any) -> None:
    """PTX ISA: fragments of mma.m16n8k8 (TF32) and mma.m16n8k16 (bfloat16), and ldmatrix, element by element."""
    rng, deep = np.random.default_rng(5), 8 if kind == TF32 else 16
    a, b = rng.integers(-9, 10, (16, deep)).astype(float), rng.integers(-9, 10, (deep, 8)).astype(float)
    lane = np.arange(32)[:, None]
    g, t = lane // 4, lane % 4
    if kind == TF32:
        i = np.arange(4)
        of_a = a[g + 8 * (i % 2), t + 4 * (i >= 2)]
        of_b = b[t + 4 * np.arange(2), g]
    else:
        i = np.arange(8)
        of_a = a[g + 8 * (i % 4 >= 2), 2 * t + i % 2 + 8 * (i >= 4)]
        i = np.arange(4)
        of_b = b[2 * t + i % 2 + 8 * (i >= 2), g]
    i = np.arange(4)
    kernels = module("conv_tensor", kind, text=read_source("conv_tensor") + INSTRUCTION)
    c = np.ones((32, 4), np.float32)
    kernels.launch("instruction", (1,), (16, 2), [stored(of_a, kind), stored(of_b, kind), c])
    np.testing.assert_array_equal(c, 1 + (a @ b)[g + 8 * (i >= 2), 2 * t + i % 2])

    held = np.arange(4 * 8 * 16 // np.dtype(kind).itemsize).reshape(4, 8, -1).astype(kind)
    plain, transposed = np.zeros((32, 4), np.uint32), np.zeros((32, 4), np.uint32)
    kernels.launch("matrices", (1,), (16, 2), [held, plain, transposed])
    np.testing.assert_array_equal(plain, held.view(np.uint32)[i, g, t])
    if kind == BFLOAT16:
        low, high = (held[i, 2 * t + j, g].astype(np.uint32) for j in range(2))
        np.testing.assert_array_equal(transposed, low | high << 16)


COPIES = """typedef REAL real;
extern "C" __global__ void copies(const real* x, real* y, int first, int left) {
    __shared__ real held[8];
    __pipeline_memcpy_async(held, x + first, 16);
    __pipeline_commit();
    __pipeline_memcpy_async(held + 4, x + 4, 16, 8);
    __pipeline_commit();
    __pipeline_wait_prior(left);
    for (int i = 0; i < 8; ++i) y[i] = held[i];
}"""


def test_copies_are_there_when_they_were_waited_for(module: Launch) -> None:
    """The shim makes them then and no sooner, the last elements of the second are zero, and each is aligned."""
    x = np.empty(16, np.float32)
    x = x[-x.ctypes.data // 4 % 4 :][:8]  # aligned to 16 bytes, as memory of a device is
    x[:] = np.arange(1, 9)
    kernels, nan = module("copies", np.float32, text=COPIES), np.nan
    for left, wanted in [(0, [1, 2, 3, 4, 5, 6, 0, 0]), (1, [1, 2, 3, 4, *[nan] * 4]), (2, [nan] * 8)]:
        y = np.zeros(8, np.float32)
        kernels.launch("copies", (1,), (1,), [x, y, 0, left])
        np.testing.assert_array_equal(y, wanted)
    with pytest.raises(shim.ShimError, match="a copy of 16 bytes, 0 of them zero"):
        kernels.launch("copies", (1,), (1,), [x, y, 1, 0])


LOST = {
    "the barrier": ("__syncthreads();", ";"),
    "the wait for copies": ("        wait_for_copies();", ";"),
    "columns of a sum": ("warp_column() + 8 * n + 2 * t", "warp_column() + 8 * n + (2 * t + 2) % 8"),
    "rows of a sum": ("warp_row() + 16 * m + g + 8 * half", "warp_row() + 16 * m + 2 * g + half"),
    "halves of rows": (
        "row + low + middle, k + high * VECTOR",
        "row + low + high * 8, k + middle / 8 * VECTOR",
    ),
    "halves of columns": ("column + low + high, k + middle * VECTOR", "column + low, k + middle * VECTOR"),
    "rows in turn": ("row + middle, k + low + high * 8", "row + high * 8, k + low + middle"),
    "columns in turn": ("column + high, k + low + middle * 8", "column + middle * 8, k + low + high"),
}
"""What is left out or confused, and how."""


@NEEDS_CXX
@pytest.mark.parametrize("what", LOST)
def test_a_mistake_is_noticed(what: str) -> None:
    """A barrier or a wait left out, fragments of the wrong lanes."""
    case, text = CASES[7], read_source("conv_tensor")
    assert text.count(LOST[what][0]) == 1
    given = drawn(case, BFLOAT16)
    noticed = []
    for order in shim.ORDERS if what == "the barrier" else shim.ORDERS[:1]:
        kernels = shim.Module("conv_tensor", BFLOAT16, order, text=text.replace(*LOST[what]))
        for name in ("forward", "backward_weights"):
            found = (
                forward(kernels, case, given)
                if name == "forward"
                else backward_weights(kernels, case, given, 1000)
            )
            wanted, size = both(case, given, name)
            try:
                hold(found, wanted, size, 1000, BFLOAT16, out=name == "forward")
            except AssertionError:
                noticed.append((order, name))
    assert noticed, f"{what} is not missed"


def test_it_has_one_barrier() -> None:
    assert shim.barriers("conv_tensor") == 1
