"""Layers as products: linear layers, convolutions and transposed convolutions.

A convolution is a product of matrices whose X repeats elements: row (c, r), column (n, o) is input o * stride + r.

    kernel 3, stride 1       r=0   x0 x1 x2 x3          x2 stands in three places: an input is in up to 3 pairs (o, r)
    X as a matrix            r=1   x1 x2 x3 x4          stride 2: x2 in two, x3 in one
                             r=2   x2 x3 x4 x5

Loomis and Whitney hold for the matrices.  A rank that owns some inputs and is sent x others has at most

    entries of those it owns  +  fold * x         fold: the most pairs (o, r) that one input is in,
                                                  ceil(kernel / stride) without padding or dilation

of the matrix X, so a convolution is a product of matrices whose X costs 1 / fold an entry.  The weaker consequence

    |V|^2  <=  fold * w * x * y

has the form of Demmel and Dinh 2018 (arXiv 1802.06905) and Chen, Demmel, Dinh, Haberle and Holtz 2022 (PASC; arXiv
2204.08279), whose factor is said to be w_F h_F / (sigma_w sigma_h).  Where the stride does not divide the kernel it
must be rounded up: kernel 3, stride 2, every other input, r in {0, 2}: L outputs are 2 L multiplications on L + 1
inputs and 2 weights, and (2 L)^2 > 1.5 * 2 * (L + 1) * L for L > 3.  Here pairs are counted, for every window.

The taps r could as well stand with the output channels; then Y repeats, and a transposed convolution is best read so.
A grouped convolution is `groups` products side by side.  The sum of their parts obeys the same inequality, with faces
that are larger against |V|: up to P = groups nothing has to move.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from gridnn.cost.bounds.matmul import Product, matrices
from gridnn.geometry.window import TransposedWindow, Window
from gridnn.network import spec as s

Shape = tuple[int, ...]
WEIGHTED = (s.Conv, s.ConvTranspose, s.Linear)
"""Layers that are one product."""


class Extents(NamedTuple):
    """A layer as the extents of W (outputs, inputs) and X (inputs, columns); of one group where there are groups."""

    outputs: int
    inputs: int
    columns: int


class Pairs(NamedTuple):
    """Pairs (output, tap) of one space dim that read an input, not padding; what takes part; most that share one."""

    pairs: int
    taps: int
    inputs: int
    outputs: int
    of_input: int
    of_output: int


def extents(spec: s.Conv | s.ConvTranspose | s.Linear, x: Shape, y: Shape) -> Extents:
    """Return the extents of a layer's matrices; `x` and `y` are (N, C, *space) or (N, F)."""
    groups = spec.groups if isinstance(spec, s.Conv) else 1
    taps = 1 if isinstance(spec, s.Linear) else prod(w.kernel for w in spec.windows)
    # A transposed convolution spreads an input over the taps: they stand with its outputs.
    if isinstance(spec, s.ConvTranspose):
        return Extents(y[1] * taps, x[1], x[0] * prod(x[2:]))
    return Extents(y[1] // groups, x[1] // groups * taps, y[0] * prod(y[2:]))


def product(spec: s.Conv | s.ConvTranspose | s.Linear, x: Shape, y: Shape) -> Product:
    """Return a layer as a product, its multiplications by padding left out.

    Parameters
    ----------
    x, y
        Global shapes of input and output, (N, C, *space) or (N, F).
    """
    n, c, *x_space = x
    k = y[1]
    if isinstance(spec, s.Linear):
        return matrices(k, c, n)
    groups = spec.groups if isinstance(spec, s.Conv) else 1
    windows: tuple[Window | TransposedWindow, ...] = spec.windows
    dims = [_layer_pairs(w, i, o) for w, i, o in zip(windows, x_space, y[2:], strict=True)]
    # In every dim the array of which an element stands in fewer pairs is the one that repeats.
    repeats_x = [dim.of_input <= dim.of_output for dim in dims]
    in_x = prod(d.pairs if repeats else d.inputs for d, repeats in zip(dims, repeats_x, strict=True))
    in_y = prod(d.outputs if repeats else d.pairs for d, repeats in zip(dims, repeats_x, strict=True))
    weights = k * (c // groups) * prod(d.taps for d in dims)
    return Product(
        n * k * (c // groups) * prod(d.pairs for d in dims),
        (weights, n * c * in_x, n * k * in_y),
        (
            1,
            prod(d.of_input for d, repeats in zip(dims, repeats_x, strict=True) if repeats),
            prod(d.of_output for d, repeats in zip(dims, repeats_x, strict=True) if not repeats),
        ),
    )


def _layer_pairs(window: Window | TransposedWindow, extent: int, out: int) -> Pairs:
    if isinstance(window, Window):
        return _pairs(window, extent, out)
    # A transposed convolution is the adjoint of one from its outputs to its inputs.
    turned = Window(window.kernel, window.stride, window.pad_lo, window.pad_hi, window.dilation)
    p = _pairs(turned, out, extent)
    return Pairs(p.pairs, p.taps, p.outputs, p.inputs, p.of_output, p.of_input)


@lru_cache(maxsize=1024)
def _pairs(window: Window, extent: int, out: int) -> Pairs:
    """Count the pairs (o, r) of a convolution that read one of `extent` inputs."""
    taps = np.arange(window.kernel) * window.dilation - window.pad_lo
    reads = np.arange(out)[:, None] * window.stride + taps
    inside = (reads >= 0) & (reads < extent)
    of_input, of_output = np.bincount(reads[inside], minlength=extent), inside.sum(axis=1)
    return Pairs(
        int(inside.sum()), int(inside.any(axis=0).sum()), int((of_input > 0).sum()), int((of_output > 0).sum()),
        int(of_input.max()), int(of_output.max()),
    )  # fmt: skip
