"""Groups of operators that are one layer of gridnn, put together before the layers are made.

| operators                                             | become               |
|-------------------------------------------------------|----------------------|
| x * Sigmoid(x)                                        | Silu                 |
| 0.5 * x * (1 + Erf(x / sqrt 2)), in any order         | Gelu                 |
| MatMul, Conv or ConvTranspose without bias, Add of K  | the same with a bias |

The last operator of a group takes the new kind; those before it go when nothing else uses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod, sqrt

from gridnn.network.onnx.fold import fold
from gridnn.network.onnx.values import Constant, Operator, Symbol, Unsupported

ENDS = ("Softmax", "LogSoftmax")
PASSES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze")  # may stand between a softmax and the output


def used(operators: Sequence[Operator], output: str) -> list[Operator]:
    """Return the operators that `output` depends on, in order."""
    wanted, found = {output}, []
    for op in reversed(operators):
        if wanted.intersection(op.outputs):
            found.append(op)
            wanted.update(op.inputs)
    return found[::-1]


def gather(operators: Sequence[Operator], constants: Mapping[str, Constant], output: str) -> list[Operator]:
    """Return the operators of one output with groups put together.

    A softmax at the very end is called FinalSoftmax: the loss of gridnn holds it.
    """
    operators = used(operators, output)
    known = dict(constants)
    for op in operators:
        if all(i in known for i in op.inputs):
            with suppress(Unsupported):  # reported where the operator is read
                result = fold(op, [known[i] for i in op.inputs])
                known |= {} if result is None else {op.outputs[0]: result}
    makers = {name: op for op in operators for name in op.outputs if name}
    uses = Counter(name for op in operators for name in op.inputs)
    uses[output] += 1
    made: dict[str, Operator] = {}  # groups by the output of their last operator
    for op in operators:
        found = _silu(op, makers) or _gelu(op, makers, known) or _biased(op, makers, uses, known)
        if found is not None:
            made[op.outputs[0]] = found
    rewritten = [made.get(op.outputs[0], op) if op.outputs else op for op in operators]
    end = _end(makers, output)
    if end is not None:
        rewritten = [replace(op, op=f"Final{op.op}") if op is end else op for op in rewritten]
    return used(rewritten, output)


def _end(makers: Mapping[str, Operator], output: str) -> Operator | None:
    at = makers.get(output)
    while at is not None and at.op in PASSES:
        at = makers.get(at.inputs[0])
    return at if at is not None and at.op in ENDS else None


def _silu(op: Operator, makers: Mapping[str, Operator]) -> Operator | None:
    if op.op != "Mul":
        return None
    for x, gate in (op.inputs, op.inputs[::-1]):
        if (made := makers.get(gate)) is not None and made.op == "Sigmoid" and made.inputs[0] == x:
            return replace(op, op="Silu", inputs=(x,))
    return None


def _gelu(op: Operator, makers: Mapping[str, Operator], known: Mapping[str, Constant]) -> Operator | None:
    """Find the product of x, 0.5 and 1 + Erf(x / sqrt 2), whichever two were multiplied first."""
    if op.op != "Mul":
        return None
    factors: list[str] = []
    for name in op.inputs:
        inner = makers.get(name)
        factors += inner.inputs if inner is not None and inner.op == "Mul" else [name]
    if len(factors) != 3:
        return None
    halves = [f for f in factors if _number(known, f) == 0.5]
    sums = [f for f in factors if f in makers and makers[f].op == "Add"]
    others = [f for f in factors if f not in (*halves, *sums)]
    if (len(halves), len(sums), len(others)) != (1, 1, 1):
        return None
    terms = makers[sums[0]].inputs
    erfs = [makers[t] for t in terms if t in makers and makers[t].op == "Erf"]
    if len(erfs) != 1 or not any(_number(known, t) == 1 for t in terms):
        return None
    scaled = makers.get(erfs[0].inputs[0])
    if scaled is None or scaled.op not in ("Div", "Mul") or others[0] not in scaled.inputs:
        return None
    (scale,) = [_number(known, i) for i in scaled.inputs if i != others[0]] or [None]
    wanted = sqrt(2) if scaled.op == "Div" else 1 / sqrt(2)
    return replace(op, op="Gelu", inputs=(others[0],)) if scale and abs(scale - wanted) < 1e-3 else None


def _number(known: Mapping[str, Constant], name: str) -> float | None:
    values = known[name].values if name in known else None
    if values is None or len(values) != 1 or isinstance(values[0], Symbol):
        return None
    return float(values[0])


def _biased(
    op: Operator, makers: Mapping[str, Operator], uses: Mapping[str, int], known: Mapping[str, Constant]
) -> Operator | None:
    if op.op != "Add":
        return None
    for product, bias in (op.inputs, op.inputs[::-1]):
        made = makers.get(product)
        if made is None or bias not in known or uses[product] > 1 or len([i for i in made.inputs if i]) != 2:
            continue
        weight = known.get(made.inputs[1])
        if weight is None or not weight.shape:
            continue
        shape, dims = known[bias].shape, len(weight.shape) - 2
        if made.op == "MatMul":
            out, at = weight.shape[-1], 1
        elif made.op in ("Conv", "ConvTranspose"):
            groups = made.attributes.get("group", 1)
            out, at = weight.shape[0] if made.op == "Conv" else weight.shape[1] * groups, dims + 1
        else:
            continue
        # One number for every output channel: of dim 1 of the result, its other dims being 1.
        if prod(shape) == out and len(shape) >= at and shape[-at] == out:
            return replace(made, inputs=(*made.inputs[:2], bias), outputs=op.outputs)
    return None
