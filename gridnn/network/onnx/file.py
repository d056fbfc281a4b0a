"""An ONNX file to plain values.

Weights are left where they are: of arrays above `SMALL` elements only the shape is taken, so files whose external
data did not come along can be read too.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from gridnn.errors import InputError
from gridnn.network.onnx.values import Constant, File, Operator

SMALL = 64  # elements; the shapes, axes and scales of operators are far below


def read_file(path: Path) -> File:
    """Read an ONNX file.

    Raises
    ------
    InputError
        If it is missing or no ONNX file, or the package ``onnx`` is.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise InputError(
            f'reading {path.name} needs the package onnx, which is not installed; pip install "gridnn[onnx]"'
        ) from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an ONNX file") from error
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise InputError(
            f"{path}: this is no ONNX file, or a part of it is missing; export it again"
        ) from error
    if not model.graph.node:
        raise InputError(f"{path}: no operator in it; give an ONNX file with a network")
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    constants = {t.name: _constant(t, path.parent) for t in model.graph.initializer}
    constants |= {
        t.values.name: Constant(tuple(t.dims), None, t.values.name) for t in model.graph.sparse_initializer
    }
    inputs = {i.name: _dims(i.type) for i in model.graph.input if i.name not in constants}
    operators = tuple(_operator(node, path.parent) for node in model.graph.node)
    return File(path.name, opset, operators, constants, inputs, tuple(o.name for o in model.graph.output))


def _operator(node: Any, folder: Path) -> Operator:
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {a.name: _attribute(a, folder) for a in node.attribute}
    return Operator(op, node.name, tuple(node.input), tuple(node.output), attributes)


def _attribute(attribute: Any, folder: Path) -> Any:
    from onnx.helper import get_attribute_value

    value = get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(value, "data_type") and hasattr(value, "dims"):
        return _constant(value, folder)
    if isinstance(value, float):  # the number that was meant: the file has 32 bits of it
        return float(f"{value:.7g}")
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def _constant(tensor: Any, folder: Path) -> Constant:
    from onnx.checker import ValidationError
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
    from onnx.numpy_helper import to_array

    shape = tuple(tensor.dims)
    if prod(shape) > SMALL:
        return Constant(shape, None, tensor.name)
    try:
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        return Constant(shape, tuple(to_array(tensor).ravel().tolist()), tensor.name)
    except (OSError, ValueError, TypeError, ValidationError) as error:  # who needs the numbers says so
        return Constant(shape, None, tensor.name, f"its data cannot be read ({error})")


def _dims(kind: Any) -> tuple[int | str, ...] | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param for d in dims)
