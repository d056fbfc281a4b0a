"""Pieces that several zoo families share: the classifier's end, conv + norm + activation, range checks."""

from __future__ import annotations

from gridnn.errors import InputError
from gridnn.network.graph import Builder, Ints, Network, Pads
from gridnn.network.spec import Shape


def need_images(name: str, shape: Shape, dims: tuple[int, ...] = (2,)) -> None:
    """Refuse an input that is not channels and one of `dims` numbers of space dims.

    Raises
    ------
    InputError
    """
    if len(shape) - 1 not in dims:
        wanted = " or ".join(map(str, dims))
        raise InputError(
            f"network {name}: needs an input of channels and {wanted} space dims, it is {shape}; "
            "reshape the data, or use mlp, which takes any shape"
        )


def conv_norm(
    net: Builder, x: str, out: int, kernel: Ints, stride: Ints = 1, pad: Pads = 0, *,
    norm: bool = True, eps: float = 1e-5, function: str | None = "relu",
) -> str:  # fmt: skip
    """Append a convolution, a batch norm if wanted, and an activation unless `function` is None.

    The convolution has a bias only without the norm, which would subtract it again.
    """
    x = net.conv(x, out, kernel, stride, pad, bias=not norm)
    x = net.batch_norm(x, eps) if norm else x
    return net.activation(x, function) if function else x


def dropout(net: Builder, x: str, rate: float) -> str:
    """Append a dropout; rate 0 appends nothing."""
    return net.dropout(x, rate) if rate else x


def classifier(net: Builder, logits: str, label_smoothing: float) -> Network:
    """End a network with softmax and cross-entropy."""
    return net.done(net.cross_entropy(logits, label_smoothing))
