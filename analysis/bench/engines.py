"""A convolution by each of our engines: three functions ready to be called, on arrays with the channels last.

The only place of the benchmarks that calls kernels by hand; networks go through the model, see `training.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from peer import measure

from gridnn.compute.cpu import conv, memory
from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native.library import load
from gridnn.compute.cpu.onednn.library import find
from gridnn.compute.cpu.window import Window

Array = measure.Array
Case = dict[str, Any]


class Products(NamedTuple):
    """The three products of a convolution; each returns its result, and may write it to the same memory again."""

    forward: Callable[[], Array]
    data: Callable[[], Array]
    weights: Callable[[], Array]


class Arrays(NamedTuple):
    """What a case computes on: x, w, dy given, y, dx, dw written."""

    x: Array
    w: Array
    dy: Array
    y: Array
    dx: Array
    dw: Array


def arrays(case: Case) -> Arrays:
    """Return a case's arrays, filled with the numbers that the peer has too."""
    y = [case["x"][0], case["w"][0], *_window(case).outs(case["x"][2:])]
    x, w, dy = (
        measure.channels_last(measure.numbers(shape, seed))
        for seed, shape in enumerate((case["x"], case["w"], y))
    )
    return Arrays(x, w, dy, *(memory.zeros(like.shape, np.float32) for like in (dy, x, w)))


def run_engine(threads: int, prefer: str = "chosen") -> Engine:
    """Return the engine that a run has by default, or one that prefers a provider wherever it is able."""
    choice = Choice("measured") if prefer == "chosen" else Choice("fixed", prefer=prefer)
    engine = Engine(None if prefer == "numpy" else load(), onednn=find(), choice=choice)
    engine.set_threads(threads)
    return engine


def products(prefer: str, case: Case, threads: int) -> Products:
    """Return the products by a provider: "chosen", "direct", "winograd", "onednn" or "numpy"."""
    return _through(run_engine(threads, prefer), case)


def _through(engine: Engine, case: Case) -> Products:
    """Return the products through the interface of the engine, with outputs as it provides them."""
    a, window, groups = arrays(case), _window(case), case["groups"]

    def weights() -> Array:
        conv.backward_weights(engine, a.x, a.dy, window, a.dw, groups=groups, add=False)
        return a.dw

    return Products(
        lambda: conv.forward(engine, a.x, a.w, window, groups=groups),
        lambda: conv.backward_data(engine, a.dy, a.w, window, a.x.shape, groups=groups),
        weights,
    )


def _window(case: Case) -> Window:
    return Window(*(tuple(case[word]) for word in ("kernel", "stride", "dilation", "pad_lo", "pad_hi")))
