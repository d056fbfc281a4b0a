"""Own kernels or cuDNN, for each convolution: by a short measurement that is kept, or by rule.

    compute.conv   compute.choice   the first call of a shape                                later calls
    own                             own kernels                                              own kernels
    cudnn                           cuDNN makes a plan, or own kernels                       what it was
    auto           fixed            the same: cuDNN wherever it has a plan                   what it was
    auto           measured         own kernels, then the plan; results compared, both       the faster one
                                    timed, the host waiting for the device

A shape is what cuDNN is told (`cudnn_graph.Asked`): pass, extents, strides, dtypes, window, forbidden notes.  Left to
own kernels are halos in parts, arrays without elements, negative pads, float64, and blocks that are not aligned.

Which ranks must choose alike?  None within a step: every element of an output, and of a gradient by weights before it
is summed, is computed by one rank, and what several ranks hold comes out of one sum.  Runs that are to repeat bit for
bit must: a measured choice is kept in a file, which all ranks know alike when a run begins (`gridnn.train.engine`); by
rule it needs none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu.cudnn import ALIGNMENT, Library, forbidden, said
from gridnn.compute.gpu.cudnn_graph import TYPES, WRITES, Asked, Form, Pass, Plan, form, raised
from gridnn.compute.gpu.dense import widened
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.pointwise import add_bias
from gridnn.compute.gpu.room import MemoryShortError
from gridnn.compute.gpu.view import Parts

Given = Mapping[str, Any]
"""Arrays of a pass by their names: x, which may be in `Parts`, w, y, and of a forward pass bias, or None."""
LONG_S, MOST_CALLS = 2e-3, 64
"""A measurement takes so long, or so many calls: less would measure the clock and the wait."""
BOUNDS: Mapping[str, float] = {"float32": 1e-3, "": 5e-2}
"""What results may differ by, in parts of the largest element: far above rounding, far below a wrong stride.

By the dtype of the factors; "" is what all others and TF32 have.
"""


class Convolutions:
    """What was chosen so far in a process.

    Parameters
    ----------
    measured
        Whether shapes are measured; else cuDNN computes whatever it has a plan for.
    deterministic
        Whether sums must have one order.
    known
        Choices of earlier runs, "own" or "cudnn" by `str` of what was asked.
    clock
        Seconds.

    Attributes
    ----------
    made : dict
        Choices that were measured in this process.
    refused : dict
        Why own kernels compute what cuDNN was asked for, by what was asked.
    """

    def __init__(
        self, library: Library, measured: bool = True, deterministic: bool = True,
        known: Mapping[str, str] | None = None, clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self.library, self.measured, self.deterministic = library, measured, deterministic
        self.known, self._clock = dict(known or {}), clock
        self.made, self.refused = dict[str, str](), dict[Asked, str]()
        self._chosen = dict[Asked, Plan | None]()

    def asked(self, engine: Engine, kind: Pass, arrays: Given, window: Window, relu: bool) -> Asked | None:
        """Return a pass as cuDNN is told of it, or None where it is left to own kernels."""
        x, w, y, bias = arrays["x"], arrays["w"], arrays["y"], arrays.get("bias")
        if isinstance(x, Parts) or not (x.size and w.size and y.size):
            return None
        if min(*window.pad_lo, *window.pad_hi) < 0 or x.dtype != y.dtype or x.dtype.name not in TYPES:
            return None
        allowed = (x.dtype.name, "float32")
        others = (w.dtype.name, x.dtype.name if bias is None else bias.dtype.name)
        if any(name not in allowed for name in others) or (kind != "backward_weights" and w.dtype != x.dtype):
            return None
        if any(engine.device.address(a) % ALIGNMENT for a in (x, y)):
            return None
        notes = forbidden(x.dtype.name, engine.precision, self.deterministic)
        forms: tuple[Form, Form, Form] = (form(x), form(w), form(y))
        return Asked(kind, *forms, raised(window), "" if bias is None else others[1], relu, notes)

    def run(self, engine: Engine, asked: Asked, own: Callable[[], None], arrays: Given) -> None:
        """Compute a pass.

        Parameters
        ----------
        own
            Computes it by own kernels; it may run more than once, and writes the whole result every time.
        """
        if asked not in self._chosen:
            self._chosen[asked] = self._decided(engine, asked, own, arrays)
        plan = self._chosen[asked]
        if plan is None:
            own()
        else:
            self._execute(engine, plan, asked, arrays)

    def _decided(self, engine: Engine, asked: Asked, own: Callable[[], None], arrays: Given) -> Plan | None:
        """Return the plan that computes a shape from now on, or None for own kernels."""
        key = str(asked)
        earlier = self.known.get(key) if self.measured else None
        if earlier == "own":
            return None
        plan, why = self.library.plan(asked)
        if plan is not None and self.measured and earlier is None and engine.device.capturing:
            return None  # nothing is computed now that could be measured
        if plan is not None and self.measured and earlier is None:
            why = self._beaten(engine, plan, asked, own, arrays)
            self.made[key] = "own" if why else "cudnn"
        if why:
            self.refused[asked] = why
        return None if why else plan

    def _beaten(
        self, engine: Engine, plan: Plan, asked: Asked, own: Callable[[], None], arrays: Given
    ) -> str:  # fmt: skip
        """Return why own kernels are better, "" where they are not."""
        try:
            wrong = self._differs(engine, plan, asked, own, arrays)
            if wrong:
                return wrong
            mine_s = self._seconds(engine, own)
            its_s = self._seconds(engine, lambda: self._execute(engine, plan, asked, arrays))
        except MemoryShortError:  # for a second result or a workspace: the run itself may still have room
            return "there is no room to measure it"
        return f"own kernels take {mine_s:.1e} s, cuDNN {its_s:.1e} s" if mine_s <= its_s else ""

    def _differs(
        self, engine: Engine, plan: Plan, asked: Asked, own: Callable[[], None], arrays: Given
    ) -> str:  # fmt: skip
        """Return by how much the two results differ, or why there is one only, "" where that may be rounding.

        The host waits.
        """
        out: Array = arrays[WRITES[asked.kind]]
        own()
        apart = engine.empty(out.shape, np.float32)
        apart[...] = out
        most = _largest(engine, apart)
        try:
            self._execute(engine, plan, asked, arrays)
        except self.library.errors as error:  # what supports a graph may still refuse to start
            return f"its plan fails ({said(error)})"
        apart -= widened(engine, out)
        off = _largest(engine, apart)
        bound = BOUNDS.get("" if engine.precision == "tf32" else asked.x.dtype, BOUNDS[""])
        if not np.isfinite(most) or off <= bound * most:  # a run whose numbers are none says so itself
            return ""
        return f"its result differs by {off:.1e}, where own kernels find at most {most:.1e}"

    def _seconds(self, engine: Engine, way: Callable[[], None]) -> float:
        """Return the seconds of a call, among calls that follow each other."""
        way()  # compiles, and finds its memory
        calls = 1
        while True:
            engine.synchronize()
            started_s = self._clock()
            for _ in range(calls):
                way()
            engine.synchronize()
            spent_s = self._clock() - started_s
            if spent_s >= LONG_S or calls >= MOST_CALLS:
                return spent_s / calls
            calls *= 4

    def _execute(self, engine: Engine, plan: Plan, asked: Asked, arrays: Given) -> None:
        engine.device.between(partial(self.library.execute, engine, plan, asked, arrays))  # sets the stream
        if not plan.whole:
            add_bias(engine, arrays["y"], arrays.get("bias"), relu=asked.relu)


def _largest(engine: Engine, array: Array) -> float:
    """Return the largest magnitude of an array of the device, not a number if one of it is none."""
    most = np.maximum(array.max(), -array.min())
    found: Any = engine.device.to_host(most.reshape(1))[0]
    return float(found)
