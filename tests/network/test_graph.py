"""The builder: shapes of every layer kind, names, and refusals with a reason."""

from __future__ import annotations

import pytest

from gridnn.errors import InputError
from gridnn.network import spec as s
from gridnn.network.graph import Builder


def test_the_example_of_the_module():
    net = Builder("small", (1, 8, 8))
    x = net.conv(net.input, 16, 3, pad=1)
    x = net.relu(net.batch_norm(x))
    x = net.linear(net.flatten(x), 10)
    network = net.done(net.cross_entropy(x))
    assert [n.name for n in network.nodes] == ["conv1", "batch_norm1", "relu1", "flatten1", "linear1", "loss"]
    assert network.shapes["conv1"] == (16, 8, 8)
    assert network.shapes["flatten1"] == (1024,)
    assert network.shapes["loss"] == ()
    assert (network.output, network.loss.name) == ("linear1", "loss")


def test_shapes():
    net = Builder("shapes", (4, 11, 13))
    x = net.input
    made = {
        (6, 5, 6): net.conv(x, 6, 3, 2, (0, 0)),
        (6, 11, 12): net.conv(x, 6, (2, 3), pad=((1, 0), (0, 1)), groups=2),
        (6, 7, 13): net.conv(x, 6, (3, 1), dilation=2),
        (6, 22, 27): net.conv_transpose(x, 6, 3, 2, 1, out_pad=(1, 2)),
        (4, 5, 6): net.max_pool(x, 2),
        (4, 6, 7): net.pool(x, "average", 3, 2, 1),
        (4, 33, 13): net.upsample(x, (3, 1), "linear"),
        (4,): net.global_pool(x),
        (8, 11, 13): net.concat(x, net.activation(x, "gelu")),
        (4, 11, 13): net.add(x, net.layer_norm(net.dropout(x, 0.0))),
        (572,): net.flatten(x),
    }
    assert {net.shapes[name] for name in made.values()} == set(made)
    for shape, name in made.items():
        assert net.shapes[name] == shape
    assert net.flatten(made[4,]) == made[4,]  # features pass unchanged


@pytest.mark.parametrize("space", [(9,), (9, 7), (5, 6, 7)])
def test_one_number_holds_for_all_space_dims(space):
    net = Builder("dims", (2, *space))
    x = net.conv(net.input, 3, 3, 2, 1)
    assert net.shapes[x] == (3, *((e + 1) // 2 for e in space))
    assert net.shapes[net.upsample(net.max_pool(x, 2))] == (3, *((e + 1) // 4 * 2 for e in space))


def test_names_and_digest():
    def small(width: int, name: str = "net") -> str:
        net = Builder(name, (4,))
        return net.done(net.squared_error(net.linear(net.input, width, name="head"))).digest

    assert small(3) == small(3, "another name")
    assert small(3) != small(4)
    net = Builder("names", (4, 5))
    assert [net.conv(net.input, 2, 1), net.conv_transpose(net.input, 2, 1)] == ["conv1", "transposed_conv1"]
    assert [net.global_pool(net.input), net.conv(net.input, 2, 1)] == ["global_average_pool1", "conv2"]


def images() -> Builder:
    return Builder("net", (4, 8, 8))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda n: n.conv(n.input, 6, 9), ("layer conv1", "(4, 8, 8)", "smaller than the window")),
        (lambda n: n.conv(n.input, 6, 3, groups=3), ("3 groups", "4 input", "6 output")),
        (lambda n: n.conv(n.input, 6, 3, groups=0), ("groups 0", "at least 1")),
        (lambda n: n.conv(n.input, 0, 3), ("outputs 0", "at least 1")),
        (lambda n: n.conv(n.input, 6, 3, stride=0), ("stride 0", "at least 1")),
        (lambda n: n.conv(n.input, 6, (3, 0)), ("kernel 0",)),
        (lambda n: n.conv(n.input, 6, 3, dilation=0), ("dilation 0",)),
        (lambda n: n.conv(n.input, 6, (3, 3, 3)), ("input input has 2 space dims", "one per dim")),
        (lambda n: n.conv("nobody", 6, 3), ("nobody", "does not exist")),
        (lambda n: n.conv_transpose(n.input, 6, 3, out_pad=(1, 1, 1)), ("2 space dims", "out_pad")),
        (lambda n: n.conv(n.global_pool(n.input), 6, ()), ("needs space dims", "(4,)")),
        (lambda n: n.max_pool(n.input, 2, pad=2), ("padding must be less than the window",)),
        (lambda n: n.pool(n.input, "middle", 2), ('pool "middle" is not known', "max, average")),
        (lambda n: n.global_pool(n.input, "middle"), ('pool "middle" is not known',)),
        (lambda n: n.upsample(n.input, 2, "cubic"), ('"cubic" is not known', "nearest or linear")),
        (lambda n: n.upsample(n.input, 0), ("factor 0",)),
        (lambda n: n.upsample(n.input, (2, 2, 2)), ("needs 3 space dims",)),
        (lambda n: n.linear(n.input, 5), ("linear needs features", "flatten first")),
        (lambda n: n.global_pool(n.flatten(n.input)), ("needs space dims", "(256,)")),
        (lambda n: n.activation(n.input, "step"), ('activation "step" is not known', "sigmoid")),
        (lambda n: n.dropout(n.input, 1.0), ("dropout rate 1.0", "below 1")),
        (lambda n: n.cross_entropy(n.input, -0.1), ("label smoothing -0.1",)),
        (lambda n: n.add(n.input, n.max_pool(n.input, 2)), ("cannot add", "(4, 8, 8), (4, 4, 4)")),
        (lambda n: n.concat(n.input, n.max_pool(n.input, 2)), ("cannot concat", "(4, 8, 8), (4, 4, 4)")),
        (lambda n: n.add(), ("has no input",)),
        (lambda n: n.add_layer(s.Flatten(), [n.input, n.input]), ("flatten takes one input, 2 are given",)),
        (lambda n: n.relu("later"), ("input later does not exist",)),
        (lambda n: n.relu(n.relu(n.input, name="a"), name="a"), ("layer a", "name is taken")),
        (lambda n: n.relu(n.input, name="input"), ("name is taken",)),
        (lambda n: n.done(n.relu(n.input)), ("last layer must be the loss",)),
        (lambda n: n.done("loss"), ("last layer must be the loss",)),
    ],
)
def test_refusals(wrong, words):
    net = images()
    with pytest.raises(InputError) as error:
        wrong(net)
    assert all(w in str(error.value) for w in words), error.value


def test_a_layer_that_nothing_uses_is_refused():
    net = images()
    net.relu(net.input, name="idle")
    with pytest.raises(InputError, match="nothing uses layer idle"):
        net.done(net.squared_error(net.input))
