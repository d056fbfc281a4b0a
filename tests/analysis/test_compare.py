"""Comparing runs: tables by hand, a machine that is found again, and input that is no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from gridnn.analysis.compare import compare, compare_chart, kendall_tau
from gridnn.analysis.compare_steps import BETWEEN, DATA, UPDATE
from gridnn.analysis.measured import Spent, measure
from gridnn.analysis.runs import open_run, open_runs
from gridnn.commands.analyze.compare import main
from gridnn.errors import InputError
from gridnn.geometry.interval import volume
from gridnn.train.spans import Place, write_spans
from tests.analysis import folders


def said(*argv: str) -> str:
    lines: list[str] = []
    main(argv, lines.append)
    return "\n".join(lines)


def edit(path: Path, change: Any) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def test_a_run_beside_its_price(tmp_path: Path) -> None:
    machine = str(folders.machine_file(tmp_path))
    run = folders.write_run(tmp_path / "one", "n2 k2", machine, step_s=0.01)
    (row,) = compare([run]).runs.records()
    price = open_run(run).price
    assert (row["run"], row["plan"], row["ranks"], row["machine"]) == ("one", "n2 k2", 4, "file")
    assert row["predicted_s"] == price.step_s and row["overlapped_s"] == price.overlapped_s
    assert row["error"] == pytest.approx(price.step_s / 0.01 - 1)
    assert row["equal"] is True and row["predicted_bytes"] == row["counted_bytes"]
    assert (row["predicted_memory_bytes"], row["measured_memory_bytes"]) == (1000, 1100)


def test_one_key_that_differs_is_seen_though_sums_are_equal(tmp_path: Path) -> None:
    run = folders.write_run(tmp_path / "one", "n2 k2", str(folders.machine_file(tmp_path)))

    def swap(table: dict[str, Any]) -> None:
        a, b = [r for r in table["rows"] if (r["direction"], r["collective"]) == ("forward", "allgather")][:2]
        a["counted_bytes"] += 4
        b["counted_bytes"] -= 4

    edit(run / "traffic.json", swap)
    found = compare([run])
    assert found.runs.column("equal") == (False,) and found.runs.totals is not None
    assert found.runs.record(found.runs.totals)["equal"] is False
    assert list(found.movements.column("equal")).count(False) == 2
    assert list(found.collectives.column("equal")).count(False) == 1


def test_layers_are_the_slowest_rank_and_the_middle_step(tmp_path: Path) -> None:
    run = folders.write_run(tmp_path / "one", "n4", str(folders.machine_file(tmp_path)), spans=False)
    here, bucket = Place(("conv1",), "forward"), Place(("conv2", "conv1"), "backward")
    rows = [
        (rank, step, phase, place, seconds)
        for step, of in enumerate([(1.0, 5.0), (2.0, 3.0), (9.0, 1.0)])
        for rank, s in enumerate(of)
        for phase, place, seconds in (
            ("data", Place((), ""), 0.25), ("compute", here, s), ("compute", here, s), ("allreduce", bucket, 1.0),
            ("allreduce wait", bucket, 3.0 * rank), ("compute", Place((), ""), 0.5), ("update", Place((), ""), s),
        )
    ]  # fmt: skip
    write_spans(run, folders.made(rows))
    found = compare([run])
    by = {row["layer"]: row for row in found.layers.records()}
    assert by["conv1"]["forward_measured_s"] == by["conv1"]["measured_s"] == 10.0  # of 10, 6, 18
    assert by["conv1"]["mean_s"] == 6.0  # of 6, 5, 10
    assert by["conv2"]["measured_s"] == 0.0
    assert (
        by[UPDATE]["measured_s"] == 5.0
        and by[DATA]["measured_s"] == 0.25
        and by[BETWEEN]["measured_s"] == 0.5
    )
    moved = {
        row["layer"]: row for row in found.movements.records()
        if row["collective"] == "allreduce" and row["direction"] == "backward"
    }  # fmt: skip
    size = {
        layer.node.name: sum(volume(p.layout.box(0)) for p in layer.placement.parameters)
        for layer in open_run(run).placed.layers if layer.node.name in ("conv1", "conv2")
    }  # fmt: skip
    share = size["conv1"] / sum(size.values())
    assert moved["conv1"]["measured_s"] == pytest.approx(share * 2.5)  # ranks saw 1 and 4
    assert moved["conv1"]["least_s"] == pytest.approx(share)
    total = next(
        r
        for r in found.collectives.records()
        if (r["direction"], r["collective"]) == ("backward", "allreduce")
    )
    assert total["measured_s"] == pytest.approx(2.5) and total["least_s"] == pytest.approx(1.0)


def test_ranks_that_take_no_part_do_not_lower_the_mean(tmp_path: Path) -> None:
    run = folders.write_run(tmp_path / "one", "n4", str(folders.machine_file(tmp_path)), spans=False)
    rows = [(rank, 0, "data", Place((), ""), 0.1) for rank in range(4)]
    rows += [(rank, 0, "repartition wait", Place(("conv2",), "forward"), 1.0 + rank) for rank in range(2)]
    write_spans(run, folders.made(rows))
    (row,) = [r for r in compare([run]).collectives.records() if r["collective"] == "repartition"]
    assert (row["measured_s"], row["least_s"], row["mean_s"]) == (1.5, 1.0, 0.75)


def test_every_measured_second_is_counted_once(runs: Path) -> None:
    run = open_run(runs / "n2-k2")
    assert run.spans is not None
    measured = measure(run.spans, {})
    assert measured is not None
    assert sum(a.sum() for a in measured.seconds.values()) == pytest.approx(run.spans.duration_ns.sum() / 1e9)
    assert (
        Spent("", "", "data") in measured.seconds and Spent("conv1", "forward", "compute") in measured.seconds
    )


def test_the_order_of_plans(tmp_path: Path) -> None:
    machine = str(folders.machine_file(tmp_path))
    told = {
        p: open_run(folders.write_run(tmp_path / p, p, machine, spans=False)).price.step_s
        for p in ("n4", "k4", "c4")
    }
    order = sorted(told, key=told.__getitem__)
    for seconds, plan in zip((0.2, 0.1, 0.3), order, strict=True):  # the first two the wrong way round
        edit(tmp_path / plan / "summary.json", lambda table, s=seconds: table.update(step_s=s))
    found = compare([tmp_path])
    (row,) = found.orders.records()
    assert row["tau"] == pytest.approx(1 / 3) and (row["wrong"], row["pairs"]) == (1, 3)
    (swap,) = found.swaps.records()
    assert str(swap["predicted_quicker"]).startswith(order[0]) and swap["measured_ratio"] == pytest.approx(
        2.0
    )
    assert compare([tmp_path / "n4"]).orders.column("tau") == (None,)


def test_kendall_is_that_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for count in (2, 3, 5, 9):
        for _ in range(20):
            a, b = rng.integers(0, 5, (2, count)).tolist()
            expected, found = kendalltau(a, b).statistic, kendall_tau(a, b)
            assert (found is None) if np.isnan(expected) else found == pytest.approx(expected)


def test_runs_without_spans_have_bytes_and_seconds(tmp_path: Path) -> None:
    run = folders.write_run(tmp_path / "one", "n2 h2", str(folders.machine_file(tmp_path)), spans=False)
    found = compare([run])
    assert all(found.collectives.column("equal")) and set(found.collectives.column("measured_s")) == {None}
    assert len(found.residue) == 0 and "run.trace_steps" in found.residue.notes[0] and found.machine is None
    (run / "traffic.json").unlink()  # an older gridnn
    found = compare([run])
    assert found.runs.column("equal") == (True,) and set(found.collectives.column("counted_bytes")) == {None}


def test_a_run_twice_and_a_folder_of_runs_are_each_run_once(runs: Path) -> None:
    named = [run.name for run in open_runs([runs / "n4", runs, runs / "k4" / ".." / "n4"])]
    assert named[0] == "n4" and sorted(named) == sorted(p.replace(" ", "-") for p in folders.PLANS)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    machine = str(folders.machine_file(tmp_path))
    for part in ("a", "b"):
        folders.write_run(tmp_path / part / "run", "n4", machine, spans=False)
    names = [run.name for run in open_runs([tmp_path / "a", tmp_path / "b"])]
    assert len(set(names)) == 2


def test_text_and_json_say_the_same(runs: Path) -> None:
    text, found = said(str(runs)), json.loads(said(str(runs), "--json"))
    assert "mean |error|" in text and "Passes of every layer" not in text
    titles = [table["title"] for table in found["tables"]]
    assert len(titles) == 7 and titles[0] == "Runs"
    assert [row["run"] for row in found["tables"][0]["rows"]] == sorted(
        p.replace(" ", "-") for p in folders.PLANS
    )
    assert said(str(runs), "--csv", "--show", "runs").count("\n") == len(folders.PLANS)
    assert "Passes of every layer" in said(str(runs / "n4"))


def test_the_chart_has_what_was_measured(runs: Path) -> None:
    chart = compare_chart(compare([runs]))
    measured = [s for s in chart.series if s.stack == "measured"]
    assert {s.name for s in measured} == {"compute", "communication", "data"} and len(chart.x) == len(
        folders.PLANS
    )
    spans = open_run(runs / chart.x[0]).spans
    assert spans is not None
    a_step = spans.duration_ns.sum() / 1e9 / len(spans.steps) / len(spans.ranks)
    assert sum(s.values[0] or 0.0 for s in measured) == pytest.approx(a_step, rel=0.05)


def test_bad_input_is_told(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "steps.jsonl").touch()
    machine = folders.machine_file(tmp_path)
    gone = folders.write_run(tmp_path / "gone", "n4", str(machine), spans=False)
    machine.unlink()
    for words, what in (
        ([str(tmp_path / "nowhere")], "no run folder"),
        ([str(tmp_path / "empty")], "no run"),
        ([str(tmp_path / "unfinished")], "not finished"),
        ([str(gone)], "--machine"),
        ([str(runs), "--show", "rows"], "no such table"),
        ([str(runs), "--write-machine", "machine.json"], ".toml"),
        ([str(runs), "--write-machine", str(tmp_path / "no" / "m.toml")], "no folder"),
        ([str(runs), "--machine", "nonesuch"], "not known"),
    ):
        with pytest.raises(InputError, match=what):
            said(*words)
    (gone / "config.toml").write_text("[train]\n")
    with pytest.raises(InputError, match="bucket_bytes"):
        compare([gone], folders.FILE)
    (gone / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="not a plan"):
        compare([gone], folders.FILE)
