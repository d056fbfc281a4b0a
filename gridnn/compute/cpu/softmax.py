"""Softmax and cross-entropy in pieces, so that the classes may be cut over ranks.

logits x (N, K, *S), classes k_start .. k_start + K of all; labels (N, *S).  See the reference for the formulas.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.engine import Engine
from gridnn.compute.cpu.memory import Array
from gridnn.compute.cpu.native import softmax as native
from gridnn.compute.cpu.reference import softmax as reference

losses, best_class = reference.losses, reference.best_class


def block_max(engine: Engine, x: Array) -> Array:
    """Return the largest logit of the block: (N, *S), -inf if it has no class."""
    lib = engine.library(x.dtype)
    if lib is None or not x.size:
        return reference.block_max(x)
    top = np.empty((x.shape[0], *x.shape[2:]), x.dtype)
    native.block_max(lib, engine.fitted(x), top)
    return top


def block_sums(engine: Engine, x: Array, top: Array, labels: Array, k_start: int) -> Array:
    """Return float64 (3, N, *S): sum of e^(x - top), x_label - top or 0 if elsewhere, sum of x - top."""
    lib = engine.library(x.dtype)
    if lib is None or not x.size:
        return reference.block_sums(x, top, labels, k_start)
    return native.block_sums(lib, engine.fitted(x), top, labels, k_start)


def gradient(
    engine: Engine, x: Array, top: Array, sum_exp: Array, labels: Array, k_start: int, classes: int,
    smoothing: float, weight: Array,
) -> Array:  # fmt: skip
    """Return the gradient of sum(weight loss) by the logits of a block: (N, K, *S)."""
    lib = engine.library(x.dtype)
    if lib is None or not x.size:
        return reference.gradient(x, top, sum_exp, labels, k_start, classes, smoothing, weight)
    dx = engine.empty(x.shape, x.dtype)
    native.gradient(lib, engine.fitted(x), top, sum_exp, labels, k_start, classes, smoothing, weight, dx)
    return dx
