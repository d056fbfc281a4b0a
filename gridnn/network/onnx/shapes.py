"""Operators of ONNX that change shapes only: most become nothing, some a flatten, padding joins the next window."""

from __future__ import annotations

from math import prod

from gridnn.network.onnx.fold import axes_of, integers, numbers
from gridnn.network.onnx.resize import resize
from gridnn.network.onnx.state import Array, Convert, Inputs, State, array, constant, plain
from gridnn.network.onnx.values import BATCH, Constant, Operator, Symbol, Unsupported


def _flatten(state: State, op: Operator, inputs: Inputs) -> Array:
    x = plain(inputs)
    if op.attributes.get("axis", 1) % (len(x.shape) + 1) != 1:
        raise Unsupported(f"at axis {op.attributes.get('axis')}")
    return state.flat(op, x)


def _reshape(state: State, op: Operator, inputs: Inputs) -> Array:
    """Resolve 0 (the dim of the input) and -1 (what is left); the batch must stay the first dim."""
    x, target = plain(inputs), numbers(constant(inputs, 1, "shape"))
    old, copies = (BATCH, *x.shape), not op.attributes.get("allowzero", 0)
    wanted = [old[at] if e == 0 and copies and at < len(old) else e for at, e in enumerate(target)]
    sample = [e for e in wanted[1:] if isinstance(e, int)]
    left = -prod(sample) if -1 in sample else 0
    sample = [prod(x.shape) // left if e == -1 and left > 0 else e for e in sample]
    fits = len(sample) == len(wanted) - 1 and prod(sample) == prod(x.shape) and min(sample, default=0) > 0
    if not fits or wanted[0] not in (-1, BATCH, state.batch):
        shown = ", ".join(e.value if isinstance(e, Symbol) else str(e) for e in target)
        raise Unsupported(f"of (batch, {', '.join(map(str, x.shape))}) to ({shown})")
    return _viewed(state, op, x, tuple(sample))


def _viewed(state: State, op: Operator, x: Array, shape: tuple[int, ...]) -> Array:
    """Return an array in another shape: what makes features of it, or only adds or drops extents of 1."""
    if len(shape) == 1:
        return state.flat(op, x)
    if shape == x.shape:
        return x
    if state.is_pooled(x) and shape[0] == x.shape[0]:
        return Array(x.layer, shape)
    raise Unsupported(f"of {x.shape} to {shape}")


def _squeeze(state: State, op: Operator, inputs: Inputs) -> Array:
    x = plain(inputs)
    axes = axes_of(op, [i if isinstance(i, Constant) else None for i in inputs])
    full = (0, *x.shape)
    gone = {at for at, e in enumerate(full) if e == 1} if axes is None else {a % len(full) for a in axes}
    if 0 in gone or any(full[at] != 1 for at in gone):
        raise Unsupported(f"of axes {sorted(gone)}")
    return _viewed(state, op, x, tuple(e for at, e in enumerate(full) if at and at not in gone))


def _unsqueeze(state: State, op: Operator, inputs: Inputs) -> Array:
    x = plain(inputs)
    axes = axes_of(op, [i if isinstance(i, Constant) else None for i in inputs]) or ()
    shape = [0, *x.shape]
    for axis in sorted(a % (len(shape) + len(axes)) for a in axes):
        shape.insert(axis, 1)
    if shape[0] != 0:
        raise Unsupported(f"of axes {sorted(axes)}")
    return _viewed(state, op, x, tuple(shape[1:]))


def _pass(state: State, op: Operator, inputs: Inputs) -> Array:
    return array(inputs)


def _end(state: State, op: Operator, inputs: Inputs) -> Array:
    """Drop the softmax that the loss holds: over channels, and not, as before opset 13, over all that follows."""
    x, old = plain(inputs), state.opset < 13
    axis = op.attributes.get("axis", 1 if old else -1) % (len(x.shape) + 1)
    if axis != 1 or (old and prod(x.shape[1:]) > 1):
        raise Unsupported(f"over {'all dims from' if old else 'dim'} {axis}")
    return x


def _transpose(state: State, op: Operator, inputs: Inputs) -> Array:
    x = plain(inputs)
    perm = tuple(op.attributes.get("perm", ()))
    if perm != tuple(range(len(x.shape) + 1)):
        raise Unsupported(f"by {perm or 'all dims reversed'}")
    return x


def _pad(state: State, op: Operator, inputs: Inputs) -> Array:
    x, dims = array(inputs), len(array(inputs).shape) + 1
    if op.attributes.get("mode", "constant") != "constant":
        raise Unsupported(f"with mode {op.attributes['mode']}")
    flat = op.attributes.get("pads", op.attributes.get("paddings"))
    flat = integers(constant(inputs, 1, "padding")) if flat is None else tuple(flat)
    value = op.attributes.get("value", 0.0)
    if len(inputs) > 2 and inputs[2] is not None:
        value = (numbers(constant(inputs, 2, "value")) or (0.0,))[0]
    axes = axes_of(op, [i if isinstance(i, Constant) else None for i in inputs], 3) or tuple(range(dims))
    if len(flat) != 2 * len(axes):
        raise Unsupported(f"with pads {flat} for {len(axes)} axes")
    pads = [(0, 0)] * dims
    for axis, low, high in zip(axes, flat[: len(axes)], flat[len(axes) :], strict=True):
        pads[axis % dims] = (low, high)
    if any(pads[at] != (0, 0) for at in (0, 1)[:dims]) or min(flat, default=0) < 0:
        raise Unsupported(f"with pads {flat}")
    if not any(flat):
        return x
    if value != 0:
        raise Unsupported(f"with {value}")
    before = x.pads or ((0, 0),) * (dims - 2)
    return Array(
        x.layer, x.shape, tuple((a + c, b + d) for (a, b), (c, d) in zip(before, pads[2:], strict=True))
    )


SHAPES: dict[str, Convert] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _pass,
    "Cast": _pass,
    "FinalSoftmax": _end,
    "FinalLogSoftmax": _end,
    "Transpose": _transpose,
    "Pad": _pad,
    "Resize": resize,
    "Upsample": resize,
}
