"""Local losses: every stage learns what its own head asks for, and nothing comes back from the stages behind.

A piece is all that the loss of one stage depends on, as a plain network.  Trained on one process with the stages
before it held on their own trajectories, its last stage does what that stage of the pipeline does:

    piece 0    stage 0, head 0                  trained as it is
    piece 1    stage 0, stage 1, head 1         stage 0 as piece 0 left it after every step
    piece 2    stages 0, 1, 2 and the loss      stages 0 and 1 as pieces 0 and 1 left them
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gridnn.comm.shard import Shard, gather
from gridnn.comm.world import World
from gridnn.commands.checkpoint import main as checkpoint_command
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.layers.model import Model
from gridnn.network import spec as s
from gridnn.network.graph import Network
from gridnn.network.heads import head_schemes, is_head, unheard, with_heads
from gridnn.network.stages import Stages, cut_network
from gridnn.train.checkpoint.live import contents_of
from gridnn.train.checkpoint.read import open_checkpoint
from gridnn.train.choose import choose
from gridnn.train.config import load_config
from gridnn.train.data import open_data
from tests.stories.job import finish, losses, start, summary
from tests.support.laws import data
from tests.support.nets import build
from tests.support.pipelines import Cut, Trained, alone, cut_randomly, moves, trained

BATCH, PASSES, STEPS = 7, 2, 3
SIZES = {2: (1, 1), 3: (2, 1), 4: (1, 2, 1)}
"""Ranks of the stages, by their sum."""
Gradients = dict[tuple[int, str], Any]


class Local(NamedTuple):
    """A network with heads, its stages, and a plan."""

    network: Network
    stages: Stages
    cut: Cut


def drawn(network: Network, sizes: tuple[int, ...], rng: random.Random) -> Local:
    """Return stages that can have heads, on drawn grids; half of the layers of heads have grids of their own."""
    while True:
        cut = cut_randomly(network, sizes, BATCH // PASSES, rng)
        try:
            headed, stages = with_heads(network, cut_network(network, cut.first))
        except InputError:  # targets of other positions
            continue
        given = dict(cut.schemes)
        for node in headed.nodes:
            if is_head(node.name) and rng.random() < 0.5:
                inside = [name for name in stages.layers(stages.of[node.name]) if not is_head(name)]
                given[node.name] = cut.schemes[rng.choice(inside)]
        return Local(headed, stages, Cut(cut.first, head_schemes(headed, stages, given)))


def piece_of(network: Network, stages: Stages, stage: int) -> Network:
    """Return what the loss of a stage depends on, that loss last."""
    losses = [node for node in network.nodes if isinstance(node.spec, s.LOSSES)]
    needed = {losses[stage].name}
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    assert stages.of[losses[stage].name] == stage
    return Network(f"piece {stage}", network.input_shape, tuple(n for n in network.nodes if n.name in needed))


def by_pieces(network: Network, stages: Stages, batches: Any, **settings: Any) -> tuple[Trained, Gradients]:
    """Return what one process trains, piece after piece, and its gradients."""
    course: dict[tuple[int, str], Any] = {}  # values after a step, of the stages that are trained already
    first, values, running = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    gradients, found = Gradients(), None

    def begin(model: Model) -> None:
        model.arena.initialise(3)
        for layer, of in model.arena.parameters.items():
            first.update({f"{layer}.{name}": parameter.value.copy() for name, parameter in of.items()})

    for stage in range(stages.count):
        piece, own = piece_of(network, stages, stage), Gradients()

        def after(step: int, model: Model, stage: int = stage, own: Gradients = own) -> None:
            for layer, of in model.arena.parameters.items():
                for name, parameter in of.items():
                    if stages.of[layer] == stage:
                        own[step, f"{layer}.{name}"] = parameter.grad.copy()
                        course[step, f"{layer}.{name}"] = parameter.value.copy()
                    else:  # one that its own loss does not hear of stays
                        before = course.get((step, f"{layer}.{name}"), first[f"{layer}.{name}"])
                        parameter.value[...] = before

        found = alone(
            piece, BATCH, PASSES, steps=STEPS, begin=begin, after=after, batches=batches, **settings
        )
        gradients |= own
        for mine, theirs in ((values, found.values), (running, found.running)):
            mine.update({n: v for n, v in theirs.items() if stages.of[n.rpartition(".")[0]] == stage})
    assert found is not None
    return found._replace(values=values, running=running), gradients


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("name", ["residual", "inception", "dropout", "unet", "squares", "linear-chain"])
def test_a_stage_learns_from_its_own_loss(comm: Any, name: str, sample_seed: int) -> None:
    """Gradients, values, running statistics and the loss that is told, on drawn cuts and grids; traffic."""
    network, rng = build(name), random.Random(f"{sample_seed} {name} {comm.size}")
    sizes = SIZES[comm.size] if len(network.nodes) > 3 else (comm.size - 1, 1)
    local, batches = drawn(network, sizes, rng), data(network, BATCH * STEPS)
    wanted, serial = by_pieces(local.network, local.stages, batches)
    mine = Gradients()
    with World(comm) as world:

        def note(step: int, model: Model) -> None:
            for layer in model.placed.layers:
                for p in layer.placement.parameters:
                    live = model.arena.parameters[layer.node.name].get(p.name)
                    array = live.grad if live else np.zeros((0,) * len(p.shape))
                    mine[step, f"{layer.node.name}.{p.name}"] = gather(world, Shard(array, p.layout))

        got = trained(
            world, local.network, local.cut, BATCH, PASSES, "local", steps=STEPS, after=note, batches=batches
        )
    words = f"{name} {local.cut}"
    np.testing.assert_allclose(got.losses, wanted.losses, rtol=1e-10, err_msg=words)
    deaf = unheard(local.network, local.stages)
    for (step, parameter), gradient in mine.items():
        if parameter.rpartition(".")[0] in deaf:
            np.testing.assert_array_equal(gradient, 0)
        else:
            np.testing.assert_allclose(
                gradient, serial[step, parameter], rtol=0, atol=1e-10, err_msg=f"{step} {parameter} {words}"
            )
    assert len(serial) == sum(parameter.rpartition(".")[0] not in deaf for _, parameter in mine)
    for part in ("values", "running"):
        for parameter, array in getattr(wanted, part).items():
            np.testing.assert_allclose(
                getattr(got, part)[parameter], array, rtol=0, atol=1e-10, err_msg=f"{parameter} {words}"
            )
    moves(got, words)
    assert got.staleness == [{0}] * comm.size


@pytest.mark.ranks(2, 3)
def test_nothing_comes_back_and_the_network_trains_otherwise(comm: Any) -> None:
    """With a rank for every stage all messages go forward; the first loss is that of one process, the next are not."""
    network = build("residual")
    first = ("first", "conv4", "last")[: comm.size]
    headed, stages = with_heads(network, cut_network(network, first))
    schemes = {name: Scheme(GridShape(), k) for name, k in stages.of.items()}
    with World(comm) as world:
        got = trained(world, headed, Cut(first, schemes), 6, 2, "local")
        ways = {key.direction for key, volume in got.ledger.items() if volume.received_bytes}
        crossing = comm.allreduce(sum(
            volume.received_bytes for key, volume in got.ledger.items() if key.layer != "loss"
        ))  # fmt: skip
    assert ways <= {"forward"}
    sizes = (
        4 * 7 * 5,
        6,
    )  # of a sample: relu2, which conv4 and conv5 read, arrives once; the pool's channels
    assert crossing == 3 * 6 * 8 * sum(sizes[: comm.size - 1])
    plain = alone(network, 6, 2)
    assert got.losses[0] == pytest.approx(plain.losses[0], rel=1e-12)
    assert abs(got.losses[2] - plain.losses[2]) > 1e-6
    moves(got, "local")


def config(*settings: str) -> Any:
    return load_config(None, ["train.epochs=1", "train.batch=16", "model.options.width=4", *settings])


def chosen(procs: int, *settings: str) -> Any:
    given = config(*settings)
    return choose(given, open_data("digits", "train", given.data.options), procs)


LOCAL = ("plan.schedule=local", "plan.heads=linear")
OTHER = "; each stage has a loss of its own (plan.heads): another objective than the network's loss"


def test_a_configuration_asks_for_heads() -> None:
    job = chosen(3, 'plan.spec="n2 | 1"', *LOCAL, 'plan.stages=["conv2"]')
    names = [layer.node.name for layer in job.placed.layers]
    assert [name for name in names if is_head(name)] == ["head0.pool", "head0.linear", "head0.loss"]
    grids = {la.node.name: str(la.scheme) for la in job.placed.layers}
    assert (grids["relu1"], grids["head0.linear"], grids["loss"]) == ("n2", "n2", "1 @2")
    assert job.plan.origin == f'"n2 | 1"{OTHER}'
    # The plan is one of the network as the zoo has it, for all that read plans.
    assert (job.plan.digest, job.plan.schemes.keys()) == (
        job.network.digest,
        {n for n in names if not is_head(n)},
    )
    assert job.plan.predicted["step_s"] > 0 and not job.schedule.exact


def test_auto_cuts_the_network_and_then_gives_it_heads() -> None:
    job = chosen(2, *LOCAL)
    assert job.schedule.stages == 2 and job.plan.origin.startswith("auto: local, 2 stages")
    assert sum(isinstance(layer.node.spec, s.LOSSES) for layer in job.placed.layers) == 2


def written(tmp_path: Path, layers: Mapping[str, str] = {}, **more: Any) -> str:
    table = json.loads(chosen(3, 'plan.spec="n2 | 1"', *LOCAL).plan.dumps())
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(table | more | {"layers": table["layers"] | layers}))
    return f"plan.spec={path}"


def test_a_plan_file_may_have_grids_for_heads(tmp_path: Path) -> None:
    job = chosen(3, written(tmp_path, {"head0.linear": "k2"}), "plan.heads=linear")
    grids = {la.node.name: str(la.scheme) for la in job.placed.layers if is_head(la.node.name)}
    assert grids == {"head0.pool": "n2", "head0.linear": "k2", "head0.loss": "n2"}
    assert json.loads(job.plan.dumps())["layers"]["head0.linear"] == "k2"
    assert job.plan.origin == f"file plan.json{OTHER}"


@pytest.mark.parametrize(("layers", "more", "settings", "words"), [
    ({}, {}, (), 'schedule local needs a loss for every stage; set plan.heads = "linear"'),
    ({"head4.loss": "1"}, {}, LOCAL, "it has a grid for head4.loss, but the heads of network digits-cnn in 2 stages"),
    ({"head0.loss": "1 @2"}, {}, LOCAL, "give each stage ranks of its own"),
    ({"head0.loss": "n8"}, {}, LOCAL, "layer head0.loss wants grid n8 = 8 processes"),
    ({"head0.loss": "p2"}, {}, LOCAL, "plan.json: grid \"p2\": cannot read"),
    ({}, {"schedule": "gpipe"}, LOCAL, 'but the schedule is "gpipe", which has the network\'s only'),
    ({"head0.loss": "1"}, {"schedule": "gpipe"}, (), "network digits-cnn has no layer 'head0.loss'"),
])  # fmt: skip
def test_plan_files_that_cannot_be(
    tmp_path: Path, layers: dict[str, str], more: dict[str, Any], settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        chosen(3, written(tmp_path, layers, **more), *settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(("settings", "words"), [
    (('plan.spec="1 | 1"', "plan.schedule=local"), 'needs a loss for every stage; set plan.heads = "linear"'),
    (("plan.schedule=local",), 'schedule local needs a loss for every stage; set plan.heads = "linear"'),
    (('plan.spec="1 | 1"', "plan.heads=linear"), 'schedule is "auto", which has the network\'s only; set plan.'),
    (("plan.heads=linear",), 'set plan.schedule = "local" (or "schedule" in the plan file), or leave plan.heads out'),
    (("plan.spec=n2", *LOCAL), "is one grid for every layer, but plan.stages or plan.schedule ask for a pipeline"),
])  # fmt: skip
def test_what_is_asked_for_must_agree(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(2, *settings)
    assert words in str(caught.value)


def test_a_run_on_digits(tmp_path: Path) -> None:
    """Two ranks, from the command line to the checkpoint; gone on from the middle by the plan that was written."""
    words = ["--set", "train.steps=6", "--set", "train.batch=16", "--set", "model.options.width=4"]
    words += [
        "--set",
        "plan.heads=linear",
        "--set",
        "checkpoint.every_steps=4",
        "--set",
        "compute.choice=fixed",
    ]
    run = tmp_path / "run"
    done = start(2, tmp_path, "--run-dir", "run", "--plan", "1 | 1", "--set", "plan.schedule=local", *words)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert " ".join(done.stdout.split()).count(OTHER.removeprefix("; ")) == 1  # plainly, and once
    told, plan = summary(run), json.loads((run / "plan.json").read_text())
    assert told["predicted_bytes"] == told["counted_bytes"] > 0 and told["test_accuracy"] > 0
    assert plan["schedule"] == "local" and plan["origin"] == f'"1 | 1"{OTHER}'
    assert losses(run)[-1] < losses(run)[0]
    steps = run / "checkpoints"
    again = finish(
        2, tmp_path, "--plan", str(run / "plan.json"), "--resume", str(steps / "step-00000004"), *words, run_dir="again"
    )  # fmt: skip
    assert losses(again) == pytest.approx(losses(run)[4:], rel=1e-6)
    found = open_checkpoint(steps / "step-00000006")
    assert {
        "weights/head0.linear.weight",
        "optimizer/velocity/head0.linear.bias",
    } <= found.index.arrays.keys()
    plain = chosen(1, 'plan.spec="1"')  # a run without heads has no place for them
    with pytest.raises(
        InputError, match=r"is of another run: weights/head0\.linear\.weight is float32 .* not there in"
    ):
        found.expect(contents_of(plain.placed, config().train).arrays())
    said: list[str] = []
    checkpoint_command(["export", str(run), "-o", str(tmp_path / "model.onnx")], said.append)
    import onnx

    graph = onnx.load(tmp_path / "model.onnx").graph
    assert not [each.name for each in (*graph.node, *graph.initializer) if "head0" in each.name]
    assert "conv1.weight" in {each.name for each in graph.initializer}
