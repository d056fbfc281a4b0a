"""What is wrong with an ONNX file is said in one message."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import TensorProto, helper

from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.network.onnx.read import read_onnx
from tests.network.onnx_files import OnnxFile


def refused(path: Path, *words: str, **chosen: Any) -> str:
    with pytest.raises(InputError) as error:
        read_onnx(path, **chosen)
    message = str(error.value)
    assert all(w in message for w in words), message
    assert "\n" not in message
    return message


def small(*dims: int | str | None, opset: int = 17) -> OnnxFile:
    return OnnxFile(*(dims or ("n", 3, 8, 8)), opset=opset)


def test_all_unsupported_operators_are_listed_at_once(tmp_path):
    file = small()
    x = "x"
    for at in range(5):
        x = file.add("LeakyRelu", file.conv(x, 3, 3), name=f"leaky{at}")
    x = file.add("Mul", x, file.add("Sigmoid", file.conv(x, 3, 3)), name="gate")
    x = file.add("LRN", x, name="lrn", size=5)
    x = file.add("Fused", x, name="own", domain="com.mine")
    file.add("Softmax", file.add("InstanceNormalization", x, file.weight(3), file.weight(3)), axis=3)
    message = refused(
        file.save(tmp_path / "bad.onnx"),
        "bad.onnx: operators that gridnn has no layer for: ",
        "LeakyRelu (5: leaky0, leaky1, leaky2, ...)",
        "LRN (1: lrn)",
        "com.mine.Fused (1: own)",
        "InstanceNormalization (1: ",
        "Known are Add, AveragePool",
    )
    # What follows an unknown operator is not judged: its input has no shape.
    assert "Mul of" not in message
    assert "Conv (" not in message


def test_forms_without_a_layer_are_listed_with_them(tmp_path):
    file = small()
    branches = [
        file.add("ConvTranspose", "x", file.weight(3, 3, 3, 3), name="grouped", group=3),
        file.add("AveragePool", "x", name="ceil", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
                 count_include_pad=1),
        file.add("MaxPool", "x", name="bare"),
        file.add("Mul", "x", "x", name="square"),
        file.add("Softmax", "x", name="middle"),
        file.add("Conv", "x", file.add("Relu", "x"), name="dynamic"),
        file.add("Reshape", "x", file.ints(0, 3, 2, 32), name="shuffle"),
        file.add("Transpose", "x", name="turn", perm=[0, 2, 3, 1]),
        file.add("Pad", "x", file.ints(0, 0, 1, 1, 0, 0, 1, 1), name="mirror", mode="reflect"),
        file.add("Conv", "x", file.weight(4, 5, 3, 3), name="other"),
        file.add("LayerNormalization", "x", file.weight(8), file.weight(8), name="rows"),
        file.add("Concat", "x", "x", name="wide", axis=3),
    ]  # fmt: skip
    file.add("Sum", *branches)
    refused(
        file.save(tmp_path / "bad.onnx"),
        "Softmax (1: middle)",
        "Also forms of operators that it has no layer for: ",
        "ConvTranspose in groups (1: grouped)",
        "AveragePool with ceil_mode and count_include_pad where a window hangs over the end (1: ceil)",
        "MaxPool without kernel_shape (1: bare)",
        "Mul of two arrays (1: square)",
        "Conv whose weight is not constant (1: dynamic)",
        "Reshape of (3, 8, 8) to (3, 2, 32) (1: shuffle)",
        "Transpose by (0, 2, 3, 1) (1: turn)",
        "Pad with mode reflect (1: mirror)",
        "Conv of weights for 5 channels on 3 (1: other)",
        "LayerNormalization over less than a whole sample (1: rows)",
        "Concat along axis 3 (1: wide)",
    )


def test_the_batch_stays_first_and_alone(tmp_path):
    """A batch that tracing has frozen, or folded into another dim, is no flatten."""
    file = small()
    once = file.add("Reshape", "x", file.ints(1, -1), name="frozen")
    batch = file.add("Gather", file.add("Shape", "x"), file.ints(0))
    for op, at in (("Mul", 3), ("Add", 1), ("Sub", 1), ("Div", 2)):
        target = file.add("Concat", file.add(op, batch, file.ints(at)), file.ints(-1), axis=0)
        once = file.add("Add", once, file.add("Reshape", "x", target, name=op.lower()))
    message = refused(file.save(tmp_path / "bad.onnx"), "Reshape of (batch, 3, 8, 8) to (1, -1) (1: frozen)")
    assert "to (unknown, -1) (4: mul, add, sub, ...)" in message


def test_constants_that_no_layer_absorbs(tmp_path):
    file = small()
    x = file.conv("x", 3, 4, name="conv")
    a = file.add("Mul", x, file.weight(4, 1, 1), name="twice")  # the layer's output is used as it is, too
    b = file.add("Mul", file.add("Relu", x), file.array(0.5), name="late")
    c = file.add(
        "Add", file.conv("x", 3, 4, bias=False), file.array(0.5), name="scalar"
    )  # no bias to absorb it
    d = file.add("Mul", file.conv("x", 3, 4), file.weight(1, 8, 8), name="rows")
    file.add("Sum", a, b, c, d, x)
    refused(
        file.save(tmp_path / "bad.onnx"),
        "Add of an array and a constant (1: scalar)",
        "Mul of an array and a constant (3: twice, late, rows)",
    )


def test_zeros_around_an_image_are_not_the_padding_of_a_pool(tmp_path):
    file, pads = small(), (0, 0, 0, 0, 0, 0, 1, 1)
    window: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2]}
    for op, more in (("MaxPool", {}), ("AveragePool", {}), ("Relu", None)):
        padded = file.add("Pad", "x", file.ints(*pads))
        file.add(op, padded, name=op, **({} if more is None else window))
    good = file.add("AveragePool", file.add("Pad", "x", file.ints(*pads)), count_include_pad=1, **window)
    file.add("Sum", "v1", "v3", "v5", good)
    refused(
        file.save(tmp_path / "bad.onnx"),
        "AveragePool of a padded input (1: AveragePool); MaxPool of a padded input (1: MaxPool); "
        "Relu of a padded input (1: Relu)",
    )


@pytest.mark.parametrize(("opset", "axis", "what"), [(17, 3, "over dim 3"), (17, None, "over dim 3"),
                                                     (11, 1, "over all dims from 1")])  # fmt: skip
def test_only_a_softmax_over_channels_is_the_loss(tmp_path, opset, axis, what):
    file = small(opset=opset)
    file.add("Softmax", file.conv("x", 3, 4), name="end", **({} if axis is None else {"axis": axis}))
    refused(file.save(tmp_path / "bad.onnx"), f"Softmax {what} (1: end)")


def test_what_onnx_does_not_allow(tmp_path):
    file = small()
    flat = file.add("Conv", "x", file.weight(7), name="flat")
    lone = file.add("Gemm", file.add("Flatten", "x"), name="lone")
    file.add("Sum", flat, lone, file.add("Transpose", "x", perm=[0, 1], name="short"))
    refused(file.save(tmp_path / "bad.onnx"), "Conv with inputs or attributes that ONNX does not allow", "(1: flat)",
            "Gemm whose weight is not constant (1: lone)", "Transpose by (0, 1) (1: short)")  # fmt: skip


def test_a_second_output_that_is_used(tmp_path):
    file = small()
    x = file.add("MaxPool", "x", outputs=2, kernel_shape=[2, 2], name="pool")
    file.add("Add", x, f"{x}.1")
    refused(file.save(tmp_path / "bad.onnx"), "MaxPool whose output 2 is used (1: pool)")


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        (("n", 3, "height", 8), ("bad.onnx", 'dim 2 "height" of input x is dynamic', "shape of a sample")),
        (("n", 3, 8, None), ("dim 3 of input x is dynamic",)),
        (("n",), ("input x has shape",)),
        (("n", 1, 2, 3, 4, 5), ("up to 3 space dims",)),
    ],
)
def test_dims(tmp_path, dims, words):
    file = small(*dims)
    file.add("Relu", "x")
    refused(file.save(tmp_path / "bad.onnx"), *words)


def test_dims_may_be_given(tmp_path):
    file = small("n", 3, "height", "width")
    file.conv("x", 3, 4)
    path = file.save(tmp_path / "open.onnx")
    assert read_onnx(path, input_shape=(3, 9, 7)).shapes["loss"] == ()
    assert read_onnx(path, input_shape=[3, 9, 7]).input_shape == (3, 9, 7)
    refused(path, "input x is", "(4, 9, 7) does not fit", input_shape=(4, 9, 7))
    refused(path, "does not fit", input_shape=(3, 9))


def test_inputs_and_outputs(tmp_path):
    file = small()
    a = file.add("Relu", "x", name="a")
    b = file.add("Conv", a, file.weight(5, 3, 1, 1), name="b")
    path = file.save(tmp_path / "two.onnx", a, b)
    refused(path, f"2 outputs ({a}, {b})", "name the one to plan")
    refused(path, "no output c", output="c")
    assert [n.name for n in read_onnx(path, output=a).nodes] == ["a", "loss"]
    assert read_onnx(path, output=b).shapes["b"] == (5, 8, 8)
    file.inputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8]))
    assert len(read_onnx(file.save(tmp_path / "unused.onnx")).nodes) == 3  # y is not read
    file.add("Add", b, "y")
    refused(file.save(tmp_path / "both.onnx"), "2 inputs (x, y)", "networks of one input")
    refused(file.save(tmp_path / "none.onnx", "z"), "nothing makes its output z")
    file.add("Conv", "lost", file.weight(3, 3, 1, 1), name="late")
    file.add("Add", a, "v3")
    refused(file.save(tmp_path / "order.onnx"), "operator late reads lost, which nothing before it makes")


def test_a_network_without_layers(tmp_path):
    file = small()
    file.add("Identity", "x")
    refused(file.save(tmp_path / "bad.onnx"), "no layer of gridnn makes its output")
    file = small()
    file.add("Constant", value_ints=[1, 2])
    refused(file.save(tmp_path / "bad.onnx"), "no input that its output depends on")


def test_layers_that_do_not_fit(tmp_path):
    file = small()
    file.conv("x", 3, 4, 11, name="wide", pads=[0] * 4)
    refused(file.save(tmp_path / "bad.onnx"), "bad.onnx: layer wide", "smaller than the window")


def test_numbers_that_did_not_come_along(tmp_path):
    """Weights need not be there, the shape of a Reshape must."""
    file = small()
    x = file.conv("x", 3, 4)
    file.add("Reshape", x, file.weight(2), name="flat")
    message = refused(file.save(tmp_path / "bad.onnx"), "Reshape of the array c2", "cannot be read")
    assert "weights.bin" in message


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07" + b"\xff" * 40])
def test_files_that_are_none(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    refused(path, "bad.onnx", "ONNX file")


def test_a_file_cut_short(tmp_path):
    file = small()
    x = "x"
    for _ in range(9):
        x = file.conv(x, 3, 3)
    path = file.save(tmp_path / "bad.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "this is no ONNX file, or a part of it is missing")


def test_no_file(tmp_path):
    refused(tmp_path / "none.onnx", "none.onnx: cannot be read", "No such file")
    refused(tmp_path, "cannot be read")


def test_without_the_package(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ImportError(name)
        return real(name, *rest, **more)

    file = small()
    file.add("Relu", "x")
    path = file.save(tmp_path / "net.onnx")
    monkeypatch.setattr(builtins, "__import__", without)
    refused(path, "net.onnx", 'pip install "gridnn[onnx]"')


def test_functions_of_the_file_are_opened(tmp_path):
    import onnx

    file = small("n", 4)
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Tanh", ["b"], ["c"])]
    function = helper.make_function("mine", "Both", ["a"], ["c"], body, [helper.make_opsetid("", 17)])
    file.add("Both", "x", domain="mine")
    path = file.save(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, str(path))
    assert [n.spec for n in read_onnx(path).nodes] == [
        s.Activation("relu"), s.Activation("tanh"), s.SoftmaxCrossEntropy(),
    ]  # fmt: skip


def test_importing_the_reader_does_not_import_the_package():
    import subprocess
    import sys

    code = "import sys, gridnn.network.onnx.read; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_small_arrays_beside_the_file_are_read(tmp_path):
    import onnx

    file = small()
    file.add("Reshape", file.conv("x", 3, 4), file.ints(-1, 256))
    file.arrays = [a for a in file.arrays if a.data_location == TensorProto.EXTERNAL] + [file.arrays[-1]]
    path = file.save(tmp_path / "net.onnx")
    model = onnx.load(str(path), load_external_data=False)
    shape = model.graph.initializer[-1]
    (tmp_path / "shapes.bin").write_bytes(np.array([-1, 256], np.int64).tobytes())
    shape.ClearField("raw_data")
    shape.data_location = TensorProto.EXTERNAL
    shape.external_data.add(key="location", value="shapes.bin")
    path.write_bytes(model.SerializeToString())
    network = read_onnx(path)
    assert network.shapes[network.output] == (256,)
