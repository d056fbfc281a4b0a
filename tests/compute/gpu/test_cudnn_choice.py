"""Own kernels or a cuDNN made of paper: the faster one, kept, and never a wrong one."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from gridnn.commands.doctor.judge import judge
from gridnn.commands.doctor.words import _cudnn, lines
from gridnn.compute.cpu import conv as cpu
from gridnn.compute.gpu import choice, conv
from gridnn.compute.gpu.cudnn import Found, Library, find_cudnn
from gridnn.compute.gpu.cudnn_engine import CudnnEngine, open_engine
from gridnn.compute.gpu.room import Room, no_room
from gridnn.errors import InputError
from tests.commands.test_doctor import on_gpu, report
from tests.compute.gpu.conftest import near
from tests.compute.gpu.test_conv import close, drawn, inner
from tests.compute.gpu.test_conv_calls import CPU, NEEDS_CXX, launched
from tests.compute.gpu.test_cudnn import BFLOAT16, EVEN, STRIDED, opened
from tests.support.paper_cudnn import Engine, PaperCudnn
from tests.support.shim.device import ShimDevice

pytestmark = NEEDS_CXX
WINDOW = EVEN.window


def timed(engine: CudnnEngine, paper: PaperCudnn, own_s: float, its_s: float) -> None:
    """Let time pass by what is done."""
    engine.convolutions._clock = lambda: len(launched(engine)) * own_s + len(paper.executed) * its_s


def forward(engine: CudnnEngine) -> Any:
    x, w, _, _ = drawn(EVEN, np.float32)
    y = conv.forward(engine, engine.take(x), engine.take(w), WINDOW)
    near(engine.device.to_host(y.transpose(0, 2, 3, 1)), cpu.forward(CPU, x, w, WINDOW).transpose(0, 2, 3, 1),
         close(np.float32))  # fmt: skip
    return y


@pytest.mark.parametrize(("own_s", "its_s", "faster"), [(1e-3, 1e-4, "cudnn"), (1e-4, 1e-3, "own")])
def test_the_faster_one_is_taken_and_kept(own_s: float, its_s: float, faster: str) -> None:
    paper = PaperCudnn()
    engine = opened(paper, how="auto")
    timed(engine, paper, own_s, its_s)
    forward(engine)
    waits, before = paper.device.waits, (len(launched(engine)), len(paper.executed))
    assert waits > 0 and min(before) > 1, "both were tried, and the host waited for them"
    forward(engine)
    forward(engine)
    more = (len(launched(engine)) - before[0], len(paper.executed) - before[1])
    assert more == ((2, 0) if faster == "own" else (0, 2))
    assert list(engine.convolutions.made.values()) == [faster]
    assert ("own kernels take" in str(engine.convolutions.refused)) == (faster == "own")

    again = PaperCudnn()
    later = opened(again, how="auto")
    later.convolutions.known |= engine.convolutions.made
    forward(later)
    assert len(again.executed) == again.plans == (faster == "cudnn") == 1 - len(launched(later))
    assert later.convolutions.made == {}


def test_calls_of_a_measurement() -> None:
    """Short ones are repeated until the clock and the wait are small beside them, or there were many."""
    paper = PaperCudnn()
    engine = opened(paper, how="auto")
    done = list[int]()
    for second, calls in ((choice.LONG_S, 1), (choice.LONG_S / 5, 16), (0.0, choice.MOST_CALLS)):
        done.clear()
        engine.convolutions._clock = partial(lambda second: second * len(done), second)
        assert engine.convolutions._seconds(engine, partial(done.append, 0)) == pytest.approx(second)
        assert len(done) == 1 + sum(4**i for i in range(4) if 4**i <= calls)


def test_every_shape_is_measured_by_itself() -> None:
    paper = PaperCudnn()
    engine = opened(paper, how="auto")
    timed(engine, paper, 1e-3, 1e-4)
    for case in (EVEN, STRIDED):
        x, w, _, dy = drawn(case, np.float32)
        dw = engine.memory.zeros(w.shape, np.float32)
        for _ in range(2):
            groups = case.groups
            conv.backward_data(engine, engine.take(dy), engine.take(w), case.window, x.shape, groups=groups)
            conv.backward_weights(engine, engine.take(x), engine.take(dy), case.window, dw, groups=groups)
        wanted = np.zeros_like(w)
        for _ in range(2):  # what is measured more than once is added once a call
            cpu.backward_weights(CPU, x, dy, case.window, wanted, groups=groups)
        near(dw.view(np.ndarray), wanted, close(np.float32))
    assert sorted(engine.convolutions.made.values()) == ["cudnn"] * 4 and len(engine.convolutions.made) == 4


def test_by_rule_no_clock_is_asked() -> None:
    paper = PaperCudnn()
    engine = open_engine(
        paper.device, "float32", Room(), "auto", measured=False, load=paper.load, stream=paper.stream
    )
    assert isinstance(engine, CudnnEngine)
    engine.convolutions._clock = lambda: pytest.fail("a clock")
    forward(engine)
    assert paper.executed == ["forward"] and not engine.convolutions.made and "where it can" in engine.name


def test_a_wrong_result_is_never_taken() -> None:
    """The best engine says nothing of what it does to numbers, and is the faster one."""
    paper = PaperCudnn(engines=(Engine(factors=lambda array: array * 1.01),))
    engine = opened(paper, how="auto")
    timed(engine, paper, 1.0, 1e-6)
    forward(engine)
    (why,) = engine.convolutions.refused.values()
    assert "its result differs by" in why and paper.executed == ["forward"]
    assert list(engine.convolutions.made.values()) == ["own"]


def test_a_plan_that_does_not_start_is_left_aside() -> None:
    """Support of a graph is asked of engines, not of the libraries that they load when they start."""
    paper = PaperCudnn(engines=(Engine(starts=False),))
    engine = opened(paper, how="auto")
    timed(engine, paper, 1.0, 1e-6)
    for _ in range(2):
        forward(engine)
    (why,) = engine.convolutions.refused.values()
    assert why == "its plan fails (CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING)"
    assert list(engine.convolutions.made.values()) == ["own"] and paper.plans == 1 and not paper.executed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_say_nothing_of_cudnn(value: float) -> None:
    paper = PaperCudnn()
    engine = opened(paper, how="auto")
    timed(engine, paper, 1e-3, 1e-4)
    x, w, _, _ = drawn(EVEN, np.float32)
    x[0, 0, 3, 3] = value
    with np.errstate(invalid="ignore"):
        conv.forward(engine, engine.take(x), engine.take(w), WINDOW)
    assert list(engine.convolutions.made.values()) == ["cudnn"]


def test_without_room_own_kernels_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = PaperCudnn()
    engine = opened(paper, how="auto")

    def short(*arguments: Any) -> None:
        raise no_room(100, 0, Room(), "paper")

    monkeypatch.setattr(engine.convolutions.library, "execute", short)
    forward(engine)
    assert list(engine.convolutions.made.values()) == ["own"]


def gone(name: str) -> Any:
    raise ModuleNotFoundError(f"No module named '{name}'")


class NoStart(PaperCudnn):
    """A library that gets no handle."""

    def create_handle(self) -> Any:
        raise RuntimeError("cudnnHandle Create failed")


class NoLibrary(PaperCudnn):
    """A frontend without libcudnn."""

    def backend_version_string(self) -> str:
        raise RuntimeError("libcudnn.so.9 was not found")


@pytest.mark.parametrize(
    ("load", "words"),
    [(gone, "cannot be imported.*cudnn"), (NoLibrary().load, "finds no libcudnn.*libcudnn.so.9")],
)
def test_without_cudnn(load: Any, words: str) -> None:
    """Left to the run nobody hears of it; asked for, one sentence says what to install."""
    for conv_key in ("auto", "own"):
        engine = open_engine(ShimDevice(), "float32", Room(), conv_key, load=load, stream=lambda: 0)
        assert not isinstance(engine, CudnnEngine) and "cuDNN" not in engine.name
    with pytest.raises(
        InputError, match=rf'compute\.conv = "cudnn" needs.*{words}.*pip install.*gridnn\[cudnn\]'
    ):
        open_engine(ShimDevice(), "float32", Room(), "cudnn", load=load, stream=lambda: 0)


def test_a_device_that_is_none_of_cuda() -> None:
    """Addresses of the host are never given to a cuDNN that happens to be installed."""
    paper = PaperCudnn()
    assert not isinstance(open_engine(paper.device, "float32", Room(), "auto", load=paper.load), CudnnEngine)
    with pytest.raises(InputError, match=r"fibers \(forward\) is no CUDA device"):
        open_engine(paper.device, "float32", Room(), "cudnn", load=paper.load)


def test_names_and_versions() -> None:
    paper = PaperCudnn()
    engine = opened(paper, "tf32", how="auto")
    assert "in TF32, convolutions by cuDNN 9.13.0 where it measures faster" in engine.name
    assert engine.machine.startswith("fibers (forward) 8.0, tf32, cuDNN 9.13.0 through 1.18.0, gridnn ")
    device = ShimDevice("order) (device 3")
    assert CudnnEngine(device, "float32", None, engine.convolutions).machine.startswith(
        "fibers (order) 8.0, float32"
    )
    assert find_cudnn(paper.load) == Found("1.18.0", "9.13.0")
    assert "9.13.0, frontend 1.18.0: convolutions" in _cudnn(find_cudnn(paper.load)._asdict())
    assert _cudnn(find_cudnn(gone)._asdict()).startswith("none: its frontend cannot be imported")


def test_the_doctor_says_so() -> None:
    ranks = [on_gpu(0), on_gpu(1)]
    for rank, load in zip(ranks, (PaperCudnn().load, gone), strict=True):
        rank["gpu"]["cudnn"] = find_cudnn(load)._asdict()
    given = report(ranks, device="gpu", transport="staged")
    first, second = (line for line in lines(given, judge(given)) if "own kernels" in line)
    assert first.startswith("cuDNN       rank 0: 9.13.0, frontend 1.18.0: ")
    assert second.strip().startswith("rank 1: none: its frontend cannot be imported")


def test_cupy_says_the_stream() -> None:
    class Cupy:
        class cuda:
            @staticmethod
            def get_current_stream() -> Any:
                return type("Stream", (), {"ptr": 11})

    paper = PaperCudnn()
    library = Library(Found("1", "9"), load=lambda name: Cupy if name == "cupy" else paper)
    assert library._current_stream() == 11


def test_a_cudnn_that_does_not_start() -> None:
    paper = NoStart()
    words = {"load": paper.load, "stream": paper.stream}
    assert not isinstance(open_engine(paper.device, "float32", Room(), "auto", **words), CudnnEngine)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"cuDNN 9\.13\.0 does not start on fibers.*Create failed.*take compute\.conv"
    ):
        open_engine(paper.device, "float32", Room(), "cudnn", **words)  # type: ignore[arg-type]


def test_the_clock_is_read_when_the_device_has_done_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(PaperCudnn(), how="auto")
    events = list[str]()
    monkeypatch.setattr(engine, "synchronize", partial(events.append, "wait"))

    def clock() -> float:
        events.append("clock")
        return choice.LONG_S * events.count("clock")

    engine.convolutions._clock = clock
    engine.convolutions._seconds(engine, partial(events.append, "call"))
    assert events == ["call", "wait", "clock", "call", "wait", "clock"]


def test_bfloat16_is_measured_as_well() -> None:
    """Results of 8 bits differ by their rounding, and by no more."""
    paper = PaperCudnn()
    engine = opened(paper, "bf16", how="auto")
    engine.convolutions._clock = lambda: -1e-3 * len(paper.executed)  # the longer it works, the better
    x, w, _, dy = (inner(np.asarray(a).astype(BFLOAT16)) for a in drawn(STRIDED, np.float32))
    dw = engine.memory.zeros(w.shape, np.float32)
    conv.forward(engine, engine.take(x), engine.take(w), STRIDED.window, groups=2)
    conv.backward_data(engine, engine.take(dy), engine.take(w), STRIDED.window, x.shape, groups=2)
    conv.backward_weights(engine, engine.take(x), engine.take(dy), STRIDED.window, dw, groups=2)
    assert list(engine.convolutions.made.values()) == ["cudnn"] * 3 and not engine.convolutions.refused
