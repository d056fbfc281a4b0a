"""Arithmetic with shapes: the operators that exporters put between a layer and its Reshape or Resize.

    conv -- Shape -- Gather 0 -- Unsqueeze -- Concat with -1 --+
         +-------------------------------------------------- Reshape        is a Flatten

Numbers are those of scalars and vectors; of other arrays only the shape is followed (weights that are transposed
or reshaped on their way).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, floor, prod
from typing import Any

from gridnn.network.onnx.values import BATCH, UNKNOWN, Constant, Number, Operator, Symbol, Unsupported

FLOATS = (1, 10, 11, 16)  # ONNX's element types: float, float16, double, bfloat16
Fold = Callable[[Operator, Sequence[Constant]], Constant]


def numbers(constant: Constant) -> tuple[Number, ...]:
    """Return the numbers of a constant.

    Raises
    ------
    Unsupported
        If they are not known.
    """
    if constant.values is None:
        raise Unsupported(f"of the array {constant.key or 'made on the way'}: {constant.lost}")
    return constant.values


def integers(constant: Constant) -> tuple[int, ...]:
    """Return the numbers of a constant, all of them integers that are known."""
    found = numbers(constant)
    if any(isinstance(v, Symbol) for v in found):
        raise Unsupported("of numbers that depend on the batch")
    return tuple(int(v) for v in found if not isinstance(v, Symbol))


def axes_of(op: Operator, constants: Sequence[Constant | None], at: int = 1) -> tuple[int, ...] | None:
    """Return the axes of an operator, which moved from the attributes to the inputs over time."""
    if len(constants) > at and (given := constants[at]) is not None:
        return integers(given)
    axes = op.attributes.get("axes")
    return None if axes is None else tuple(axes)


def vector(values: Sequence[Number]) -> Constant:
    """Return a constant of one dim."""
    return Constant((len(values),), tuple(values))


def fold(op: Operator, inputs: Sequence[Constant]) -> Constant | None:
    """Return the result of an operator on constants; None if it is none of those known here."""
    known = FOLDS.get(op.op)
    return None if known is None else known(op, inputs)


def _constant(op: Operator, inputs: Sequence[Constant]) -> Constant:
    for word, value in op.attributes.items():
        if isinstance(value, Constant):
            return replace(value, key=value.key or op.outputs[0])
        if word in ("value_int", "value_float"):
            return Constant((), (value,))
        if word in ("value_ints", "value_floats"):
            return vector(value)
    raise Unsupported("without numbers")


def _gather(op: Operator, inputs: Sequence[Constant]) -> Constant:
    data, at = numbers(inputs[0]), integers(inputs[1])
    if len(inputs[0].shape) != 1 or any(not -len(data) <= i < len(data) for i in at):
        raise Unsupported(f"of {at} from an array of shape {inputs[0].shape}")
    return Constant(inputs[1].shape, tuple(data[i] for i in at))


def _slice(op: Operator, inputs: Sequence[Constant]) -> Constant:
    data = numbers(inputs[0])
    if len(inputs) > 1:
        starts, ends = (integers(i) for i in inputs[1:3])
        (step,) = integers(inputs[4]) if len(inputs) > 4 else (1,)
    else:
        (starts, ends), step = (tuple(op.attributes[w]) for w in ("starts", "ends")), 1
    if len(inputs[0].shape) != 1 or len(starts) != 1:
        raise Unsupported(f"of an array of shape {inputs[0].shape}")
    return vector(data[starts[0] : ends[0] : step])


def _concat(op: Operator, inputs: Sequence[Constant]) -> Constant:
    return vector([v for i in inputs for v in numbers(i)])


def _unsqueeze(op: Operator, inputs: Sequence[Constant]) -> Constant:
    axes = axes_of(op, inputs) or ()
    shape = list(inputs[0].shape)
    for axis in sorted(a % (len(shape) + len(axes)) for a in axes):
        shape.insert(axis, 1)
    return replace(inputs[0], shape=tuple(shape))


def _squeeze(op: Operator, inputs: Sequence[Constant]) -> Constant:
    shape, axes = inputs[0].shape, axes_of(op, inputs)
    gone = {at for at, e in enumerate(shape) if e == 1} if axes is None else {a % len(shape) for a in axes}
    return replace(inputs[0], shape=tuple(e for at, e in enumerate(shape) if at not in gone))


def _cast(op: Operator, inputs: Sequence[Constant]) -> Constant:
    kind: type[float] | type[int] = float if op.attributes.get("to") in FLOATS else int
    return _each(inputs[0], lambda v: kind(v))


def _identity(op: Operator, inputs: Sequence[Constant]) -> Constant:
    return inputs[0]


def _reshape(op: Operator, inputs: Sequence[Constant]) -> Constant:
    old = inputs[0].shape
    shape = [e or old[at] for at, e in enumerate(integers(inputs[1]))]
    if -1 in shape:
        shape[shape.index(-1)] = prod(old) // max(1, -prod(shape))
    return replace(inputs[0], shape=tuple(shape))


def _transpose(op: Operator, inputs: Sequence[Constant]) -> Constant:
    shape = inputs[0].shape
    perm = op.attributes.get("perm", tuple(reversed(range(len(shape)))))
    values = inputs[0].values if len(shape) < 2 else None
    return replace(inputs[0], shape=tuple(shape[p] for p in perm), values=values)


def _fill(op: Operator, inputs: Sequence[Constant]) -> Constant:
    shape, value = integers(inputs[0]), op.attributes.get("value")
    number = numbers(value)[0] if isinstance(value, Constant) else 0.0
    return Constant(shape, (number,) * prod(shape) if len(shape) < 2 else None)


def _product(op: Operator, inputs: Sequence[Constant]) -> Constant:
    result: Number = 1
    for value in numbers(inputs[0]):
        result = _times(result, value)
    return Constant((1,) if op.attributes.get("keepdims", 1) else (), (result,))


def _each(x: Constant, function: Callable[[Any], Number]) -> Constant:
    if x.values is None:
        return x
    return replace(x, values=tuple(v if isinstance(v, Symbol) else function(v) for v in x.values))


def _times(a: Number, b: Number) -> Number:
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return a if b == 1 else b if a == 1 else UNKNOWN
    return a * b


def _plus(a: Number, b: Number) -> Number:
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return a if b == 0 else b if a == 0 else UNKNOWN
    return a + b


def _minus(a: Number, b: Number) -> Number:
    return _plus(a, b if isinstance(b, Symbol) else -b) if b is not BATCH else UNKNOWN


def _over(a: Number, b: Number) -> Number:
    if isinstance(a, Symbol) or isinstance(b, Symbol):
        return a if b == 1 else UNKNOWN
    if b == 0:
        raise Unsupported("by zero")
    return int(a / b) if isinstance(a, int) and isinstance(b, int) else a / b  # integers are cut towards zero


def _pairs(function: Callable[[Number, Number], Number]) -> Fold:
    """Return an elementwise operator of two, one of which may be a scalar."""

    def work(op: Operator, inputs: Sequence[Constant]) -> Constant:
        a, b = inputs
        shape = max(a.shape, b.shape, key=lambda s: (len(s), prod(s)))
        if a.values is None or b.values is None:
            return Constant(shape)
        size = prod(shape)
        if {len(a.values), len(b.values)} - {1, size}:
            raise Unsupported(f"of shapes {a.shape} and {b.shape}")
        left, right = (v * size if len(v) == 1 else v for v in (a.values, b.values))
        return Constant(shape, tuple(function(x, y) for x, y in zip(left, right, strict=True)))

    return work


FOLDS: dict[str, Fold] = {
    "Constant": _constant,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "Identity": _identity,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "ConstantOfShape": _fill,
    "ReduceProd": _product,
    "Floor": lambda op, inputs: _each(inputs[0], floor),
    "Ceil": lambda op, inputs: _each(inputs[0], ceil),
    "Mul": _pairs(_times),
    "Add": _pairs(_plus),
    "Sub": _pairs(_minus),
    "Div": _pairs(_over),
}
"""Operators on constants; Shape, whose input is no constant, is in `convert`."""
