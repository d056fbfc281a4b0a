"""Any ONNX file of a network of convolutions and linear layers to a `Network`.

    file -- values -- groups of operators put together -- layer by layer -- loss appended
                                                          what has no layer is listed, all of it at once

Only the structure is taken; weights are not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from gridnn.errors import InputError
from gridnn.network.graph import INPUT, Network
from gridnn.network.onnx.file import read_file
from gridnn.network.onnx.fold import FOLDS, fold, vector
from gridnn.network.onnx.operators import LAYERS
from gridnn.network.onnx.patterns import gather
from gridnn.network.onnx.shapes import SHAPES
from gridnn.network.onnx.state import Array, Convert, State, Value
from gridnn.network.onnx.values import BATCH, Constant, File, Operator, Unsupported

CONVERTS: dict[str, Convert] = {**LAYERS, **SHAPES}
SHOWN = 3  # names of operators in a message


def read_onnx(
    path: str | Path, *, output: str | None = None, input_shape: Sequence[int] | None = None
) -> Network:
    """Read the structure of a network from an ONNX file; its weights are not read.

    A softmax at the end is dropped and softmax with cross-entropy appended as the loss.  Layers that use the same
    array of weights share them (`Node.shared`).

    Parameters
    ----------
    path
        The file; external data of weights need not be there.
    output
        Name of the output to take, of a file with several.
    input_shape
        Shape of one sample (C, *space), for a file that leaves it open.

    Raises
    ------
    InputError
        If the file cannot be read, has dims open other than the batch, several inputs, several outputs of which
        none is chosen, or operators without a layer: all of these are listed in one message.
    """
    file = read_file(Path(path))
    made = _output(file, output)
    operators = gather(file.operators, file.constants, made)
    if not operators:
        raise InputError(f"{file.name}: nothing makes its output {made}; export it again")
    name, batch, shape = _input(file, operators, input_shape)
    turned = _turned(operators, name, len(shape))
    if turned:  # images with the channels last: the network of gridnn begins after the transpose
        shape = tuple((0, *shape)[p] for p in turned[1:])
    uses = Counter((made, *(i for op in operators for i in op.inputs)))
    for keep in (False, True):
        state = State(Path(file.name).stem, shape, file.opset, batch, uses, pools_keep_space=keep)
        reading = _Reading(file, state, name, turned)
        problems = reading.read(operators)
        if not state.wants_space:
            break
    if problems:
        raise InputError(f"{file.name}: {_listed(problems)}")
    return _finished(file, state, reading.values[made])


class _Reading:
    """A walk over the operators; what each value is."""

    def __init__(self, file: File, state: State, name: str, turned: tuple[int, ...]) -> None:
        self.file, self.state, self.turned = file, state, turned
        self.values: dict[str, Value | None] = {"": None, **file.constants}
        self.values[name] = Array(INPUT, state.net.shapes[INPUT])
        self.opaque: set[str] = set()  # made by operators that could not be read

    def read(self, operators: Sequence[Operator]) -> list[tuple[str, str, str]]:
        """Add all layers; return kind, reason and name of the operators that have none."""
        wanted = {i for op in operators for i in op.inputs}
        problems: list[tuple[str, str, str]] = []
        for op in operators:
            known = op.op in CONVERTS or op.op in FOLDS or op.op == "Shape"
            name = op.name or (op.outputs[0] if op.outputs else "")
            made: Value | None = None
            try:
                if not known:
                    raise Unsupported("")
                if not self.opaque.intersection(op.inputs):
                    made = self._checked(op)
                if extra := wanted.intersection(filter(None, op.outputs[1:])):
                    raise Unsupported(f"whose output {op.outputs.index(extra.pop()) + 1} is used")
            except Unsupported as problem:
                problems.append((op.op.removeprefix("Final"), str(problem), name))
                made = None
            except InputError as error:
                raise InputError(f"{self.file.name}: {error}") from error
            if made is None:
                self.opaque.update(op.outputs)
            else:
                self.values[op.outputs[0]] = made
                self.opaque.update(op.outputs[1:])
        return problems

    def _checked(self, op: Operator) -> Value:
        try:
            return self._value(op)
        except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
            # Attributes or inputs too few, of a wrong type or length: no valid file has them.
            raise Unsupported(f"with inputs or attributes that ONNX does not allow ({error})") from error

    def _value(self, op: Operator) -> Value:
        if missing := [i for i in op.inputs if i not in self.values]:
            raise InputError(f"operator {op.name or op.op} reads {missing[0]}, which nothing before it makes")
        inputs = [self.values[i] for i in op.inputs]
        if op.op == "Shape":
            return self._shape(op, inputs[0])
        constants = [i for i in inputs if isinstance(i, Constant)]
        if len(constants) == len(inputs) and (folded := fold(op, constants)) is not None:
            return folded
        if op.op not in CONVERTS:
            raise Unsupported("")
        if op.op == "Transpose" and self.turned and isinstance(inputs[0], Array) and inputs[0].layer == INPUT:
            return inputs[0]
        return CONVERTS[op.op](self.state, op, inputs)

    def _shape(self, op: Operator, x: Value | None) -> Constant:
        """Return the shape of an array, its batch as the file has it."""
        if x is None:
            raise Unsupported("of nothing")
        batch = BATCH if self.state.batch is None else self.state.batch
        full = x.shape if isinstance(x, Constant) else (batch, *x.shape)
        return vector(full[op.attributes.get("start", 0) : op.attributes.get("end", len(full))])


def _output(file: File, wanted: str | None) -> str:
    names = ", ".join(file.outputs)
    if wanted is not None and wanted not in file.outputs:
        raise InputError(f"{file.name}: no output {wanted}; it has {names}")
    if wanted is None and len(file.outputs) != 1:
        raise InputError(f"{file.name}: {len(file.outputs)} outputs ({names}); name the one to plan")
    return wanted or file.outputs[0]


def _input(
    file: File, operators: Sequence[Operator], given: Sequence[int] | None
) -> tuple[str, int | None, tuple[int, ...]]:
    """Return the name of the one input, the batch if the file fixes it, and the shape of a sample."""
    read = {i for op in operators for i in op.inputs}
    names = [name for name in file.inputs if name in read]
    if len(names) != 1:
        what = f"{len(names)} inputs ({', '.join(names)})" if names else "no input that its output depends on"
        raise InputError(f"{file.name}: {what}; gridnn plans networks of one input")
    (name,) = names
    dims = file.inputs[name]
    if dims is None and given is not None:
        dims = ("", *["" for _ in given])
    if dims is None or not 2 <= len(dims) <= 5:
        raise InputError(
            f"{file.name}: input {name} has shape {dims}; gridnn needs a batch, channels and up to 3 space dims"
        )
    if given is not None:
        fits = len(given) == len(dims) - 1 and all(
            isinstance(d, str) or d == g for d, g in zip(dims[1:], given, strict=True)
        )
        if not fits:
            raise InputError(f"{file.name}: input {name} is {dims}, which {tuple(given)} does not fit")
        dims = (dims[0], *given)
    for at, dim in enumerate(dims[1:], 1):
        if isinstance(dim, str):
            called = f' "{dim}"' if dim else ""
            raise InputError(
                f"{file.name}: dim {at}{called} of input {name} is dynamic; only the batch may be: "
                "export it with fixed extents, or give the shape of a sample"
            )
    first, *shape = dims
    return name, first if isinstance(first, int) else None, tuple(d for d in shape if isinstance(d, int))


def _turned(operators: Sequence[Operator], name: str, dims: int) -> tuple[int, ...]:
    """Return how the input is transposed before all else, () if it is not."""
    readers = [op for op in operators if name in op.inputs]
    perms = {tuple(op.attributes.get("perm", ())) if op.op == "Transpose" else () for op in readers}
    perm = perms.pop() if len(perms) == 1 else ()
    return perm if sorted(perm) == [*range(dims + 1)] and perm[0] == 0 else ()


def _finished(file: File, state: State, end: Value | None) -> Network:
    """Append the loss to the last array and drop layers that only lent their shape."""
    if not isinstance(end, Array) or end.layer == INPUT or end.pads:
        raise InputError(f"{file.name}: no layer of gridnn makes its output; is it the file of a network?")
    net = state.net
    wanted = {end.layer}
    for node in reversed(net.nodes):
        if node.name in wanted:
            wanted.update((*node.inputs, *filter(None, [node.shared])))
    net.nodes = [n for n in net.nodes if n.name in wanted]
    return net.done(net.cross_entropy(end.layer))


def _listed(problems: Iterable[tuple[str, str, str]]) -> str:
    """Return all problems in one sentence: operators without a layer, then forms without one."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, reason, name in problems:
        groups[kind, reason].append(name)

    def shown(names: list[str]) -> str:
        return f"{len(names)}: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}"

    unknown = [f"{kind} ({shown(names)})" for (kind, reason), names in groups.items() if not reason]
    forms = [f"{kind} {reason} ({shown(names)})" for (kind, reason), names in groups.items() if reason]
    parts = [f"operators that gridnn has no layer for: {'; '.join(sorted(unknown))}"] if unknown else []
    also = "Also forms" if unknown else "forms"
    parts += [f"{also} of operators that it has no layer for: {'; '.join(sorted(forms))}"] if forms else []
    known = ", ".join(sorted(name for name in CONVERTS if not name.startswith("Final")))
    return f"{'.  '.join(parts)}.  Known are {known}, and Softmax at the end"
