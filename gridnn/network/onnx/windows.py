"""Windows of convolutions and pools from the attributes of ONNX.

`auto_pad` and `ceil_mode` say how padding follows from extents; here it becomes the padding itself:

    SAME_UPPER    out = ceil(extent / stride), the odd row of padding at the end
    ceil_mode     the last window may hang over the end, so the end is padded by what hangs over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gridnn.geometry.window import TransposedWindow, Window
from gridnn.network.onnx.values import Unsupported

Attributes = Mapping[str, Any]
Pads = tuple[tuple[int, int], ...]  # low and high, per space dim


def per_dim(attributes: Attributes, word: str, dims: int, default: int | None = 1) -> tuple[int, ...]:
    """Return an attribute of one number a space dim."""
    found = attributes.get(word)
    if found is None:
        if default is None:
            raise Unsupported(f"without {word}")
        return (default,) * dims
    found = tuple(found)
    if len(found) != dims:
        raise Unsupported(f"with {word} {found} for {dims} space dims")
    return found


def conv_windows(
    attributes: Attributes, kernel: Sequence[int], extents: Sequence[int], before: Pads = ()
) -> tuple[Window, ...]:
    """Return the windows of a convolution; `before` is the padding of an operator before it."""
    dims = len(kernel)
    if len(extents) != dims:
        raise Unsupported(f"of {dims} dims on {len(extents)} space dims")
    strides, dilations = (per_dim(attributes, w, dims) for w in ("strides", "dilations"))
    before = before or ((0, 0),) * dims
    grown = [e + sum(p) for e, p in zip(extents, before, strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(attributes, grown, reach, strides)
    sums = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(before, pads, strict=True)]
    return tuple(Window(k, t, *p, d) for k, t, p, d in zip(kernel, strides, sums, dilations, strict=True))


def pool_windows(attributes: Attributes, extents: Sequence[int], before: Pads = ()) -> tuple[Window, ...]:
    """Return the windows of a pool; an average must not count what hangs over the end."""
    kernel = per_dim(attributes, "kernel_shape", len(extents), None)
    windows = conv_windows(attributes, kernel, extents, before)
    if not attributes.get("ceil_mode", 0) or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return windows
    grown = []
    for w, extent in zip(windows, extents, strict=True):
        out = -(-(extent + w.pad_lo + w.pad_hi - w.reach) // w.stride) + 1
        if (out - 1) * w.stride >= extent + w.pad_lo:  # a window may not begin in the padding of the end
            out -= 1
        over = max(0, (out - 1) * w.stride + w.reach - extent - w.pad_lo - w.pad_hi)
        if over and attributes.get("count_include_pad", 0):
            raise Unsupported("with ceil_mode and count_include_pad where a window hangs over the end")
        grown.append(Window(w.kernel, w.stride, w.pad_lo, w.pad_hi + over, w.dilation))
    return tuple(grown)


def transposed_windows(
    attributes: Attributes, kernel: Sequence[int], extents: Sequence[int]
) -> tuple[TransposedWindow, ...]:
    """Return the windows of a transposed convolution."""
    dims = len(kernel)
    if len(extents) != dims:
        raise Unsupported(f"of {dims} dims on {len(extents)} space dims")
    strides, dilations = (per_dim(attributes, w, dims) for w in ("strides", "dilations"))
    extra = per_dim(attributes, "output_padding", dims, 0)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto, wanted = attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [e * t for e, t in zip(extents, strides, strict=True)]
    if wanted is None:
        pads = _pads(attributes, extents, reach, strides)
    else:
        total = [
            t * (e - 1) + x + r - w
            for t, e, x, r, w in zip(strides, extents, extra, reach, tuple(wanted)[-dims:], strict=True)
        ]
        if min(total) < 0:
            raise Unsupported(f"with output_shape {tuple(wanted)}, beyond its windows")
        upper = auto == "SAME_UPPER"
        pads = tuple((t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in total)
    rows = zip(kernel, strides, pads, dilations, extra, strict=True)
    return tuple(TransposedWindow(k, t, *p, d, x) for k, t, p, d, x in rows)


def _pads(
    attributes: Attributes, extents: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> Pads:
    """Return the padding of one operator; SAME pads to ceil(extent / stride) outputs."""
    dims, auto = len(extents), attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return ((0, 0),) * dims
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-e // t) - 1) * t + r - e) for e, r, t in zip(extents, reach, strides, strict=True)
        ]
        return tuple((t // 2, t - t // 2) if auto == "SAME_UPPER" else (t - t // 2, t // 2) for t in total)
    if auto not in ("NOTSET", ""):
        raise Unsupported(f"with auto_pad {auto}")
    flat = tuple(attributes.get("pads", (0,) * 2 * dims))
    if len(flat) != 2 * dims or min(flat) < 0:
        raise Unsupported(f"with pads {flat} for {dims} space dims")
    return tuple(zip(flat[:dims], flat[dims:], strict=True))
