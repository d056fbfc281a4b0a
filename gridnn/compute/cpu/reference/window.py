"""Which elements a sliding window meets: integers shared by convolution and pooling.

A window of R taps slides over S input rows.  Instead of copying the input into a
padded frame, every tap t gets the outputs for which it lies on a real row:

    input row of (output o, tap t) = o * stride + t * dilation - pad_lo

    rows           0 1 2 3 4          pad_lo = 1, R = 3, stride 1
    tap 0    . 0 1 2 3                -> outputs 1..4 read rows 0..3
    tap 1      0 1 2 3 4              -> outputs 0..4 read rows 0..4
    tap 2      1 2 3 4 .              -> outputs 0..3 read rows 1..4

Both sides of such a pair are plain strided slices, so gathering is a copy a tap and
its adjoint an addition a tap.  A negative pad crops rows by the same formula, and
the output rows [a, b) of a window are the window with pad_lo - a * stride: strips of
a large sample need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = Sequence[int]

STRIP_BYTES = 2 << 20
"""Scratch memory of one strip: large enough for an efficient product, small enough to stay near the cache."""


@dataclass(frozen=True)
class Tap:
    """One offset of the window: the outputs for which it is on a real element, and those elements."""

    number: int  # flat index in window scan order
    outputs: tuple[slice, ...]
    inputs: tuple[slice, ...]


def out_extents(
    extents: Ints, kernel: Ints, *, stride: Ints, dilation: Ints, pad_lo: Ints, pad_hi: Ints
) -> tuple[int, ...]:
    """Output extents of a window: floor((in + lo + hi - dilation (R - 1) - 1) / stride) + 1, at least 0."""
    parts = zip(extents, kernel, stride, dilation, pad_lo, pad_hi, strict=True)
    return tuple(max((n + lo + hi - d * (r - 1) - 1) // s + 1, 0) for n, r, s, d, lo, hi in parts)


def taps(extents: Ints, outs: Ints, kernel: Ints, *, stride: Ints, dilation: Ints, pad_lo: Ints) -> list[Tap]:
    """The taps of a window that touch at least one element, in window scan order."""
    per_dim = [
        [_pair(t * d - lo, s, n, out) for t in range(r)]
        for n, out, r, s, d, lo in zip(extents, outs, kernel, stride, dilation, pad_lo, strict=True)
    ]
    found = []
    for number, pairs in enumerate(product(*per_dim)):
        if all(pair is not None for pair in pairs):
            real = [pair for pair in pairs if pair is not None]
            found.append(Tap(number, tuple(p[0] for p in real), tuple(p[1] for p in real)))
    return found


def _pair(start: int, stride: int, extent: int, out: int) -> tuple[slice, slice] | None:
    """Outputs and rows of one tap of one dim, or None where it never meets a row."""
    first = max(-(start // stride), 0)
    last = min((extent - 1 - start) // stride, out - 1)
    if extent == 0 or last < first:
        return None
    begin = start + first * stride
    return slice(first, last + 1), slice(begin, start + last * stride + 1, stride)


@dataclass(frozen=True)
class Piece:
    """A strip of the output: some samples, some rows of the first spatial dim, and its own taps."""

    samples: slice
    rows: slice
    outs: tuple[int, ...]
    taps: list[Tap]

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.samples.stop - self.samples.start)


def pieces(
    samples: int,
    extents: Ints,
    outs: Ints,
    kernel: Ints,
    row_bytes: int,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
) -> Iterator[Piece]:
    """Strips of an output whose scratch memory, `row_bytes` a row, stays near `STRIP_BYTES`.

    Whole samples where one fits; else single samples, cut along the first spatial dim.
    """
    total = outs[0]
    many = max(STRIP_BYTES // max(row_bytes, 1), 1)
    step = max(many // max(total, 1), 1)
    for begin in range(0, total, many):
        end = min(begin + many, total)
        part = (end - begin, *outs[1:])
        shifted = (pad_lo[0] - begin * stride[0], *pad_lo[1:])
        found = taps(extents, part, kernel, stride=stride, dilation=dilation, pad_lo=shifted)
        for n in range(0, samples, step):
            yield Piece(slice(n, min(n + step, samples)), slice(begin, end), part, found)
