"""ONNX files of trained networks: the reference evaluator of ONNX computes what gridnn computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.errors import InputError
from gridnn.layers.model import Model
from gridnn.layers.norm import BatchNormalisation
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Network
from gridnn.network.placed import place_network
from gridnn.train.checkpoint.onnx import as_onnx
from tests.support.laws import data, uniform_schemes
from tests.support.nets import NETS, build

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
BATCH = 3


def outputs(network: Network, comm: Any, dtype: str) -> tuple[Any, Any]:
    """Return what gridnn predicts, and what ONNX does with the same weights; statistics far from where they start."""
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(5)
    with World(comm) as world:
        placed = place_network(network, uniform_schemes(network, "1"), BATCH, 1)
        model = Model(world, placed, dtype)
        model.arena.initialise(3)
        weights: dict[str, Any] = {}
        for of_layer in model.arena.parameters.values():
            for p in of_layer.values():
                if p.value.ndim == 1:  # those that start at 0 or 1
                    p.value[...] += 0.1 * rng.standard_normal(p.value.shape)
                weights[p.name] = np.ascontiguousarray(p.value)
        for layer in model.layers:
            if isinstance(layer, BatchNormalisation):
                channels = layer.placed.placement.out.shape[1]
                layer.mean, layer.variance = rng.standard_normal(channels), rng.uniform(0.5, 2, channels)
                weights |= {f"{layer.name}.mean": layer.mean, f"{layer.name}.variance": layer.variance}
        x, target = data(network, BATCH)
        model.forward(x.astype(dtype), target, train=False)
        assert model.output is not None
        mine = np.array(model.output)
    if isinstance(network.loss.spec, s.SoftmaxCrossEntropy):
        mine = np.exp(mine - mine.max(axis=1, keepdims=True))
        mine /= mine.sum(axis=1, keepdims=True)
    content = as_onnx(network, weights)  # the checker of ONNX is part of it
    (theirs,) = ReferenceEvaluator(onnx.load_model_from_string(content)).run(None, {"input": x.astype(dtype)})
    return mine, theirs


@pytest.mark.ranks(1)
@pytest.mark.parametrize("name", list(NETS))
def test_every_layer_kind(comm: Any, name: str) -> None:
    mine, theirs = outputs(build(name), comm, "float64" if "layer-norm" not in name else "float32")
    np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.ranks(1)
@pytest.mark.parametrize(
    "name, shape",
    [
        ("digits-cnn", (1, 8, 8)),
        ("mlp", (1, 6, 5)),
        ("resnet20", (3, 16, 16)),
        ("alexnet", (3, 67, 67)),
        ("unet", (1, 16, 16)),
    ],
)
def test_networks_of_the_zoo(comm: Any, name: str, shape: tuple[int, ...]) -> None:
    mine, theirs = outputs(zoo.build(name, shape, 10), comm, "float32")
    np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=1e-5)


def test_what_has_no_operator_is_named() -> None:
    network = zoo.usual("nmt")
    with pytest.raises(InputError, match=r"no operator for .*lstm"):
        as_onnx(network, {})
