"""Windows against the definition: which inputs each output reads, by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from gridnn.geometry.interval import Interval
from gridnn.geometry.window import Need, TransposedWindow, Upsampling, Window
from tests.geometry.reads import reads, taps

PADS = [(0, 0), (1, 1), (2, 0), (0, 2), (2, 1), (-1, 0)]
EXTENTS = (1, 4, 7)
STEPS = [(stride, dilation) for stride in (1, 2, 3) for dilation in (1, 2)]


def intervals(extent: int) -> Iterator[Interval]:
    """Yield every interval of an extent, an empty one included."""
    yield Interval(extent, extent)
    for start in range(extent):
        for stop in range(start + 1, extent + 1):
            yield Interval(start, stop)


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize(("stride", "dilation"), STEPS)
def test_window(kernel, stride, dilation):
    for (lo, hi), extent in product(PADS, EXTENTS):
        w = Window(kernel, stride, lo, hi, dilation)
        outs = w.out(extent)
        fitting = [o for o in range(30) if o * stride - lo + w.reach <= extent + hi]
        assert outs == len(fitting)
        for out in intervals(outs):
            need = w.needs(out, extent)
            check_window(w, out, extent, need)


def check_window(w: Window, out: Interval, extent: int, need: Need) -> None:
    read = reads(w, out, extent)
    held = set(range(*need.interval))
    assert read <= held
    assert held <= set(range(extent))
    local = need.interval.size + need.pad_lo + need.pad_hi
    block = Window(w.kernel, w.stride, need.pad_lo, need.pad_hi, w.dilation)
    assert block.out(need.interval.size) == out.size
    if out.size:  # the local operation reads the same global positions, and pads where the global one does
        assert local == (out.size - 1) * w.stride + w.reach
        if held:
            assert need.interval.start - need.pad_lo == out.start * w.stride - w.pad_lo
    # With holes (dilation, stride beyond the kernel) a border may fall into one; otherwise nothing is spare.
    if w.dilation == 1 and w.stride <= w.kernel:
        assert held == read
    elif read:
        hole = max(w.dilation, w.stride)
        assert min(read) - need.interval.start < hole
        assert need.interval.stop - 1 - max(read) < hole


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (3, 1), (2, 2)])
def test_interior_is_what_reads_nothing_else(kernel, stride, dilation):
    for (lo, hi), extent in product(PADS, EXTENTS):
        w = Window(kernel, stride, lo, hi, dilation)
        for out, held in product(intervals(w.out(extent)), intervals(extent)):
            inner = w.interior(out, held, extent)
            assert out.start <= inner.start <= inner.stop <= out.stop
            single = {o: set(range(*w.needs(Interval(o, o + 1), extent).interval)) for o in range(*out)}
            fits = {o for o in single if single[o] <= set(range(*held))}
            assert set(range(*inner)) <= fits
            # Outputs of padding only are in it or not, as keeps it one interval.
            assert {o for o in fits if single[o]} <= set(range(*inner))


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize(("stride", "dilation"), STEPS)
def test_transposed_window(kernel, stride, dilation):
    for (lo, hi), extent, out_pad in product(PADS, EXTENTS, (0, 1)):
        t = TransposedWindow(kernel, stride, lo, hi, dilation, out_pad)
        outs = t.out(extent)
        last = max(i * stride - lo + j * dilation for i in range(extent) for j in range(kernel))
        assert outs == max(0, last + 1 - hi + out_pad)
        for out in intervals(outs):
            check_transposed(t, out, extent)


def check_transposed(t: TransposedWindow, out: Interval, extent: int) -> None:
    reaching = reads(t, out, extent)
    need = t.needs(out, extent)
    held = set(range(*need.interval))
    assert reaching <= held <= set(range(extent))
    if t.dilation == 1 and t.stride <= t.kernel:  # no holes between the outputs that an input reaches
        assert held == reaching
    if not held:
        return
    # The adjoint of the local operation is a convolution over the output block with these pads.
    back = Window(t.kernel, t.stride, need.pad_lo, need.pad_hi, t.dilation)
    assert back.out(out.size) == need.interval.size
    for local, i in enumerate(range(*need.interval)):
        local_reads = [local * t.stride - need.pad_lo + j * t.dilation for j in range(t.kernel)]
        assert [out.start + r for r in local_reads] == taps(t, i)


def test_a_transposed_window_is_the_adjoint_of_a_window():
    """out() of one undoes that of the other, with the pad that the stride hides."""
    for kernel, stride, dilation, extent in product(range(1, 6), (1, 2, 3), (1, 2), range(9, 14)):
        for lo, hi in PADS:
            w = Window(kernel, stride, lo, hi, dilation)
            hidden = (extent + lo + hi - w.reach) % stride
            assert TransposedWindow(kernel, stride, lo, hi, dilation, hidden).out(w.out(extent)) == extent


@pytest.mark.parametrize("factor", range(1, 6))
@pytest.mark.parametrize("linear", [False, True])
def test_upsampling(factor, linear):
    for extent in (1, 2, 5):
        up = Upsampling(factor, linear)
        assert up.out(extent) == extent * factor
        for out in intervals(up.out(extent)):
            assert set(range(*up.needs(out, extent).interval)) == reads(up, out, extent)
            assert up.needs(out, extent)[1:] == (0, 0)
