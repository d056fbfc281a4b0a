"""Calibration: fits find what made the data, blocks are those of networks, and a job leaves a file that prices."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.compute.cpu.engine import Engine
from gridnn.cost.collectives import allgather_s, allreduce_s, reduce_scatter_s
from gridnn.cost.machine import COLLECTIVES, Level, Machine, load_machine
from gridnn.cost.price import price_plan
from gridnn.cost.profile import PASSES, Profile
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.geometry.window import TransposedWindow, Upsampling, Window
from gridnn.network import spec as s
from gridnn.network import zoo
from gridnn.network.placed import place_network
from gridnn.train.calibrate import blocks, fit, layers, links, report, run
from tests.support.launch import run_ranks

START = "import sys; from gridnn.train.calibrate.run import main; sys.exit(main(sys.argv[1:]))"
LEVELS = (Level("node", 4, 1e-6, 1e-10), Level("network", 0, 1e-5, 1e-9, links=1))


def start(ranks: int, cwd: Path, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    private = {"XDG_CACHE_HOME": str(cwd / "cache")}
    return run_ranks(ranks, ["-c", START, *words], cwd=cwd, extra_env=private, timeout_s=timeout_s)


def test_line_of_known_alpha_and_beta() -> None:
    rng = np.random.default_rng(3)
    sizes = [8 << shift for shift in range(0, 24, 2)]
    noise = np.exp(0.1 * rng.standard_normal(len(sizes)))
    line = fit.fit_line(sizes, [(3e-6 + 2e-10 * n) * e for n, e in zip(sizes, noise, strict=True)])
    assert line.alpha_s == pytest.approx(3e-6, rel=0.1)
    assert line.beta_s_per_byte == pytest.approx(2e-10, rel=0.1)
    assert 0.99 < line.r2 < 1 and 0.02 < line.worst < 0.4
    exact = fit.fit_line(sizes, [3e-6 + 2e-10 * n for n in sizes])
    assert exact.r2 == pytest.approx(1) and exact.worst == pytest.approx(0, abs=1e-9)


def test_line_has_both_terms_always() -> None:
    assert fit.fit_line([8, 1024], [8e-9, 1024e-9]).alpha_s > 0
    assert fit.fit_line([8, 1024], [2e-6, 1e-6]).beta_s_per_byte > 0


@pytest.mark.parametrize(
    ("together_s", "links"), [(1.0, 0), (1.05, 0), (1.3, 6), (2.0, 4), (7.9, 1), (100.0, 1)]
)
def test_links(together_s: float, links: int) -> None:
    assert fit.fit_links(1.0, together_s, 8) == links


def test_levels_from_messages() -> None:
    nodes = links.Nodes((0, 0, 0, 0, 1, 1, 1, 1), 4)
    made = []
    for n in links.SIZES:
        made.append(links.Message("node", "swap", 1, n, 1e-6 + 1e-10 * n))
        made.append(links.Message("node", "ping-pong", 1, n, 5.0))  # not what alpha and beta come from
        made.append(links.Message("network", "swap", 1, n, 1e-5 + 1e-9 * n))
    made.append(links.Message("network", "swap", 4, links.SIZES[-1], 2 * made[-1].seconds))
    levels, lines = fit.fit_levels(made, nodes)
    assert [(level.name, level.ranks, level.links) for level in levels] == [("node", 4, 0), ("network", 0, 2)]
    assert [level.alpha_s for level in levels] == pytest.approx([1e-6, 1e-5])
    assert [level.beta_s_per_byte for level in levels] == pytest.approx([1e-10, 1e-9])
    assert lines["network"].worst < 1e-6
    assert fit.fit_levels(made[:1] + made[3:4], links.Nodes((0, 0), 2))[0][0].ranks == 0, "no limit outside"


@pytest.mark.parametrize("how", ["ring", "recursive", "hierarchical"])
def test_the_algorithm_that_made_the_seconds_is_found(how: str) -> None:
    formulas = {"allreduce": allreduce_s, "allgather": allgather_s, "reduce_scatter": reduce_scatter_s}
    made = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, LEVELS, dict.fromkeys(COLLECTIVES, how))
    asked = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, LEVELS)
    measured = []
    for kind in COLLECTIVES:
        for members in ((4, 8), (4, 16)):
            for n in links.SUMS:
                call_s = 2e-6 + float(formulas[kind](made, members, n, 16))
                measured.append(links.Collective(kind, members, n, call_s))
    found = fit.fit_algorithms(asked, measured, 16)
    assert {kind: f.errors[how] for kind, f in found.items()} == pytest.approx(
        dict.fromkeys(COLLECTIVES, 0), abs=1e-3
    )
    assert {f.algorithm for f in found.values()} <= {how, "best"} and found["allreduce"].algorithm == how


@pytest.mark.parametrize("speed", [0.7, 1.0, 1.6])
def test_the_speed_of_bytes_is_found(speed: float) -> None:
    """Whatever a call takes beside: what is told for large sums equals what was measured."""
    made = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, (Level("all", 0, 1e-6, 1e-9),),
                   dict.fromkeys(COLLECTIVES, "ring"), speeds=dict.fromkeys(COLLECTIVES, speed))  # fmt: skip
    formulas = {"allreduce": allreduce_s, "allgather": allgather_s, "reduce_scatter": reduce_scatter_s}
    measured = [
        links.Collective(kind, members, nbytes, 3e-4 + float(formulas[kind](made, members, nbytes, 8)))
        for kind in COLLECTIVES for members in ((2,), (4,), (8,)) for nbytes in links.SUMS
    ]  # fmt: skip
    found = fit.fit_algorithms(replace(made, speeds={}), measured, 8)
    assert all(f.speed == pytest.approx(speed, rel=0.02) for f in found.values())


def test_the_speed_is_that_of_large_sums_over_all_ranks() -> None:
    """Sums of pairs, and small ones, move their bytes at half the speed; what is told is within 7 % of large ones."""
    level, ring = Level("all", 0, 1e-6, 1e-8), dict.fromkeys(COLLECTIVES, "ring")
    made = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, (level,), ring)
    measured = [
        links.Collective("allreduce", members, nbytes, float(allreduce_s(made, members, nbytes, 4)) / speed)
        for members in ((2,), (4,)) for nbytes in links.SUMS
        for speed in (0.9 if nbytes >= links.BUCKET and members == (4,) else 0.5,)
    ]  # fmt: skip
    measured += [links.Collective(kind, (2,), 8, 1e-6) for kind in COLLECTIVES if kind != "allreduce"]
    assert fit.fit_algorithms(made, measured, 4)["allreduce"].speed == pytest.approx(0.9, rel=0.07)


def test_where_formulas_agree_the_best_is_taken() -> None:
    machine = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, (Level("node", 0, 1e-6, 1e-10),))
    measured = [links.Collective(kind, (2,), n, 1e-6 + n * 1e-10) for kind in COLLECTIVES for n in links.SUMS]
    assert {f.algorithm for f in fit.fit_algorithms(machine, measured, 2).values()} == {"best"}


def test_rates_of_a_known_machine() -> None:
    rng = np.random.default_rng(1)
    points = []
    for size in np.geomspace(1e3, 1e8, 60):
        noise = float(np.exp(0.05 * rng.standard_normal()))
        points.append(layers.Point(size * 50, size, (3e-5 + size * 50 / 8e10 + size * 2e-10) * noise))
        points.append(layers.Point(0, size, (3e-5 + size * 2e-10) * noise))
    points.append(layers.Point(0, 1e6, 1e-6))  # a pass that does nothing with what it is given
    product, touch = fit.fit_rates(points, 3e-5)
    assert 1 / product.unit_s == pytest.approx(8e10, rel=0.1)
    assert touch.unit_s == pytest.approx(2e-10, rel=0.1)
    assert product.typical < 0.1 and touch.typical < 0.1


def test_blocks_of_a_network() -> None:
    found = blocks.blocks_of([(zoo.usual("resnet20"), 64)], 2, 1 << 30)
    shapes = {(block.family, block.shape.x) for block in found}
    assert ("conv 3x3", (32, 3, 32, 32)) in shapes, "half of the batch"
    assert any(family == "conv 3x3" and x[0] == 64 for family, x in shapes), (
        "model parallel: all of the batch"
    )
    first = [block.family for block in found[:8]]
    assert len(set(first)) == len(first), "families take turns"
    assert {"conv 3x3", "conv 1x1 /2x2", "batch norm", "relu", "add", "linear", "cross-entropy"} <= {
        block.family for block in found
    }
    assert len(set(found)) == len(found) > 30
    few = blocks.blocks_of([(zoo.usual("resnet20"), 64)], 2, 1 << 20)
    assert few and max(block.nbytes for block in few) <= 1 << 20


def test_few_ranks_have_uniform_grids_of_two_degrees() -> None:
    """On four ranks n2 k2, n2 h2 and h4: half of the batch with half of channels or rows, all of it with a quarter."""
    shapes = {(b.family, b.shape) for b in blocks.blocks_of([(zoo.usual("resnet20"), 64)], 4, 1 << 30)}
    threes = [(shape.x, shape.y) for family, shape in shapes if family == "conv 3x3"]
    assert any(x[0] == y[0] == 32 and y[2] == 32 and y[1] < 16 for x, y in threes), "n2 k2"
    assert any(x[0] == y[0] == 32 and x[2] < x[3] and y[1] >= 16 for x, y in threes), "n2 h2"
    assert any(x[0] == y[0] == 64 and x[2] <= x[3] // 3 for x, y in threes), "h4"
    odd = blocks.blocks_of([(zoo.usual("resnet20"), 63)], 3, 1 << 30)
    assert {block.shape.y[0] for block in odd} <= {63, 21, 5, 6, 1, 2}, "three ranks have none of them"


def test_descriptions_for_the_planner_are_not_measured() -> None:
    kinds = {type(block.spec) for block in blocks.blocks_of([(zoo.usual("rnnlm"), 8)], 2, 1 << 30)}
    assert not kinds & {s.Attention, s.LSTM}


@pytest.mark.ranks(1, 2)
def test_every_kind_is_timed_the_same_on_all_ranks(comm: Any) -> None:
    three, two = Window(3, 1, 1, 1), Window(2, 2)
    picture = (2, 4, 6, 6)
    kinds: list[s.LayerSpec] = [
        s.Conv(8, (three, three)), s.Conv(4, (three, three), groups=2),
        s.ConvTranspose(3, (TransposedWindow(2, 2),) * 2), s.Pool("average", (two, two)), s.GlobalPool("max"),
        s.GlobalPool(), s.BatchNorm(), s.LayerNorm(), s.Activation("gelu"), s.Dropout(), s.Flatten(),
        s.Upsample((Upsampling(2),) * 2), s.SoftmaxCrossEntropy(), s.MeanSquaredError(),
    ]  # fmt: skip
    todo = [*blocks.tiny_blocks(), *(blocks.Block(kind, (picture,)) for kind in kinds)]
    todo.append(blocks.Block(s.Concat(), (picture, picture)))
    with World(comm) as world:
        engine = Engine.detect(world.memory)
        found = list(layers.measure_blocks(world, engine, todo, 60.0, lambda text: None))
        assert len({str(all_) for all_ in comm.allgather([times for _, times in found])}) == 1
    assert [block for block, _ in found] == todo
    samples = [layers.sample_of(block, times) for block, times in found]
    profile = Profile("", "", tuple(samples))
    for (block, times), one in zip(found, samples, strict=True):
        assert times.forward_s > 0 and times.data_s > 0
        weighted = isinstance(block.spec, s.Conv | s.ConvTranspose | s.Linear | s.LayerNorm)
        assert (times.weights_s > 0) == weighted, block.spec
        told = [profile.seconds(block.spec, pass_, block.shape) for pass_ in PASSES]
        assert told == list(times), one.family
        assert len(layers.points_of(block, times)) == (3 if weighted else 2)


@pytest.mark.ranks(2)
def test_a_budget_ends_the_measuring(comm: Any) -> None:
    with World(comm) as world:
        todo = 3 * blocks.tiny_blocks()
        found = list(layers.measure_blocks(world, Engine.detect(), todo, 0.0, lambda text: None))
    # The first of each family all the same.
    assert [block for block, _ in found] == blocks.tiny_blocks()


def test_a_family_of_which_only_a_tiny_block_is_known_is_not_told() -> None:
    """Its seconds are a call's, and told for large blocks by their work they were hours."""
    times = layers.Times(1e-4, 1e-4, 1e-4)
    tiny = [(block, times) for block in blocks.tiny_blocks()]
    large = [(blocks.Block(s.Linear(4096), ((16, 9216),)), layers.Times(0.1, 0.1, 0.1))]
    kept = [block for block, _ in layers.telling(tiny, large)]
    assert [block.family for block in kept] == ["linear", "linear"] and kept[1] is large[0][0]


def test_two_ranks_end_to_end(tmp_path: Path) -> None:
    """What the job leaves loads, holds a profile of the network asked for, and prices it."""
    words = ("-o", "mine.toml", "--quick", "--network", "digits-cnn", "--batch", "32")
    done = start(2, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "node" in done.stdout and "allreduce" in done.stdout and "products" in done.stdout
    assert done.stderr == ""
    machine = load_machine(str(tmp_path / "mine.toml"))
    assert machine.name == "mine" and machine.source.startswith("gridnn calibrate --quick") and machine.date
    assert [(level.name, level.ranks) for level in machine.levels] == [("node", 0)]
    assert "overlap: " in done.stdout and 0 <= machine.overlap <= 1
    assert 1e-8 < machine.levels[0].alpha_s < 1e-1 and machine.memory_bytes > 1 << 28
    assert 1e8 < machine.flops_per_s < 1e13 and 1e-6 < machine.layer_s < 1e-1
    assert machine.profile is not None and "conv 3x3" in machine.profile.families
    network = zoo.usual("digits-cnn")
    schemes = {node.name: Scheme(GridShape.of(n=2)) for node in network.nodes}
    assert price_plan(place_network(network, schemes, 32, 2), machine, 4).step_s > 0
    before = (tmp_path / "mine.toml").read_bytes()
    again = start(2, tmp_path, *words)
    assert again.returncode == 2
    assert again.stderr.count("error: mine.toml exists") == 1 and "--force" in again.stderr
    assert (tmp_path / "mine.toml").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine.toml", "mine.profile.json", "cache"}


def test_one_rank_measures_layers_only(tmp_path: Path) -> None:
    done = start(0, tmp_path, "-o", "one.toml", "--quick", "--network", "mlp")
    assert done.returncode == 0, done.stderr
    assert "one rank: layers only" in done.stdout
    machine = load_machine(str(tmp_path / "one.toml"))
    assert machine.levels == load_machine("laptop").levels and "copied from laptop" in machine.source
    assert json.loads((tmp_path / "one.profile.json").read_text())["version"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "-o/--output"),
        (("-o", "m.toml", "--batch", "8"), "name one with --network"),
        (("-o", "m.toml", "--ranks-per-node", "0"), "'0' is not a whole number above 0"),
        (("-o", "m.toml", "--network", "vgg16", "--batch", "1.5"), "'1.5' is not a whole number above 0"),
        (("-o", "m.toml", "--kwick"), "unrecognized"),
        (("-o", "m.toml", "--device", "tpu"), "invalid choice: 'tpu'"),
        (("-o", "m.toml", "--precision", "half"), "invalid choice: 'half'"),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_bad_words(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str, quiet: bool
) -> None:
    with pytest.raises(SystemExit) as caught:
        run._parse(words, quiet)
    assert caught.value.code == 2
    assert (told in capsys.readouterr().err) is not quiet


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "mine.json"), "ends in .toml"),
        (("-o", "m.toml", "--network", "resnet21"), 'did you mean "resnet'),
        (("-o", "m.toml", "--ranks-per-node", "3"), "--ranks-per-node 3: 2 ranks"),
        (("-o", "m.toml", "--precision", "bf16"), 'take compute.device = "gpu", or for a processor'),
    ],
)
def test_bad_jobs_end_on_all_ranks(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = start(2, tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count(told) == 1 == done.stderr.count("error"), done.stderr
    assert not list(tmp_path.glob("*.toml"))


def test_targets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*no is missing"):
        report.check_target(tmp_path / "no" / "m.toml", False)
    report.check_target(tmp_path / "m.toml", False)
    (tmp_path / "m.profile.json").touch()
    with pytest.raises(InputError, match=r"m\.profile\.json exists"):
        report.check_target(tmp_path / "m.toml", False)
    report.check_target(tmp_path / "m.toml", True)


def test_help(tmp_path: Path) -> None:
    done = start(2, tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("examples:") == 1


def test_what_is_measured_is_what_computes() -> None:
    """A processor that stands in for a device knows neither of its precisions."""
    assert [run._precision(None, asked) for asked in ("float32", "tf32", "bfloat16")] == [
        "float32", "float32", "bfloat16",
    ]  # fmt: skip


def test_a_written_file_says_the_precision(tmp_path: Path) -> None:
    profile = Profile("s", "d", (), "bf16")
    machine = Machine(
        "m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, LEVELS, profile=profile, element_bytes=profile.element_bytes
    )  # fmt: skip
    report.write_machine(machine, profile, tmp_path / "m.toml")
    assert load_machine(str(tmp_path / "m.toml")) == machine
    rate = fit.Rate(1e-10, 0.1, 0.2)
    said = "\n".join(report.layer_lines(rate, rate, 1e-5, profile, [0.1]))
    assert "0 families in bf16" in said and "elements, 2 bytes" in said


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    machine = Machine("m", "s", "d", 1e11, 1e-10, 1e-5, 1 << 30, LEVELS)
    with pytest.raises(InputError, match="cannot be written"):
        report.write_machine(machine, Profile("", "", ()), tmp_path / "gone" / "m.toml")
