"""Heads: what stands behind each stage, where it lies, which layers no loss hears of, and where a head cannot be."""

from __future__ import annotations

import pytest

from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.window import Window
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.graph import Builder, Network, Node
from gridnn.network.heads import head_schemes, is_head, unheard, with_heads
from gridnn.network.stages import Stages, cut_network, ranks_of
from tests.support.nets import NETS, build


def headed(network: Network, *first: str) -> tuple[Network, Stages]:
    return with_heads(network, cut_network(network, first))


def test_the_picture_of_the_module() -> None:
    network = build("residual")
    made, stages = headed(network, "conv4", "last")
    assert stages.layers(0)[-3:] == ("head0.pool", "head0.linear", "head0.loss")
    assert stages.layers(1)[-2:] == ("head1.linear", "head1.loss")
    assert stages.layers(2) == ("last", "loss")
    by_name = {node.name: node for node in made.nodes}
    assert by_name["head0.pool"] == Node("head0.pool", s.GlobalPool("average"), ("relu2",))
    assert by_name["head0.linear"] == Node("head0.linear", s.Linear(5), ("head0.pool",))
    assert by_name["head1.linear"] == Node("head1.linear", s.Linear(5), ("global_average_pool1",))
    for name, judged in (("head0.loss", "head0.linear"), ("head1.loss", "head1.linear")):
        assert by_name[name] == Node(
            name, s.SoftmaxCrossEntropy(0.1), (judged,)
        )  # the network's own smoothing
    assert (made.loss, made.output) == (network.loss, "last")


@pytest.mark.parametrize("name", NETS)
def test_all_other_layers_stay_what_they_are(name: str) -> None:
    network, names = build(name), [node.name for node in build(name).nodes]
    tried = 0
    for first in names[1:]:
        try:
            made, stages = headed(network, first)
        except InputError as error:
            assert "positions" in str(error)
            continue
        tried += 1
        assert tuple(node for node in made.nodes if not is_head(node.name)) == network.nodes
        known = {"input"}
        for node in made.nodes:  # in topological order
            assert known.issuperset(node.inputs)
            known.add(node.name)
        heads = [node for node in made.nodes if is_head(node.name)]
        assert {stages.of[head.name] for head in heads} == {0}
        assert made.shapes[heads[-1].inputs[0]] == network.shapes[network.output]
        assert stages.names == tuple(node.name for node in made.nodes)
    assert tried


def test_one_stage_has_the_network_s_loss() -> None:
    network = build("residual")
    assert headed(network, network.nodes[0].name) == (network, cut_network(network, ()))


@pytest.mark.parametrize(("name", "spec"), [
    ("pixels", s.Conv(3, (Window(1), Window(1)))), ("squares", s.Conv(3, (Window(1), Window(1)))),
    ("unet", s.Conv(3, (Window(1), Window(1)))), ("linear-chain", s.Linear(3)),
])  # fmt: skip
def test_targets_of_every_kind(name: str, spec: s.LayerSpec) -> None:
    """Classes of pixels, images, and features that are numbers."""
    network = build(name)
    made, stages = headed(network, network.nodes[1].name)
    names = stages.layers(0)
    assert [made.nodes[i].spec for i in (1, 2)] == [spec, network.loss.spec]
    assert names == ("first", f"head0.{'linear' if name == 'linear-chain' else 'conv'}", "head0.loss")


def test_other_positions_are_refused_with_a_place_that_has_them() -> None:
    with pytest.raises(InputError, match=(
        r"heads: stage 0 \(from first\) ends with max_pool1 of shape 4x3x2, but targets of network unet have positions "
        r"7x5, .* let stages end with layers that have them \(first, transposed_conv1, concat1\), by .* or take a"
    )):  # fmt: skip
        headed(build("unet"), "conv2")
    net = Builder("small first", (3, 4, 4))
    x = net.upsample(net.upsample(net.conv(net.input, 2, 1), 2), 2)
    with pytest.raises(
        InputError, match=r"conv1 of shape 2x4x4, but .* 16x16, .* needs; take a schedule other"
    ):
        headed(net.done(net.squared_error(x)), "upsample1")


def test_names_of_heads_are_theirs() -> None:
    net = Builder("two", (4,))
    x = net.linear(net.linear(net.input, 3, name="head7.linear"), 2)
    with pytest.raises(
        InputError, match=r"network two has a layer head7\.linear, a name that heads have; rename it"
    ):
        headed(net.done(net.squared_error(x)), "linear2")
    assert not any(
        is_head(name)
        for name in ("head", "head0", "head.loss", "head0.weight", "xhead0.loss", "head0.losses")
    )


def test_heads_lie_with_what_they_judge_unless_they_are_given_grids() -> None:
    network = build("residual")
    made, stages = headed(network, "conv4", "last")
    first, other, last = (Scheme(GridShape.parse(g), at) for g, at in (("n2", 0), ("k2", 2), ("1", 4)))
    given = {name: (first, other, last)[k] for name, k in cut_network(network, stages.first).of.items()}
    given["relu2"] = Scheme(GridShape.parse("h2"), 0)
    found = head_schemes(made, stages, given | {"head1.linear": Scheme(GridShape.parse("c2"), 2)})
    assert [str(found[f"head0.{word}"]) for word in ("pool", "linear", "loss")] == ["h2"] * 3
    assert [str(found[f"head1.{word}"]) for word in ("linear", "loss")] == ["c2 @2", "k2 @2"]
    assert {name: found[name] for name in given} == given and found.keys() == set(stages.names)
    assert ranks_of(stages, found) == (range(2), range(2, 4), range(4, 5))
    with pytest.raises(
        InputError, match=r"grid for head1\.pool, but the heads of .* are head0\.pool, .* head1\.loss"
    ):
        head_schemes(made, stages, given | {"head1.pool": other})


def test_layers_that_no_loss_of_their_stage_hears_of() -> None:
    """A block cut in its middle: the branch that leaves the stage beside the judged output learns nothing."""
    network = build("residual")
    assert unheard(*headed(network, "conv4")) == unheard(*headed(network, "conv5")) == ()
    assert unheard(*headed(network, "add2")) == ("conv4",)
    assert unheard(*headed(network, "conv2", "add2", "relu3")) == ("conv4",)
    assert unheard(network, cut_network(network, ())) == ()
    net = Builder("skip", (4,))
    x, skipped = net.linear(net.input, 3), net.batch_norm(net.linear(net.input, 3))
    y = net.linear(x, 3)
    made = net.done(net.squared_error(net.add(net.linear(y, 3), skipped)))
    assert unheard(*headed(made, "linear4")) == ("linear2", "batch_norm1")


def test_a_network_of_the_zoo() -> None:
    network = zoo.usual("resnet18")
    units = [node.name for node in network.nodes if isinstance(node.spec, s.Add)]
    after = [next(n.name for n in network.nodes if x in n.inputs) for x in units[1:7:2]]
    made, stages = headed(network, *after)
    assert stages.count == 4 and unheard(made, stages) == ()
    assert sum(isinstance(node.spec, s.LOSSES) for node in made.nodes) == 4
    assert made.digest != network.digest
