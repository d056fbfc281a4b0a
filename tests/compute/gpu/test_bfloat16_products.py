"""Products of bfloat16: linear layers, convolutions, and the call of cuBLAS; gradients by weights are float32."""

from __future__ import annotations

import ctypes
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.gpu import conv, linear
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.gemm import product
from gridnn.compute.gpu.provider import BF16, BF16_NARROW, EXACT, provider_of
from gridnn.compute.storage import UNIT, bfloat16
from gridnn.errors import InputError
from tests.compute.gpu.test_conv import Arrays, Case, middle
from tests.compute.gpu.test_conv_calls import ONE, laid
from tests.compute.gpu.test_precision import NEEDS_CXX, SLIM, WIDE
from tests.compute.gpu.test_view import taken
from tests.support.shim.device import ShimDevice

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
NARROW = bfloat16()
POINTWISE = Case((2, 24, 3, 4), 20, 1, ONE, ())


def drawn(shape: tuple[int, ...], seed: int) -> Arrays:
    return np.random.default_rng(seed).standard_normal(shape).astype(NARROW)


def hold(found: Any, wanted: Arrays, size: Arrays, depth: int, before: Any = 0.0) -> None:
    """Hold sums of `depth` products, whose absolute values add up to `size`; rounded once where they are narrow.

    `before` is what they may have been wrong by before something was added to them.
    """
    bound = size * (depth + 1) * 2.0**-23 + before
    if found.dtype == NARROW:
        bound += UNIT * (np.abs(wanted) + bound)
    wrong = np.abs(found.astype(np.float64) - wanted)
    assert (wrong <= bound + 1e-37).all()


@NEEDS_CXX
@pytest.mark.parametrize("case", [*WIDE, *SLIM, POINTWISE], ids=str)
@pytest.mark.parametrize("how", ["dense", "margins", "parts"])
def test_convolution(case: Case, how: str) -> None:
    engine = Engine(ShimDevice(), "bf16")
    x, w = drawn(case.x, 1), drawn((case.outputs, case.x[1] // case.groups, *case.window.kernel), 2)
    dy = drawn((case.x[0], case.outputs, *case.window.outs(case.x[2:])), 3)
    bias = np.linspace(-1, 1, case.outputs, dtype=np.float32)
    words: dict[str, Any] = {**case.window.keywords, "groups": case.groups}
    (y, dx, dw), (y_size, dx_size, dw_size) = (
        (reference.forward(a, b, **words), reference.backward_data(c, b, a.shape, **words),
         reference.backward_weights(a, c, b.shape, **words))
        for a, b, c in ([z.astype(np.float64) for z in (x, w, dy)], [np.abs(z.astype(np.float64)) for z in (x, w, dy)])
    )  # fmt: skip
    added = bias.reshape(-1, *[1] * (x.ndim - 2)).astype(np.float64)
    given, back = (
        taken(engine, a, middle(a)) if how == "parts" else laid(engine, a, how) for a in (x, dy)
    )  # fmt: skip
    taps = prod(case.window.kernel)
    told: dict[str, Any] = {"groups": case.groups}
    found = conv.forward(
        engine, given, engine.take(w), case.window, bias=engine.take(bias), relu=True, **told
    )
    assert found.dtype == NARROW
    depth = prod(w.shape[1:])
    # A product of cuBLAS is rounded before the bias is added, a kernel's after.
    before = UNIT * y_size * (case is POINTWISE and how != "parts")
    hold(engine.give(found), np.maximum(y + added, 0), y_size + np.abs(added), depth + 1, before)
    found = conv.backward_data(engine, back, engine.take(w), case.window, x.shape, **told)
    assert found.dtype == NARROW
    hold(engine.give(found), dx, dx_size, case.outputs // case.groups * taps)
    for add in (False, True):
        grad = engine.take(np.full(w.shape, 2.0, np.float32))
        conv.backward_weights(engine, given, back, case.window, grad, add=add, **told)
        assert grad.dtype == np.float32
        hold(engine.give(grad), dw + 2.0 * add, dw_size + 2.0, case.x[0] * prod(dy.shape[2:]))


@NEEDS_CXX
def test_linear() -> None:
    engine, (x, w, dy) = (
        Engine(ShimDevice(), "bf16"),
        (drawn((7, 12), 1), drawn((9, 12), 2), drawn((7, 9), 3)),
    )
    (a, b, c), bias = [engine.take(z) for z in (x, w, dy)], np.linspace(-1, 1, 9, dtype=np.float32)
    ex, ew, edy = (z.astype(np.float64) for z in (x, w, dy))
    y = engine.give(linear.forward(engine, a, b, bias=engine.take(bias), relu=True))
    size = np.abs(ex) @ np.abs(ew).T
    assert y.dtype == NARROW
    hold(y, np.maximum(ex @ ew.T + bias, 0), size + 1, 13, UNIT * size)
    hold(engine.give(linear.backward_data(engine, c, b)), edy @ ew, np.abs(edy) @ np.abs(ew), 9)
    for add in (False, True):
        dw = engine.take(np.ones((9, 12), np.float32))
        linear.backward_weights(engine, a, c, dw, add=add)
        found = engine.give(dw)
        hold(found, edy.T @ ex + add, np.abs(edy).T @ np.abs(ex) + 1, 7)
        assert (found.view(np.uint32) & 0xFFFF).any(), "a gradient is rounded to bfloat16 on its way"


def test_choice_by_shape() -> None:
    def chosen(w: tuple[int, ...], columns: int = 64, precision: Any = "bf16", dtype: Any = NARROW) -> Any:
        return provider_of(precision, dtype, w, 1, 10**6, columns)

    assert chosen((64, 64, 3, 3)) is BF16_NARROW and chosen((64, 64, 3, 3), 65) is BF16
    assert chosen((64, 3, 3, 3)) is chosen((12, 64, 3, 3)) is EXACT
    assert chosen((64, 64, 3, 3), dtype=np.float32) is EXACT
    assert BF16.filled(17) == 24


def test_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'"bf16" needs.*8\.0 or later; fibers \(forward\) has 7\.5'):
        Engine(ShimDevice(capability=(7, 5)), "bf16")
    engine = Engine(ShimDevice(), "bf16")
    assert engine.activations("float32") == NARROW and engine.activations("float64") == np.float64
    assert "BF16" in engine.name and Engine(ShimDevice()).activations("float32") == np.float32
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    with pytest.raises(InputError, match=r'needs ml_dtypes.*gridnn\[gpu\].*"tf32" or "float32"'):
        Engine(ShimDevice(), "bf16")


class Paper:
    """What `gemm` calls of CuPy, with memory of the host: columns first, as in cuBLAS; what it refuses is refused.

    Unless its math mode forbids it, sums are made of parts in the type of the output, as cuBLAS may make them.
    """

    HANDLE, FORBIDDEN = 77, 16

    def __init__(self) -> None:
        self.mode = 0
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(CUDA_R_32F=0, CUDA_R_16BF=14), cublas=self,
            Device=lambda: SimpleNamespace(cublas_handle=self.HANDLE),
        )  # fmt: skip

    CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 68, -1

    def setMathMode(self, handle: int, mode: int) -> None:
        assert handle == self.HANDLE
        self.mode = mode

    def gemmEx(
        self, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
        b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute: int, algo: int,
    ) -> None:  # fmt: skip
        assert (handle, compute, algo, a_type, b_type) == (77, 68, -1, 14, 14) and c_type in (0, 14)
        assert all(isinstance(each, int) for each in (transa, transb, m, n, k, lda, ldb, ldc))
        assert lda >= (k if transa else m) and ldb >= (n if transb else k) and ldc >= m
        one, zero = (ctypes.cast(at, ctypes.POINTER(ctypes.c_float))[0] for at in (alpha, beta))
        assert (one, zero) == (1, 0)
        left = self._columns(a, k if transa else m, m if transa else k, lda, NARROW)
        right = self._columns(b, n if transb else k, k if transb else n, ldb, NARROW)
        left, right = left.T if transa else left, right.T if transb else right
        out = self._columns(c, m, n, ldc, np.dtype(np.float32) if c_type == 0 else NARROW)
        left, right, cuts = left.astype(np.float32), right.astype(np.float32), range(0, k, 2)
        if self.mode & self.FORBIDDEN:
            out[...] = (left @ right).astype(out.dtype)
        else:
            out[...] = sum((left[:, at : at + 2] @ right[at : at + 2]).astype(out.dtype) for at in cuts)

    @staticmethod
    def _columns(at: int, rows: int, columns: int, pitch: int, dtype: Any) -> Arrays:
        count = pitch * (columns - 1) + rows
        flat = np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(at), np.uint8).view(
            dtype
        )
        return np.lib.stride_tricks.as_strided(
            flat, (rows, columns), (dtype.itemsize, pitch * dtype.itemsize), writeable=True
        )


class OfPaper(np.ndarray[Any, Any]):
    """An array whose address is where CuPy has it."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=int(self.ctypes.data))


@pytest.mark.parametrize("dtype", [np.float32, NARROW], ids=str)
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("m", "k", "n"), [(5, 7, 3), (1, 4, 6), (6, 1, 1), (1, 1, 1)])
def test_the_call_of_cublas(m: int, k: int, n: int, turned: tuple[bool, bool], dtype: Any) -> None:
    a = drawn((k, m), 1).T if turned[0] else drawn((m, k), 1)
    b = drawn((n, k), 2).T if turned[1] else drawn((k, n), 2)
    out = np.full((m, n), 77, dtype)
    product(Paper(), a.view(OfPaper), b.view(OfPaper), out.view(OfPaper))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    hold(out, exact, np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)), k)


def test_matrices_that_cublas_cannot_take() -> None:
    a, out = drawn((4, 6), 1).view(OfPaper), np.zeros((4, 4), np.float32).view(OfPaper)
    with pytest.raises(ValueError, match="has gaps: copy it first"):
        product(Paper(), a[:, :3], drawn((3, 4), 2).view(OfPaper), out)
    with pytest.raises(ValueError, match=r"does not go into \(4, 4\)"):
        product(Paper(), a, drawn((5, 4), 2).view(OfPaper), out)
