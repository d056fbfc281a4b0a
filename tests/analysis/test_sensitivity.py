"""Sensitivity and flip points: against prices made anew on other machines, and crossings by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gridnn.analysis.flips import RIVALS, best, flip_map, turns
from gridnn.analysis.parts import gather, parts, scaled
from gridnn.analysis.rivals import rivals
from gridnn.analysis.sensitivity import sensitivity, sensitivity_chart
from gridnn.analysis.settings import job_at, values_of
from gridnn.analysis.strategies import KNOWN, choices
from gridnn.analysis.study import study
from gridnn.commands.analyze.sensitivity import main
from gridnn.cost.moves import Floats
from gridnn.errors import InputError
from gridnn.network.graph import INPUT
from gridnn.plan.search import search

LENET = study("lenet", 64, "cori-knl")
MLP = study("mlp", 64, "laptop")


@pytest.mark.parametrize(("alpha", "beta"), [(16.0, 0.5), (0.125, 8.0), (3.0, 3.0)])
@pytest.mark.parametrize("machine", ["cori-knl", "h100"])
def test_communication_is_homogeneous(machine: str, alpha: float, beta: float) -> None:
    job = study("lenet", 64, machine).job(16)
    of = rivals(job, ["model", "fc-only", "uniform"], [(1.0, 1.0)])
    anew = replace(job, machine=scaled(job.machine, alpha, beta))
    assert of.steps_s(alpha, beta) == pytest.approx(parts(anew, gather(anew, of.schemes)).step_s, rel=1e-9)


@pytest.mark.parametrize("over", ["alpha", "beta"])
def test_over_the_machine(over: str) -> None:
    table = sensitivity(LENET, 16, over, [0.25, 1, 8])
    rows = {(row["value"], row["strategy"]): row for row in table.records()}
    assert len(rows) == 3 * len(KNOWN)
    for factor in (0.25, 1.0, 8.0):
        machine = scaled(LENET.machine, **{over: factor})
        whole = search(LENET.on(machine).job(16))
        for name in ("data", "model", "owt", "fc-only", "uniform"):
            assert rows[factor, name]["step_s"] == pytest.approx(whole.baselines[name], rel=1e-3)
        assert rows[factor, "layer-wise"]["step_s"] == pytest.approx(whole.step_s, rel=0.01)
        fastest = [name for (value, name), row in rows.items() if value == factor and row["fastest"]]
        assert len(fastest) == 1
        assert rows[factor, fastest[0]]["to_fastest"] == 1
    data = [float(rows[f, "data"]["comm_s"]) for f in (0.25, 1.0, 8.0)]  # type: ignore[arg-type]
    assert data == sorted(data)
    assert len({rows[f, "data"]["compute_s"] for f in (0.25, 1.0, 8.0)}) == 1


def test_over_batches_and_processes() -> None:
    table = sensitivity(LENET, 16, "batch", [8, 64, 256], ["data", "uniform"])
    assert table.column("batch") == (8, 8, 64, 64, 256, 256)
    for row in table.records():
        job = LENET.job(16, int(row["batch"]))  # type: ignore[arg-type]
        expected = choices(job, [str(row["strategy"])])[str(row["strategy"])]
        assert row["step_s"] == pytest.approx(expected.step_s, rel=1e-3)
    counts = sensitivity(LENET, 16, "procs", strategies=["data"])
    assert counts.column("procs") == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert counts.records()[0]["comm_s"] == 0


def test_over_images() -> None:
    table = sensitivity(LENET, 8, "image", [28, 56], ["data"], source="lenet")
    small, large = table.records()
    assert small["step_s"] == pytest.approx(
        sensitivity(LENET, 8, "beta", [1], ["data"]).records()[0]["step_s"]
    )
    assert 1 < large["compute_s"] / small["compute_s"] < 4.5  # type: ignore[operator]
    job = job_at(study("unet", 2, "h100"), 4, {"image": 256}, "unet")
    assert job.network.shapes[INPUT] == (1, 256, 256)
    usual, series = values_of(LENET, 8, "image", None, "lenet")
    assert usual == 28
    assert series == (14, 21, 28, 42, 56) or set(series) <= {14, 21, 28, 42, 56}


@pytest.mark.parametrize(
    ("network", "over", "more", "words"),
    [
        ("lenet", "gamma", {}, "cannot be varied"),
        ("lenet", "alpha", {"values": [0.0]}, "above 0"),
        ("lenet", "alpha", {"values": []}, "no values"),
        ("lenet", "beta", {"values": [float("nan")]}, "above 0"),
        ("lenet", "batch", {"values": [0.5]}, "whole"),
        ("lenet", "image", {}, "where it comes from"),
        ("lenet", "image", {"values": [3], "source": "lenet"}, "smaller than the window"),
        ("rnnlm", "image", {"source": "rnnlm"}, "no image"),
        ("lenet", "alpha", {"strategies": ["best"]}, "not known"),
    ],
)
def test_what_cannot_be(network: str, over: str, more: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sensitivity(study(network, 64, "laptop"), 4, over, **more)  # type: ignore[arg-type]


def test_a_batch_that_passes_do_not_split() -> None:
    with pytest.raises(InputError, match="in 4 passes"):
        sensitivity(replace(LENET, passes=4), 8, "batch", [3])
    assert values_of(replace(LENET, passes=16), 8, "batch", None, None)[1] == (
        16,
        32,
        64,
        128,
        256,
        512,
        1024,
    )


def test_a_chart_of_it() -> None:
    chart = sensitivity_chart(sensitivity(LENET, 8, "beta", [0.5, 1, 2], ["data", "model"]))
    assert list(chart.x) == [0.5, 1, 2]
    assert [series.name for series in chart.series] == ["data", "model"]
    assert chart.uprights == ((1.0, "as it is"),)


def lines(*pairs: tuple[float, float]) -> tuple[Floats, Floats]:
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def test_turns_of_straight_lines() -> None:
    base, slope = lines((0, 2), (3, 1), (10, 0.1))

    def steps(x: float) -> Floats:
        return base + slope * x

    found = list(turns(steps, (0, 1, 2), 0.5, 20, steps(0.5), steps(20)))
    # 0 and 1 cross at 3, 1 and 2 at 7 / 0.9; 0 and 2 would at 10 / 1.9, where 1 is the fastest.
    assert [(i, j) for i, j, _, _ in found] == [(0, 1), (1, 2)]
    assert [at for _, _, at, _ in found] == pytest.approx([3, 7 / 0.9])
    assert [s for _, _, _, s in found] == pytest.approx([6, 3 + 7 / 0.9])
    # Plans of one strategy are no flip.
    assert [at for _, _, at, _ in turns(steps, (0, 0, 1), 0.5, 20, steps(0.5), steps(20))] == pytest.approx(
        [7 / 0.9]
    )
    assert list(turns(steps, (0, 0, 0), 0.5, 20, steps(0.5), steps(20))) == []


def test_turns_find_kinks() -> None:
    def steps(x: float) -> Floats:
        return np.array([max(x, 5 * x - 12), 4 + 0.5 * x])

    ((_, _, at, _),) = turns(steps, (0, 1), 0.1, 100, steps(0.1), steps(100))
    assert at == pytest.approx(16 / 4.5)


def test_flips_are_where_two_strategies_take_as_long() -> None:
    table, chart = flip_map(MLP, 8)
    assert (len(chart.y), len(chart.x)) == (9, 9)
    assert len(table) > 4
    for row in table.records():
        at, up = float(row["at"]), float(row["up"])  # type: ignore[arg-type]
        assert row["low"] <= at <= row["high"]  # type: ignore[operator]

        # Planned and priced anew: as long there, and the one and the other faster on either side.
        def seconds(x: float, alpha: float = up) -> tuple[float, float]:
            job = MLP.on(scaled(MLP.machine, alpha, x)).job(8)
            found = choices(job, RIVALS)
            return found[str(row["before"])].step_s, found[str(row["after"])].step_s  # noqa: B023

        before, after = seconds(at)
        assert before == pytest.approx(after, rel=1e-6)
        assert before == pytest.approx(row["step_s"], rel=1e-6)
        below, above = seconds(at * 0.99), seconds(at * 1.01)
        # One may be a special case of the other: then they are as fast on one side.
        assert below[0] <= below[1] * (1 + 1e-9) and above[1] <= above[0] * (1 + 1e-9)
        assert below[0] < below[1] * (1 - 1e-6) or above[1] < above[0] * (1 - 1e-6)


def test_cells_name_the_fastest() -> None:
    _, chart = flip_map(MLP, 8, size=3)
    assert chart.x == pytest.approx((1 / 16, 1, 16))
    for beta, column in zip(chart.x, range(3), strict=True):
        for alpha, row in zip(chart.y, range(3), strict=True):
            found = choices(MLP.on(scaled(MLP.machine, alpha, beta)).job(8), RIVALS)
            step_s = np.array([found[name].step_s for name in RIVALS])
            assert chart.cells[row][column] == RIVALS[best(step_s)]
            others = step_s[step_s > step_s.min() * (1 + 1e-9)]
            margin = others.min() / step_s.min() - 1
            text = chart.texts[row][column]
            assert text.startswith(f"{'~' if margin < 0.1 else ''}{margin:.0%}")


def test_maps_of_jobs() -> None:
    table, chart = flip_map(LENET, 16, "procs", "batch", size=3)
    assert list(chart.x) == [8, 16, 32]
    assert list(chart.y) == [32, 64, 128]
    assert all(row["at"] is None for row in table.records())
    _, mixed = flip_map(LENET, 16, "beta", "procs", values=([0.25, 4], [4, 16]))
    assert (list(mixed.x), list(mixed.y)) == ([0.25, 4], [4, 16])
    here = choices(LENET.on(scaled(LENET.machine, 1.0, 4.0)).job(16), RIVALS)
    assert mixed.cells[1][1] == min(RIVALS, key=lambda name: round(here[name].step_s, 12))


def test_layer_wise_wins_everywhere() -> None:
    table, chart = flip_map(LENET, 16, strategies=["model", "layer-wise"], size=3)
    assert {name for row in chart.cells for name in row} == {"layer-wise"}
    assert "layer-wise is the fastest everywhere" in table.notes[0]


@pytest.mark.parametrize(
    ("across", "up", "strategies", "words"),
    [("beta", "beta", RIVALS, "itself"), ("beta", "gamma", RIVALS, "cannot be varied"),
     ("beta", "alpha", ["data"], "at least two"), ("image", "beta", RIVALS, "where it comes from")],
)  # fmt: skip
def test_maps_that_cannot_be(across: str, up: str, strategies: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        flip_map(LENET, 8, across, up, strategies)


def said(*words: str) -> str:
    found: list[str] = []
    main(["lenet", "-b", "64", "-p", "16", "-m", "cori-knl", *words], found.append)
    return "\n".join(found)


def test_the_command(tmp_path: Path) -> None:
    rows = json.loads(said("--over", "batch", "--values", "32,64", "--strategies", "data,uniform", "--json"))[
        "rows"
    ]
    assert [row["batch"] for row in rows] == [32, 32, 64, 64]
    assert "fastest over" in said("--strategies", "data,model", "--values", "1,2")
    picture = tmp_path / "flips.svg"
    found = json.loads(said("--map", "beta,alpha", "--cells", "3", "--json", "--svg", str(picture)))
    assert found["map"]["across"] == "beta"
    assert np.array(found["map"]["cells"]).shape == (3, 3)
    assert "the fastest strategy" in picture.read_text()
    images = said("--over", "image", "--values", "28,32", "--strategies", "data", "--csv")
    assert len(images.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--map", "beta,alpha", "--values", "1"], "--cells"), (["--cells", "3"], "--map"),
     (["--map", "beta,alpha", "--cells", "99"], "2 to 33"), (["--strategies", "best"], "known"),
     (["--png", "/nowhere/x.png"], "folder"), (["--over", "image", "--values", "2"], "window")],
)  # fmt: skip
def test_bad_words(words: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        said(*words)


@pytest.mark.parametrize(
    "words", [["--over", "x"], ["--map", "beta"], ["--values", "a"], ["--map", "beta,beta"]]
)
def test_words_that_mean_nothing(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        said(*words)
    assert ended.value.code == 2
