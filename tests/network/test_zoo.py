"""The zoo against known figures: weights, activations, multiply-adds, shapes of well-known stages."""

from __future__ import annotations

from typing import Any

import pytest

from gridnn.errors import InputError
from gridnn.network import count
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.zoo import build, names, options, usual

SHAPES: dict[str, tuple[int, ...]] = {
    "digits-cnn": (1, 8, 8),
    "mlp": (1, 8, 8),
    "lenet": (1, 28, 28),
    "alexnet": (3, 227, 227),
    "alexnet-single": (3, 227, 227),
    "vgg16": (3, 224, 224),
    "resnet20": (3, 32, 32),
    "resnet18": (3, 224, 224),
    "resnet50": (3, 224, 224),
    "resnet101": (3, 224, 224),
    "inception_v3": (3, 299, 299),
    "unet": (3, 48, 32),
    "denoiser": (1, 20, 24),
    "rnntc": (1, 10),
    "rnnlm": (1, 10),
    "nmt": (1, 10),
}


def shapes_of(network: Network, *kinds: type) -> list[tuple[int, ...]]:
    """Return the output shapes of the layers of some kinds, in order."""
    return [network.shapes[n.name] for n in network.nodes if isinstance(n.spec, kinds)]


def test_every_network_is_here():
    assert set(SHAPES) == set(names())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "chosen", "weights"),
    [
        ("alexnet", (3, 227, 227), 1000, {}, 60_965_224),
        ("alexnet-single", (3, 227, 227), 1000, {}, 62_378_344),
        ("alexnet", (3, 227, 227), 1000, {"groups": 1}, 62_378_344),
        ("vgg16", (3, 224, 224), 1000, {}, 138_357_544),
        ("vgg16", (3, 224, 224), 1000, {"batch_norm": True}, 138_357_544 + 4224),  # beta replaces the bias
        ("resnet18", (3, 224, 224), 1000, {}, 11_689_512),
        ("resnet50", (3, 224, 224), 1000, {}, 25_557_032),
        ("resnet101", (3, 224, 224), 1000, {}, 44_549_160),
        ("inception_v3", (3, 299, 299), 1000, {}, 23_834_568),
        # Option A of He et al. has 269,722; two projections with their norms come on top.
        ("resnet20", (3, 32, 32), 10, {}, 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
        ("lenet", (1, 28, 28), 10, {}, 61_706),
        ("lenet", (1, 32, 32), 10, {"pad": 0}, 61_706),
        ("mlp", (1, 28, 28), 10, {"hidden": [300, 100]}, 785 * 300 + 301 * 100 + 101 * 10),
        ("mlp", (784,), 10, {"hidden": ()}, 7_850),
        # The usual U-Net with norms and with biases instead.
        ("unet", (3, 64, 64), 1, {}, 31_037_633),
        ("unet", (1, 64, 64), 1, {"batch_norm": False}, 31_030_593),
        ("denoiser", (1, 40, 40), None, {"width": 64, "depth": 17}, 556_032),  # DnCNN-S
        ("digits-cnn", (1, 8, 8), 10, {}, 144 + 4608 + 18432 + 2 * 112 + 1025 * 64 + 65 * 10),
    ],
)
def test_weights(name, shape, classes, chosen, weights):
    network = build(name, shape, classes, **chosen)
    assert count.parameter_count(network) == weights
    assert sum(count.parameter_counts(network).values()) == weights


# Weights without biases, elements of the output, elements after the pool that follows: the reproduction of
# the per-layer volumes of Gholami et al. 2018 (SPAA), AlexNet at 227 x 227.
ALEXNET = {
    "conv1": (34_848, 34_848, 290_400, 69_984),
    "conv2": (307_200, 614_400, 186_624, 43_264),
    "conv3": (884_736, 884_736, 64_896, None),
    "conv4": (663_552, 1_327_104, 64_896, None),
    "conv5": (442_368, 884_736, 43_264, 9_216),
    "fc6": (37_748_736, 37_748_736, 4_096, None),
    "fc7": (16_777_216, 16_777_216, 4_096, None),
    "fc8": (4_096_000, 4_096_000, 1_000, None),
}


@pytest.mark.parametrize(
    ("name", "column", "total"), [("alexnet", 0, 60_954_656), ("alexnet-single", 1, 62_367_776)]
)
def test_alexnet_by_layer(name, column, total):
    network = build(name, SHAPES[name], 1000)
    weights, outputs = count.parameter_counts(network), count.activation_counts(network)
    biases = {layer: network.shapes[layer][0] for layer in ALEXNET}
    assert {layer: weights[layer] - biases[layer] for layer in ALEXNET} == {
        layer: row[column] for layer, row in ALEXNET.items()
    }
    assert sum(weights.values()) - sum(biases.values()) == total
    assert sum(biases.values()) == 10_568
    assert {layer: outputs[layer] for layer in ALEXNET} == {layer: row[2] for layer, row in ALEXNET.items()}
    assert sum(outputs[layer] for layer in ALEXNET) == 659_272
    pooled = [outputs[n.name] for n in network.nodes if isinstance(n.spec, s.Pool)]
    assert pooled == [row[3] for row in ALEXNET.values() if row[3]]


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("alexnet", 724_406_816),
        ("vgg16", 15_470_264_320),
        ("resnet18", 1_814_073_344),
        ("resnet50", 4_089_184_256),
        ("resnet101", 7_801_405_440),
        ("inception_v3", 5_713_216_096),
    ],
)
def test_multiply_adds(name, multiply_adds):
    assert count.flop_count(build(name, SHAPES[name], 1000)) == 2 * multiply_adds


def test_multiply_adds_of_a_transposed_convolution():
    network = build("unet", (1, 6, 10), 2, width=3, depth=1)
    up = next(n.name for n in network.nodes if isinstance(n.spec, s.ConvTranspose))
    assert network.shapes[up] == (3, 6, 10)
    # Kernel and stride 2: each of the 6 x 10 outputs has one tap of all 6 input channels.
    assert count.flop_counts(network)[up] == 2 * 3 * 6 * 10 * 6


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("resnet50", (2048, 7, 7)),
        ("resnet18", (512, 7, 7)),
        ("inception_v3", (2048, 8, 8)),
        ("resnet20", (64, 8, 8)),
    ],
)
def test_last_stage_before_the_global_pool(name, stage):
    network = build(name, SHAPES[name], 10)
    (pool,) = (n for n in network.nodes if isinstance(n.spec, s.GlobalPool))
    assert network.shapes[pool.inputs[0]] == stage


def test_stages():
    assert shapes_of(build("vgg16", SHAPES["vgg16"], 1000), s.Pool) == [
        (64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7),
    ]  # fmt: skip
    assert shapes_of(build("inception_v3", SHAPES["inception_v3"], 1000), s.Concat) == [
        (256, 35, 35), (288, 35, 35), (288, 35, 35), *[(768, 17, 17)] * 5, (1280, 8, 8), *[(2048, 8, 8)] * 2,
    ]  # fmt: skip
    assert shapes_of(build("alexnet", SHAPES["alexnet"], 1000), s.Conv) == [
        (96, 55, 55), (256, 27, 27), (384, 13, 13), (384, 13, 13), (256, 13, 13),
    ]  # fmt: skip
    assert shapes_of(build("resnet50", SHAPES["resnet50"], 1000), s.Add)[::3] == [
        (256, 56, 56), (512, 28, 28), (512, 28, 28), (1024, 14, 14), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip


def test_inception_norms_and_pools():
    network = build("inception_v3", SHAPES["inception_v3"], 1000)
    assert {n.spec.eps for n in network.nodes if isinstance(n.spec, s.BatchNorm)} == {1e-3}
    averages = [n.spec for n in network.nodes if isinstance(n.spec, s.Pool) and n.spec.how == "average"]
    assert len(averages) == 9
    assert not any(a.count_pad for a in averages)


@pytest.mark.parametrize("shape", [(2, 29), (2, 24, 37), (1, 8, 9, 11)])
@pytest.mark.parametrize("up", ["transpose", "nearest", "linear"])
def test_unet_keeps_the_extents(shape, up):
    if up != "transpose":
        shape = (shape[0], *(e // 4 * 4 for e in shape[1:]))
    network = build("unet", shape, 5, width=2, depth=2, up=up)
    assert network.shapes[network.output] == (5, *shape[1:])
    assert isinstance(network.loss.spec, s.SoftmaxCrossEntropy)
    assert len(shapes_of(network, s.Concat)) == 2


@pytest.mark.parametrize("shape", [(2, 9), (3, 7, 5), (1, 3, 4, 5)])
def test_denoiser_adds_a_correction_to_the_input(shape):
    network = build("denoiser", shape, width=4, depth=3)
    last = next(n for n in network.nodes if n.name == network.output)
    assert isinstance(last.spec, s.Add)
    assert last.inputs[0] == "input"
    assert network.shapes[network.output] == shape
    assert isinstance(network.loss.spec, s.MeanSquaredError)
    assert build("denoiser", shape, shape[0], width=4, depth=3).digest == network.digest


def test_options_reach_the_layers():
    def dropouts(**chosen: Any) -> list[float]:
        network = build("alexnet", SHAPES["alexnet"], 10, **chosen)
        return [n.spec.rate for n in network.nodes if isinstance(n.spec, s.Dropout)]

    assert dropouts() == [0.5, 0.5]
    assert dropouts(dropout_rate=0.25) == [0.25, 0.25]
    assert dropouts(dropout_rate=0) == []
    mlp = build("mlp", (4,), 3, hidden=[5], activation="tanh", label_smoothing=0.1)
    assert [n.name for n in mlp.nodes] == ["linear1", "tanh1", "linear2", "loss"]
    assert mlp.loss.spec == s.SoftmaxCrossEntropy(0.1)
    for name in names():
        if "label_smoothing" in options(name):
            assert build(name, SHAPES[name], 7, label_smoothing=0.2).loss.spec == s.SoftmaxCrossEntropy(0.2)
    assert "label_smoothing" not in options("denoiser")


def test_hyphens_and_underscores_are_the_same():
    assert build("inception-v3", (3, 299, 299), 7) == build("inception_v3", (3, 299, 299), 7)
    assert usual("digits_cnn") == usual("digits-cnn")
    assert options("alexnet_single") == options("alexnet-single")


def test_usual_inputs():
    found = {name: usual(name) for name in names()}
    assert found["alexnet"].input_shape == (3, 227, 227)
    assert found["resnet101"].input_shape == (3, 224, 224)
    assert all(network.name == name for name, network in found.items())
    assert found["alexnet"] == build("alexnet", (3, 227, 227), 1000)
    assert usual("resnet50", label_smoothing=0.1).loss.spec == s.SoftmaxCrossEntropy(0.1)
    with pytest.raises(InputError, match='unknown network "zebra"'):
        usual("zebra")


def test_every_network_of_classes_ends_in_its_classes():
    for name in names():
        if name != "denoiser":
            network = build(name, SHAPES[name], 7)
            assert network.name == name
            assert network.shapes[network.output][0] == 7


@pytest.mark.parametrize(
    ("name", "shape", "classes", "chosen", "words"),
    [
        ("resnet5", (3, 224, 224), 10, {}, ('unknown network "resnet5"', 'did you mean "resnet50"')),
        ("zebra", (3, 8, 8), 10, {}, ('unknown network "zebra"', "known: digits-cnn")),
        ("alexnet", (3, 227, 227), 10, {"droput_rate": 0}, ('"droput_rate"', 'did you mean "dropout_rate"')),
        ("alexnet", (3, 32, 32), 10, {}, ("alexnet with input (3, 32, 32)", "smaller than the window")),
        ("alexnet", (784,), 10, {}, ("channels and 2 space dims", "(784,)", "mlp")),
        ("unet", (784,), 10, {}, ("channels and 1 or 2 or 3 space dims",)),
        ("lenet", (1, 28, 28), None, {}, ("number of classes is not given",)),
        ("lenet", (1, 28, 28), 0, {}, ("0 classes",)),
        ("lenet", (1, 0, 28), 10, {}, ("(1, 0, 28)", "at least 1")),
        ("lenet", (), 10, {}, ("input shape ()",)),
        ("mlp", (4,), 2, {"hidden": 5}, ("option hidden is 5", "list of positive integers")),
        ("mlp", (4,), 2, {"hidden": [5, 0]}, ("option hidden is [5, 0]",)),
        ("mlp", (4,), 2, {"activation": "rely"}, ('activation "rely" is not known', "relu")),
        ("mlp", (4,), 2, {"activation": 3}, ("a word",)),
        ("mlp", (4,), 2, {"dropout_rate": 1.0}, ("option dropout_rate is 1.0", "a number in [0, 1)")),
        ("vgg16", (3, 32, 32), 2, {"batch_norm": 1}, ("true or false",)),
        ("digits-cnn", (1, 8, 8), 2, {"width": 2.5}, ("option width is 2.5", "an integer")),
        ("digits-cnn", (1, 8, 8), 2, {"width": 0}, ("outputs 0", "at least 1")),
        ("unet", (1, 8, 8), 2, {"up": "cubic"}, ('up "cubic" is not known',)),
        ("unet", (1, 8, 8), 2, {}, ("cannot be halved 4 times", "depth")),
        ("unet", (1, 18, 16), 2, {"up": "linear"}, ("multiples of 16", "transpose")),
        ("denoiser", (1, 8, 8), 3, {}, ("not 3",)),
        ("denoiser", (1, 8, 8), None, {"depth": 1}, ("at least 2 convolutions",)),
    ],
)
def test_bad_input(name, shape, classes, chosen, words):
    with pytest.raises(InputError) as error:
        build(name, shape, classes, **chosen)
    assert all(w in str(error.value) for w in words), error.value
