"""A sliding window over a block: what a local convolution or pool is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict


class Keywords(TypedDict):
    """The window without its kernel, as the reference takes it."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_lo: tuple[int, ...]
    pad_hi: tuple[int, ...]


class Window(NamedTuple):
    """One integer a spatial dim each; pads are per side, negative ones crop."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_lo: tuple[int, ...]
    pad_hi: tuple[int, ...]

    @property
    def keywords(self) -> Keywords:
        """All but the kernel."""
        return {
            "stride": self.stride,
            "dilation": self.dilation,
            "pad_lo": self.pad_lo,
            "pad_hi": self.pad_hi,
        }

    def outs(self, extents: Sequence[int]) -> tuple[int, ...]:
        """Output extents: floor((in + lo + hi - dilation (R - 1) - 1) / stride) + 1, at least 0."""
        parts = zip(extents, *self, strict=True)
        return tuple(max((n + lo + hi - d * (r - 1) - 1) // s + 1, 0) for n, r, s, d, lo, hi in parts)
