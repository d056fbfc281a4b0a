"""Slow references for tests/compute: plain loops in float64, written from the definitions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = Sequence[int]


def out_extents(extents: Ints, kernel: Ints, stride: Ints, dilation: Ints, lo: Ints, hi: Ints) -> list[int]:
    """How many times the window fits, by trying each position."""
    outs = []
    for n, r, s, d, a, b in zip(extents, kernel, stride, dilation, lo, hi, strict=True):
        count = 0
        while count * s + d * (r - 1) < n + a + b:
            count += 1
        outs.append(count)
    return outs


def visits(
    extents: Ints, kernel: Ints, stride: Ints, dilation: Ints, lo: Ints, hi: Ints
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Every (output, window offset, real input element) that meet."""
    outs = out_extents(extents, kernel, stride, dilation, lo, hi)
    for o in product(*map(range, outs)):
        for r in product(*map(range, kernel)):
            i = tuple(a * s + b * d - p for a, s, b, d, p in zip(o, stride, r, dilation, lo, strict=True))
            if all(0 <= a < n for a, n in zip(i, extents, strict=True)):
                yield o, r, i


def conv(x: Array, w: Array, stride: Ints, dilation: Ints, lo: Ints, hi: Ints, groups: int) -> Array:
    """Convolution, one product at a time for each output, window element and group."""
    outs = out_extents(x.shape[2:], w.shape[2:], stride, dilation, lo, hi)
    y = np.zeros((x.shape[0], w.shape[0], *outs))
    k, c = w.shape[0] // groups, w.shape[1]
    for o, r, i in visits(x.shape[2:], w.shape[2:], stride, dilation, lo, hi):
        for g in range(groups):
            block = w[at(slice(g * k, (g + 1) * k), slice(None), *r)]
            for n in range(x.shape[0]):
                y[at(n, slice(g * k, (g + 1) * k), *o)] += block @ x[at(n, slice(g * c, (g + 1) * c), *i)]
    return y


def at(*index: Any) -> tuple[Any, ...]:
    """An index of mixed parts."""
    return index
