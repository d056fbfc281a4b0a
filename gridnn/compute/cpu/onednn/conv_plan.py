"""How a convolution of one shape is put to oneDNN.

Activations stay channels-last; the layout of the weights is left to oneDNN, which wants another one
for each direction and machine. Reordering into it is part of a call (see stage).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn import header as api
from gridnn.compute.cpu.onednn.library import Library
from gridnn.compute.cpu.onednn.stage import Run, compile_staged

Array = NDArray[np.floating]
Shape = tuple[int, ...]
Window = tuple[Shape, Shape, Shape, Shape, int]
"""Stride, dilation, low pads, high pads, groups."""

FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS = (
    "convolution_forward",
    "convolution_backward_data",
    "convolution_backward_weights",
)
ARGUMENTS = {
    FORWARD: (api.SRC, api.WEIGHTS, api.DST),
    BACKWARD_DATA: (api.DIFF_SRC, api.WEIGHTS, api.DIFF_DST),
    BACKWARD_WEIGHTS: (api.SRC, api.DIFF_WEIGHTS, api.DIFF_DST),
}
"""x, w and y of an operation, or their gradients."""

# Without AVX-512, oneDNN's first choice for the gradient of the weights slows down as C grows, and from here
# on its matrix products are faster. Measured on an AMD EPYC, oneDNN 3.2, 3x3 windows, their time over that of
# the first choice: 0.7 to 0.8 at C = 256 and 512, 1.0 at 128, 1.2 to 3 at 64 and 16.
_SLOW, _BETTER, _SLOW_CHANNELS = "jit:avx2", "x64:gemm:jit", 192


class Plan(NamedTuple):
    """A convolution of one shape, compiled.

    `run` takes the addresses of x, w, y or of their gradients, and of the bias. Negative pads make `offset`,
    where the window starts in x in bytes, and `partial`: rows of x that no window touches.
    """

    run: Run
    offset: int
    partial: bool
    implementation: str


def compiled(
    lib: Library,
    operation: str,
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    window: Window,
) -> Plan | None:
    """A plan for these shapes and strides, None where oneDNN has none; what the arrays hold does not matter."""
    stride, dilation, pad_lo, pad_hi, groups = window
    arrays = (x, w, y) if bias is None else (x, w, y, bias)
    if any(a.dtype != np.float32 or a.size == 0 for a in arrays):
        return None
    # Shapes as oneDNN sees them: it knows no negative pads, so they crop x.
    cropped = [n + min(lo, 0) + min(hi, 0) for n, lo, hi in zip(x.shape[2:], pad_lo, pad_hi, strict=True)]
    shapes = ((*x.shape[:2], *cropped), w.shape, y.shape, *(a.shape for a in arrays[3:]))
    if min(cropped) < 1 or not all(_dense(s, a.strides) for s, a in zip(shapes, arrays, strict=True)):
        return None
    w_shape, w_strides = w.shape, _channels_last(w.shape)
    if groups > 1:
        w_shape = (groups, w.shape[0] // groups, *w.shape[1:])
        w_strides = (w_strides[0] * w_shape[1], *w_strides)
    dense = ((shapes[0], _channels_last(shapes[0])), (w_shape, w_strides), (y.shape, _channels_last(y.shape)))
    given = [lib.layout(*array) for array in dense]
    biased = None if bias is None else lib.layout(bias.shape, (1,))
    if biased is not None:
        given.append(biased)
    numbers = ARGUMENTS[operation]
    types = [lib.element(number) for number in numbers]
    x_layout, y_layout = lib.layout(*dense[0], types[0]), lib.layout(*dense[2], types[2])
    w_layout, direct = lib.layout(w_shape, None, types[1]), api.CONVOLUTION_DIRECT
    layouts = {
        FORWARD: (api.FORWARD_TRAINING, direct, x_layout, w_layout, biased, y_layout),
        BACKWARD_DATA: (direct, x_layout, w_layout, y_layout),
        BACKWARD_WEIGHTS: (direct, x_layout, w_layout, None, y_layout),
    }[operation]
    geometry = (
        stride,
        tuple(d - 1 for d in dilation),  # oneDNN counts the elements skipped
        tuple(max(p, 0) for p in pad_lo),
        tuple(max(p, 0) for p in pad_hi),
    )
    hint = () if operation == FORWARD else (None,)  # convolution needs no hint of its forward
    arguments = (lib.engine, *layouts, *geometry, *hint)
    made = lib.description(operation, *arguments, relu=relu)
    if made is None:
        return None
    if operation == BACKWARD_WEIGHTS and w.shape[1] >= _SLOW_CHANNELS and lib.implementation(made) == _SLOW:
        other = lib.description(operation, *arguments)
        if other is not None and lib.advance(other, _BETTER):
            made = other
    run = compile_staged(lib, made, (*numbers, api.BIAS)[: len(given)], given)
    offset = sum(-min(lo, 0) * step for lo, step in zip(pad_lo, x.strides[2:], strict=True))
    partial = shapes[0] != x.shape
    return Plan(run, offset, partial, lib.implementation(made))


def _channels_last(shape: Shape) -> Shape:
    """Strides in elements of a dense array whose memory order is N, *S, C."""
    strides, step = [1] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda d: (d != 1, -d)):  # C, then the last S, ..., N
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def _dense(shape: Shape, strides: Shape) -> bool:
    """Whether float32 elements at these strides, in bytes, are dense channels-last."""
    wanted = _channels_last(shape)
    return all(n == 1 or 4 * a == b for n, a, b in zip(shape, wanted, strides, strict=True))
