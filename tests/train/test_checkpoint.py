"""Checkpoints on any plan: every element written once, and the same bits after any journey."""

from __future__ import annotations

import json
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gridnn.compute.cpu.memory import shaped
from gridnn.errors import InputError
from gridnn.geometry.interval import Interval, extents_of, volume, whole_box
from gridnn.train.checkpoint.contents import memory_order, run_boxes
from gridnn.train.checkpoint.read import damage, open_checkpoint
from gridnn.train.optimizer import Optimizer, kinds
from gridnn.train.sections import TrainSection
from tests.support.nets import NETS, build
from tests.train.checkpoints import CONFIG, PLANS, advance, pieces, ranks_of, small, truth

IDS = [f"{procs}-{'+'.join(plan.values())}".replace(" ", "") for procs, plan in PLANS]
CUT = CONFIG.model_copy(update={"cut_optimizer": True})


@pytest.mark.parametrize("procs, schemes", PLANS, ids=IDS)
def test_every_element_is_written_exactly_once_and_evenly(procs: int, schemes: Any) -> None:
    contents = ranks_of(small(), procs, schemes).contents
    counts = {name: np.zeros(shape, int) for name, (shape, _) in contents.arrays().items()}
    for rank in range(procs):
        for part in contents.parts(rank):
            assert part.dtype == contents.arrays()[part.name][1]
            for box in part.boxes():
                counts[part.name][tuple(slice(*i) for i in box)] += 1
    assert all((count == 1).all() for count in counts.values())
    if schemes == {"*": "n2"}:  # all is replicated: both ranks write the same, but for an element a bucket
        sizes = [sum(part.run.size for part in contents.parts(rank)) for rank in range(procs)]
        assert max(sizes) - min(sizes) <= 3 * 20


@pytest.mark.parametrize(
    "name", [n for n in NETS if n in ("conv-groups", "transposed", "conv3d", "layer-norm", "unet")]
)
def test_every_kind_of_layer_is_covered(name: str) -> None:
    for schemes in ({"*": "n2 k2"}, {"*": "k2 c2"}, {"*": "w2 n2"}):
        contents = ranks_of(build(name), 4, schemes).contents
        total = sum(prod(shape) for shape, _ in contents.arrays().values())
        assert sum(part.run.size for rank in range(4) for part in contents.parts(rank)) == total


def test_runs_lie_as_memory_does() -> None:
    """The boxes of a run, one after another, are the elements of the run in the memory of the block."""
    block = (Interval(2, 5), Interval(1, 5), Interval(0, 2), Interval(3, 6))
    numbers = np.arange(6 * 6 * 3 * 7).reshape(6, 6, 3, 7)
    flat = np.empty(volume(block), int)
    shaped(flat, extents_of(block))[...] = numbers[tuple(slice(*i) for i in block)]
    for start, stop in product(range(0, 73, 5), repeat=2):
        if start < stop:
            boxes = run_boxes(block, Interval(start, stop))
            order = memory_order(4)
            read = [numbers[tuple(slice(*i) for i in box)].transpose(order).ravel() for box in boxes]
            assert np.concatenate(read).tolist() == flat[start:stop].tolist()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A checkpoint by each of the plans; the odd ones with the optimizer's state cut."""
    folders = {}
    for number, (procs, schemes) in enumerate(PLANS):
        ranks = ranks_of(small(), procs, schemes, CUT if number % 2 else CONFIG)
        advance(ranks, seed=number)
        folders[number] = ranks.write(tmp_path_factory.mktemp(f"plan{number}"), step=number + 1)
    return folders


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("source, target", list(product(range(8), range(8))))
def test_any_plan_to_any_plan(source: int, target: int, cut: bool, written: dict[int, Path]) -> None:
    procs, schemes = PLANS[target]
    got, wanted = (ranks_of(small(), procs, schemes, CUT if cut else CONFIG) for _ in range(2))
    advance(wanted, seed=source)
    got.restore(open_checkpoint(written[source]))
    for rank in range(procs):
        mine, theirs = got.bits(rank), wanted.bits(rank)
        assert len(mine) > 1 + 2 * 8 and mine.keys() == theirs.keys()
        assert [name for name in theirs if mine[name] != theirs[name]] == []


def test_the_files_are_safetensors(written: dict[int, Path]) -> None:
    """The library of the format reads every shard, and its tensors with the index are the arrays."""
    folder = written[6]
    index = json.loads((folder / "index.json").read_text())["index"]
    whole = truth(ranks_of(small(), *PLANS[6]).contents, seed=6)
    assert set(index["arrays"]) == set(whole)
    seen = set()
    for name, array in index["arrays"].items():
        got = np.full(array["shape"], np.nan, array["dtype"])
        for piece in array["pieces"]:
            stored = load_file(folder / piece["file"])[piece["key"]]
            back = [array["order"].index(d) for d in range(len(array["order"]))]
            got[tuple(slice(*i) for i in piece["box"])] = stored.transpose(back)
            seen.add((piece["file"], piece["key"]))
        assert got.tobytes() == whole[name].tobytes(), name
    stored_keys = {(path.name, key) for path in folder.glob("*.safetensors") for key in load_file(path)}
    assert seen == stored_keys and len(list(folder.glob("*.safetensors"))) == 6


def test_a_rank_reads_only_what_it_wants(written: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(written[7])
    opened: list[str] = []
    real = checkpoint._tensor

    def noted(file: str, key: str) -> Any:
        opened.append(key)
        return real(file, key)

    monkeypatch.setattr(checkpoint, "_tensor", noted)
    out = np.empty((1, 2), np.float32)
    checkpoint.fill("weights/fc2.weight", (Interval(0, 1), Interval(0, 2)), out)
    of_fc2 = checkpoint.index.arrays["weights/fc2.weight"].pieces
    assert len(opened) < len(of_fc2) and {key.split("#")[0] for key in opened} == {"weights/fc2.weight"}


def test_state_before_the_first_step_is_zeros(tmp_path: Path) -> None:
    ranks = ranks_of(small(), 2, {"*": "n2"})
    checkpoint = open_checkpoint(ranks.write(tmp_path, 0))
    shape = checkpoint.index.arrays["optimizer/m/conv1.weight"].shape
    got = np.ones(shape, np.float32)
    checkpoint.fill("optimizer/m/conv1.weight", whole_box(shape), got)
    assert not got.any() and damage(checkpoint.folder) == []


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw", "lars"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_kinds_are_those_that_the_optimizer_keeps(rule: Any, momentum: float) -> None:
    config = TrainSection(optimizer=rule, momentum=momentum)
    optimizer, arena = Optimizer(config), ranks_of(small(), 1, {"*": "1"}, config).arenas[0]
    optimizer.step(pieces(arena), 0.1, squares=np.ones((1, 2)))
    assert {tuple(of_piece) for of_piece in optimizer.state_arrays().values()} == {kinds(config)}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"optimizer": "sgd"}, "optimizer/velocity"),
        ({"dtype": "float64"}, "is float32 .* in it, float64 .* in this run"),
    ],
)
def test_another_run_is_refused(change: Any, words: str, written: dict[int, Path]) -> None:
    other = ranks_of(small(), 2, {"*": "n2"}, CONFIG.model_copy(update=change))
    with pytest.raises(InputError, match=words):
        other.restore(open_checkpoint(written[0]))


def test_another_network_is_refused(written: dict[int, Path]) -> None:
    with pytest.raises(InputError, match=r"another run: .* not there in it"):
        ranks_of(build("unet"), 2, {"*": "n2"}).restore(open_checkpoint(written[0]))
