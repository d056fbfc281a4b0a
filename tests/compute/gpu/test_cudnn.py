"""Convolutions that a cuDNN made of paper computes: numbers, memory, notes, and what is left to own kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gridnn.compute.cpu import conv as cpu
from gridnn.compute.cpu.memory import shaped
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import conv, cudnn_graph
from gridnn.compute.gpu.choice import Convolutions
from gridnn.compute.gpu.cudnn import NEVER, forbidden
from gridnn.compute.gpu.cudnn_engine import CudnnEngine, open_engine
from gridnn.compute.gpu.cudnn_graph import Asked, Form, form, framed, raised
from gridnn.compute.gpu.engine import Precision
from gridnn.compute.gpu.room import Room
from gridnn.compute.gpu.view import Parts
from tests.compute.gpu.conftest import near
from tests.compute.gpu.test_conv import CASES, Case, close, drawn, inner, split
from tests.compute.gpu.test_conv_calls import CPU, MORE, NEEDS_CXX, given, hold, laid, launched
from tests.support.paper_cudnn import (
    ENGINES,
    Engine,
    Graph,
    PaperCudnn,
    fused_without_tensor_cores,
    one_sided,
)

PASSES = ["forward", "forward", "backward_data", "backward_weights"]
"""What `hold` computes."""
EVEN = Case((2, 4, 9, 8), 8, 1, Window((3, 3), (1, 1), (1, 1), (1, 0), (0, 1)), ())
"""Channels in whole vectors: every position is aligned."""
STRIDED = Case((2, 8, 9, 8), 4, 2, Window((3, 2), (2, 1), (1, 2), (2, 1), (0, 2)), ())
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def opened(
    paper: PaperCudnn, precision: Precision = "float32", *, deterministic: bool = True, how: str = "cudnn"
) -> CudnnEngine:
    """Return an engine with that cuDNN, on its device."""
    engine = open_engine(
        paper.device, precision, Room(), "cudnn" if how == "cudnn" else "auto", deterministic=deterministic,
        load=paper.load, stream=paper.stream,
    )  # fmt: skip
    assert isinstance(engine, CudnnEngine)
    return engine


@pytest.mark.parametrize("case", [*CASES[:4], CASES[5], MORE[1], MORE[2], EVEN, STRIDED], ids=str)
def test_the_three_passes(case: Case) -> None:
    paper = PaperCudnn()
    engine = opened(paper)
    hold(engine, case, np.float32)
    assert paper.executed == PASSES and not launched(engine) and engine.reorders == 0
    assert {e.notes for e in paper.taken} == {()}, "exact factors, sums in one order, little workspace"


@pytest.mark.parametrize("case", [EVEN, STRIDED], ids=str)
@pytest.mark.parametrize(
    ("how", "out"), [("margins", "margins"), ("more channels", "dense"), ("dense", "margins")]
)
def test_gaps_are_read_and_written_where_they_lie(case: Case, how: str, out: str) -> None:
    """Channels beside a block, as many as 12 bytes, leave positions that are not aligned to own kernels."""
    paper = PaperCudnn()
    engine = opened(paper)
    hold(engine, case, np.float32, how, out, add=True)
    assert paper.executed == (PASSES if how != "more channels" else [])


def test_plans_may_copy_what_has_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large it is: what is left else are engines that are never fast."""
    monkeypatch.setattr(cudnn_graph, "WORKSPACE_BYTES", 64)
    paper = PaperCudnn(
        engines=(Engine(workspace_bytes=1 << 20), Engine(workspace_bytes=64, packs=True), Engine())
    )
    engine = opened(paper)
    hold(engine, EVEN, np.float32, "margins", "margins")
    assert paper.executed == PASSES and all(taken.packs for taken in paper.taken)
    plans = [plan for plan in engine.convolutions._chosen.values() if plan is not None]
    assert min(plan.workspace_bytes for plan in plans) > 1 << 10


def test_what_lies_around_a_result_stays() -> None:
    paper = PaperCudnn()
    engine = opened(paper)
    x, w, _, dy = drawn(EVEN, np.float32)
    for like, run in (
        (
            dy,
            lambda out: conv.forward(
                engine, laid(engine, x, "margins"), engine.take(w), EVEN.window, out=out
            ),
        ),
        (
            x,
            lambda out: conv.backward_data(
                engine, laid(engine, dy, "margins"), engine.take(w), EVEN.window, x.shape, out=out
            ),
        ),
    ):
        frame = engine.memory.zeros((*like.shape[:2], *(n + 4 for n in like.shape[2:])), like.dtype)
        frame += 7
        run(frame[:, :, 2:-2, 2:-2])
        assert np.sum(given(engine, frame) == 7) == frame.size - like.size
    assert paper.executed == ["forward", "backward_data"] and engine.reorders == 0


@pytest.mark.parametrize("gap", [1, 3])
def test_weights_anywhere_in_memory(gap: int) -> None:
    """Parameters lie one behind the other: what does not begin at 16 bytes is copied, gradients back."""
    paper = PaperCudnn()
    engine = opened(paper)
    x, w, _, dy = drawn(EVEN, np.float32)
    bias = np.linspace(-1, 1, 8, dtype=np.float32)
    pool = engine.device.empty(2 * w.size + 8 + gap, np.float32)
    there, grad = shaped(pool[gap : gap + w.size], w.shape), shaped(pool[gap + w.size : -8], w.shape)
    pool[-8:], there[...] = engine.take(bias), engine.take(w)
    y = conv.forward(engine, engine.take(x), there, EVEN.window, bias=pool[-8:])
    near(given(engine, y), cpu.forward(CPU, x, w, EVEN.window, bias=bias), close(np.float32))
    conv.backward_weights(engine, engine.take(x), engine.take(dy), EVEN.window, grad, add=False)
    wanted = np.empty_like(w)
    cpu.backward_weights(CPU, x, dy, EVEN.window, wanted, add=False)
    near(given(engine, grad), wanted, close(np.float32))
    np.testing.assert_array_equal(given(engine, pool[-8:]), bias)
    assert paper.executed == ["forward", "backward_weights"]


@pytest.mark.parametrize("refuses", [lambda g: False, fused_without_tensor_cores])
def test_bias_and_rectifier_in_one_plan_or_after_it(refuses: Callable[[Graph], bool]) -> None:
    paper = PaperCudnn(refuses=refuses)
    engine = opened(paper)
    for _ in range(2):
        hold(engine, EVEN, np.float32)
    after = [launch for launch in paper.device.launches if launch == ("pointwise", "add_bias")]
    assert len(after) == (2 if refuses is fused_without_tensor_cores else 0)
    assert paper.executed == 2 * PASSES and paper.plans == 4, "a plan is made once"


def test_bfloat16_sums_in_float32() -> None:
    """Factors of 8 bits, each result rounded once; the gradient by weights and the bias are float32."""
    paper = PaperCudnn()
    engine = opened(paper, "bf16")
    x, w, _, dy = (inner(np.asarray(a).astype(BFLOAT16)) for a in drawn(STRIDED, np.float32))
    wide = [a.astype(np.float64) for a in (x, w, dy)]
    bias, window = np.linspace(-1, 1, 4, dtype=np.float32), STRIDED.window
    y = conv.forward(
        engine, engine.take(x), engine.take(w), window, groups=2, bias=engine.take(bias), relu=True
    )
    wanted = reference.forward(*wide[:2], **window.keywords, groups=2) + bias[:, None, None]
    once = (2.0**-8, 1e-6)
    assert y.dtype == BFLOAT16
    near(given(engine, y).astype(np.float64), np.maximum(wanted, 0), once)
    dx = conv.backward_data(engine, engine.take(dy), engine.take(w), window, x.shape, groups=2)
    wanted = reference.backward_data(wide[2], wide[1], x.shape, **window.keywords, groups=2)
    near(given(engine, dx).astype(np.float64), wanted, once)
    dw = engine.memory.zeros(w.shape, np.float32)
    for add in (False, True):
        conv.backward_weights(engine, engine.take(x), engine.take(dy), window, dw, groups=2, add=add)
    wanted = 2 * reference.backward_weights(wide[0], wide[2], w.shape, **window.keywords, groups=2)
    near(given(engine, dw), wanted, (1e-6, 1e-6))
    assert paper.executed == ["forward", "backward_data", "backward_weights", "backward_weights"]
    assert {e.notes for e in paper.taken} == {("TENSOR_CORE",)}


@pytest.mark.parametrize(
    ("precision", "deterministic", "notes"),
    [
        ("float32", True, ()),
        ("tf32", True, ("TENSOR_CORE",)),
        ("float32", False, ("NONDETERMINISTIC",)),
    ],
)
def test_engines_are_taken_by_their_notes(
    precision: Precision, deterministic: bool, notes: tuple[str, ...]
) -> None:
    paper = PaperCudnn()
    engine = opened(paper, precision, deterministic=deterministic)
    x, w, _, _ = drawn(EVEN, np.float32)
    conv.forward(engine, engine.take(x), engine.take(w), EVEN.window)
    assert [e.notes for e in paper.taken] == [notes]


def test_forbidden_notes() -> None:
    assert forbidden("float32", "float32", True) == (*NEVER, "TENSOR_CORE", "NONDETERMINISTIC")
    assert forbidden("float32", "tf32", False) == NEVER
    assert forbidden("bfloat16", "bf16", True) == (*NEVER, "WINOGRAD", "NONDETERMINISTIC")


def test_plans_follow_shapes_and_strides() -> None:
    paper = PaperCudnn()
    engine = opened(paper)
    x, w, _, _ = drawn(EVEN, np.float32)
    for how in ("dense", "dense", "margins", "margins"):
        conv.forward(engine, laid(engine, x, how), engine.take(w), EVEN.window)
    conv.forward(engine, engine.take(x[:1]), engine.take(w), EVEN.window)
    assert paper.plans == 3 and len(paper.executed) == 5


def test_plans_run_on_the_stream_of_the_moment() -> None:
    paper = PaperCudnn()
    engine = opened(paper)
    x, w, _, _ = drawn(EVEN, np.float32)
    for now in (7, 7, 9, 7):
        paper.now = now
        conv.forward(engine, engine.take(x), engine.take(w), EVEN.window)
    assert paper.streams == [7, 9, 7]


@NEEDS_CXX
def test_left_to_own_kernels() -> None:
    paper = PaperCudnn()
    engine = opened(paper)
    hold(engine, MORE[3], np.float32)  # negative pads
    hold(engine, EVEN, np.float64)
    hold(engine, Case((0, 4, 5, 4), 2, 1, EVEN.window, ()), np.float32)
    x, w, _, _ = drawn(CASES[1], np.float32)
    parts = split(x, CASES[1].own)
    halos = {side: engine.take(halo) for side, halo in parts.halos.items()}
    y = conv.forward(engine, Parts(engine.take(parts.own), halos), engine.take(w), CASES[1].window)
    near(given(engine, y), cpu.forward(CPU, x, w, CASES[1].window), close(np.float32))
    assert not paper.executed and not paper.plans


@NEEDS_CXX
def test_where_cudnn_has_no_plan() -> None:
    paper = PaperCudnn(engines=(Engine(("TENSOR_CORE",)),))
    engine = opened(paper)
    hold(engine, EVEN, np.float32)
    assert not paper.executed and set(launched(engine)) >= {"forward", "backward_data", "backward_weights"}
    refused = engine.convolutions.refused
    assert len(refused) == 4 and all(
        why.endswith("No execution plans support the graph.") for why in refused.values()
    )


def test_forms() -> None:
    """Strides over extents of one are what a dense array has; one spatial dim is two."""

    def of(shape: tuple[int, ...], part: Any = ...) -> Form:
        return form(inner(np.zeros(shape, np.float32))[part])

    assert of((2, 3, 4, 5)) == ((2, 3, 4, 5), (60, 1, 15, 3), "float32")
    assert of((2, 3, 5)) == ((2, 3, 1, 5), (15, 1, 15, 3), "float32")
    assert of((2, 3, 4, 5), np.s_[:1, :, :, 1:2]) == ((1, 3, 4, 1), (60, 1, 15, 3), "float32")
    assert of((2, 3, 4, 5, 6), np.s_[:, :1]).strides == (360, 1, 90, 18, 3)
    x = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (1, 8, 1, 1), (400, 4, 12, 20))
    assert form(x).strides == (8, 1, 8, 8)
    assert raised(Window((3,), (2,), (1,), (0,), (1,))) == Window((1, 3), (1, 2), (1, 1), (0, 0), (0, 1))
    assert raised(EVEN.window) is EVEN.window


def test_the_paper_refuses_what_cudnn_refuses() -> None:
    """A stand-in that takes anything would prove nothing."""
    paper = PaperCudnn()
    engine = opened(paper)
    x, w, _, _ = drawn(EVEN, np.float32)
    wanted = conv.forward(engine, engine.take(x), engine.take(w), EVEN.window)
    ways = engine.convolutions
    assert isinstance(ways, Convolutions)
    (asked,) = ways._chosen
    assert ways.library.plan(asked._replace(y=asked.y._replace(dims=(2, 8, 9, 7))))[1].startswith("extents")
    assert "extents and" in ways.library.plan(asked._replace(w=asked.w._replace(strides=(1, 1, 1))))[1]
    (handle,) = paper.handles
    graph = Graph(paper, {"compute_data_type": paper.data_type.FLOAT, "io_data_type": None, "handle": handle})
    with pytest.raises(TypeError, match="incompatible function arguments"):
        graph.tensor(name="x", dim=(1, 2), stride=[1, 1], data_type=paper.data_type.FLOAT)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="out of order"):
        graph.check_support()
    plan = ways._chosen[asked]
    assert plan is not None and given(engine, wanted).size
    names = {"x": engine.take(x), "w": engine.take(w), "y": wanted}
    pointers = {plan.tensors[name]: paper.device.address(array) for name, array in names.items()}
    with pytest.raises(AssertionError, match="misaligned"):
        plan.graph.execute({**pointers, plan.tensors["x"]: 4}, 0, handle=handle)
    with pytest.raises(ValueError, match="a pointer for each"):
        plan.graph.execute({plan.tensors["x"]: 16}, 0, handle=handle)
    big = opened(PaperCudnn(engines=ENGINES[-2:]), "tf32")
    x_there, w_there = big.take(x), big.take(w)
    conv.forward(big, x_there, w_there, EVEN.window)
    (plan,) = big.convolutions._chosen.values()
    assert plan is not None and plan.workspace_bytes == 100


@pytest.mark.parametrize(
    ("case", "how"),
    [*((case, "dense") for case in (CASES[0], CASES[2], CASES[3])), (EVEN, "margins"), (STRIDED, "margins")],
    ids=str,
)
def test_unequal_pads_where_engines_take_equal_ones(case: Case, how: str) -> None:
    """Zeros around a copy of x; of its gradient the middle."""
    paper = PaperCudnn(refuses=one_sided)
    engine = opened(paper)
    hold(engine, case, np.float32, how, out=how, add=True)
    assert paper.executed == PASSES and not launched(engine)
    frames = {plan.frame for plan in engine.convolutions._chosen.values() if plan is not None}
    unequal = [(lo - min(lo, hi), hi - min(lo, hi)) for lo, hi in zip(*case.window[3:], strict=True)]
    assert frames == {tuple(unequal) if any(map(any, unequal)) else ()}


def test_framed_forms() -> None:
    """What is around x makes a dense array, as long as the device's is."""
    for case in (CASES[0], EVEN, CASES[3]):
        x, w, _, dy = (form(a) for a in drawn(case, np.float32))
        equal, frame = framed(Asked("forward", x, w, dy, raised(case.window)))
        shape = [n + lo + hi for n, (lo, hi) in zip(x.dims[2:], frame, strict=True)]
        assert equal.x == form(inner(np.zeros((*x.dims[:2], *shape), np.float32)))
        assert equal.window.pad_lo == equal.window.pad_hi
        assert equal.window.outs(equal.x.dims[2:]) == dy.dims[2:]
