"""The engine of a rank: which kernels compute, where arrays come from, and what was reordered.

    provider    needs                         computes
    native      a C compiler at installation  everything that is often: float32 and float64, AVX-512, AVX2 or generic
    onednn      any libdnnl.so.3              convolution and linear layers in float32, where it was measured faster;
                                              their products with bfloat16 factors, where that was asked for
    numpy       nothing                       everything: the reference, and what the others cannot

The modules beside this file are the interface, one a subject: plain functions whose first argument is an engine.
Arrays are (N, C, *S) with channels innermost (see memory); one that is not is copied first, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.cpu.choice import Choice
from gridnn.compute.cpu.memory import Array, Memory, Workspace, is_dense
from gridnn.compute.cpu.native import pointwise
from gridnn.compute.cpu.native.library import Library, fits, load
from gridnn.compute.cpu.onednn.library import Library as OneDnn
from gridnn.compute.cpu.onednn.precision import FLOAT32


class Engine:
    """Providers, memory and scratch of one rank.

    Parameters
    ----------
    native
        Compiled kernels, or None: then NumPy computes.
    memory
        Where outputs come from.
    onednn
        oneDNN, or None: then the kernels compute alone.
    choice
        How a provider is chosen for a shape; by rule if None.

    Attributes
    ----------
    reorders : int
        Arrays copied so far because their memory was not channels-last.
    said : tuple of str
        Why this one computes, where more could have been expected.
    """

    where = "cpu"

    def __init__(
        self, native: Library | None, memory: Memory | None = None, onednn: OneDnn | None = None,
        choice: Choice | None = None,
    ) -> None:  # fmt: skip
        self.native, self.onednn, self.choice = native, onednn, choice or Choice()
        self.memory, self.work = memory or Memory(), Workspace()
        self.reorders, self.said = 0, tuple[str, ...]()

    @classmethod
    def detect(cls, memory: Memory | None = None) -> Engine:
        """Return the compiled kernels of this machine, chosen by rule; NumPy where there are none."""
        return cls(load(), memory)

    def library(self, dtype: np.dtype[Any]) -> Library | None:
        """Return the compiled kernels if they compute in `dtype`."""
        return self.native if dtype.char in "fd" and dtype.isnative else None

    def activations(self, dtype: DTypeLike) -> np.dtype[Any]:
        """Return the type of the arrays between layers whose parameters are of a dtype: the same."""
        return np.dtype(dtype)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of logical shape (N, C, *S) from the engine's memory."""
        return self.memory.empty(shape, dtype)

    def take(self, array: Array) -> Array:
        """Return a host's array where the engine computes: itself."""
        return array

    def give(self, array: Array) -> Array:
        """Return an array of the engine on the host: itself."""
        return array

    def holds(self, array: Array) -> bool:
        """Return whether an array is on a device: no."""
        return False

    def fitted(self, x: Array, like: Array | None = None) -> Array:
        """Return x, or a copy of it with channels innermost and, if given, of the dtype of `like`."""
        dtype = x.dtype if like is None else like.dtype
        if fits(x) and x.dtype == dtype:
            return x
        copy = self.empty(x.shape, dtype)
        self.copy(x, copy)
        return copy

    def dense(self, w: Array, like: Array) -> Array:
        """Return weights (K, C, *R), or a copy of them, K, R, C in memory without gaps, of the dtype of `like`."""
        if w.dtype == like.dtype and is_dense(w):
            return w
        copy = self.empty(w.shape, like.dtype)
        self.copy(w, copy)
        return copy

    def copy(self, x: Array, y: Array) -> None:
        """Copy between arrays of one shape and different memory orders."""
        self.reorders += 1
        lib = self.library(x.dtype)
        if lib is not None and x.dtype == y.dtype and x.flags.aligned and y.flags.aligned and x.ndim <= 5:
            pointwise.copy(lib, x, y)
        else:
            y[...] = x

    def set_threads(self, threads: int) -> None:
        """Use that many threads in this process from now on."""
        if self.native is not None:
            self.native.set_threads(threads)

    @property
    def name(self) -> str:
        """The providers, in words, and the factors of oneDNN's products unless they are float32."""
        names = [f"native ({self.native.level})"] if self.native is not None else []
        if self.onednn is not None:
            # What was measured with one kind of factors says nothing of another.
            factors = "" if self.onednn.operands == FLOAT32 else f" ({self.onednn.operands.name})"
            names.append(f"oneDNN {'.'.join(map(str, self.onednn.version))}{factors}")
        return " + ".join(names) or "numpy"
