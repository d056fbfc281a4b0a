"""``gridnn checkpoint``: what it says, what it refuses, what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gridnn.commands.checkpoint import main
from gridnn.errors import InputError
from gridnn.geometry.interval import Interval
from gridnn.network import zoo
from gridnn.network.source import Source
from gridnn.plan.plan import open_plan
from gridnn.train.checkpoint.index import Piece, Stored, dump_index, load_index
from gridnn.train.checkpoint.whole import _wrong_tiling
from tests.support.launch import ROOT, environment
from tests.train.checkpoints import Ranks, advance, ranks_of, small, truth

LENET = Source("lenet", (1, 12, 12), 4)


def ask(*words: str) -> list[str]:
    lines: list[str] = []
    main(words, lines.append)
    return lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ranks]:
    """A run folder with two checkpoints of a network of the zoo, by four ranks."""
    run = tmp_path_factory.mktemp("run")
    ranks = ranks_of(zoo.build("lenet", (1, 12, 12), 4), 4, {"*": "n2 k2", "conv1": "h2 w2"})
    plan = json.loads(ranks.plan) | {"model": LENET.table()}
    ranks.plan = json.dumps(plan)
    for step in (5, 9):
        advance(ranks, step)
        ranks.write(run / "checkpoints", step, loss=1 / step)
    return run, ranks


@pytest.fixture
def run(made: tuple[Path, Ranks], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run"


def test_show(run: Path) -> None:
    text = "\n".join(ask("show", str(run)))
    for words in (
        "step-00000009",
        "17 updates",
        "0.111111",
        "2 grids on 4 processes",
        "before it   step-00000005",
    ):
        assert words in text
    row = next(line for line in text.splitlines() if line.startswith("weights/conv1.weight"))
    assert row.split()[:3] == ["weights/conv1.weight", "6x1x5x5", "float32"] and row.endswith("600 B")


def test_show_json(run: Path) -> None:
    (text,) = ask("show", str(run / "checkpoints" / "step-00000005"), "--json")
    told = json.loads(text)
    assert (told["step"], told["ranks"], told["updates"], told["plan"]["procs"]) == (5, 4, 17, 4)
    assert told["arrays"]["weights/conv1.weight"]["shape"] == [6, 1, 5, 5]
    weights = [a["bytes"] for name, a in told["arrays"].items() if name.startswith("weights/")]
    kinds = [a["bytes"] for name, a in told["arrays"].items() if name.startswith("optimizer/")]
    assert sum(kinds) == 2 * sum(weights)  # Adam keeps two
    assert told["bytes"] > sum(weights) + sum(kinds)


def test_verify(run: Path) -> None:
    (line,) = ask("verify", str(run))
    assert "step-00000009 is whole" in line
    shard = run / "checkpoints" / "step-00000009" / "shard-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        InputError, match=r"(?s)is damaged; try the one before it, .*step-00000005.*shard-00002"
    ) as told:
        ask("verify", str(run))
    assert told.value.exit_code == 2
    assert "is whole" in ask("verify", str(run / "checkpoints" / "step-00000005"))[0]


def rewrite(folder: Path, name: str, array: Stored) -> None:
    """Write another array into an index, whose checksum will be right."""
    index = load_index((folder / "index.json").read_text())
    (folder / "index.json").write_text(dump_index(index._replace(arrays={**index.arrays, name: array})))


def test_verify_sees_pieces_that_do_not_tile(run: Path) -> None:
    folder = run / "checkpoints" / "step-00000009"
    array = load_index((folder / "index.json").read_text()).arrays["weights/conv1.weight"]
    rewrite(folder, "weights/conv1.weight", array._replace(pieces=array.pieces[1:]))
    with pytest.raises(InputError, match=r"weights/conv1\.weight: some elements are in no piece"):
        ask("verify", str(run))
    rewrite(folder, "weights/conv1.weight", array._replace(pieces=(*array.pieces, array.pieces[0])))
    with pytest.raises(InputError, match=r"weights/conv1\.weight: some elements are in several pieces"):
        ask("verify", str(run))
    lost = array.pieces[0]._replace(key="weights/none")
    rewrite(folder, "weights/conv1.weight", array._replace(pieces=(lost, *array.pieces[1:])))
    with pytest.raises(InputError, match="has no tensor 'weights/none'"):
        ask("verify", str(run))


def test_tilings_against_brute_force() -> None:
    """Every set of two or three boxes of a 2 x 3 array: told wrong exactly if some element is not covered once."""

    def intervals(extent: int) -> list[Interval]:
        return [Interval(a, b) for a in range(extent) for b in range(a + 1, extent + 1)]

    boxes = list(product(intervals(2), intervals(3)))
    right = 0
    for chosen in (*combinations(boxes, 1), *combinations(boxes, 2), *combinations(boxes, 3)):
        count = np.zeros((2, 3), int)
        for box in chosen:
            count[tuple(slice(*i) for i in box)] += 1
        told = _wrong_tiling(Stored((2, 3), "float32", tuple(Piece("f", "k", box) for box in chosen)))
        assert (told is None) == bool((count == 1).all()), chosen
        right += told is None
    assert right == 1 + 3 + 9  # whole; in two; in three: all columns, a column or a row cut again
    outside = Piece("f", "k", (Interval(0, 2), Interval(1, 4)))
    assert _wrong_tiling(Stored((2, 3), "float32", (outside,))) == "a piece lies outside of it"


def test_export_safetensors(made: tuple[Path, Ranks], run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    (line,) = ask("export", str(run), "-o", str(out))
    assert "step 9" in line and f"{out.stat().st_size:,} bytes" in line
    found, whole = load_file(out), truth(made[1].contents, seed=9)
    assert set(found) == {name.split("/")[1] for name in whole if not name.startswith("optimizer")}
    for name, array in found.items():
        assert array.tobytes() == whole[f"weights/{name}"].tobytes()


def test_export_of_statistics(tmp_path: Path) -> None:
    ranks = ranks_of(small(), 3, {"*": "k3"})
    advance(ranks, 1)
    ranks.write(tmp_path / "checkpoints", 1)
    ask("export", str(tmp_path), "-o", str(tmp_path / "model.safetensors"))
    found = load_file(tmp_path / "model.safetensors")
    assert found["bn1.mean"].tobytes() == truth(ranks.contents, 1)["statistics/bn1.mean"].tobytes()
    with pytest.raises(InputError, match="does not say what its network is"):  # it is of no zoo
        ask("export", str(tmp_path), "-o", str(tmp_path / "model.onnx"))
    assert not (tmp_path / "model.onnx").exists()


def test_export_onnx(made: tuple[Path, Ranks], run: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
    (run / "checkpoints" / "step-00000009" / "index.json").unlink()
    lines = ask("export", str(run), "-o", str(tmp_path / "model.onnx"))
    assert lines[0].startswith("warning: ") and "index.json is missing" in lines[0] and "step 5" in lines[1]
    model = onnx.load(tmp_path / "model.onnx")
    (weight,) = [t for t in model.graph.initializer if t.name == "conv1.weight"]
    whole: Any = truth(made[1].contents, seed=5)
    assert onnx.numpy_helper.to_array(weight).tobytes() == whole["weights/conv1.weight"].tobytes()


WITHOUT_MPI = """
import sys
from importlib.util import find_spec

class NoMpi:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mpi4py":
            raise ImportError("no mpi4py here")

sys.meta_path.insert(0, NoMpi())
from gridnn.commands.checkpoint import main
assert not {"numpy", "xxhash", "onnx"} & set(sys.modules), "the command is heavy to name"
run, out = sys.argv[1:]
main(["show", run], print)
main(["show", run, "--json"], print)
main(["verify", run], print)
main(["export", run, "-o", out + "/model.safetensors"], print)
if find_spec("onnx"):
    main(["export", run, "-o", out + "/model.onnx"], print)
"""


def test_no_mpi_is_needed(run: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MPI, str(run), str(tmp_path)],
        cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is whole" in done.stdout and (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "words, told",
    [
        (["show", "{run}/nothing"], "no checkpoint"),
        (["verify", "{run}/checkpoints/step-00000077"], "no checkpoint"),
        (["export", "{run}", "-o", "model.bin"], "safetensors or .onnx"),
        (["export", "{run}", "-o", "{run}/no/model.onnx"], "no folder"),
    ],
)
def test_bad_words_are_told(run: Path, words: Sequence[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask(*(word.format(run=run) for word in words))


@pytest.mark.parametrize("words", [["look", "x"], ["show"], ["export", "x"]])
def test_bad_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ask(*words)
    assert ended.value.code == 2 and "usage: gridnn checkpoint" in capsys.readouterr().err


def test_the_plan_of_a_checkpoint_is_a_plan(made: tuple[Path, Ranks], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(made[1].plan)
    assert open_plan(path).model == LENET
