"""Inception-v3 (Szegedy et al. 2016) for 3 x 299 x 299, without the auxiliary head: 23,834,568 weights.

    stem      3x299x299 -> 192x35x35
    A A A     35x35: 1x1 | 5x5 | two 3x3 | pool            -> 288
    B         35 -> 17: strided 3x3 | two 3x3 | max pool   -> 768
    C C C C   17x17: 1x1 | 1x7 7x1 | twice that | pool     -> 768
    D         17 -> 8: strided 3x3 | 7x7 then 3x3 | pool   -> 1280
    E E       8x8: 1x1 | 1x3 + 3x1 | 3x3, 1x3 + 3x1 | pool -> 2048

Every convolution is followed by batch norm (eps 1e-3) and ReLU.  Average pools do not count padding.
"""

from __future__ import annotations

from gridnn.network.graph import Builder, Ints, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, conv_norm, dropout, need_images

ROW, COLUMN = (1, 7), (7, 1)  # the two factors of a 7 x 7 convolution


def inception_v3(
    input_shape: Shape, classes: int, *, dropout_rate: float = 0.2, label_smoothing: float = 0.0
) -> Network:
    """Inception-v3; the paper trains it with `label_smoothing` 0.1."""
    need_images("inception_v3", input_shape)
    net = Builder("inception_v3", input_shape)
    x = _stem(net)
    for pooled in (32, 64, 64):
        x = _block_a(net, x, pooled)
    x = _block_b(net, x)
    for width in (128, 160, 160, 192):
        x = _block_c(net, x, width)
    x = _block_d(net, x)
    for _ in range(2):
        x = _block_e(net, x)
    x = dropout(net, net.global_pool(x), dropout_rate)
    return classifier(net, net.linear(x, classes), label_smoothing)


def _conv(net: Builder, x: str, out: int, kernel: Ints, stride: int = 1, *, same: bool = True) -> str:
    """Append conv, norm and ReLU; `same` pads so that a stride of 1 keeps the extents."""
    kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads = [k // 2 for k in kernels] if same else 0
    return conv_norm(net, x, out, kernel, stride, pads, eps=1e-3)


def _pooled(net: Builder, x: str, out: int) -> str:
    """Append the pool branch: average over 3 x 3, then a 1 x 1 convolution."""
    return _conv(net, net.pool(x, "average", 3, 1, 1, count_pad=False), out, 1)


def _stem(net: Builder) -> str:
    x = _conv(net, net.input, 32, 3, 2, same=False)
    x = _conv(net, _conv(net, x, 32, 3, same=False), 64, 3)
    x = _conv(net, net.max_pool(x, 3, 2), 80, 1)
    return net.max_pool(_conv(net, x, 192, 3, same=False), 3, 2)


def _block_a(net: Builder, x: str, pooled: int) -> str:
    one = _conv(net, x, 64, 1)
    five = _conv(net, _conv(net, x, 48, 1), 64, 5)
    three = _conv(net, _conv(net, _conv(net, x, 64, 1), 96, 3), 96, 3)
    return net.concat(one, five, three, _pooled(net, x, pooled))


def _block_b(net: Builder, x: str) -> str:
    once = _conv(net, x, 384, 3, 2, same=False)
    twice = _conv(net, _conv(net, _conv(net, x, 64, 1), 96, 3), 96, 3, 2, same=False)
    return net.concat(once, twice, net.max_pool(x, 3, 2))


def _block_c(net: Builder, x: str, width: int) -> str:
    one = _conv(net, x, 192, 1)
    once = _conv(net, _conv(net, _conv(net, x, width, 1), width, ROW), 192, COLUMN)
    twice = _conv(net, x, width, 1)
    for kernel in (COLUMN, ROW, COLUMN):
        twice = _conv(net, twice, width, kernel)
    return net.concat(one, once, _conv(net, twice, 192, ROW), _pooled(net, x, 192))


def _block_d(net: Builder, x: str) -> str:
    three = _conv(net, _conv(net, x, 192, 1), 320, 3, 2, same=False)
    seven = _conv(net, _conv(net, _conv(net, x, 192, 1), 192, ROW), 192, COLUMN)
    return net.concat(three, _conv(net, seven, 192, 3, 2, same=False), net.max_pool(x, 3, 2))


def _block_e(net: Builder, x: str) -> str:
    one = _conv(net, x, 320, 1)
    once = _conv(net, x, 384, 1)
    twice = _conv(net, _conv(net, x, 448, 1), 384, 3)
    split = [_conv(net, branch, 384, kernel) for branch in (once, twice) for kernel in ((1, 3), (3, 1))]
    return net.concat(one, *split, _pooled(net, x, 192))
