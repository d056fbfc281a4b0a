"""Which inputs an interval of outputs reads of one dim, by the definition of each map and by enumeration."""

from __future__ import annotations

from gridnn.geometry.interval import Interval
from gridnn.geometry.window import SpaceMap, TransposedWindow, Upsampling, Window


def reads(space: SpaceMap, out: Interval, extent: int) -> set[int]:
    """Return the inputs that the outputs of `out` read."""
    if isinstance(space, Upsampling):
        return _upsampled(space, out, extent)
    if isinstance(space, TransposedWindow):  # input i is added to the outputs of its taps
        return {i for i in range(extent) if set(taps(space, i)) & set(range(*out))}
    return {i for o in range(*out) for i in taps(space, o) if 0 <= i < extent}


def taps(window: Window | TransposedWindow, at: int) -> list[int]:
    """Return the positions that the window at `at` covers: inputs, or outputs of a transposed one."""
    return [at * window.stride - window.pad_lo + j * window.dilation for j in range(window.kernel)]


def _upsampled(up: Upsampling, out: Interval, extent: int) -> set[int]:
    if not up.linear:
        return {o // up.factor for o in range(*out)}
    rows = set()
    for o in range(*out):  # the two rows whose centres enclose that of the output
        halves = max(0, 2 * o + 1 - up.factor)  # the source coordinate, in units of 1 / (2 factor)
        rows |= {halves // (2 * up.factor), min(extent - 1, halves // (2 * up.factor) + 1)}
    return rows
