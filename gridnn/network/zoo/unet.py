"""Networks from images to images, in 1, 2 or 3 space dims: U-Net and a residual denoiser.

    U-Net (Ronneberger et al. 2015), depth 2:

    x -- conv conv ------------------------- concat -- conv conv -- 1x1 -- logits per pixel
              pool -- conv conv -- concat -- conv conv -- up
                           pool -- conv conv -- up             every level half the extents, twice the width

Convolutions are padded, so the output has the input's extents.  A transposed convolution makes exactly the
extents of its skip, odd ones included; upsampling can only double, so it needs multiples of 2^depth.
"""

from __future__ import annotations

from gridnn.errors import InputError
from gridnn.network.graph import Builder, Network
from gridnn.network.spec import Shape
from gridnn.network.zoo.parts import classifier, conv_norm, need_images

UPS = ("transpose", "nearest", "linear")


def unet(
    input_shape: Shape, classes: int, *, width: int = 64, depth: int = 4, up: str = "transpose",
    batch_norm: bool = True, label_smoothing: float = 0.0,
) -> Network:  # fmt: skip
    """U-Net with a class per pixel; `width` channels at the top, `depth` pools (64 and 4 in the paper).

    `up` is ``transpose`` (kernel and stride 2), or ``nearest`` or ``linear`` upsampling and a convolution.
    """
    need_images("unet", input_shape, (1, 2, 3))
    if up not in UPS:
        raise InputError(f'network unet: up "{up}" is not known; use one of {", ".join(UPS)}')
    net = Builder("unet", input_shape)
    _check_extents(input_shape, depth, up)
    x, skips = net.input, []
    for level in range(depth):
        skips.append(_double(net, x, width << level, batch_norm))
        x = net.max_pool(skips[-1], 2)
    x = _double(net, x, width << depth, batch_norm)
    for level in reversed(range(depth)):
        x = _rise(net, x, skips[level], width << level, up)
        x = _double(net, net.concat(skips[level], x), width << level, batch_norm)
    return classifier(net, net.conv(x, classes, 1), label_smoothing)


def denoiser(
    input_shape: Shape, classes: int | None = None, *, width: int = 32, depth: int = 8,
    batch_norm: bool = True,
) -> Network:  # fmt: skip
    """Residual denoiser (DnCNN, Zhang et al. 2017): output = input + correction, mean squared error.

    The output has the input's channels, so `classes` is None or that number.  The paper's has `width` 64 and
    `depth` 17; the first and last convolutions have no norm, as there.
    """
    need_images("denoiser", input_shape, (1, 2, 3))
    channels = input_shape[0]
    if classes not in (None, channels):
        raise InputError(
            f"network denoiser: output channels are the input's {channels}, not {classes}; leave classes out"
        )
    if depth < 2:
        raise InputError(f"network denoiser: depth {depth}; it needs at least 2 convolutions")
    net = Builder("denoiser", input_shape)
    x = net.relu(net.conv(net.input, width, 3, pad=1, bias=False))
    for _ in range(depth - 2):
        x = conv_norm(net, x, width, 3, pad=1, norm=batch_norm)
    x = net.conv(x, channels, 3, pad=1, bias=False, start="zeros")  # begins as the identity
    return net.done(net.squared_error(net.add(net.input, x)))


def _double(net: Builder, x: str, width: int, norm: bool) -> str:
    for _ in range(2):
        x = conv_norm(net, x, width, 3, pad=1, norm=norm)
    return x


def _rise(net: Builder, x: str, skip: str, width: int, up: str) -> str:
    """Append the way up from `x` to the extents of `skip`."""
    if up != "transpose":
        return net.conv(net.upsample(x, 2, up), width, 3, pad=1)
    odd = [e - 2 * low for e, low in zip(net.shapes[skip][1:], net.shapes[x][1:], strict=True)]
    return net.conv_transpose(x, width, 2, 2, out_pad=odd)


def _check_extents(shape: Shape, depth: int, up: str) -> None:
    factor = 1 << depth
    if min(shape[1:]) < factor:
        raise InputError(f"network unet: input {shape} cannot be halved {depth} times; use depth < {depth}")
    if up != "transpose" and any(e % factor for e in shape[1:]):
        raise InputError(
            f'network unet: input {shape} with up "{up}" needs extents that are multiples of {factor} '
            f'(2^depth); crop the images, or use up "transpose"'
        )
