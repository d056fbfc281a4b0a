"""ONNX files for tests, written operator by operator as exporters write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dims = Sequence[int | str | None]


class OnnxFile:
    """A graph being written; `add` returns the name of an operator's output, as does `array` that of a constant."""

    def __init__(self, *dims: int | str | None, opset: int = 17) -> None:
        self.opset, self.nodes, self.arrays = opset, list[Any](), list[Any]()
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
        self.outputs: list[str] = []

    def add(
        self, op: str, *inputs: str, name: str = "", outputs: int = 1, domain: str = "", **attributes: Any
    ) -> str:
        made = [f"v{len(self.nodes)}" + f".{at}" * (at > 0) for at in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name or f"/net/{op}_{len(self.nodes)}", domain=domain,
                                           **attributes))  # fmt: skip
        return made[0]

    def array(self, values: Any, kind: Any = np.float32) -> str:
        self.arrays.append(numpy_helper.from_array(np.asarray(values, kind), f"c{len(self.arrays)}"))
        return str(self.arrays[-1].name)

    def ints(self, *values: int) -> str:
        return self.array(values, np.int64)

    def weight(self, *shape: int) -> str:
        """Name an array whose numbers are in another file, which does not exist."""
        tensor = TensorProto(name=f"c{len(self.arrays)}", dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        self.arrays.append(tensor)
        return tensor.name

    def conv(
        self, x: str, c: int, k: int, kernel: int = 3, bias: bool = True, groups: int = 1, **more: Any
    ) -> str:
        arrays = [self.weight(k, c // groups, kernel, kernel), *([self.weight(k)] if bias else [])]
        return self.add("Conv", x, *arrays, group=groups, **({"pads": [kernel // 2] * 4} | more))

    def norm(self, x: str, c: int, **more: Any) -> str:
        return self.add("BatchNormalization", x, *(self.weight(c) for _ in range(4)), **more)

    def gemm(self, x: str, c: int, k: int) -> str:
        return self.add("Gemm", x, self.weight(k, c), self.weight(k), transB=1)

    def save(self, path: Path, *outputs: str) -> Path:
        """Write the file; by default its output is that of the last operator."""
        names = outputs or (self.nodes[-1].output[0],)
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        onnx.save(model, str(path))
        return path
