"""The default network: a small CNN for digits of 8 x 8 pixels.

Three convolutions, one pool and two linear layers, so that a plan has every axis to cut: n, k and c in five
layers, h and w at 8 x 8 and 4 x 4.  Batch norm lets it learn in a few epochs; nothing in it is random.
"""

from __future__ import annotations

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, conv_norm, need_images


def digits_cnn(input_shape: Shape, classes: int, *, width: int = 16, label_smoothing: float = 0.0) -> Network:
    """Convolutions of `width`, 2 and 4 times `width` channels, then linear 4 times `width` and `classes`."""
    need_images("digits-cnn", input_shape)
    net = Builder("digits-cnn", input_shape)
    x = conv_norm(net, net.input, width, 3, pad=1)
    x = conv_norm(net, x, 2 * width, 3, pad=1)
    x = conv_norm(net, net.max_pool(x, 2), 4 * width, 3, pad=1)
    x = net.relu(net.linear(net.flatten(x), 4 * width))
    return classifier(net, net.linear(x, classes), label_smoothing)
