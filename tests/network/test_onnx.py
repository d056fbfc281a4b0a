"""ONNX files against the same networks written by hand: shapes, weights and operations of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from gridnn.errors import InputError
from gridnn.network import count, zoo
from gridnn.network import spec as s
from gridnn.network.graph import Builder, Network
from gridnn.network.onnx.read import read_onnx
from tests.network.onnx_files import OnnxFile


def kinds(network: Network) -> list[s.LayerSpec]:
    return [n.spec for n in network.nodes]


def same(found: Network, wanted: Network) -> None:
    """Hold a network to another but for the names of layers, whose order is that of the file."""
    number = {n.name: at for at, n in enumerate(found.nodes)} | {"input": -1}
    other = {n.name: at for at, n in enumerate(wanted.nodes)} | {"input": -1}
    assert found.input_shape == wanted.input_shape
    assert kinds(found) == kinds(wanted)
    assert [[number[i] for i in n.inputs] for n in found.nodes] == [
        [other[i] for i in n.inputs] for n in wanted.nodes
    ]
    for figure in (count.parameter_counts, count.flop_counts):
        assert list(figure(found).values()) == list(figure(wanted).values())
    assert list(found.shapes.values()) == list(wanted.shapes.values())


def export(network: Network, path: Path) -> Path:
    """Write a network of the zoo the way an exporter would."""
    file = OnnxFile("batch", *network.input_shape)
    values, shapes = {"input": "x"}, network.shapes
    for node in network.nodes[:-1]:
        spec, inputs, x = node.spec, [values[i] for i in node.inputs], shapes[node.inputs[0]]
        name = node.name
        if isinstance(spec, s.Conv | s.ConvTranspose):
            windows, shape = spec.windows, (spec.out, x[0] // getattr(spec, "groups", 1))
            more: dict[str, Any] = {
                "strides": [w.stride for w in windows], "dilations": [w.dilation for w in windows],
                "pads": [*(w.pad_lo for w in windows), *(w.pad_hi for w in windows)],
            }  # fmt: skip
            if isinstance(spec, s.ConvTranspose):
                shape, more["output_padding"] = (x[0], spec.out), [w.out_pad for w in spec.windows]
            else:
                more["group"] = spec.groups
            arrays = [file.weight(*shape, *(w.kernel for w in windows)), *[file.weight(spec.out)] * spec.bias]
            values[name] = file.add(type(spec).__name__, *inputs, *arrays, name=name, **more)
        elif isinstance(spec, s.Linear):
            values[name] = file.gemm(inputs[0], x[0], spec.out)
        elif isinstance(spec, s.BatchNorm):
            values[name] = file.norm(inputs[0], x[0], epsilon=spec.eps, momentum=1 - spec.momentum)
        elif isinstance(spec, s.Pool):
            pads = [*(w.pad_lo for w in spec.windows), *(w.pad_hi for w in spec.windows)]
            more = {
                "kernel_shape": [w.kernel for w in spec.windows],
                "pads": pads,
                "strides": [w.stride for w in spec.windows],
            }
            if spec.how == "average":
                more["count_include_pad"] = int(spec.count_pad)
            values[name] = file.add({"max": "MaxPool"}.get(spec.how, "AveragePool"), *inputs, **more)
        elif isinstance(spec, s.GlobalPool):
            values[name] = file.add("Flatten", file.add("GlobalAveragePool", *inputs))
        elif isinstance(spec, s.Dropout):
            values[name] = file.add("Dropout", *inputs, file.array(spec.rate, np.float64))
        else:
            axis: dict[str, Any] = {"axis": 1} if isinstance(spec, s.Concat | s.Flatten) else {}
            op = spec.name.title() if isinstance(spec, s.Activation) else type(spec).__name__
            values[name] = file.add(op, *inputs, **axis)
    file.add("Softmax", values[network.output], axis=1)
    return file.save(path / "net.onnx")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("alexnet", {}),
        ("vgg16", {}),
        ("resnet20", {}),
        ("resnet50", {}),
        ("inception_v3", {}),
        ("unet", {"width": 4, "depth": 2}),
        ("lenet", {}),
    ],
)
def test_the_zoo_comes_back(tmp_path, name, chosen):
    shape = {"unet": (2, 29, 24)}.get(name)
    network = zoo.build(name, shape, 5, **chosen) if shape else zoo.usual(name, **chosen)
    same(read_onnx(export(network, tmp_path)), network)


def shape_chain(file: OnnxFile, x: str) -> str:
    """Write x.view(x.size(0), -1) as it is traced."""
    batch = file.add("Gather", file.add("Shape", x), file.array(0, np.int64), axis=0)
    return file.add(
        "Reshape", x, file.add("Concat", file.add("Unsqueeze", batch, file.ints(0)), file.ints(-1), axis=0)
    )


@pytest.mark.parametrize("batch", [1, 8, "batch", None])
@pytest.mark.parametrize("how", ["chain", "flatten", "minus", "zero", "sizes", "constant", "slice"])
def test_flatten_has_many_forms(tmp_path, how, batch):
    file = OnnxFile(batch, 3, 6, 4)
    x = file.conv("x", 3, 5)
    if how == "chain":
        x = shape_chain(file, x)
    elif how == "flatten":
        x = file.add("Flatten", x)
    elif how == "minus":
        x = file.add("Reshape", x, file.ints(-1, 120))
    elif how == "zero":
        x = file.add("Reshape", x, file.ints(0, -1))
    elif how == "constant":
        x = file.add("Reshape", x, file.add("Constant", value_ints=[-1, 120]))
    elif how == "slice":  # x.view(x.shape[0], x.shape[1] * 24)
        size = file.add("Shape", x)
        first = file.add("Slice", size, file.ints(0), file.ints(1), file.ints(0))
        second = file.add("Mul", file.add("Gather", size, file.ints(1)), file.ints(24))
        x = file.add("Reshape", x, file.add("Concat", first, second, axis=0))
    else:
        x = file.add(
            "Reshape", x, file.add("Cast", file.ints(batch if isinstance(batch, int) else -1, 120), to=7)
        )
    file.gemm(x, 120, 7)
    net = Builder("net", (3, 6, 4))
    same(
        read_onnx(file.save(tmp_path / "net.onnx")),
        net.done(net.cross_entropy(net.linear(net.flatten(net.conv(net.input, 5, 3, pad=1)), 7))),
    )


@pytest.mark.parametrize(
    "end", ["flatten", "squeeze", "reduce", "reduce18", "conv", "window", "keepdims", "max"]
)
def test_global_pools(tmp_path, end):
    """Features after a global pool, in whatever form the file has them; a 1 x 1 window on them is a linear layer."""
    file = OnnxFile("n", 3, 6, 4, opset=18)
    x, how = file.conv("x", 3, 5), "average"
    if end == "reduce":
        x = file.add("ReduceMean", x, file.ints(-2, -1), keepdims=0)
    elif end == "reduce18":
        x = file.add("Flatten", file.add("ReduceMean", x, file.ints(2, 3)))
    elif end == "window":
        x = file.add("Flatten", file.add("AveragePool", x, kernel_shape=[6, 4]))
    elif end == "max":
        x, how = file.add("Squeeze", file.add("GlobalMaxPool", x), file.ints(2, 3)), "max"
    else:
        x = file.add("GlobalAveragePool", x)
        if end == "squeeze":
            x = file.add("Squeeze", x, file.ints(2, 3))
        elif end == "flatten":
            x = file.add("Flatten", x)
    if end in ("conv", "keepdims"):
        x = file.conv(x, 5, 7, 1)
        x = file.add("Squeeze", x) if end == "conv" else file.add("LogSoftmax", x, axis=1)
    else:
        file.gemm(x, 5, 7)
    net = Builder("net", (3, 6, 4))
    x = net.linear(net.global_pool(net.conv(net.input, 5, 3, pad=1), how), 7)
    same(read_onnx(file.save(tmp_path / "net.onnx")), net.done(net.cross_entropy(x)))


def test_space_after_a_global_pool(tmp_path):
    """What needs the space of extent 1 that a global pool leaves makes it a window: the pyramid of DeepLab."""
    file = OnnxFile("n", 3, 6, 6)
    x = file.conv("x", 3, 5)
    y = file.add("Relu", file.conv(file.add("GlobalAveragePool", x), 5, 2, 1))
    y = file.add("Resize", y, "", "", file.ints(1, 2, 6, 6), mode="linear")
    file.conv(file.add("Concat", x, y, axis=1), 7, 4, 1)
    net = Builder("net", (3, 6, 6))
    x = net.conv(net.input, 5, 3, pad=1)
    y = net.upsample(net.relu(net.conv(net.pool(x, "average", 6, 1), 2, 1)), 6, "linear")
    same(
        read_onnx(file.save(tmp_path / "net.onnx")),
        net.done(net.cross_entropy(net.conv(net.concat(x, y), 4, 1))),
    )


@pytest.mark.parametrize("op", ["MatMul", "Conv", "ConvTranspose"])
def test_a_bias_may_be_added_later(tmp_path, op):
    file, net = (
        OnnxFile("n", 3) if op == "MatMul" else OnnxFile("n", 3, 9),
        Builder("net", (3,) if op == "MatMul" else (3, 9)),
    )
    shape = {"MatMul": (3, 5), "Conv": (5, 3, 4), "ConvTranspose": (3, 5, 4)}[op]
    x = file.add(
        "Add",
        file.weight(5) if op == "MatMul" else file.weight(1, 5, 1),
        file.add(op, "x", file.weight(*shape)),
    )
    file.add("Relu", x)
    y = {"MatMul": net.linear, "Conv": net.conv, "ConvTranspose": net.conv_transpose}[op](  # type: ignore[operator]
        net.input, 5, *([] if op == "MatMul" else [4])
    )
    same(read_onnx(file.save(tmp_path / "net.onnx")), net.done(net.cross_entropy(net.relu(y))))
    # Used twice, the product keeps no bias of its own, and the sum has no layer.
    file.add("Add", "v0", "v2")
    with pytest.raises(InputError, match="Add of an array and a constant"):
        read_onnx(file.save(tmp_path / "net.onnx"))


def test_activations(tmp_path):
    file, net = OnnxFile("n", 4, opset=20), Builder("net", (4,))
    y, names = net.input, ("relu", "sigmoid", "tanh", "gelu", "silu", "gelu", "silu", "gelu")
    for name in names:
        y = net.activation(y, name)
    x = "x"
    for op in ("Relu", "Sigmoid", "Tanh", "Gelu"):
        x = file.add(op, x)
    x = file.add("Mul", file.add("Sigmoid", x), x)
    grown = file.add("Add", file.add("Erf", file.add("Div", x, file.array(2**0.5))), file.array(1.0))
    x = file.add("Mul", file.add("Mul", x, grown), file.array(0.5))
    x = file.add("Mul", x, file.add("Sigmoid", x))
    grown = file.add("Add", file.array(1.0), file.add("Erf", file.add("Mul", x, file.array(0.5**0.5))))
    file.add("Mul", file.add("Mul", x, file.array(0.5)), grown)
    same(read_onnx(file.save(tmp_path / "net.onnx")), net.done(net.cross_entropy(y)))


def test_constants_that_a_layer_absorbs(tmp_path):
    """Numbers that scale or shift channels after a layer with weights are weights of that layer; on the input, data."""
    file, net = OnnxFile("n", 3, 6, 6), Builder("net", (3, 6, 6))
    x = file.add("Div", file.add("Sub", "x", file.weight(3, 1, 1)), file.weight(1, 3, 1, 1))
    x = file.norm(file.conv(x, 3, 4, bias=False), 4)
    x = file.add("Add", file.add("Mul", x, file.weight(4, 1, 1)), file.weight(1, 4, 1, 1))
    x = file.add("Mul", file.array(0.17), file.conv(file.add("Relu", x), 4, 5, bias=False))
    y = net.relu(net.batch_norm(net.conv(net.input, 4, 3, pad=1, bias=False)))
    same(
        read_onnx(file.save(tmp_path / "net.onnx")),
        net.done(net.cross_entropy(net.conv(y, 5, 3, pad=1, bias=False))),
    )


# Weights as published with these networks (SqueezeNet is version 1.1).
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("squeezenet", 1_235_496),
        ("vgg19", 143_667_240),
        ("resnet50", 25_557_032),
        ("densenet121", 7_978_856),  # its norms are followed by a scale and a shift each
    ],
)
def test_files_of_others(name, weights):
    import onnx

    files = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not (path := files / f"light_{name}.onnx").exists():
        pytest.skip("this onnx comes without its light models")
    network = read_onnx(path)
    assert count.parameter_count(network) == weights
    assert network.input_shape == (3, 224, 224)
    assert network.shapes[network.output][0] == 1000
    if name == "resnet50":
        ours = zoo.usual("resnet50")
        assert count.flop_count(network) == count.flop_count(ours)
        assert len(network.nodes) == len(ours.nodes)


def test_weights_used_twice_are_shared(tmp_path):
    file = OnnxFile("n", 4, 6, 6)
    weight = file.weight(4, 4, 3, 3)
    x = "x"
    for _ in range(3):
        x = file.add("Conv", x, weight, pads=[1] * 4)
    network = read_onnx(file.save(tmp_path / "net.onnx"))
    first, *others, _ = network.nodes
    assert [n.shared for n in others] == [first.name] * 2
    assert network.tied == {n.name: first.name for n in others}
    assert count.parameter_count(network) == 4 * 4 * 9
    assert len(set(count.flop_counts(network).values()) - {0}) == 1


def test_layer_norm_and_channels_last_input(tmp_path):
    file = OnnxFile("n", 6, 4, 3)
    x = file.add("Transpose", file.add("Identity", "x"), perm=[0, 3, 1, 2])
    x = file.add("LayerNormalization", x, file.weight(3, 6, 4), file.weight(3, 6, 4), axis=1)
    file.add("Dropout", file.add("Div", x, file.array(1.0)), file.array(0.0))
    del file.nodes[0], file.nodes[-2:]
    file.nodes[0].input[0] = "x"
    net = Builder("net", (3, 6, 4))
    same(read_onnx(file.save(tmp_path / "net.onnx")), net.done(net.cross_entropy(net.layer_norm(net.input))))


def test_names_are_those_of_the_file_made_unique(tmp_path):
    file = OnnxFile("n", 3, 6, 6)
    x = file.conv("x", 3, 3, name="/block one/conv/Conv")
    x = file.conv(x, 3, 3, name="/block one/conv/Conv")
    file.add("Relu", file.conv(x, 3, 3, name="loss"), name="x")
    file.nodes[-1].name = ""
    network = read_onnx(file.save(tmp_path / "my net.onnx"))
    assert [n.name for n in network.nodes] == [
        "block_one/conv/Conv",
        "block_one/conv/Conv_2",
        "loss_2",
        "relu1",
        "loss",
    ]
    assert network.name == "my net"
