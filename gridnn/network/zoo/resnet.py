"""Residual networks (He et al. 2016): ResNet-20 for 32 x 32 images, ResNet-18, 50 and 101 for 224 x 224.

| network   | blocks per stage | block      | weights                 |
|-----------|------------------|------------|-------------------------|
| resnet20  | 3 3 3            | basic      | 272,474 (10 classes)    |
| resnet18  | 2 2 2 2          | basic      | 11,689,512 (1000)       |
| resnet50  | 3 4 6 3          | bottleneck | 25,557,032 (1000)       |
| resnet101 | 3 4 23 3         | bottleneck | 44,549,160 (1000)       |

Where a block changes the shape its shortcut is a strided 1 x 1 convolution with a norm (the paper's option B)
in all of them.  The paper's ResNet-20 pads the missing channels with zeros instead (option A, 269,722 weights);
that differs by the two projections only, 2,752 weights.  In the bottleneck the 3 x 3 convolution has the
stride, as is usual since 2016.
"""

from __future__ import annotations

from collections.abc import Callable

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, conv_norm, need_images

Block = Callable[[Builder, str, int, int], str]


def resnet20(input_shape: Shape, classes: int, *, label_smoothing: float = 0.0) -> Network:
    """ResNet-20 for CIFAR: 16, 32 and 64 channels."""
    need_images("resnet20", input_shape)
    net = Builder("resnet20", input_shape)
    x = conv_norm(net, net.input, 16, 3, pad=1)
    x = _stages(net, x, basic, (3, 3, 3), 16)
    return classifier(net, net.linear(net.global_pool(x), classes), label_smoothing)


def resnet18(input_shape: Shape, classes: int, *, label_smoothing: float = 0.0) -> Network:
    """ResNet-18: basic blocks, 64 to 512 channels."""
    return _imagenet("resnet18", basic, (2, 2, 2, 2), input_shape, classes, label_smoothing)


def resnet50(input_shape: Shape, classes: int, *, label_smoothing: float = 0.0) -> Network:
    """ResNet-50: bottleneck blocks, 256 to 2048 channels."""
    return _imagenet("resnet50", bottleneck, (3, 4, 6, 3), input_shape, classes, label_smoothing)


def resnet101(input_shape: Shape, classes: int, *, label_smoothing: float = 0.0) -> Network:
    """ResNet-101: as ResNet-50, with 23 blocks in the third stage."""
    return _imagenet("resnet101", bottleneck, (3, 4, 23, 3), input_shape, classes, label_smoothing)


def basic(net: Builder, x: str, width: int, stride: int) -> str:
    """Append two 3 x 3 convolutions and the shortcut around them."""
    y = conv_norm(net, x, width, 3, stride, 1)
    y = conv_norm(net, y, width, 3, pad=1, function=None)
    return net.relu(net.add(y, shortcut(net, x, width, stride)))


def bottleneck(net: Builder, x: str, width: int, stride: int) -> str:
    """Append 1 x 1, 3 x 3 and 1 x 1 convolutions, the last four times as wide, and the shortcut."""
    y = conv_norm(net, x, width, 1)
    y = conv_norm(net, y, width, 3, stride, 1)
    y = conv_norm(net, y, 4 * width, 1, function=None)
    return net.relu(net.add(y, shortcut(net, x, 4 * width, stride)))


def shortcut(net: Builder, x: str, channels: int, stride: int) -> str:
    """Return `x` itself where the shape stays, else its projection."""
    if stride == 1 and net.shapes[x][0] == channels:
        return x
    return conv_norm(net, x, channels, 1, stride, function=None)


def _imagenet(
    name: str, block: Block, counts: tuple[int, ...], shape: Shape, classes: int, smoothing: float
) -> Network:
    need_images(name, shape)
    net = Builder(name, shape)
    x = net.max_pool(conv_norm(net, net.input, 64, 7, 2, 3), 3, 2, 1)
    x = _stages(net, x, block, counts, 64)
    return classifier(net, net.linear(net.global_pool(x), classes), smoothing)


def _stages(net: Builder, x: str, block: Block, counts: tuple[int, ...], width: int) -> str:
    """Append the stages: each after the first halves the extents and doubles the width."""
    for stage, count in enumerate(counts):
        for at in range(count):
            x = block(net, x, width << stage, 2 if stage and not at else 1)
    return x
