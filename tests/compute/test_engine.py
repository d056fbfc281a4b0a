"""The engine takes arrays as they come: other memory orders, dtypes, read-only; a number is right or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.cpu import conv, norm, pointwise, pool
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.reference import conv as reference
from gridnn.compute.cpu.reference import norm as reference_norm
from gridnn.compute.cpu.window import Window

RNG = np.random.default_rng(3)
WINDOW = Window((3, 3), (1, 1), (1, 1), (1, 0), (0, 1))


def engine() -> Engine:
    return Engine(load())


def strange(a: Any, how: str) -> Any:
    """Return an array of the same numbers in another guise."""
    match how:
        case "rows first":
            return np.ascontiguousarray(a)
        case "columns first":
            return np.asfortranarray(a)
        case "every second":
            wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
            wide[..., ::2] = a
            return wide[..., ::2]
        case "read only":
            b = a.copy()
            b.setflags(write=False)
            return b
        case "reversed":
            return a[:, ::-1].copy()[:, ::-1]
        case "foreign bytes":
            return a.astype(a.dtype.newbyteorder())
        case "unaligned":
            raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
            raw[...] = a
            return raw
        case "other dtype":
            return a.astype(np.float64 if a.dtype == np.float32 else np.float32)
    raise AssertionError(how)


GUISES = [
    "rows first",
    "columns first",
    "every second",
    "read only",
    "reversed",
    "foreign bytes",
    "unaligned",
]


@pytest.mark.parametrize("how", GUISES)
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_any_memory_gives_the_same_numbers(how: str, channels: int) -> None:
    x, w = RNG.standard_normal((2, channels, 6, 5)), RNG.standard_normal((4, channels, 3, 3))
    dy = RNG.standard_normal((2, 4, *WINDOW.outs(x.shape[2:])))
    e = engine()
    y = conv.forward(e, strange(x, how), strange(w, how), WINDOW)
    np.testing.assert_allclose(y, reference.forward(x, w, **WINDOW.keywords), atol=1e-12)
    dx = conv.backward_data(e, strange(dy, how), strange(w, how), WINDOW, x.shape)
    np.testing.assert_allclose(dx, reference.backward_data(dy, w, x.shape, **WINDOW.keywords), atol=1e-12)
    dw = np.ones(w.shape)
    conv.backward_weights(e, strange(x, how), strange(dy, how), WINDOW, dw)
    wanted = 1 + reference.backward_weights(x, dy, w.shape, **WINDOW.keywords)
    np.testing.assert_allclose(dw, wanted, atol=1e-12)
    np.testing.assert_array_equal(pointwise.activate(e, "relu", strange(x, how)), np.maximum(x, 0))
    np.testing.assert_allclose(
        norm.moments(e, strange(x, how), np.zeros(channels)), reference_norm.moments(x, np.zeros(channels))
    )
    np.testing.assert_array_equal(
        pool.max_forward(e, strange(x, how), WINDOW)[0], pool.max_forward(e, x, WINDOW)[0]
    )


@pytest.mark.parametrize("first", [np.float32, np.float64])
def test_a_gradient_of_another_dtype_is_converted(first: Any) -> None:
    x, w = RNG.standard_normal((2, 5, 6, 5)).astype(first), RNG.standard_normal((4, 5, 3, 3)).astype(first)
    dy = RNG.standard_normal((2, 4, *WINDOW.outs(x.shape[2:])))
    e, other = engine(), strange(dy.astype(first), "other dtype")
    dw = np.zeros(w.shape, first)
    conv.backward_weights(e, x, other, WINDOW, dw)
    np.testing.assert_allclose(dw, reference.backward_weights(x, dy, w.shape, **WINDOW.keywords), atol=1e-4)
    assert dw.dtype == first


def test_integers_and_half_precision_take_the_reference() -> None:
    x, w = RNG.integers(-3, 4, (2, 5, 6, 5)), RNG.integers(-3, 4, (4, 5, 3, 3))
    wanted = reference.forward(x, w, **WINDOW.keywords)
    np.testing.assert_array_equal(conv.forward(engine(), x, w, WINDOW), wanted)
    half = conv.forward(engine(), x.astype(np.float16), w.astype(np.float16), WINDOW)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, wanted)


def test_another_byte_order_is_another_question() -> None:
    """What was made for one dtype is not asked for the other, which only NumPy computes in."""
    e, x, w = engine(), RNG.standard_normal((2, 17, 6, 5)), RNG.standard_normal((4, 17, 3, 3))
    wanted = conv.forward(e, x, w, WINDOW)
    swapped = x.dtype.newbyteorder()
    np.testing.assert_allclose(conv.forward(e, x.astype(swapped), w.astype(swapped), WINDOW), wanted)


def test_copies_are_counted() -> None:
    e, x = engine(), RNG.standard_normal((2, 17, 6, 5))
    pointwise.activate(e, "relu", x)
    assert e.reorders == 1
    y = e.empty(x.shape, x.dtype)
    y[...] = x
    pointwise.activate(e, "relu", y)
    pointwise.activate(e, "relu", y[:, 3:9, 1:4])
    assert e.reorders == 1


def test_a_choice_is_measured_once_and_kept() -> None:
    ran: list[str] = []

    def candidate(name: str, answer: bool | None) -> Any:
        def run() -> bool | None:
            ran.append(name)
            return answer

        return run

    choice = Choice("measured", known={"'known'": "b"})
    every = {"a": candidate("a", None), "b": candidate("b", True), "c": candidate("c", False)}

    def providers(*names: str) -> dict[str, Any]:
        return {name: every[name] for name in names}

    choice.run("new", providers, ("a", "b", "c"), ())
    assert set(ran) == {"a", "b", "c"} and choice.made["new"] in ("a", "b")
    ran.clear()
    choice.run("new", providers, (), ())
    assert ran == [choice.made["new"]]
    ran.clear()
    Choice("measured", known={"old": "b"}).run("old", providers, ("a", "b"), ())
    Choice("fixed").run("new", providers, ("b", "a"), ())
    Choice("fixed", prefer="missing").run("new", providers, ("a", "b"), ())
    Choice("fixed", prefer="c").run("new", providers, ("a", "c"), ())  # c cannot: a computes
    assert ran == ["b", "b", "a", "c", "a"]


def _chosen(**seconds: list[float]) -> tuple[str, dict[str, int]]:
    """Return who is chosen of providers whose runs take these seconds, the last for ever, and how often each ran."""
    now, runs = [0.0], dict.fromkeys(seconds, 0)

    def candidate(name: str) -> Any:
        def run() -> None:
            runs[name] += 1
            now[0] += seconds[name][min(runs[name], len(seconds[name])) - 1]

        return run

    choice = Choice("measured", clock=lambda: now[0])
    choice.run("key", lambda: {name: candidate(name) for name in seconds}, (), ())
    runs[choice.made["key"]] -= 1  # that computed
    return choice.made["key"], runs


def test_a_choice_is_no_matter_of_first_runs_or_of_one_disturbance() -> None:
    assert _chosen(a=[0.03, 0.003], b=[0.008])[0] == "a"  # the first run makes tables
    assert _chosen(a=[0.003, 0.05, 0.05, 0.003], b=[0.004])[0] == "a"
    assert _chosen(a=[0.09, 0.05, 0.004], b=[0.0042])[0] == "b"  # b is far ahead: a had two chances
    name, runs = _chosen(a=[3.0], b=[0.5], c=[0.6])
    assert (name, runs) == ("b", {"a": 1, "b": 2, "c": 2})  # nobody waits for what is hopeless


def test_kept_choices_survive_a_damaged_file(tmp_path: Any) -> None:
    from gridnn.compute.cpu.choice import read_choices, write_choices

    path = tmp_path / "deep" / "choices.json"
    assert read_choices(path, "m") == {}
    write_choices(path, "m", {"k": "direct"})
    write_choices(path, "m", {"l": "winograd"})
    write_choices(path, "n", {"k": "onednn"})
    assert read_choices(path, "m") == {"k": "direct", "l": "winograd"}
    for text in ("{", "[]", '{"m": 3}', ""):
        path.write_text(text)
        assert read_choices(path, "m") == {}
        write_choices(path, "m", {"k": "direct"})
        assert read_choices(path, "m") == {"k": "direct"}
    assert [p.name for p in path.parent.iterdir()] == ["choices.json"]
