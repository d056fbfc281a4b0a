"""VGG-16 (Simonyan & Zisserman 2015, configuration D): 138,357,544 weights at 3 x 224 x 224, 1000 classes."""

from __future__ import annotations

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, conv_norm, dropout, need_images

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions before the pool


def vgg16(
    input_shape: Shape, classes: int, *, batch_norm: bool = False, dropout_rate: float = 0.5,
    label_smoothing: float = 0.0,
) -> Network:  # fmt: skip
    """Thirteen 3 x 3 convolutions in five stages, three linear layers; the paper's has no `batch_norm`."""
    need_images("vgg16", input_shape)
    net = Builder("vgg16", input_shape)
    x = net.input
    for channels, count in STAGES:
        for _ in range(count):
            x = conv_norm(net, x, channels, 3, pad=1, norm=batch_norm)
        x = net.max_pool(x, 2)
    x = net.flatten(x)
    for _ in range(2):
        x = dropout(net, net.relu(net.linear(x, 4096)), dropout_rate)
    return classifier(net, net.linear(x, classes), label_smoothing)
