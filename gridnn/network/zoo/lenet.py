"""LeNet-5 (LeCun et al. 1998), with its three C layers, average pools and tanh.

Left out of the paper's network: the table of connections between S2 and C3 (all maps are connected), the
trainable pooling coefficients and the radial basis output.  61,706 weights for ten classes.
"""

from __future__ import annotations

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, need_images


def lenet(
    input_shape: Shape, classes: int, *, pad: int = 2, activation: str = "tanh", label_smoothing: float = 0.0
) -> Network:
    """LeNet-5; `pad` 2 makes the paper's 32 x 32 of 28 x 28 digits, use 0 for images of 32 x 32."""
    need_images("lenet", input_shape)
    net = Builder("lenet", input_shape)
    x = net.activation(net.conv(net.input, 6, 5, pad=pad), activation)
    x = net.pool(x, "average", 2)
    x = net.activation(net.conv(x, 16, 5), activation)
    x = net.flatten(net.pool(x, "average", 2))
    for size in (120, 84):
        x = net.activation(net.linear(x, size), activation)
    return classifier(net, net.linear(x, classes), label_smoothing)
