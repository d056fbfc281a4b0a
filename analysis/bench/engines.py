"""A convolution by each of our engines: three functions ready to be called, on arrays with the channels last.

The only place of the benchmarks that calls kernels by hand; networks go through the model, see `training.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from peer import measure

from gridnn.compute.cpu import conv, memory
from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.native import conv as native_conv
from gridnn.compute.cpu.native import library as native_library
from gridnn.compute.cpu.native import winograd
from gridnn.compute.cpu.onednn import conv as onednn_conv
from gridnn.compute.cpu.onednn import library as onednn_library
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


def by_choice(case: Case, threads: int) -> Products:
    """Return the products by whatever the engine of this machine chooses, as layers call it."""
    return _through(Engine.detect(), case, threads)


def by_reference(case: Case, threads: int) -> Products:
    """Return the products by NumPy."""
    return _through(Engine(None), case, threads)


def by_native(case: Case, threads: int) -> Products:
    """Return the products by our own direct kernels."""
    a, lib, work = arrays(case), _native(threads), memory.Workspace()
    window, groups = native_conv.window(_window(case)), case["groups"]
    return _into(
        a,
        lambda: native_conv.forward(lib, work, a.x, a.w, a.y, window, groups=groups),
        lambda: native_conv.backward_data(lib, work, a.dy, a.w, a.dx, window, groups=groups),
        lambda: native_conv.backward_weights(lib, work, a.x, a.dy, a.dw, window, groups=groups),
    )


def by_winograd(case: Case, threads: int) -> Products | None:
    """Return the products by our own Winograd kernels, for 3 x 3 and stride 1."""
    if case["w"][2:] != [3, 3] or [*case["stride"], *case["dilation"], case["groups"]] != [1] * 5:
        return None
    a, lib, work, pads = arrays(case), _native(threads), memory.Workspace(), tuple(case["pad_lo"])
    return _into(
        a,
        lambda: winograd.forward(lib, work, a.x, a.w, a.y, pad_lo=pads),
        lambda: winograd.backward_data(lib, work, a.dy, a.w, a.dx, pad_lo=pads),
        lambda: winograd.backward_weights(lib, work, a.x, a.dy, a.dw, pad_lo=pads),
    )


def by_onednn(case: Case, threads: int) -> Products | None:
    """Return the products by oneDNN (it reads OMP_NUM_THREADS), packing the weights at every call, as PyTorch does."""
    lib, a, how = onednn_library.find(), arrays(case), {**_window(case).keywords, "groups": case["groups"]}
    if lib is None:
        return None
    calls = (
        partial(onednn_conv.forward, lib, a.x, a.w, None, a.y, **how),
        partial(onednn_conv.backward_data, lib, a.dy, a.w, a.dx, **how),
        partial(onednn_conv.backward_weights, lib, a.x, a.dy, a.dw, **how),
    )
    return _into(a, *calls) if all(call() for call in calls) else None


ENGINES: dict[str, Callable[[Case, int], Products | None]] = {
    "chosen": by_choice,
    "reference": by_reference,
    "native": by_native,
    "winograd": by_winograd,
    "onednn": by_onednn,
}


def _into(
    a: Arrays, forward: Callable[[], Any], data: Callable[[], Any], weights: Callable[[], Any]
) -> Products:
    """Return products that write where `a` says."""

    def then(call: Callable[[], Any], result: Array) -> Callable[[], Array]:
        def work() -> Array:
            call()
            return result

        return work

    return Products(then(forward, a.y), then(data, a.dx), then(weights, a.dw))


def _through(engine: Engine, case: Case, threads: int) -> Products:
    """Return the products through the interface of the engine, with outputs as it provides them."""
    a, window, groups = arrays(case), _window(case), case["groups"]
    engine.set_threads(threads)

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


def _native(threads: int) -> native_library.Library:
    library = native_library.load()
    if library is None:
        raise ValueError("the kernels are not built")
    library.set_threads(threads)
    return library
