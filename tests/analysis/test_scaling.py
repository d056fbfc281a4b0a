"""Scaling: efficiencies by hand, where cutting the batch ends, and plans that are as good as the planner's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gridnn.analysis.chart import Bars, Lines
from gridnn.analysis.parts import alike, gather, parts, received_bytes, scaled
from gridnn.analysis.scaling import scaling, scaling_charts
from gridnn.analysis.strategies import KNOWN, SEARCHED, choices, families
from gridnn.analysis.study import Study, study
from gridnn.commands.analyze.scaling import main
from gridnn.cost.machine import BEST, Level, Machine, load_machine
from gridnn.cost.patterns import sketches_of
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.geometry.grid import GridShape, Scheme
from gridnn.network.placed import place_network
from gridnn.network.zoo import build
from gridnn.plan.baselines import candidates, price_all
from gridnn.plan.job import Job
from gridnn.plan.outcome import estimate
from gridnn.plan.plan import uniform_plan
from gridnn.plan.search import search

LENET = study("lenet", 64, "cori-knl")
LINK = Level("wire", 0, 1e-5, 1e-9)
PLAIN = Machine("plain", "a test", "2026", 1e9, 1e-9, 0.0, 10**9, (LINK,), {**BEST, "allreduce": "ring"})


def schemes(plan: dict[str, tuple[int, ...]]) -> dict[str, Scheme]:
    return {name: Scheme(GridShape(sizes)) for name, sizes in plan.items()}  # type: ignore[arg-type]


def one_layer(batch: int) -> Study:
    return Study(build("mlp", (512,), 256, hidden=()), PLAIN, batch)


@pytest.mark.parametrize("procs", [8, 12, 64, 2048])
def test_parts_are_the_prices_of_a_search(procs: int) -> None:
    job = LENET.job(procs)
    plans = [plan for several in candidates(job).values() for plan in several]
    found = parts(job, gather(job, plans))
    assert found.step_s == pytest.approx(price_all(job, plans), rel=1e-9)
    for plan, memory, moved in zip(
        plans, found.memory_bytes, received_bytes(job, gather(job, plans)), strict=True
    ):
        expected = estimate(job, schemes(dict(plan)))
        assert memory == pytest.approx(expected.memory_bytes, abs=1)
        assert moved == pytest.approx(expected.received_bytes, abs=1)


@pytest.mark.parametrize("network", ["lenet", "resnet20"])
@pytest.mark.parametrize("grid", ["n8", "n4 k2", "n32"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_what_is_hidden_is_what_a_priced_plan_hides(network: str, grid: str, share: float) -> None:
    shape = GridShape.parse(grid)
    job = study(network, 64, "cori-knl").job(shape.size)
    job = replace(job, machine=replace(job.machine, overlap=share))
    plan = {node.name: Scheme(shape) for node in job.network.nodes}
    price = price_plan(place_network(job.network, plan, 64, job.procs), job.machine, 4)
    found = parts(job, alike(job, [shape.sizes]))
    assert found.compute_s[0] == pytest.approx(price.compute_s)
    assert found.step_s[0] - found.hidden_s[0] == pytest.approx(price.overlapped_s, rel=0.03)
    assert 0 < found.hidden_s[0] < found.comm_s[0]


def test_one_layer_by_hand() -> None:
    rows = scaling(one_layer(64), [1, 4, 16], strategies=["data"]).records()
    for row in rows:
        p = int(row["procs"])  # type: ignore[arg-type]
        samples = 64 // p
        # The linear layer, forward and by the weights (it reads the input); the loss there and back; the update.
        flops_s, update_s = 2 * (2 * 512 * 256 * samples) * 1e-9, 3 * (512 * 256 + 256) * 1e-9
        touches_s = (256 * samples + 2 * (2 * 256 * samples)) * 1e-9
        assert row["compute_s"] == pytest.approx(flops_s + update_s + touches_s, rel=2e-3)
        # dW in buckets of 4 MiB: a share of one all-reduce by a ring (Gholami et al. 2018, Eq. 4).
        share = 4 * (512 * 256 + 256) / (4 << 20)
        ring_s = share * (2 * (p - 1) * (1e-5 + (4 << 20) / p * 1e-9))
        sums = float(row["comm_s"])  # type: ignore[arg-type]
        assert sums == pytest.approx(ring_s, rel=1e-6) if p > 1 else sums == 0
    first, last = rows[0], rows[-1]
    assert first["efficiency"] == first["speedup"] == 1
    assert last["speedup"] == pytest.approx(first["step_s"] / last["step_s"])  # type: ignore[operator]
    assert last["efficiency"] == pytest.approx(first["step_s"] / last["step_s"] / 16)  # type: ignore[operator]


def test_strong_scaling() -> None:
    table = scaling(LENET, [32, 8, 16])
    assert [row["strategy"] for row in table.records()[::3]] == [*KNOWN[:-1], "layer-wise"]
    for name in (*KNOWN[:-1], "layer-wise"):
        rows = table.where(lambda row, n=name: row["strategy"] == n).records()  # type: ignore[misc]
        assert [row["procs"] for row in rows] == [8, 16, 32]
        assert rows[0]["efficiency"] == 1
        compute = [float(row["compute_s"]) for row in rows]  # type: ignore[arg-type]
        assert compute == sorted(compute, reverse=True)
        for row in rows:
            first, here = float(rows[0]["step_s"]), float(row["step_s"])  # type: ignore[arg-type]
            p = int(row["procs"])  # type: ignore[arg-type]
            assert row["efficiency"] == pytest.approx(first * 8 / (here * p))
            assert row["samples_per_s"] == pytest.approx(64 / here)
            assert row["overlapped_s"] == pytest.approx(here - float(row["hidden_s"]))  # type: ignore[arg-type]
    for p in (8, 16, 32):
        rows = table.where(lambda row, n=p: row["procs"] == n).records()  # type: ignore[misc]
        assert min(rows, key=lambda row: row["step_s"])["step_s"] == pytest.approx(rows[-1]["step_s"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("names", [KNOWN, ("data", "dynamic"), ("data",)])
def test_several_processes_find_what_one_finds(names: tuple[str, ...]) -> None:
    alone, together = (scaling(LENET, [4, 8, 16, 64], strategies=names, workers=w) for w in (1, 2))
    assert alone == together


def test_weak_scaling_grows_the_batch() -> None:
    rows = scaling(LENET, [8, 32], "weak", ["data", "uniform"]).records()
    assert [row["batch"] for row in rows] == [64, 256, 64, 256]
    data = rows[:2]
    assert data[1]["compute_s"] == pytest.approx(data[0]["compute_s"])
    assert data[1]["efficiency"] == pytest.approx(data[0]["step_s"] / data[1]["step_s"])  # type: ignore[operator]
    with pytest.raises(InputError, match="multiples of 4"):
        scaling(study("lenet", 7, "cori-knl"), [4, 6], "weak")


def test_data_ends_at_the_batch_and_others_go_on() -> None:
    table = scaling(LENET, [32, 64, 128, 256], strategies=["data", "domain", "layer-wise"])
    by = {(row["strategy"], row["procs"]): row for row in table.records()}
    assert [by["data", p]["idle"] for p in (32, 64, 128, 256)] == [0, 0, 64, 192]
    assert [by["data", p]["beyond"] for p in (32, 64, 128)] == ["", "", "idle"]
    assert by["data", 256]["step_s"] == pytest.approx(by["data", 64]["step_s"])
    assert set(str(by["domain", 256]["beyond"]).split()) & {"h", "w"}
    assert by["domain", 256]["compute_s"] < by["data", 256]["compute_s"]  # type: ignore[operator]
    said = " ".join(table.notes)
    assert "ends at P = 64" in said
    assert "those that cut images there (d, h, w):" in said


def test_passes_end_cutting_the_batch_earlier() -> None:
    rows = scaling(replace(LENET, passes=4), [16, 32], strategies=["data"]).records()
    assert [row["idle"] for row in rows] == [0, 16]
    assert rows[0]["most_n"] == 16


@pytest.mark.parametrize(
    ("network", "batch", "machine"), [("alexnet", 2048, "cori-knl"), ("lenet", 64, "laptop")]
)
def test_plans_carried_over_are_as_good_as_those_of_the_whole_search(
    network: str, batch: int, machine: str
) -> None:
    of = study(network, batch, machine)
    assert SEARCHED < 64
    found = choices(of.job(128), ["uniform", "dynamic"])
    whole = search(of.job(128))
    assert found["dynamic"].step_s <= whole.step_s * 1.005
    assert found["uniform"].step_s <= whole.baselines["uniform"] * 1.005
    assert not found["dynamic"].proved
    assert choices(of.job(8), ["dynamic"])["dynamic"].proved


def test_carrying_over_a_few_steps_at_once() -> None:
    rows = scaling(LENET, [8, 256], strategies=["dynamic"]).records()
    chain = scaling(LENET, [8, 64, 128, 256], strategies=["dynamic"]).records()
    assert rows[-1]["step_s"] == pytest.approx(chain[-1]["step_s"], rel=0.01)


@pytest.mark.parametrize("procs", [(3, 6, 12), (1,), (40,), (64, 4096)])
def test_any_number_of_processes(procs: tuple[int, ...]) -> None:
    table = scaling(LENET, procs, strategies=["data", "uniform", "dynamic"])
    assert table.numbers("procs") == procs * 3
    assert np.isfinite(table.numbers("step_s")).all()


def test_domain_is_fc_only_within_the_batch() -> None:
    found = families(LENET.job(16), ["domain", "fc-only"])
    assert {str(p) for p in found["domain"]} == {str(p) for p in found["fc-only"]}
    beyond = families(LENET.job(256), ["domain"])["domain"]
    assert all(plan["conv1"][0] == 64 and np.prod(plan["conv1"]) == 256 for plan in beyond)


def test_what_jobs_of_a_network_share_is_what_each_finds_alone() -> None:
    # Another machine (other units of ranks too), other batches, other processes, in one process after the other.
    here = LENET.job(64)
    jobs = [
        here, replace(here, machine=scaled(here.machine, 8.0, 0.25)),
        replace(here, machine=load_machine("p100-cluster")),
        replace(here, batch=48), replace(here, procs=32), LENET.job(24), replace(here, procs=48),
    ]  # fmt: skip

    def comm_s(job: Job) -> list[float]:
        plans = gather(job, families(job, ["fc-only"])["fc-only"])
        return [float(seconds) for seconds in parts(job, plans).comm_s]

    sketches_of.cache_clear()
    together = [comm_s(job) for job in [*jobs, *reversed(jobs)]]
    for job, shared in zip([*jobs, *reversed(jobs)], together, strict=True):
        sketches_of.cache_clear()
        assert shared == comm_s(job), job.procs


def test_plans_of_ones_own() -> None:
    plan = uniform_plan(LENET.network, GridShape.parse("n8 k2"), 64, 16, "by hand")
    table = scaling(LENET, [8, 16, 256], strategies=["data"], plans={"mine": plan, "k4": "k4"})
    rows = [row for row in table.records() if row["strategy"] == "mine"]
    assert [(row["procs"], row["grid"], row["efficiency"]) for row in rows] == [(16, "n8 k2", None)]
    fixed = [row for row in table.records() if row["strategy"] == "k4"]
    assert [row["grid"] for row in fixed] == ["n2 k4", "n4 k4", "n64 k4"]
    assert fixed[0]["efficiency"] == 1
    expected = estimate(LENET.job(16), plan.schemes)
    assert rows[0]["step_s"] == pytest.approx(expected.step_s)


@pytest.mark.parametrize(
    ("procs", "more", "words"),
    [
        ([], {}, "no numbers"),
        ([8], {"strategies": ["best"]}, '"best" is not known'),
        ([8], {"strategies": []}, "no strategy"),
        ([8], {"mode": "middling"}, "strong, weak"),
        (
            [8],
            {"plans": {"mine": uniform_plan(LENET.network, GridShape.parse("n4"), 64, 4, "")}},
            "for 4 processes",
        ),
        (
            [4],
            {"plans": {"mine": uniform_plan(LENET.network, GridShape.parse("n4"), 32, 4, "")}},
            "batch of 32",
        ),
        ([8], {"plans": {"data": "k2"}}, "name of a strategy"),
        ([8], {"plans": {"n2 k2": "n2 k2"}}, "leave n2 out"),
        ([8], {"plans": {"k3": "k3"}}, "divides none"),
        ([8], {"plans": {"x": "q3"}}, "cannot read"),
        ([0], {}, "at least 1"),
    ],
)
def test_what_cannot_be(procs: list[int], more: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        scaling(LENET, procs, **more)  # type: ignore[arg-type]


def test_charts() -> None:
    table = scaling(LENET, [16, 32, 64, 128], strategies=["data", "uniform"])
    seconds, efficiency, split = scaling_charts(table, "data")
    assert isinstance(seconds, Lines) and isinstance(efficiency, Lines) and isinstance(split, Bars)
    assert seconds.uprights == ((64.0, "P = B"),)
    names = [series.name for series in seconds.series]
    assert names == ["data", "uniform", "ideal"]
    ideal = seconds.series[-1]
    assert ideal.dashed
    assert ideal.values[0] == pytest.approx(min(s.values[0] for s in seconds.series))  # type: ignore[type-var]
    assert ideal.values[-1] == pytest.approx(ideal.values[0] / 8)  # type: ignore[operator]
    assert all(series.values[0] == 1 for series in efficiency.series)
    stacked = np.sum([series.values for series in split.series], axis=0)  # type: ignore[arg-type]
    assert stacked == pytest.approx(table.where(lambda row: row["strategy"] == "data").numbers("step_s"))
    with pytest.raises(InputError, match="not in the table"):
        scaling_charts(table, "model")


def said(*words: str) -> str:
    lines: list[str] = []
    main(["lenet", "-b", "64", "-m", "cori-knl", *words], lines.append)
    return "\n".join(lines)


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(uniform_plan(LENET.network, GridShape.parse("k4 n4"), 64, 16, "by hand").dumps())
    words = ["-p", "8-32", "--strategies", "data,layer-wise", "--plan", str(path), "--fixed", "k2"]
    found = json.loads(said(*words, "--json"))
    assert [row["strategy"] for row in found["rows"]].count("mine.json") == 1
    assert {row["strategy"] for row in found["rows"]} == {"data", "layer-wise", "mine.json", "k2"}
    both = json.loads(
        said("-p", "8,16", "--mode", "both", "--strategies", "data", "--plan", str(path), "--json")
    )
    assert [len(table["rows"]) for table in both["tables"]] == [3, 2]
    assert "layer-wise" in said(*words)
    picture = tmp_path / "scaling.svg"
    said("-p", "8,16", "--strategies", "data", "--svg", str(picture))
    assert "efficiency" in picture.read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [(["-p", "8", "--strategies", "best"], "known"), (["-p", "8", "--plan", "no.json"], "no.json"),
     (["-p", "8", "--svg", "/nowhere/x.svg"], "folder"), (["-p", "8", "-m", "enigma"], "enigma")],
)  # fmt: skip
def test_bad_words(words: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        said(*words)


@pytest.mark.parametrize(
    "words", [[], ["-p", "0"], ["-p", "8", "--strategies", ","], ["-p", "8", "--mode", "x"]]
)
def test_words_that_mean_nothing(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        said(*words)
    assert ended.value.code == 2
