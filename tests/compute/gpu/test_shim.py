"""The stand-in for a GPU: it computes what one would, and tells of what one would not."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu.source import read_source
from tests.compute.gpu.conftest import Launch
from tests.support.shim import DYNAMIC_BYTES, Module, ShimError

HEAD = '#ifndef REAL\n#define REAL float\n#endif\ntypedef REAL real;\nextern "C" __global__ void '
REVERSED = (
    HEAD
    + """reversed(const real* x, real* y) {
    __shared__ real held[96];
    held[threadIdx.x] = x[blockIdx.x * 96 + threadIdx.x];
    __syncthreads();
    y[blockIdx.x * 96 + threadIdx.x] = held[95 - threadIdx.x];
}"""
)
SUMS = (
    HEAD
    + """sums(const int* x, int* y, int* votes) {
    int sum = x[threadIdx.x];
    for (int by = 16; by; by >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) y[threadIdx.x / 32] = sum;
    votes[threadIdx.x] = __ballot_sync(0xffffffffu, x[threadIdx.x] % 3 == 0);
    if (threadIdx.x % 32 == 0) atomicAdd(y + 2, sum);
}"""
)
PRODUCTS = HEAD + "products(const real* x, real* y) { y[threadIdx.x] *= x[threadIdx.x]; }"
WIDTHS = (
    HEAD
    + """widths(int* y) {
    y[0] = sizeof(exp((real)1)), y[1] = sizeof(tanh((real)1));
    y[2] = sizeof(erfc((real)1)), y[3] = sizeof(sqrt((real)1));
}"""
)


def test_blocks_of_several_warps_share_memory(module: Launch) -> None:
    x, y = np.arange(5 * 96.0), np.zeros(5 * 96)
    module("reversed", text=REVERSED).launch("reversed", (5,), (96,), [x, y])
    np.testing.assert_array_equal(y, x.reshape(5, 96)[:, ::-1].reshape(-1))


def test_a_barrier_that_is_missing_is_seen() -> None:
    x = np.arange(96.0)
    for order in ("forward", "reverse", "shuffled"):
        y = np.zeros(96)
        Module("reversed", np.float64, order, without=0, text=REVERSED).launch(
            "reversed", (1,), (96,), [x, y]
        )
        assert np.isnan(y).any(), order


def test_lanes_of_a_warp_exchange(module: Launch) -> None:
    x, y, votes = np.arange(64, dtype=np.int32), np.zeros(3, np.int32), np.zeros(64, np.int32)
    module("sums", text=SUMS).launch("sums", (1,), (64,), [x, y, votes])
    assert y.tolist() == [496, 1520, 2016]
    for warp in range(2):
        told = sum(1 << lane for lane in range(32) if (32 * warp + lane) % 3 == 0)
        assert set(votes[32 * warp : 32 * warp + 32].view(np.uint32).tolist()) == {told}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("if (threadIdx.x < 32) __syncthreads();\n else\n __syncthreads();", "wait at different barriers"),
        (
            "if (threadIdx.x < 16) return;\n y[0] = __shfl_sync(~0u, 1.0f, 0);",
            "lane 0 of mask ffffffff has ended",
        ),
        (
            "if (threadIdx.x % 32 < 16) __syncwarp();\n else __syncthreads();",
            "lanes of mask ffffffff that never come",
        ),
        ("y[0] = __shfl_sync(0xffffu, 1.0f, 3);", "lane (16|31|[12][0-9]) is not in its own mask"),
        ("if (threadIdx.x % 32 < 16) y[0] = __shfl_sync(0xffffu, 1.0f, 20);", "reads lane 20 outside mask"),
        (
            "extern __shared__ float held[];\n held[threadIdx.x] = 1;",
            "byte 16 of dynamic shared memory of 16",
        ),
    ],
)
def test_what_hangs_or_corrupts_is_an_error(module: Launch, body: str, words: str) -> None:
    text = HEAD + f"wrong(float* y) {{\n{body}\n}}"
    kernel, y = module("wrong", np.float32, text=text), np.zeros(64, np.float32)
    for _ in range(2):  # the second time, too: nothing is left over
        with pytest.raises(ShimError, match=words):
            kernel.launch("wrong", (1,), (64,), [y], shared_bytes=16 if "extern" in body else 0)
    x, z = np.arange(96.0), np.zeros(96)
    module("reversed", text=REVERSED).launch("reversed", (1,), (96,), [x, z])
    np.testing.assert_array_equal(z, x[::-1])


@pytest.mark.parametrize(
    ("grid", "block"), [((1,), (1025,)), ((1,), (1, 1, 65)), ((0,), (32,)), ((1, 65536), (1,))]
)
def test_launches_that_no_device_takes_are_refused(
    module: Launch, grid: tuple[int, ...], block: tuple[int, ...]
) -> None:
    with pytest.raises(ShimError, match=r"a (block|grid) of"):
        module("reversed", text=REVERSED).launch("reversed", grid, block, [np.zeros(96), np.zeros(96)])


def test_a_block_above_the_launch_bounds_is_refused(module: Launch) -> None:
    head = HEAD.replace("void", "__launch_bounds__(64, 2) void")
    text = head + "bounded(real* y) { y[threadIdx.x] = 1; }"
    kernel, y = module("bounded", text=text), np.zeros(65)
    kernel.launch("bounded", (1,), (64,), [y])
    with pytest.raises(ShimError, match="a block of 65 threads, its launch bounds are 64"):
        kernel.launch("bounded", (1,), (65,), [y])
    assert y.tolist() == [1] * 64 + [0]
    assert read_source("conv_tensor").count("__launch_bounds__(256, 2) void") == 3


def test_shared_memory_that_must_be_asked_for_is_refused(module: Launch) -> None:
    """A launch gives 48 KiB of it; for more, CuPy would have to set an attribute of the kernel first."""
    text = HEAD + "large(real* y) {\nextern __shared__ real held[];\nheld[0] = 3;\ny[0] = held[0];\n}"
    kernel, y = module("large", text=text), np.zeros(1)
    kernel.launch("large", (1,), (1,), [y], shared_bytes=DYNAMIC_BYTES)
    assert y[0] == 3 and DYNAMIC_BYTES == 49152
    with pytest.raises(ShimError, match="49153 bytes of dynamic shared memory"):
        kernel.launch("large", (1,), (1,), [y], shared_bytes=DYNAMIC_BYTES + 1)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only there numbers are flushed")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_below_the_least_normal_float_are_zero(module: Launch, dtype: Any) -> None:
    """CuPy compiles with -ftz=true: those that go in and those that come out, of float alone."""
    least = np.finfo(dtype).tiny
    x, y = np.array([least, -least, least / 2, 4 * least], dtype), np.array([0.5, 0.5, 4, 0.5], dtype)
    wanted = x * y if dtype == np.float64 else np.array([0, -0.0, 0, 2 * least], dtype)
    module("products", dtype, text=PRODUCTS).launch("products", (1,), (4,), [x, y])
    np.testing.assert_array_equal(y.view(f"u{y.itemsize}"), wanted.view(f"u{y.itemsize}"))
    assert x[:1] * dtype(0.5) > 0  # the host computes as before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_float_compute_in_float(module: Launch, dtype: Any) -> None:
    y = np.zeros(4, np.int32)
    module("widths", dtype, text=WIDTHS).launch("widths", (1,), (1,), [y])
    assert y.tolist() == [np.dtype(dtype).itemsize] * 4
