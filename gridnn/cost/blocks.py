"""Seconds of a layer's passes on blocks of many sizes at once: `cost.compute` for a search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import mul

import numpy as np
from numpy.typing import NDArray

from gridnn.cost.compute import WEIGHTED, at_width
from gridnn.cost.machine import Machine
from gridnn.cost.profile import Pass
from gridnn.network import spec as s

Floats = NDArray[np.float64]


def block_seconds(
    machine: Machine, spec: s.LayerSpec, inputs: Sequence[Sequence[Floats]], out: Sequence[Floats],
    kernel: Floats | None, kept: Floats, *, first: bool = False,
) -> Floats:  # fmt: skip
    """Return the seconds of forward and backward, as `cost.compute.pass_seconds` has them.

    Parameters
    ----------
    inputs, out
        Extents of the blocks (N, C, *S) that the layer reads and computes, each extent an array over the candidates.
    kernel
        The extents of the weight's block but the first, multiplied; None without weights.
    kept
        Elements kept for backward beside inputs and output.
    first
        The layer reads only the input of the network, which has no gradient.
    """
    weighted = isinstance(spec, WEIGHTED)
    passes: list[Pass] = ["forward", *(["data"] * (not first)), *(["weights"] * weighted)]  # type: ignore[list-item]
    results, reads = reduce(mul, out), [reduce(mul, i) for i in inputs]
    if isinstance(spec, s.Concat | s.Join):
        reads = [results]  # the largest pieces of its inputs are not on one rank
    flops = 2 * multiply_adds(spec, inputs, out, kernel)
    if weighted:
        touched = results + kept
    else:
        taps = prod(w.kernel for w in spec.windows) if isinstance(spec, s.Pool) else 1
        touched = taps * results + np.sum(reads, axis=0)
    product_s = flops / machine.flops_per_s
    touched_s = touched * machine.touch_s_per_element * machine.narrower(machine.element_bytes)
    total = np.zeros_like(results)
    for pass_ in passes:
        seconds = machine.layer_s + product_s + (0 if pass_ == "weights" else touched_s)
        total += (
            seconds if machine.profile is None else _measured(machine, spec, pass_, inputs[0], out, seconds)
        )
    return np.asarray(total)


def multiply_adds(
    spec: s.LayerSpec, inputs: Sequence[Sequence[Floats]], out: Sequence[Floats], kernel: Floats | None
) -> Floats:
    """Return the multiply-adds of a forward pass, as `network.count.multiply_adds` has them for one placement."""
    results, x = reduce(mul, out), inputs[0]
    if isinstance(spec, s.LSTM):
        return np.asarray(4 * x[2] * out[0] * out[1] * (x[1] + spec.hidden))
    if isinstance(spec, s.Attention):
        return np.asarray(2 * results * inputs[1][2])
    if isinstance(spec, s.Conv | s.ConvTranspose | s.Linear) and kernel is not None:
        # A result element takes C x window products, the input element of a transposed convolution K x window.
        return np.asarray(kernel * (reduce(mul, x) if isinstance(spec, s.ConvTranspose) else results))
    return np.zeros_like(results)


def _measured(
    machine: Machine,
    spec: s.LayerSpec,
    pass_: Pass,
    x: Sequence[Floats],
    y: Sequence[Floats],
    otherwise: Floats,
) -> Floats:
    """Return what the profile has measured, for each distinct pair of blocks once."""
    assert machine.profile is not None
    blocks, which = np.unique(np.stack([*x, *y], axis=1).astype(np.int64), axis=0, return_inverse=True)
    found = machine.profile.seconds_of_blocks(spec, pass_, blocks[:, : len(x)], blocks[:, len(x) :])
    return otherwise if found is None else at_width(machine, spec, found)[which.reshape(-1)]
