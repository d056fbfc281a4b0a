"""A gridnn network as a PyTorch module, read from the layers that `export.py` writes.

    {"name": "conv1", "kind": "conv", "inputs": ["input"], "weights": ["weight", "bias"], "decay": ["weight"],
     "out": 96, "groups": 1, "kernel": [11, 11], "stride": [4, 4], "pad_lo": [0, 0], ...}

The module is written as its users write networks: ReLU and residual sums in place where no other layer reads the
input and no backward needs it, every output forgotten after its last reader, so that time and memory are PyTorch's
own.  Weights come from an archive under ``layer.weight``; the rest is `torch.nn.functional`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch  # type: ignore[import-not-found]
from torch.nn import functional as f  # type: ignore[import-not-found]

Tensor = Any
Layer = Mapping[str, Any]

# Their backward reads inputs and weights but never their own output, so the next layer may overwrite it.
OVERWRITABLE = ("conv", "transposed conv", "linear", "batch norm", "add")
CONV = {1: f.conv1d, 2: f.conv2d, 3: f.conv3d}
CONV_TRANSPOSE = {1: f.conv_transpose1d, 2: f.conv_transpose2d, 3: f.conv_transpose3d}
POOL = {
    ("max", 1): f.max_pool1d, ("max", 2): f.max_pool2d, ("max", 3): f.max_pool3d,
    ("average", 1): f.avg_pool1d, ("average", 2): f.avg_pool2d, ("average", 3): f.avg_pool3d,
}  # fmt: skip
FUNCTIONS = {"gelu": f.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": f.silu}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Network(torch.nn.Module):  # type: ignore[misc]
    """The layers of a network; ``module(x, target)`` is the loss.

    Parameters
    ----------
    layers
        As exported, in topological order, the last one the loss.
    weights
        First values by ``layer.weight``; kept as float32.
    """

    def __init__(self, layers: Sequence[Layer], weights: Mapping[str, Any]) -> None:
        super().__init__()
        self.layers = list(layers)
        self.spared: set[str] = set()  # parameters without weight decay
        for layer in layers:
            here = torch.nn.Module()
            for name in layer["weights"]:
                value = torch.from_numpy(weights[f"{layer['name']}.{name}"])
                here.register_parameter(name, torch.nn.Parameter(value.contiguous()))
                if name not in layer["decay"]:
                    self.spared.add(f"{layer['name']}.{name}")
            if layer["kind"] == "batch norm":
                here.register_buffer("mean", torch.zeros_like(here.gamma))
                here.register_buffer("variance", torch.ones_like(here.gamma))
            self.add_module(layer["name"], here)
        self.uses: dict[str, int] = {}
        for layer in layers:
            for name in layer["inputs"]:
                self.uses[name] = self.uses.get(name, 0) + 1
        kinds = {layer["name"]: layer["kind"] for layer in layers}
        self.in_place = {
            layer["name"]: kinds.get(first) in OVERWRITABLE and self.uses[first] == 1
            for layer in layers
            for first in layer["inputs"][:1]
        }

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        known, left = {"input": x}, dict(self.uses)
        y = x
        for layer in self.layers:
            inputs = [known[name] for name in layer["inputs"]]
            for name in layer["inputs"]:
                left[name] -= 1
                if left[name] == 0:
                    del known[name]
            y = self.compute(layer, inputs, target)
            known[layer["name"]] = y
        return y

    def compute(self, layer: Layer, inputs: list[Tensor], target: Tensor) -> Tensor:
        """Return the output of one layer.

        Raises
        ------
        ValueError
            If PyTorch has no such layer.
        """
        x, here, kind = inputs[0], getattr(self, layer["name"]), layer["kind"]
        in_place = self.in_place[layer["name"]]
        match kind:
            case "conv":
                return convolution(layer, x, here.weight, getattr(here, "bias", None))
            case "transposed conv":
                pads = _even(layer)
                function = CONV_TRANSPOSE[len(pads)]
                bias, more = getattr(here, "bias", None), layer["out_pad"]
                return function(x, here.weight, bias, layer["stride"], pads, more, 1, layer["dilation"])
            case "linear":
                return f.linear(x, here.weight, getattr(here, "bias", None))
            case "batch norm":
                return f.batch_norm(
                    x, here.mean, here.variance, here.gamma, here.beta, True, layer["momentum"], layer["eps"]
                )
            case "layer norm":
                return f.layer_norm(x, x.shape[1:], here.gamma, here.beta, layer["eps"])
            case "relu":
                return f.relu(x, inplace=in_place)
            case "pool":
                return pooled(layer, x)
            case "global pool":
                dims = tuple(range(2, x.ndim))
                return x.mean(dims) if layer["how"] == "average" else x.amax(dims)
            case "add":
                total = x.add_(inputs[1]) if in_place else x + inputs[1]
                for other in inputs[2:]:
                    total += other
                return total
            case "concat":
                return torch.cat(inputs, 1)
            case "flatten":
                return x.flatten(1)
            case "dropout":
                return f.dropout(x, layer["rate"])
            case "upsample":
                factors = [float(factor) for factor in layer["factor"]]
                how = LINEAR[len(factors)] if layer["linear"] else "nearest"
                return f.interpolate(x, scale_factor=factors, mode=how)
            case "cross-entropy":
                return f.cross_entropy(x, target, label_smoothing=layer["smoothing"])
            case "mean squared error":
                return f.mse_loss(x, target)
            case _ if kind in FUNCTIONS:
                return FUNCTIONS[kind](x)
        raise ValueError(f"layer {layer['name']}: no PyTorch for the kind {kind}")


def convolution(window: Layer, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution of an exported layer or of a case; uneven pads are laid around `x` first."""
    pads = window["pad_lo"]
    if pads != window["pad_hi"]:
        both = zip(reversed(pads), reversed(window["pad_hi"]), strict=True)
        x, pads = f.pad(x, [p for lo_hi in both for p in lo_hi]), [0] * len(pads)
    function = CONV[len(pads)]
    return function(x, weight, bias, window["stride"], pads, window["dilation"], window["groups"])


def pooled(layer: Layer, x: Tensor) -> Tensor:
    """Return a max or average pool."""
    pads = _even(layer)
    function = POOL[layer["how"], len(pads)]
    if layer["how"] == "max":
        return function(x, layer["kernel"], layer["stride"], pads)
    return function(x, layer["kernel"], layer["stride"], pads, count_include_pad=layer["count_pad"])


def _even(layer: Layer) -> list[int]:
    if layer["pad_lo"] != layer["pad_hi"]:
        raise ValueError(f"layer {layer['name']}: PyTorch has no {layer['kind']} with uneven pads")
    return list(layer["pad_lo"])
