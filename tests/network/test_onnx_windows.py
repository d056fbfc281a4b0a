"""Windows of ONNX files: padding that follows from extents, windows over the end, upsampling in its many forms."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.network.graph import Builder
from gridnn.network.onnx.read import read_onnx
from gridnn.network.spec import out_shape
from tests.network.onnx_files import OnnxFile
from tests.network.test_onnx import kinds, same


@pytest.mark.parametrize("extent", [5, 6, 7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(tmp_path, extent, stride, auto):
    file = OnnxFile("n", 2, extent, extent)
    file.conv("x", 2, 3, 3, pads=None, auto_pad=auto, strides=[stride, stride])
    (conv, _) = kinds(read_onnx(file.save(tmp_path / "net.onnx")))
    assert isinstance(conv, s.Conv)
    (w, _) = conv.windows
    assert out_shape(conv, ((2, extent, extent),), "")[1] == -(-(extent - 2 * (auto == "VALID")) // stride)
    assert w.pad_hi - w.pad_lo in {"SAME_UPPER": (0, 1), "SAME_LOWER": (0, -1), "VALID": (0,)}[auto]
    assert w.pad_lo + w.pad_hi == (
        0 if auto == "VALID" else max(0, (-(-extent // stride) - 1) * stride + 3 - extent)
    )


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pad", "out"),
    # The last window must begin in the image or the padding before it: of (5, 2, 3, 1) it would not.
    [
        (112, 3, 2, 0, 56),
        (7, 2, 2, 0, 4),
        (6, 2, 2, 0, 3),
        (9, 3, 2, 1, 5),
        (5, 2, 3, 1, 2),
        (10, 3, 2, 1, 6),
    ],
)
def test_ceil_mode(tmp_path, op, extent, kernel, stride, pad, out):
    file = OnnxFile("n", 2, extent)
    file.add(op, "x", kernel_shape=[kernel], strides=[stride], pads=[pad, pad], ceil_mode=1)
    network = read_onnx(file.save(tmp_path / "net.onnx"))
    assert network.shapes[network.output] == (2, out)
    (pool, _) = kinds(network)
    assert isinstance(pool, s.Pool)
    assert pool.how == "max" or not pool.count_pad or not pool.windows[0].pad_hi


def test_padding_before_a_window_joins_it(tmp_path):
    file = OnnxFile("n", 3, 8, 8, opset=13)
    x = file.add("Pad", "x", file.ints(0, 0, 1, 2, 0, 0, 0, 1))
    x = file.add("Relu", file.conv(x, 3, 4, 3, pads=None))
    x = file.add("Pad", x, file.ints(0, 0, 0, 0, 0, 0, 1, 1), file.array(0.0))
    file.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    net = Builder("net", (3, 8, 8))
    x = net.relu(net.conv(net.input, 4, 3, pad=((1, 0), (2, 1))))
    same(
        read_onnx(file.save(tmp_path / "net.onnx")),
        net.done(net.cross_entropy(net.max_pool(x, 3, 2, ((0, 1), (0, 1))))),
    )


RESIZES = [
    ({"mode": "nearest"}, 3, "nearest"),
    (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        3,
        "nearest",
    ),
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, 2, "nearest"),
    ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, 3, ""),
    ({"mode": "nearest", "coordinate_transformation_mode": "align_corners"}, 2, ""),
    ({"mode": "nearest", "nearest_mode": "ceil"}, 2, ""),
    ({"mode": "linear"}, 3, "linear"),
    ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, 2, "linear"),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 2, ""),
    ({"mode": "cubic"}, 2, ""),
    ({"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}, 3, "nearest"),
    ({"coordinate_transformation_mode": "tf_half_pixel_for_nn"}, 3, ""),
]


@pytest.mark.parametrize("by", ["scales", "sizes", "chain"])
@pytest.mark.parametrize(("attributes", "factor", "how"), RESIZES)
def test_resize(tmp_path, attributes, factor, how, by):
    file = OnnxFile("n", 2, 4, 5)
    if by == "scales":
        file.add("Resize", "x", "", file.array([1, 1, 1, factor]), **attributes)
    elif by == "sizes":
        file.add("Resize", "x", "", "", file.ints(1, 2, 4, 5 * factor), **attributes)
    else:  # the batch and the channels of the input, the extents multiplied
        size = file.add("Shape", "x")
        grown = file.add(
            "Mul", file.add("Cast", file.add("Gather", size, file.ints(3)), to=1), file.array([float(factor)])
        )
        kept = file.add("Slice", size, file.ints(0), file.ints(3), file.ints(0))
        sizes = file.add("Concat", kept, file.add("Cast", file.add("Floor", grown), to=7), axis=0)
        file.add("Resize", "x", "", "", sizes, **attributes)
    path = file.save(tmp_path / "net.onnx")
    if not how:
        with pytest.raises(InputError, match=r"Resize in mode"):
            read_onnx(path)
        return
    net = Builder("net", (2, 4, 5))
    same(read_onnx(path), net.done(net.cross_entropy(net.upsample(net.input, (1, factor), how))))


@pytest.mark.parametrize(("mode", "rounding", "factor"), [
    (mode, rounding, factor)
    for mode in ("half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners")
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") for factor in (2, 3, 4)
])  # fmt: skip
def test_nearest_is_taken_only_where_it_reads_the_same(tmp_path, mode, rounding, factor):
    """ONNX's own evaluation decides."""
    from onnx.reference import ReferenceEvaluator

    file = OnnxFile(1, 1, 5)
    file.add("Resize", "x", "", file.array([1, 1, factor]), mode="nearest", nearest_mode=rounding,
             coordinate_transformation_mode=mode)  # fmt: skip
    path = file.save(tmp_path / "net.onnx")
    (made,) = ReferenceEvaluator(str(path)).run(None, {"x": np.arange(5, dtype=np.float32).reshape(1, 1, 5)})
    equal = np.array_equal(np.ravel(made), np.repeat(np.arange(5), factor))
    if equal and mode != "align_corners":
        read_onnx(path)
    elif not equal:
        with pytest.raises(InputError, match="Resize in mode"):
            read_onnx(path)


def test_transposed_windows(tmp_path):
    file = OnnxFile("n", 3, 7)
    weight = file.weight(3, 4, 3)
    a = file.add("ConvTranspose", "x", weight, strides=[2], output_shape=[14])
    b = file.add("ConvTranspose", "x", weight, strides=[2], auto_pad="SAME_UPPER")
    c = file.add("ConvTranspose", "x", file.weight(3, 4, 4), strides=[2], pads=[1, 1], dilations=[1])
    file.add("Add", file.add("Add", a, b), c)
    network = read_onnx(file.save(tmp_path / "net.onnx"))
    found = [n.spec.windows[0] for n in network.nodes if isinstance(n.spec, s.ConvTranspose)]
    assert [(w.pad_lo, w.pad_hi) for w in found] == [(1, 0), (0, 1), (1, 1)]
    assert network.shapes[network.output] == (4, 14)
    assert [n.shared for n in network.nodes[:2]] == ["", network.nodes[0].name]
