"""Words and tables that say where a network comes from: read, written, refused."""

from __future__ import annotations

from typing import Any

import pytest

from gridnn.errors import InputError
from gridnn.network import zoo
from gridnn.network.source import Source, open_network, parse_source, read_source


def test_usual_networks_need_only_a_name() -> None:
    for name in zoo.names():
        assert open_network(parse_source(name)).digest == zoo.usual(name).digest
    assert open_network(Source("inception-v3")).input_shape == (3, 299, 299)
    assert open_network(Source("digits_cnn")).input_shape == (1, 8, 8)


def test_words_say_shape_classes_and_options() -> None:
    source = parse_source("resnet20", "3,64,48", 7, ["width=8", "label_smoothing=0.1"])
    assert source == Source("resnet20", (3, 64, 48), 7, {"width": 8, "label_smoothing": 0.1})
    assert parse_source("unet", "3x64x64").input_shape == (3, 64, 64)
    network = open_network(parse_source("alexnet", None, 7))
    assert (network.input_shape, network.shapes[network.output]) == ((3, 227, 227), (7,))


@pytest.mark.parametrize(
    "source",
    [Source("vgg16"), Source("a/b.ONNX", (3, 8, 8)), Source("resnet20", (3, 8, 8), 10, {"width": 8})],
)
def test_a_table_is_read_back(source: Source) -> None:
    assert read_source(source.table()) == source


@pytest.mark.parametrize(
    "table",
    [
        "vgg16", {}, {"name": "a", "file": "b.onnx"}, {"name": 3}, {"name": "a", "input": []},
        {"name": "a", "input": [3, 0]}, {"name": "a", "classes": 0}, {"name": "a", "classes": True},
        {"name": "a.onnx"}, {"file": "a"}, {"name": "a", "options": [1]}, {"name": "a", "width": 3},
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(InputError):
        read_source(table)
