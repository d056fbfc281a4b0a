"""AlexNet (Krizhevsky et al. 2012) for 3 x 227 x 227, in its two forms.

|        | two groups, as in the paper | single, all channels connected |
|--------|-----------------------------|--------------------------------|
| conv2  | 96 to 256 in 2 groups       | 614,400 instead of 307,200     |
| conv4  | 384 to 384 in 2 groups      | 1,327,104 instead of 663,552   |
| conv5  | 384 to 256 in 2 groups      | 884,736 instead of 442,368     |
| total  | 60,965,224                  | 62,378,344                     |

The local response normalisation of the paper is left out; it has no weights and later networks dropped it.
"""

from __future__ import annotations

from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, dropout, need_images


def alexnet(
    input_shape: Shape, classes: int, *, groups: int = 2, dropout_rate: float = 0.5,
    label_smoothing: float = 0.0,
) -> Network:  # fmt: skip
    """AlexNet with conv2, conv4 and conv5 in two groups: 61M weights; 62.4M with `groups` 1."""
    return _alexnet("alexnet", groups, input_shape, classes, dropout_rate, label_smoothing)


def alexnet_single(
    input_shape: Shape, classes: int, *, dropout_rate: float = 0.5, label_smoothing: float = 0.0
) -> Network:
    """AlexNet without groups, by a name of its own."""
    return _alexnet("alexnet-single", 1, input_shape, classes, dropout_rate, label_smoothing)


def _alexnet(name: str, groups: int, shape: Shape, classes: int, rate: float, smoothing: float) -> Network:
    need_images(name, shape)
    net = Builder(name, shape)
    x = net.relu(net.conv(net.input, 96, 11, 4, name="conv1"))
    x = net.relu(net.conv(net.max_pool(x, 3, 2), 256, 5, pad=2, groups=groups, name="conv2"))
    x = net.relu(net.conv(net.max_pool(x, 3, 2), 384, 3, pad=1, name="conv3"))
    x = net.relu(net.conv(x, 384, 3, pad=1, groups=groups, name="conv4"))
    x = net.relu(net.conv(x, 256, 3, pad=1, groups=groups, name="conv5"))
    x = net.flatten(net.max_pool(x, 3, 2))
    for layer in ("fc6", "fc7"):
        x = net.relu(net.linear(dropout(net, x, rate), 4096, name=layer))
    return classifier(net, net.linear(x, classes, name="fc8"), smoothing)
