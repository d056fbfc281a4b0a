"""Convolution on tensor cores in bfloat16 and TF32; each bound is what the format and the sum can be wrong by."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.source import read_source
from tests.compute.gpu.conftest import Launch
from tests.compute.gpu.test_conv import CASES as UNEVEN
from tests.compute.gpu.test_conv import Arrays, Case, Ints, inner, middle, output, shape, view
from tests.support import shim

CASES = [
    *UNEVEN,
    # All vectors whole, several tiles of rows and of columns.
    Case((1, 8, 13, 11), 136, 1, Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), ((3, 9), (0, 11))),
    # Whole vectors in groups, a stride and a dilation; many steps of depth.
    Case((2, 32, 7, 6), 48, 2, Window((3, 3), (2, 1), (1, 2), (2, 2), (1, 2)), ((2, 7), (1, 4))),
    Case(
        (1, 20, 3, 4, 5), 12, 1, Window((2, 3, 3), (1, 1, 2), (1, 1, 1), (0, 1, 1), (1, 1, 0)),
        ((1, 3), (0, 4), (2, 4)),
    ),
]  # fmt: skip
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
BFLOAT16, TF32 = np.uint16, np.float32
FORMATS = pytest.mark.parametrize("kind", [BFLOAT16, TF32], ids=["bfloat16", "tf32"])
NARROW = 64
NEEDS_CXX = pytest.mark.skipif(shim.CXX is None, reason="g++ is not there; with it kernels run on the CPU")


def stored(values: Arrays, kind: Any) -> Arrays:
    """Return values as a kernel is given them, in the memory order they have."""
    if kind == TF32:
        return values.astype(np.float32, order="K")
    bits = values.astype(np.float32, order="K").view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def known(array: Arrays) -> Arrays:
    """Return what a stored array says, in float64."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


class Drawn(NamedTuple):
    """Stored x, w, the memory of w (K, T, C), dy and a bias."""

    x: Arrays
    w: Arrays
    memory: Arrays
    dy: Arrays
    bias: Arrays


def drawn(case: Case, kind: Any) -> Drawn:
    rng = np.random.default_rng(prod(case.x))

    def some(extent: Ints) -> Arrays:
        return stored(inner(rng.standard_normal(extent)), kind)

    x = some(case.x)
    w = some((case.outputs, case.x[1] // case.groups, *case.window.kernel))
    dy = some((case.x[0], case.outputs, *case.window.outs(case.x[2:])))
    return Drawn(x, w, np.moveaxis(w, 1, -1), dy, rng.standard_normal(case.outputs).astype(np.float32))


def hold(found: Arrays, wanted: Arrays, size: Arrays, depth: int, kind: Any, out: bool = True) -> None:
    """Hold sums of `depth` products to what they should be.

    Parameters
    ----------
    size
        The same sums over the absolute values of all factors.
    out
        Whether they are stored in the format of the factors.
    """
    factor = 2.0**-11 if kind == TF32 else 0.0  # half a unit of the last of 10 bits; bfloat16 comes rounded
    bound = size * (2 * factor + factor**2 + depth * 2.0**-23)  # a tensor core may cut off where it adds
    if out and kind == BFLOAT16:
        bound += 2.0**-8 * (np.abs(wanted) + bound)  # half a unit of the last of 7 bits
    wrong = np.abs(known(found) - wanted)
    held = wrong <= bound + 1e-37  # no number is in no bound
    assert held.all(), f"{np.count_nonzero(~held)} of {held.size} are out of their bounds"


def tiles(rows: int, columns: int, depth: int, wide: int = 128) -> Ints:
    return -(-rows // 128), -(-columns // wide), depth


def filled(channels: int, kind: Any) -> int:
    vector: int = 16 // np.dtype(kind).itemsize
    return -(-channels // vector) * vector


def blank(like: Arrays) -> Arrays:
    """Return an array of the same memory with no number in it."""
    return np.full_like(like, 0xFFFF if like.dtype == np.uint16 else np.nan)


def forward(
    kernels: shim.Module, case: Case, given: Drawn, bias: bool = False, wide: int = 128
) -> Arrays:  # fmt: skip
    y, (seen, _kept) = blank(given.dy), view(given.x, case.own)
    kernels.launch(
        "forward", tiles(case.x[0] * prod(y.shape[2:]), case.outputs // case.groups, case.groups, wide), (16, 16),
        [seen, given.memory, given.bias if bias else None, output(y), shape(case, case.window, bias)],
    )  # fmt: skip
    return y


def backward_data(kernels: shim.Module, case: Case, given: Drawn, wide: int = 128) -> Arrays:
    dx, columns = blank(given.x), case.x[1] // case.groups
    seen, _kept = view(given.dy, middle(given.dy))
    kernels.launch(
        "backward_data", tiles(case.x[0] * prod(case.x[2:]), columns, case.groups, wide), (16, 16),
        [seen, given.memory, output(dx), shape(case, case.window)],
    )  # fmt: skip
    return dx


def backward_weights(kernels: shim.Module, case: Case, given: Drawn, chunk: int, wide: int = 128) -> Arrays:
    (seen, _kept), points = view(given.x, case.own), case.x[0] * prod(given.dy.shape[2:])
    chunks, memory = -(-points // chunk), given.memory
    partial, dw = (np.full(e, np.nan, np.float32) for e in ((chunks, *memory.shape), memory.shape))
    width = prod(memory.shape[1:-1]) * filled(memory.shape[-1], memory.dtype)
    kernels.launch(
        "backward_weights", tiles(case.outputs // case.groups, width, case.groups * chunks, wide), (16, 16),
        [seen, output(given.dy), shape(case, case.window), chunk, partial],
    )  # fmt: skip
    kernels.launch("fold", (2,), (64,), [partial, chunks, dw.size, dw])
    return np.moveaxis(dw, -1, 1)


def both(case: Case, given: Drawn, name: str) -> tuple[Arrays, Arrays]:
    """Return what the reference finds in float64, and the same of absolute values."""
    x, w, dy = known(given.x), known(given.w), known(given.dy)
    words: dict[str, Any] = {**case.window.keywords, "groups": case.groups}

    def of(x: Arrays, w: Arrays, dy: Arrays) -> Arrays:
        if name == "forward":
            return reference.forward(x, w, **words)
        if name == "backward_data":
            return reference.backward_data(dy, w, x.shape, **words)
        return reference.backward_weights(x, dy, w.shape, **words)

    return of(x, w, dy), of(np.abs(x), np.abs(w), np.abs(dy))


@FORMATS
@EVERY
def test_forward(module: Launch, kind: Any, case: Case) -> None:
    """Every other case has a bias and is rectified: a tile takes a CPU a tenth of a second."""
    given, epilogue = drawn(case, kind), CASES.index(case) % 2 == 0
    wanted, size = both(case, given, "forward")
    if epilogue:
        bias = given.bias.astype(np.float64).reshape(-1, *[1] * (wanted.ndim - 2))
        wanted, size = np.maximum(wanted + bias, 0), size + np.abs(bias)
    found = forward(module("conv_tensor", kind), case, given, epilogue)
    hold(found, wanted, size, prod(given.w.shape[1:]) + 1, kind)


@FORMATS
@EVERY
def test_backward_data(module: Launch, kind: Any, case: Case) -> None:
    given = drawn(case, kind)
    wanted, size = both(case, given, "backward_data")
    found = backward_data(module("conv_tensor", kind), case, given)
    hold(found, wanted, size, case.outputs // case.groups * prod(case.window.kernel), kind)


@FORMATS
@EVERY
def test_backward_weights(module: Launch, kind: Any, case: Case) -> None:
    """Every other case in one chunk, the others in several."""
    given, chunk = drawn(case, kind), 1000 if CASES.index(case) % 2 else 37
    wanted, size = both(case, given, "backward_weights")
    found = backward_weights(module("conv_tensor", kind), case, given, chunk)
    hold(found, wanted, size, case.x[0] * prod(given.dy.shape[2:]), kind, out=False)


@FORMATS
def test_a_strip_of_outputs(module: Launch, kind: Any) -> None:
    """The last outputs of the first dim only, into an array that has others: what is left when the interior is done."""
    case = CASES[7]
    given, window = drawn(case, kind), case.window
    wanted, size = both(case, given, "forward")
    y, (seen, _kept) = stored(inner(np.full(given.dy.shape, -7.0)), kind), view(given.x, case.own)
    begin = y.shape[2] - 2
    strip = y[:, :, begin:]
    moved = window._replace(pad_lo=(window.pad_lo[0] - begin * window.stride[0], *window.pad_lo[1:]))
    module("conv_tensor", kind).launch(
        "forward", tiles(case.x[0] * prod(strip.shape[2:]), case.outputs // case.groups, case.groups), (16, 16),
        [seen, given.memory, None, output(strip), shape(case, moved)],
    )  # fmt: skip
    wanted[:, :, :begin] = -7
    hold(y, wanted, size, prod(given.w.shape[1:]), kind)


@NEEDS_CXX
@FORMATS
def test_the_same_bits_wherever_arrays_lie_and_whoever_is_first(kind: Any) -> None:
    """Vectors that are not aligned are moved by elements: to the same sums, and in each order of blocks and threads."""
    case = CASES[7]
    given = drawn(case, kind)

    def elsewhere(array: Arrays) -> Arrays:
        room = np.empty(array.size + 64, array.dtype)
        begin = (-room.ctypes.data // room.itemsize) % 16 + 1  # one element behind a multiple of 16 bytes
        last = np.moveaxis(array, 1, -1)
        held = room[begin : begin + array.size].reshape(last.shape)
        held[...] = last
        return np.moveaxis(held, -1, 1)

    moved = elsewhere(given.w)
    there = Drawn(elsewhere(given.x), moved, np.moveaxis(moved, 1, -1), elsewhere(given.dy), given.bias)
    assert there.memory.ctypes.data % 16 == there.dy.ctypes.data % 16 == np.dtype(kind).itemsize
    seen = set()
    for order in shim.ORDERS:
        kernels = shim.Module("conv_tensor", kind, order)
        for arrays in (given, there):
            found = (
                forward(kernels, case, arrays), backward_data(kernels, case, arrays),
                backward_weights(kernels, case, arrays, 37),
            )  # fmt: skip
            seen.add(b"".join(inner(a).tobytes() for a in found))
    assert len(seen) == 1


@NEEDS_CXX
@FORMATS
@pytest.mark.parametrize("case", [CASES[4], CASES[6], CASES[7]], ids=str)
def test_narrow_tiles_give_the_same_bits(kind: Any, case: Case) -> None:
    """Tiles of 64 columns: each sum is made of the same products in the same order."""
    text = f"#define COLUMNS {NARROW}\n{read_source('conv_tensor')}"
    given, narrow = drawn(case, kind), shim.Module("conv_tensor", kind, text=text)
    whole = shim.Module("conv_tensor", kind)
    np.testing.assert_array_equal(forward(narrow, case, given, wide=NARROW), forward(whole, case, given))
    np.testing.assert_array_equal(
        backward_data(narrow, case, given, NARROW), backward_data(whole, case, given)
    )
    np.testing.assert_array_equal(
        backward_weights(narrow, case, given, 37, NARROW), backward_weights(whole, case, given, 37)
    )
