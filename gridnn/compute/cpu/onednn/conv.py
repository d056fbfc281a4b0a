"""Convolution in 1, 2 or 3 dims by oneDNN, for dense channels-last float32 blocks.

Activations stay channels-last; the layout of the weights is left to oneDNN, which wants another one
for each direction and machine. Reordering into it is part of a call:

    forward            w --pack--> packed      x, packed -----> y  (+ bias, relu)
    backward_data      w --pack--> packed      dy, packed ----> dx
    backward_weights                           x, dy ---------> packed dw --unpack--> dw

Packing is one pass over the weights, at every call: in training they change between calls.

Every function writes into the array given for its result and returns True, or touches nothing and
returns False where another engine is to be asked: a dtype other than float32, an empty array, an array
that is not dense channels-last, a window for which oneDNN has only reference loops. A block amid a
buffer with margins is not dense, but the buffer is: where the margins are as wide as the pads, convolve
the buffer and pad nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gridnn.compute.cpu.onednn import library as api

Array = NDArray[np.floating]
Ints = Sequence[int]
Shape = tuple[int, ...]
Window = tuple[Shape, Shape, Shape, Shape, int]
"""Stride, dilation, low pads, high pads, groups."""
Run = Callable[..., None]

_FORWARD, _BACKWARD_DATA, _BACKWARD_WEIGHTS = (
    "convolution_forward",
    "convolution_backward_data",
    "convolution_backward_weights",
)
_ABSENT = object()

# Without AVX-512, oneDNN's first choice for the gradient of the weights slows down as C grows, and from here
# on its matrix products are faster. Measured on an AMD EPYC, oneDNN 3.2, 3x3 windows, their time over that of
# the first choice: 0.7 to 0.8 at C = 256 and 512, 1.0 at 128, 1.2 to 3 at 64 and 16.
_SLOW, _BETTER, _SLOW_CHANNELS = "jit:avx2", "x64:gemm:jit", 192


class _Plan(NamedTuple):
    """A convolution of one shape, compiled.

    `pack` moves weights from the caller's layout to that of `main`, or their gradient back; None where the
    layouts agree. Negative pads make `offset`, where the window starts in x in bytes, and `partial`: rows of x
    that no window touches.
    """

    main: Run
    pack: Run | None
    offset: int
    partial: bool
    implementation: str


def forward(
    lib: api.Library,
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
    relu: bool = False,
) -> bool:
    """Write the convolution (cross-correlation) of x, with bias and relu if wanted, into y.

    Parameters
    ----------
    x : (N, C, *S), dense channels-last; with negative pads the cropped part of it must be dense
    w : (K, C / groups, *R), dense in memory order K, *R, C / groups
    bias : (K,) or None
    y : (N, K, *O), dense channels-last
    stride, dilation, pad_lo, pad_hi : one integer a spatial dim; negative pads crop.
    relu : replace negative results by zero.

    Returns
    -------
    Whether oneDNN did it; if not, y is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, _FORWARD, x, w, y, bias, relu, window)
    if plan is None:
        return False
    addresses = (x.ctypes.data + plan.offset, _weights(lib, plan, w), y.ctypes.data)
    if bias is None:
        plan.main(*addresses)
    else:
        plan.main(*addresses, bias.ctypes.data)
    return True


def backward_data(
    lib: api.Library,
    dy: Array,
    w: Array,
    dx: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> bool:
    """Write the gradient of `forward` by x into dx, which is what transposed convolution computes.

    Parameters
    ----------
    dy : (N, K, *O), dense channels-last
    dx : (N, C, *S), as x of `forward`; elements that no window touched get zero
    w, stride, dilation, pad_lo, pad_hi, groups : as in `forward`.

    Returns
    -------
    Whether oneDNN did it; if not, dx is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, _BACKWARD_DATA, dx, w, dy, None, False, window)
    if plan is None:
        return False
    if plan.partial:
        dx[...] = 0
    plan.main(dx.ctypes.data + plan.offset, _weights(lib, plan, w), dy.ctypes.data)
    return True


def backward_weights(
    lib: api.Library,
    x: Array,
    dy: Array,
    dw: Array,
    *,
    stride: Ints,
    dilation: Ints,
    pad_lo: Ints,
    pad_hi: Ints,
    groups: int = 1,
) -> bool:
    """Write the gradient of `forward` by w, summed over samples and positions, into dw.

    Parameters
    ----------
    x, dy : as x and y of `forward`
    dw : (K, C / groups, *R), as w of `forward`
    stride, dilation, pad_lo, pad_hi, groups : as in `forward`.

    Returns
    -------
    Whether oneDNN did it; if not, dw is untouched.
    """
    window = (tuple(stride), tuple(dilation), tuple(pad_lo), tuple(pad_hi), groups)
    plan = _plan(lib, _BACKWARD_WEIGHTS, x, dw, dy, None, False, window)
    if plan is None:
        return False
    source, target = x.ctypes.data + plan.offset, dw.ctypes.data
    if plan.pack is None:
        plan.main(source, target, dy.ctypes.data)
    else:
        plan.main(source, lib.packing.address, dy.ctypes.data)
        plan.pack(lib.packing.address, target)
    return True


def _weights(lib: api.Library, plan: _Plan, w: Array) -> int:
    """Address of the weights as the plan wants them."""
    address: int = w.ctypes.data
    if plan.pack is None:
        return address
    plan.pack(address, lib.packing.address)
    return lib.packing.address


def _plan(
    lib: api.Library,
    operation: str,
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    window: Window,
) -> _Plan | None:
    """The plan of a convolution of x, w and y or of their gradients, compiled when their shapes are first met."""
    key = (
        operation, x.dtype, x.shape, x.strides, w.dtype, w.shape, w.strides, y.dtype, y.shape, y.strides,
        bias is None or (bias.dtype, bias.shape, bias.strides), relu, window,
    )  # fmt: skip
    plan: _Plan | None = lib.plans.get(key, _ABSENT)
    if plan is _ABSENT:
        plan = lib.plans[key] = _compiled(lib, operation, x, w, y, bias, relu, window)
    return plan


def _compiled(
    lib: api.Library,
    operation: str,
    x: Array,
    w: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    window: Window,
) -> _Plan | None:
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
    x_layout, y_layout = (lib.layout(s, _channels_last(s)) for s in (shapes[0], y.shape))
    w_shape, w_strides = w.shape, _channels_last(w.shape)
    if groups > 1:
        w_shape = (groups, w.shape[0] // groups, *w.shape[1:])
        w_strides = (w_strides[0] * w_shape[1], *w_strides)
    given, free = lib.layout(w_shape, w_strides), lib.layout(w_shape, None)
    geometry = (
        stride,
        tuple(d - 1 for d in dilation),  # oneDNN counts the elements skipped
        tuple(max(p, 0) for p in pad_lo),
        tuple(max(p, 0) for p in pad_hi),
    )
    direct, biased = api.CONVOLUTION_DIRECT, None if bias is None else lib.layout(bias.shape, (1,))
    names, layouts = {
        _FORWARD: (
            (api.SRC, api.WEIGHTS, api.DST, api.BIAS)[: len(arrays)],
            (api.FORWARD_TRAINING, direct, x_layout, free, biased, y_layout),
        ),
        _BACKWARD_DATA: ((api.DIFF_SRC, api.WEIGHTS, api.DIFF_DST), (direct, x_layout, free, y_layout)),
        _BACKWARD_WEIGHTS: (
            (api.SRC, api.DIFF_WEIGHTS, api.DIFF_DST),
            (direct, x_layout, free, None, y_layout),
        ),
    }[operation]
    hint = () if operation == _FORWARD else (None,)  # convolution needs no hint of its forward
    arguments = (lib.engine, *layouts, *geometry, *hint)
    made = lib.description(operation, *arguments, relu=relu)
    if made is None:
        return None
    if operation == _BACKWARD_WEIGHTS and w.shape[1] >= _SLOW_CHANNELS and lib.implementation(made) == _SLOW:
        other = lib.description(operation, *arguments)
        if other is not None and lib.advance(other, _BETTER):
            made = other
    chosen = lib.chosen(made, names[1])
    pack = lib.reorder(chosen, given) if operation == _BACKWARD_WEIGHTS else lib.reorder(given, chosen)
    lib.packing.reserve(lib.size(chosen))
    offset = sum(-min(lo, 0) * step for lo, step in zip(pad_lo, x.strides[2:], strict=True))
    partial = shapes[0] != x.shape
    return _Plan(lib.compile(made, names), pack, offset, partial, lib.implementation(made))


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
