"""Operators of ONNX that are layers of gridnn: one function each, which adds the layer.

A function gets the state of the import, the operator and its inputs (arrays, constants, None where left out) and
returns the array it makes; `Unsupported` says which form of the operator has no layer.
"""

from __future__ import annotations

from math import prod

from gridnn.network import spec as s
from gridnn.network.graph import INPUT
from gridnn.network.onnx.fold import axes_of, numbers
from gridnn.network.onnx.state import Array, Convert, Inputs, State, Value, array, constant, plain
from gridnn.network.onnx.values import Constant, Operator, Unsupported
from gridnn.network.onnx.windows import conv_windows, pool_windows, transposed_windows


def _conv(state: State, op: Operator, inputs: Inputs) -> Array:
    x, weight = array(inputs), constant(inputs, 1, "weight")
    out, per_group, *kernel = weight.shape
    groups, bias = op.attributes.get("group", 1), len(inputs) > 2 and inputs[2] is not None
    if per_group * groups != x.shape[0]:
        raise Unsupported(f"of weights for {per_group * groups} channels on {x.shape[0]}")
    windows = conv_windows(op.attributes, kernel, x.shape[1:], x.pads)
    if state.is_pooled(x):
        if groups > 1 or any(w.kernel > 1 or w.pad_lo or w.pad_hi for w in windows):
            raise state.needs_space()
        return state.layer(op, s.Linear(out, bias), [x], (out, *x.shape[1:]), weight)
    return state.layer(op, s.Conv(out, windows, groups, bias), [x], None, weight)


def _conv_transpose(state: State, op: Operator, inputs: Inputs) -> Array:
    x, weight = plain(inputs), constant(inputs, 1, "weight")
    channels, out, *kernel = weight.shape
    if op.attributes.get("group", 1) != 1:
        raise Unsupported("in groups")
    if channels != x.shape[0]:
        raise Unsupported(f"of weights for {channels} channels on {x.shape[0]}")
    if state.is_pooled(x):
        raise state.needs_space()
    windows = transposed_windows(op.attributes, kernel, x.shape[1:])
    bias = len(inputs) > 2 and inputs[2] is not None
    return state.layer(op, s.ConvTranspose(out, windows, bias), [x], None, weight)


def _gemm(state: State, op: Operator, inputs: Inputs) -> Array:
    x, weight = plain(inputs), constant(inputs, 1, "weight")
    if op.attributes.get("transA", 0):
        raise Unsupported("with transA")
    turned = bool(op.attributes.get("transB", 0))
    return _linear(state, op, x, weight, turned, inputs[2] if len(inputs) > 2 else None)


def _matmul(state: State, op: Operator, inputs: Inputs) -> Array:
    x, weight = plain(inputs), constant(inputs, 1, "second factor")
    return _linear(state, op, x, weight, False, inputs[2] if len(inputs) > 2 else None)


def _linear(
    state: State, op: Operator, x: Array, weight: Constant, turned: bool, bias: Value | None
) -> Array:  # fmt: skip
    if len(x.shape) != 1 or len(weight.shape) != 2:
        raise Unsupported(f"of an input of {len(x.shape) + 1} dims and weights of {len(weight.shape)}")
    features, out = weight.shape[::-1] if turned else weight.shape
    if features != x.shape[0]:
        raise Unsupported(f"of weights for {features} features on {x.shape[0]}")
    if isinstance(bias, Array) or (bias is not None and prod(bias.shape) != out):
        raise Unsupported(f"whose bias is no constant of {out}")
    return state.layer(op, s.Linear(out, bias is not None), [x], None, weight)


def _batch_norm(state: State, op: Operator, inputs: Inputs) -> Array:
    x, gamma = plain(inputs), constant(inputs, 1, "scale")
    if op.attributes.get("spatial", 1) != 1 or gamma.shape != x.shape[:1]:
        raise Unsupported("of every position by itself")
    keep = float(op.attributes.get("momentum", 0.9))  # of the old statistics; gridnn says what comes in
    spec = s.BatchNorm(float(op.attributes.get("epsilon", 1e-5)), round(1 - keep, 9))
    return state.layer(op, spec, [x], x.shape)


def _layer_norm(state: State, op: Operator, inputs: Inputs) -> Array:
    x, gamma = plain(inputs), constant(inputs, 1, "scale")
    if op.attributes.get("axis", -1) % (len(x.shape) + 1) != 1 or gamma.shape != x.shape:
        raise Unsupported("over less than a whole sample")
    constant(inputs, 2, "bias, which gridnn's has,")
    return state.layer(op, s.LayerNorm(float(op.attributes.get("epsilon", 1e-5))), [x], x.shape)


def _activation(name: str) -> Convert:
    def convert(state: State, op: Operator, inputs: Inputs) -> Array:
        x = plain(inputs)
        return state.layer(op, s.Activation(name), [x], x.shape)

    return convert


def _swish(state: State, op: Operator, inputs: Inputs) -> Array:
    if op.attributes.get("alpha", 1.0) != 1:
        raise Unsupported(f"with alpha {op.attributes['alpha']}")
    return _activation("silu")(state, op, inputs)


def _dropout(state: State, op: Operator, inputs: Inputs) -> Array:
    x, rate = plain(inputs), float(op.attributes.get("ratio", 0.5))
    if len(inputs) > 1 and inputs[1] is not None:
        rate = float(str(numbers(constant(inputs, 1, "ratio"))[0]))
    return state.layer(op, s.Dropout(rate), [x], x.shape) if rate else x


def _pool(how: str) -> Convert:
    def convert(state: State, op: Operator, inputs: Inputs) -> Array:
        x = array(inputs)
        if state.is_pooled(x):
            raise state.needs_space()
        counts = bool(op.attributes.get("count_include_pad", 0))
        if x.pads and not (counts if how == "average" else state.is_rectified(x)):
            raise Unsupported("of a padded input")  # zeros beside an image are not the padding of a pool
        windows = pool_windows(op.attributes, x.shape[1:], x.pads)
        unpadded = not any(w.pad_lo or w.pad_hi for w in windows)
        if unpadded and tuple(w.reach for w in windows) == x.shape[1:] == tuple(w.kernel for w in windows):
            return _global(state, op, x, how)
        return state.layer(op, s.Pool(how, windows, how == "max" or counts or unpadded), [x])

    return convert


def _global_pool(how: str) -> Convert:
    def convert(state: State, op: Operator, inputs: Inputs) -> Array:
        return _global(state, op, plain(inputs), how)

    return convert


def _reduce(how: str) -> Convert:
    def convert(state: State, op: Operator, inputs: Inputs) -> Array:
        x = plain(inputs)
        axes = axes_of(op, [i if isinstance(i, Constant) else None for i in inputs])
        dims = len(x.shape) + 1
        if axes is None or len(axes) == 0 or sorted(a % dims for a in axes) != [*range(2, dims)] or dims < 3:
            raise Unsupported("over other dims than all of space")
        y = _global(state, op, x, how)
        return y if op.attributes.get("keepdims", 1) else state.flat(op, y)

    return convert


def _global(state: State, op: Operator, x: Array, how: str) -> Array:
    """Add a global pool: features, which later operators see as channels of extent 1."""
    ones = (x.shape[0],) + (1,) * (len(x.shape) - 1)
    if state.is_pooled(x):
        return x
    if state.pools_keep_space:
        windows = conv_windows({}, x.shape[1:], x.shape[1:])
        return state.layer(op, s.Pool(how, windows), [x])
    return state.layer(op, s.GlobalPool(how), [x], ones)


def _add(state: State, op: Operator, inputs: Inputs) -> Array:
    arrays = [plain(inputs, at) for at in range(len(inputs)) if isinstance(inputs[at], Array)]
    if len(arrays) < len(inputs):
        return _scaled(state, op, inputs)
    if any(a.shape != arrays[0].shape for a in arrays):
        raise Unsupported(f"of inputs of shapes {', '.join(str(a.shape) for a in arrays)}")
    if len({state.is_pooled(a) for a in arrays}) > 1:
        raise state.needs_space()
    return state.layer(op, s.Add(), arrays, arrays[0].shape) if len(arrays) > 1 else arrays[0]


def _scaled(state: State, op: Operator, inputs: Inputs) -> Array:
    """Pass an array that constants scale or shift, where they are no layer of their own.

    On the input of the network they prepare the data; after a layer with weights, one number a channel or for all,
    they are weights of that layer.
    """
    arrays = [(at, i) for at, i in enumerate(inputs) if isinstance(i, Array)]
    if len(arrays) != 1:
        raise Unsupported("of two arrays")
    at, x = arrays[0][0], plain(inputs, arrays[0][0])
    if x.layer == INPUT or _absorbs(state, op, x, constant(inputs, 1 - at, "second input"), op.inputs[at]):
        return x
    raise Unsupported("of an array and a constant")


def _absorbs(state: State, op: Operator, x: Array, numbers: Constant, name: str) -> bool:
    spec, dims = state.spec(x), len(x.shape)
    if not isinstance(spec, s.Conv | s.ConvTranspose | s.Linear | s.BatchNorm) or state.uses[name] > 1:
        return False
    channels = prod(numbers.shape) == x.shape[0] and numbers.shape[-dims : -dims + 1 or None] == x.shape[:1]
    shifts = op.op in ("Add", "Sub", "Sum")
    return (channels or prod(numbers.shape) == 1) and (not shifts or getattr(spec, "bias", True))


def _concat(state: State, op: Operator, inputs: Inputs) -> Array:
    arrays = [plain(inputs, at) for at in range(len(inputs))]
    if op.attributes.get("axis", 1) % (len(arrays[0].shape) + 1) != 1:
        raise Unsupported(f"along axis {op.attributes.get('axis')}")
    if any(a.shape[1:] != arrays[0].shape[1:] for a in arrays):
        raise Unsupported(f"of inputs of shapes {', '.join(str(a.shape) for a in arrays)}")
    if len({state.is_pooled(a) for a in arrays}) > 1:
        raise state.needs_space()
    shape = (sum(a.shape[0] for a in arrays), *arrays[0].shape[1:])
    return state.layer(op, s.Concat(), arrays, shape) if len(arrays) > 1 else arrays[0]


LAYERS: dict[str, Convert] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    **{name.title(): _activation(name) for name in s.ACTIVATIONS},
    "Swish": _swish,
    "Dropout": _dropout,
    "MaxPool": _pool("max"),
    "AveragePool": _pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "GlobalAveragePool": _global_pool("average"),
    "ReduceMean": _reduce("average"),
    "ReduceMax": _reduce("max"),
    "Add": _add,
    "Sum": _add,
    "Sub": _scaled,
    "Mul": _scaled,
    "Div": _scaled,
    "Concat": _concat,
}
"""Silu and Gelu are also groups of operators: see `patterns`."""
