"""The network with its weights as an ONNX file for inference.

| layer                     | operators                                        |
|---------------------------|--------------------------------------------------|
| conv, transposed conv     | Conv, ConvTranspose                              |
| linear                    | Gemm                                             |
| pool, global pool         | MaxPool, AveragePool; Global... and Flatten      |
| batch norm, layer norm    | BatchNormalization, LayerNormalization           |
| activations               | Relu, Tanh, Sigmoid; gelu by Erf, silu by x * Sigmoid |
| add, concat, flatten      | Sum, Concat, Flatten                             |
| upsample                  | Resize                                           |
| dropout                   | nothing: it is for training                      |
| cross-entropy, as the end | Softmax over classes; a squared error: nothing   |

The batch is left open.  Layouts and names of weights are those of gridnn, which are ONNX's already: (K, C, *S).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.network.graph import Network, Node
from gridnn.train.checkpoint.contents import STATISTICS

Array = NDArray[Any]
OPSET, IR_VERSION = 17, 8
OUTPUT = "output"
MOST_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which may not be longer."""


class _Graph:
    """Operators and constants of a file being written."""

    def __init__(self, weights: Mapping[str, Array], dtype: np.dtype[Any]) -> None:
        self.weights, self.dtype = weights, dtype
        self.operators: list[Any] = []
        self.constants: dict[str, Array] = {}

    def weight(self, node: Node, name: str) -> str:
        """Return the name of a weight of a layer, which the file will have."""
        full = f"{node.name}.{name}"
        self.constants[full] = self.weights[full].astype(self.dtype, copy=False)
        return full

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = value
        return name

    def op(self, kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        from onnx import helper

        self.operators.append(helper.make_node(kind, list(inputs), [out], name=f"{out}:{kind}", **attributes))
        return out


def as_onnx(network: Network, weights: Mapping[str, Array]) -> bytes:
    """Return a network for inference as the content of an ONNX file.

    Parameters
    ----------
    weights
        Whole arrays by name: "conv1.weight", "bn1.mean".

    Raises
    ------
    InputError
        If the package ``onnx`` is missing, a layer has no operator in ONNX, or the weights are too many.
    """
    try:
        from onnx import checker, helper, numpy_helper
    except ImportError:
        raise InputError(
            'writing an ONNX file needs the package onnx, which is not installed; pip install "gridnn[onnx]"'
        ) from None
    if strange := sorted({s.kind(n.spec) for n in network.nodes if not _can(n)}):
        raise InputError(
            f"network {network.name} cannot be an ONNX file: no operator for {', '.join(strange)}"
        )
    if (size := sum(array.nbytes for array in weights.values())) > MOST_BYTES:
        raise InputError(
            f"{size:,} bytes of weights are more than an ONNX file holds; export .safetensors instead"
        )
    found = (array.dtype for name, array in weights.items() if not name.endswith(STATISTICS))
    dtype = next(found, np.dtype("float32"))
    graph, names = _Graph(weights, dtype), {"input": "input"}
    for node in network.nodes[:-1]:
        names[node.name] = _write(graph, network, node, [names[i] for i in node.inputs])
    out = OUTPUT if OUTPUT not in network.shapes else f"{OUTPUT}:0"
    judged = isinstance(network.loss.spec, s.SoftmaxCrossEntropy)
    graph.op(
        "Softmax" if judged else "Identity", [names[network.output]], out, **({"axis": 1} if judged else {})
    )
    element = helper.np_dtype_to_tensor_dtype(dtype)
    model = helper.make_model(
        helper.make_graph(
            graph.operators,
            network.name,
            [helper.make_tensor_value_info("input", element, ["N", *network.input_shape])],
            [helper.make_tensor_value_info(out, element, ["N", *network.shapes[network.output]])],
            [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in graph.constants.items()],
        ),
        producer_name="gridnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _can(node: Node) -> bool:
    if node.shared or isinstance(node.spec, s.SEQUENCES):
        return False
    return not (isinstance(node.spec, s.Pool) and any(w.dilation > 1 for w in node.spec.windows))


def _write(graph: _Graph, network: Network, node: Node, inputs: list[str]) -> str:
    """Write the operators of a layer; return the name of its output."""
    spec, out = node.spec, node.name
    match spec:
        case s.Conv() | s.ConvTranspose():
            return _convolution(graph, node, spec, inputs[0])
        case s.Linear():
            bias = [graph.weight(node, "bias")] if spec.bias else []
            return graph.op("Gemm", [inputs[0], graph.weight(node, "weight"), *bias], out, transB=1)
        case s.Pool():
            more: dict[str, Any] = {} if spec.how == "max" else {"count_include_pad": int(spec.count_pad)}
            kernel = [w.kernel for w in spec.windows]
            return graph.op(
                "MaxPool" if spec.how == "max" else "AveragePool", inputs, out,
                kernel_shape=kernel, strides=[w.stride for w in spec.windows], pads=_pads(spec.windows), **more,
            )  # fmt: skip
        case s.GlobalPool():
            kind = "GlobalMaxPool" if spec.how == "max" else "GlobalAveragePool"
            return graph.op("Flatten", [graph.op(kind, inputs, f"{out}:space")], out, axis=1)
        case s.BatchNorm():
            names = [graph.weight(node, word) for word in ("gamma", "beta", *STATISTICS)]
            return graph.op("BatchNormalization", [*inputs, *names], out, epsilon=spec.eps)
        case s.LayerNorm():
            names = [graph.weight(node, word) for word in ("gamma", "beta")]
            return graph.op("LayerNormalization", [*inputs, *names], out, axis=1, epsilon=spec.eps)
        case s.Activation():
            return _FUNCTIONS[spec.name](graph, inputs[0], out)
        case s.Add():
            return graph.op("Sum", inputs, out)
        case s.Concat():
            return graph.op("Concat", inputs, out, axis=1)
        case s.Flatten():
            return graph.op("Flatten", inputs, out, axis=1)
        case s.Upsample():
            return _upsample(graph, spec, inputs[0], out)
        case s.Dropout():
            return inputs[0]
    raise AssertionError(f"{node.name}: {s.kind(spec)} passed the check")


def _convolution(graph: _Graph, node: Node, spec: s.Conv | s.ConvTranspose, x: str) -> str:
    bias = [graph.weight(node, "bias")] if spec.bias else []
    more: dict[str, Any] = {"group": spec.groups} if isinstance(spec, s.Conv) else {}
    if isinstance(spec, s.ConvTranspose):
        more["output_padding"] = [w.out_pad for w in spec.windows]
    return graph.op(
        "Conv" if isinstance(spec, s.Conv) else "ConvTranspose", [x, graph.weight(node, "weight"), *bias], node.name,
        kernel_shape=[w.kernel for w in spec.windows], strides=[w.stride for w in spec.windows],
        dilations=[w.dilation for w in spec.windows], pads=_pads(spec.windows), **more,
    )  # fmt: skip


def _upsample(graph: _Graph, spec: s.Upsample, x: str, out: str) -> str:
    factors = np.array([1, 1, *(w.factor for w in spec.windows)], np.float32)
    how = (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if spec.windows[0].linear
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )
    return graph.op("Resize", [x, "", graph.constant(f"{out}:factors", factors)], out, **how)


def _pads(windows: Sequence[Any]) -> list[int]:
    return [*(w.pad_lo for w in windows), *(w.pad_hi for w in windows)]


def _gelu(graph: _Graph, x: str, out: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2, which has an operator of its own only in later versions."""
    root, one, half = (
        graph.constant(f"{out}:{name}", np.asarray(value, graph.dtype))
        for name, value in (("root", math.sqrt(0.5)), ("one", 1.0), ("half", 0.5))
    )
    error = graph.op("Erf", [graph.op("Mul", [x, root], f"{out}:scaled")], f"{out}:erf")
    return graph.op(
        "Mul", [graph.op("Mul", [x, graph.op("Add", [error, one], f"{out}:sum")], f"{out}:two"), half], out
    )


def _silu(graph: _Graph, x: str, out: str) -> str:
    return graph.op("Mul", [x, graph.op("Sigmoid", [x], f"{out}:sigmoid")], out)


_FUNCTIONS: dict[str, Callable[[_Graph, str, str], str]] = {
    "relu": lambda graph, x, out: graph.op("Relu", [x], out),
    "tanh": lambda graph, x, out: graph.op("Tanh", [x], out),
    "sigmoid": lambda graph, x, out: graph.op("Sigmoid", [x], out),
    "gelu": _gelu,
    "silu": _silu,
}
