"""Small networks for each layer kind and window, of prime extents; their first layer judges the kind's dX."""

from __future__ import annotations

from collections.abc import Callable

from gridnn.network.graph import Builder, Network

Body = Callable[[Builder, str], str]


def _image(
    body: Body, shape: tuple[int, ...] = (3, 7, 5), channels: int = 4, loss: str = "classes"
) -> Callable[[str], Network]:
    def build(name: str) -> Network:
        net = Builder(name, shape)
        x = body(net, net.conv(net.input, channels, 1, name="first"))
        if loss == "pixels":
            return net.done(net.cross_entropy(x))
        if loss == "squares":
            return net.done(net.squared_error(x))
        return net.done(net.cross_entropy(net.linear(net.flatten(x), 5, name="last"), 0.1))

    return build


def _features(body: Body, loss: str = "classes") -> Callable[[str], Network]:
    def build(name: str) -> Network:
        net = Builder(name, (7,))
        x = body(net, net.linear(net.input, 6, name="first"))
        return net.done(
            net.cross_entropy(net.linear(x, 5, name="last")) if loss == "classes" else net.squared_error(x)
        )

    return build


def _residual(net: Builder, x: str) -> str:
    y = net.relu(net.batch_norm(net.conv(x, 4, 3, pad=1, bias=False)))
    x = net.relu(net.add(net.batch_norm(net.conv(y, 4, 3, pad=1)), x))
    y = net.conv(x, 6, 3, stride=2, pad=1)
    return net.global_pool(net.relu(net.add(y, net.conv(x, 6, 1, stride=2))))


def _inception(net: Builder, x: str) -> str:
    a, b = net.conv(x, 3, 1), net.conv(net.relu(net.conv(x, 2, 1)), 5, (1, 5), pad=((0, 0), (2, 2)))
    return net.concat(
        a, b, net.conv(net.pool(x, "average", 3, 1, 1, count_pad=False), 2, 1), net.max_pool(x, 3, 1, 1)
    )


def _unet(net: Builder, x: str) -> str:
    down = net.relu(net.conv(net.max_pool(x, 2), 5, 3, pad=1))
    up = net.conv_transpose(down, 4, 2, stride=2, out_pad=(1, 1))
    return net.conv(net.concat(x, up), 3, 3, pad=1)


NETS: dict[str, Callable[[str], Network]] = {
    "conv3": _image(lambda n, x: n.conv(x, 6, 3, pad=1)),
    "conv5-stride2": _image(lambda n, x: n.conv(x, 5, 5, stride=2, pad=2)),
    "conv-even-onesided": _image(lambda n, x: n.conv(x, 3, (2, 4), pad=((1, 0), (0, 2)))),
    "conv-dilated": _image(lambda n, x: n.conv(x, 3, 3, pad=2, dilation=2, bias=False)),
    "conv-stride3-kernel1": _image(lambda n, x: n.conv(x, 3, 1, stride=3)),
    "conv-padding-only": _image(lambda n, x: n.conv(x, 3, 3, pad=3, stride=2)),
    "conv-groups": _image(lambda n, x: n.conv(x, 10, 3, pad=1, groups=2)),
    "conv-depthwise": _image(lambda n, x: n.conv(x, 4, 3, pad=1, groups=4)),
    "conv-depthwise-x2": _image(lambda n, x: n.conv(x, 10, 3, pad=1, groups=5), channels=5),
    "conv-wide": _image(  # wide enough for Winograd's tiles
        lambda n, x: n.conv(n.relu(n.conv(x, 35, 3, pad=1)), 33, 5, pad=2), (3, 11, 9), channels=32
    ),
    "conv1d": _image(lambda n, x: n.conv(x, 5, 3, pad=1), (3, 11)),
    "conv3d": _image(lambda n, x: n.conv(x, 3, 3, stride=(1, 2, 1), pad=1), (2, 3, 5, 4)),
    "transposed": _image(lambda n, x: n.conv_transpose(x, 3, 3, stride=2, pad=1, out_pad=1)),
    "transposed-gaps": _image(lambda n, x: n.conv_transpose(x, 3, 2, stride=3)),
    "transposed-dilated": _image(lambda n, x: n.conv_transpose(x, 3, 3, dilation=2, pad=((1, 2), (0, 1)))),
    "transposed3d": _image(lambda n, x: n.conv_transpose(x, 2, 2, stride=2), (2, 2, 3, 2)),
    "linear": _features(lambda n, x: n.linear(x, 9)),
    "linear-chain": _features(lambda n, x: n.linear(n.relu(n.linear(x, 9)), 3), "squares"),
    "max-pool": _image(lambda n, x: n.max_pool(x, 3, 2, pad=1)),
    "max-pool-1d": _image(lambda n, x: n.max_pool(x, 4, 3, pad=((1, 2),)), (2, 13)),
    "average-pool": _image(lambda n, x: n.pool(x, "average", 3, 1, 1)),
    "average-pool-real": _image(lambda n, x: n.pool(x, "average", (3, 2), 2, 1, count_pad=False)),
    "global-average": _image(lambda n, x: n.global_pool(x)),
    "global-average-3d": _image(lambda n, x: n.global_pool(x), (2, 3, 2, 5)),
    "global-max": _image(lambda n, x: n.global_pool(x, "max")),
    "batch-norm": _image(lambda n, x: n.batch_norm(x)),
    "batch-norm-features": _features(lambda n, x: n.batch_norm(x)),
    "layer-norm": _image(lambda n, x: n.layer_norm(x)),
    "layer-norm-features": _features(lambda n, x: n.layer_norm(x)),
    **{f: _image(lambda n, x, f=f: n.activation(x, f)) for f in ("relu", "gelu", "tanh", "sigmoid", "silu")},  # type: ignore[misc]
    "dropout": _image(lambda n, x: n.dropout(x, 0.4)),
    "add": _image(lambda n, x: n.add(x, n.conv(x, 4, 3, pad=1), x)),
    "concat": _image(lambda n, x: n.concat(x, n.conv(x, 3, 3, pad=1))),
    "upsample": _image(lambda n, x: n.upsample(x, (2, 3))),
    "upsample-linear": _image(lambda n, x: n.upsample(x, (3, 2), "linear")),
    "pixels": _image(lambda n, x: n.conv(x, 3, 3, pad=1), loss="pixels"),
    "squares": _image(lambda n, x: n.conv(x, 3, 3, pad=1), loss="squares"),
    "residual": _image(_residual),
    "inception": _image(_inception),
    "unet": _image(_unet, loss="pixels"),
}


def build(name: str) -> Network:
    """Return one of the small networks."""
    return NETS[name](name)
