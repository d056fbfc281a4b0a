"""Multi-layer perceptron: fully connected layers on flattened input."""

from __future__ import annotations

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, dropout


def mlp(
    input_shape: Shape, classes: int, *, hidden: tuple[int, ...] = (256, 128), activation: str = "relu",
    dropout_rate: float = 0.0, label_smoothing: float = 0.0,
) -> Network:  # fmt: skip
    """Hidden layers of the given sizes, each with an activation, and a linear layer of `classes`.

    With no hidden sizes this is softmax regression.
    """
    net = Builder("mlp", input_shape)
    x = net.flatten(net.input)
    for size in hidden:
        x = net.activation(net.linear(x, size), activation)
        x = dropout(net, x, dropout_rate)
    return classifier(net, net.linear(x, classes), label_smoothing)
