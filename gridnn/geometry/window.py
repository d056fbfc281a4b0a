"""Windows: which inputs an interval of outputs needs, for every sliding operation.

One dim of a convolution or pool, output ``o`` reads inputs ``o*stride - pad_lo + j*dilation``:

    input    . . 0 1 2 3 4 5 6 . .        '.' is padding
    block          [----]                 outputs 2..3 of kernel 3, stride 1, pad 1
    needs        [--------]               inputs 1..4: own rows and one row of halo on each side

Three maps from outputs to inputs share one face (`out`, `needs`): the window of a convolution or
pool, that of a transposed convolution, and that of an upsampling.  All are exact: what `needs` returns is
what is read, however many neighbours own it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gridnn.geometry.interval import Interval


class Need(NamedTuple):
    """What an interval of outputs reads of one dim.

    `pad_lo` and `pad_hi` are the paddings of the local operation; negative means that rows of `interval`
    are not read at that side.
    """

    interval: Interval
    pad_lo: int
    pad_hi: int


@dataclass(frozen=True)
class Window:
    """One dim of a convolution or pool: kernel, stride, padding per side, dilation."""

    kernel: int
    stride: int = 1
    pad_lo: int = 0
    pad_hi: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Extent of the dilated kernel."""
        return (self.kernel - 1) * self.dilation + 1

    def out(self, extent: int) -> int:
        """Return the output extent for an input extent."""
        return max(0, (extent + self.pad_lo + self.pad_hi - self.reach) // self.stride + 1)

    def needs(self, out: Interval, extent: int) -> Need:
        """Return the inputs that the outputs `out` read, and the padding left for the local operation."""
        if out.size == 0:
            return Need(Interval(0, 0), 0, 0)
        start = out.start * self.stride - self.pad_lo
        stop = (out.stop - 1) * self.stride - self.pad_lo + self.reach
        inside = Interval(start, stop) & Interval(0, extent)
        if inside.size == 0:  # every output of the block reads padding only
            inside = Interval(0, 0)
            return Need(inside, stop - start, 0)
        return Need(inside, inside.start - start, stop - inside.stop)

    def interior(self, out: Interval, held: Interval, extent: int) -> Interval:
        """Return the part of `out` whose windows read nothing outside `held` but padding.

        A side of `held` that is not a border of the input bounds the outputs at that side; so the part is one
        interval, also where outputs read padding only.
        """
        start, stop = out
        if held.start > 0:  # o * stride - pad_lo >= held.start
            start = max(start, -((-held.start - self.pad_lo) // self.stride))
        if held.stop < extent:  # o * stride - pad_lo + reach <= held.stop
            stop = min(stop, (held.stop + self.pad_lo - self.reach) // self.stride + 1)
        return Interval(start, stop) if start < stop else Interval(out.start, out.start)


@dataclass(frozen=True)
class TransposedWindow:
    """One dim of a transposed convolution: the adjoint of `Window` with `out_pad` extra outputs."""

    kernel: int
    stride: int = 1
    pad_lo: int = 0
    pad_hi: int = 0
    dilation: int = 1
    out_pad: int = 0

    @property
    def reach(self) -> int:
        """Extent of the dilated kernel."""
        return (self.kernel - 1) * self.dilation + 1

    def out(self, extent: int) -> int:
        """Return the output extent for an input extent."""
        return max(0, (extent - 1) * self.stride - self.pad_lo - self.pad_hi + self.reach + self.out_pad)

    def needs(self, out: Interval, extent: int) -> Need:
        """Return the inputs that reach `out`.

        `pad_lo`, `pad_hi` are those of the *forward* convolution from the output block to the input block,
        whose adjoint the local operation is.
        """
        if out.size == 0:
            return Need(Interval(0, 0), 0, 0)
        first = -(
            (self.reach - 1 - self.pad_lo - out.start) // self.stride
        )  # ceil((start+lo-reach+1)/stride)
        last = (out.stop - 1 + self.pad_lo) // self.stride
        inside = Interval(first, last + 1) & Interval(0, extent)
        if inside.size == 0:
            return Need(Interval(0, 0), 0, 0)
        lo = out.start + self.pad_lo - inside.start * self.stride
        hi = (inside.size - 1) * self.stride + self.reach - out.size - lo
        return Need(inside, lo, hi)


@dataclass(frozen=True)
class Upsampling:
    """One dim of an upsampling by an integer factor; `linear` interpolates between half-pixel centres."""

    factor: int
    linear: bool = False

    def out(self, extent: int) -> int:
        """Return the output extent for an input extent."""
        return extent * self.factor

    def needs(self, out: Interval, extent: int) -> Need:
        """Return the inputs that the outputs `out` read (no padding: borders are clamped)."""
        if out.size == 0:
            return Need(Interval(0, 0), 0, 0)
        if not self.linear:
            return Need(Interval(out.start // self.factor, (out.stop - 1) // self.factor + 1), 0, 0)
        # Source coordinate of o is (2 o + 1 - factor) / (2 factor): floor gives the lower neighbour.
        low = (2 * out.start + 1 - self.factor) // (2 * self.factor)
        high = max(0, (2 * (out.stop - 1) + 1 - self.factor) // (2 * self.factor)) + 1
        return Need(Interval(max(0, low), min(extent, high + 1)), 0, 0)


SpaceMap = Window | TransposedWindow | Upsampling
