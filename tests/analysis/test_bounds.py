"""The table of lower bounds, and the command that shows it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from gridnn.analysis.bounds import bounds
from gridnn.analysis.study import STRATEGIES, schemes_of, study
from gridnn.analysis.table import Table
from gridnn.commands.analyze.bounds import main
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape
from gridnn.network.graph import Builder, Network
from gridnn.plan.plan import uniform_plan


def table(network: str | Network, batch: int, procs: int, grid: str, passes: int = 1, **more: int) -> Table:
    job = study(network, batch, "laptop", passes=passes).job(procs)
    return bounds(job, schemes_of(job, grid), **more)


def row(found: Table, layer: str) -> dict[str, Any]:
    return next(r for r in found.records() if r["layer"] == layer)


def asked(*words: str) -> list[str]:
    said: list[str] = []
    main(words, said.append)
    return said


def test_alexnet_by_hand() -> None:
    """Fc7, 4096 x 4096 and 2048 samples on 512 ranks of "n512": 3D, since 4096 * 4096 / 2048^2 = 4 is below 512."""
    found = row(table("alexnet", 2048, 512, "data"), "fc7")
    assert (found["outputs"], found["inputs"], found["columns"]) == (4096, 4096, 2048)
    assert found["multiplications"] == 4096 * 4096 * 2048
    assert found["regime"] == "3D"
    words = 3 * (4096 * 4096 * 2048 / 512) ** (2 / 3) - (4096 * 4096 + 2 * 4096 * 2048) / 512
    assert found["product_bytes"] == pytest.approx(4 * 3 * words)
    assert found["step_bytes"] == pytest.approx(4 * 2 * words)
    assert found["any_bytes"] == pytest.approx(4 * 1.5 * words)
    # Batch parallel: Gholami et al. 2018, Eq. 4; weights and bias.
    assert found["moved_bytes"] == pytest.approx(4 * 2 * 511 / 512 * (4096 * 4096 + 4096))
    assert found["ratio"] == pytest.approx(found["moved_bytes"] / found["step_bytes"])
    assert found["memory_bytes"] == 0


def test_one_process_moves_nothing() -> None:
    found = table("lenet", 8, 1, "1")
    assert len(found) == 5
    for key in ("product_bytes", "step_bytes", "any_bytes", "memory_bytes", "moved_bytes", "best_bytes"):
        assert set(found.numbers(key)) == {0.0}
    assert set(found.column("ratio")) == {None}
    assert set(found.column("regime")) == {"none"}
    assert found.totals is not None
    assert found.record(found.totals)["ratio"] is None


@pytest.mark.parametrize("network", ["lenet", "alexnet", "resnet18", "unet", "inception_v3"])
@pytest.mark.parametrize("grid", [*STRATEGIES, "h2 w2 n2", "c4 k2", "k8"])
def test_no_plan_of_a_zoo_network_is_below_the_bound(network: str, grid: str) -> None:
    if network in ("unet", "inception_v3") and grid in STRATEGIES[1:]:
        return  # a search of these takes long, and says nothing new
    found = table(network, 16, 8, grid)
    ratios = [r["ratio"] for r in found.records() if r["ratio"] is not None]
    assert ratios and all(isinstance(x, float) and x >= 1 - 1e-9 for x in ratios)
    for r in found.records():
        parts = (r["moved_x_bytes"], r["moved_y_bytes"], r["moved_w_bytes"])
        assert r["moved_bytes"] == pytest.approx(sum(parts))  # type: ignore[arg-type]


def test_totals_are_sums_and_their_ratio_is_of_bounded_layers() -> None:
    found = table("alexnet", 64, 16, "data")
    assert found.totals is not None
    totals = found.record(found.totals)
    for key in ("step_bytes", "moved_bytes", "multiplications", "moved_w_bytes"):
        assert totals[key] == pytest.approx(sum(found.numbers(key)))
    rest = [r for r in found.records() if r["layer"] != "conv1"]
    assert row(found, "conv1")["step_bytes"] == 0 and row(found, "conv1")["moved_bytes"] > 0
    moved, least = (sum(r[key] for r in rest) for key in ("moved_bytes", "step_bytes"))  # type: ignore[misc]
    assert totals["ratio"] == pytest.approx(moved / least)
    assert any("input is read" in note for note in found.notes)


def test_the_planner_comes_near_the_bound_where_batch_parallel_is_far() -> None:
    dear, cheap = (row(table("alexnet", 2048, 64, grid), "fc6") for grid in ("data", "dynamic"))
    assert dear["step_bytes"] == cheap["step_bytes"]
    assert dear["ratio"] > 10 * cheap["ratio"]
    assert cheap["ratio"] < 1.2


def test_passes_change_no_bound() -> None:
    """Weights move once a step, activations as much as in one pass."""
    one, four = (row(table("lenet", 64, 4, "n2 k2", passes), "conv2") for passes in (1, 4))
    for key in ("columns", "step_bytes", "moved_x_bytes", "moved_w_bytes", "moved_bytes", "best_bytes"):
        assert one[key] == pytest.approx(four[key]), key


def test_a_smaller_element_is_a_smaller_bound() -> None:
    single, half = (
        bounds(job, schemes_of(job, "n2 k2"))
        for job in (study("lenet", 64, "laptop", itemsize=size).job(4) for size in (4, 2))
    )
    for key in ("step_bytes", "moved_bytes", "best_bytes"):
        assert single.numbers(key) == pytest.approx([2 * x for x in half.numbers(key)])


def test_memory_is_shown_where_it_bounds() -> None:
    assert "least by memory" not in "\n".join(table("alexnet", 256, 16, "data").lines())
    found = table("alexnet", 256, 16, "data", memory_bytes=500_000)
    assert "least by memory" in "\n".join(found.lines())
    fc7, memory = row(found, "fc7"), 500_000 / 4
    assert fc7["memory_bytes"] == pytest.approx(
        4 * 2 * (2 * 4096 * 4096 * 256 / 16 / memory**0.5 - 3 * memory)
    )
    with pytest.raises(InputError, match="holds no element"):
        table("lenet", 8, 2, "data", memory_bytes=3)


def test_idle_ranks_are_left_out() -> None:
    net = Builder("narrow", (12,))
    network = net.done(net.squared_error(net.linear(net.linear(net.input, 12), 3)))
    found = row(table(network, 8, 4, "k4"), "linear2")
    assert found["ranks"] == 3
    assert found["ratio"] >= 1


def test_an_lstm_has_no_bound_and_says_so() -> None:
    found = table("rnnlm", 64, 16, "n16")
    lstm = next(r for r in found.records() if r["kind"] == "lstm")
    assert lstm["step_bytes"] is None and lstm["ratio"] is None
    assert any("LSTM" in note for note in found.notes)
    assert row(found, "softmax")["ratio"] >= 1


def test_a_million_processes_are_answered() -> None:
    found = row(table("vgg16", 4096, 1_000_000, "n4000 k25 c10"), "linear2")
    assert found["ranks"] == 1_000_000
    assert found["ratio"] > 1
    assert any("ends of each layer's axes" in note for note in table("lenet", 128, 128, "data").notes)


# The command.


def test_text_json_and_csv_agree() -> None:
    words = ("lenet", "--batch", "64", "--procs", "4", "--grid", "n2 k2", "--machine", "laptop")
    expected = table("lenet", 64, 4, "n2 k2")
    assert asked(*words) == expected.lines()
    (text,) = asked(*words, "--json")
    found = json.loads(text)
    assert found["plan"] == "n2 k2" and found["procs"] == 4 and found["network"] == "lenet"
    assert found["rows"] == expected.as_json()["rows"]
    assert any("2205.13407" in note for note in found["notes"])
    (lines,) = asked(*words, "--csv")
    assert [r["layer"] for r in csv.DictReader(lines.splitlines())] == list(expected.column("layer"))


def test_a_plan_file_and_a_memory(tmp_path: Path) -> None:
    network = study("lenet", 64, "laptop").network
    path = tmp_path / "plan.json"
    path.write_text(uniform_plan(network, GridShape.parse("n2 c2"), 64, 4, "by hand").dumps())
    words = ("lenet", "-b", "64", "-p", "4", "--plan", str(path), "--memory", "0.00001", "--json")
    found = json.loads(asked(*words)[0])
    assert found["plan"] == "plan.json"
    assert {r["grid"] for r in found["rows"]} == {"n2 c2"}
    assert found["totals"]["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonet", "-b", "8", "-p", "2"], "nonet"),
        (["lenet", "-b", "8", "-p", "2", "--machine", "abacus"], "abacus"),
        (["lenet", "-b", "8", "-p", "2", "--grid", "n4"], "4 processes"),
        (["lenet", "-b", "8", "-p", "2", "--plan", "missing.json"], "missing.json"),
        (["lenet", "-b", "8", "-p", "16", "--grid", "n16"], "only 8 samples"),
        (["lenet", "-b", "8", "-p", "2", "--memory", "1e-9"], "memory of 1 bytes"),
    ],
)
def test_bad_input_is_told(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(*words)


@pytest.mark.parametrize("memory", ["0", "-1", "much", "inf", "nan"])
def test_a_memory_is_a_size(memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        asked("lenet", "-b", "8", "-p", "2", f"--memory={memory}")
    assert stop.value.code == 2
    assert "size in GB" in capsys.readouterr().err
