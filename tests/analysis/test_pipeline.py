"""`gridnn analyze pipeline`: rows are plans that were simulated, what they say of them, and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gridnn.analysis import notebook as nb
from gridnn.analysis.pipeline import (
    NAMES,
    NONE,
    Row,
    fastest,
    pipeline,
    pipeline_chart,
    pipeline_lanes,
    pipeline_table,
    pipelines,
)
from gridnn.analysis.study import study
from gridnn.commands.analyze.pipeline import main
from gridnn.cost.price import price_plan
from gridnn.errors import InputError
from gridnn.network.placed import place_network
from gridnn.plan.pipeline.simulate import simulate
from gridnn.plan.pipeline.stagecost import pipeline_cost

JOB = study("lenet", 64, "laptop").job(4)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return pipelines(JOB, stages=[2, 3])[0]


def test_a_row_for_each_schedule_and_number_of_stages(rows: list[Row]) -> None:
    assert [(row.name, row.plan.stages.count) for row in rows] == [
        (NONE, 1), *((name, k) for name in NAMES for k in (2, 3)),
    ]  # fmt: skip
    table = pipeline_table(JOB, rows)
    assert all(sum(map(int, str(ranks).split())) == 4 for ranks in table.column("ranks"))
    assert [r["schedule"] for r in table.records() if not r["exact"]] == [
        name for name in NAMES[3:] for _ in (2, 3)
    ]


def test_rows_are_placed_priced_and_simulated(rows: list[Row]) -> None:
    for row, record in zip(rows, pipeline_table(JOB, rows).records(), strict=True):
        schedule, samples = row.plan.schedule, -(-64 // row.plan.schedule.passes)
        placed = place_network(JOB.network, row.plan.schemes, samples, 4)
        cost = pipeline_cost(placed, row.plan.stages, JOB.machine, 4, schedule.passes, states=JOB.states)
        line = simulate(schedule, cost)
        assert record["step_s"] == line.step_s == row.plan.step_s
        busy = sum(n * seconds for n, seconds in zip(row.plan.ranks, line.busy_s, strict=True))
        assert record["bubble"] == pytest.approx(1 - busy / (4 * line.step_s))
        assert record["step_s"] >= record["busiest_s"]  # type: ignore[operator]
        assert record["memory_bytes"] == row.plan.memory_bytes
        assert record["lates"] == " ".join(str(schedule.delay(k)) for k in range(schedule.stages))
        assert record["opens"] == " ".join(str(schedule.open(k)) for k in range(schedule.stages))
        assert record["speedup"] == pytest.approx(rows[0].timeline.step_s / line.step_s)


def test_one_stage_is_the_plan_of_all_ranks(rows: list[Row]) -> None:
    placed = place_network(JOB.network, rows[0].plan.schemes, 64, 4)
    price = price_plan(placed, JOB.machine, 4, 1, states=JOB.states)
    assert rows[0].timeline.step_s == pytest.approx(price.overlapped_s)
    record = pipeline_table(JOB, rows).records()[0]
    assert (record["speedup"], record["bubble"], record["between_bytes"]) == (1, 0, 0)


def test_bytes_between_stages(rows: list[Row]) -> None:
    records = pipeline_table(JOB, rows).records()
    for row, record in zip(rows[1:], records[1:], strict=True):
        there = sum(x.forward_bytes for x in row.plan.cost.transfers)
        back = sum(x.backward_bytes for x in row.plan.cost.transfers)
        assert there > 0 and back > 0
        passes = row.plan.schedule.passes
        # A stage with a loss of its own wants no gradient of the next one.
        assert record["between_bytes"] == passes * (there + (0 if row.name == "local" else back))


def test_charts(rows: list[Row]) -> None:
    table = pipeline_table(JOB, rows)
    bars = pipeline_chart(table)
    heights = [sum(parts) for parts in zip(*(x.values for x in bars.series), strict=True)]
    assert heights == pytest.approx(list(table.numbers("step_s")))
    assert bars.x[0] == NONE and bars.x[3].startswith("gpipe 2 x")
    assert all(x.startswith("(") for x, exact in zip(bars.x, table.column("exact"), strict=True) if not exact)
    best = fastest(rows)
    assert best.plan.schedule.exact and best.name != NONE
    lanes = pipeline_lanes(best)
    assert len(lanes.lanes) == best.plan.stages.count
    assert max(span.end_s for span in lanes.spans) == pytest.approx(best.timeline.step_s)
    late = [row for row in rows if row.name == "local"]
    assert fastest(late).name == "local"


def test_numbers_of_stages() -> None:
    table = pipeline(JOB, ["1f1b"])
    assert table.numbers("stages") == (1, 2, 4)
    found, refused = pipelines(JOB, ["1f1b"], [2, 40])
    assert [row.plan.stages.count for row in found] == [1, 2]
    assert len(refused) == 1 and "40 stages" in refused[0]
    assert refused[0] in pipeline_table(JOB, found, refused).notes


def test_passes() -> None:
    given = pipeline(study("lenet", 64, "laptop", passes=4).job(4), ["gpipe"], [2])
    assert given.numbers("passes") == (4, 4)
    assert "4 passes asked for" in given.notes[-1]
    normed = pipeline(study("resnet20", 64, "laptop").job(2), ["gpipe"], [2])
    assert normed.numbers("passes") == (1, 1)
    assert "batch norm" in normed.notes[-1]


def test_sixty_four_ranks() -> None:
    table = nb.pipeline(
        "lenet", batch=256, procs=64, stages=[4], passes=4, names=["1f1b"], machine="cori-knl"
    )
    ranks = str(table.column("ranks")[-1]).split()
    assert len(ranks) == 4 and sum(map(int, ranks)) == 64


@pytest.mark.parametrize(
    ("names", "stages", "text"),
    [(["delayed"], [2], "delayed stash"), ([], [2], "no schedule"), (["gpipe"], [5], "5 stages")],
)
def test_what_cannot_be(names: list[str], stages: list[int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        pipelines(JOB, names, stages)


def said(*words: str) -> str:
    lines: list[str] = []
    main(["lenet", "-b", "64", "-p", "4", "-m", "laptop", "--stages", "2", *words], lines.append)
    return "\n".join(lines)


def test_the_command(tmp_path: Path) -> None:
    found = json.loads(said("--schedules", "1f1b,delayed stash", "--json"))
    assert [row["schedule"] for row in found["rows"]] == [NONE, "1f1b", "delayed stash"]
    assert found["units"]["step_s"] == "s"
    rows = list(csv.DictReader(said("--schedules", "gpipe", "--passes", "2", "--csv").splitlines()))
    assert [(row["schedule"], row["passes"]) for row in rows] == [(NONE, "2"), ("gpipe", "2")]
    path = tmp_path / "pipeline.svg"
    text = said("--schedules", "gpipe", "--picture", "--svg", str(path))
    assert "speed-up" in text and "stage 1  " in text and "gpipe, 2 stages" in text
    assert "when each stage works" in path.read_text()


@pytest.mark.parametrize(
    ("words", "text"), [(["--schedules", "dapple"], "known"), (["--svg", "/nowhere/x.svg"], "folder")]
)
def test_bad_words(words: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text):
        said(*words)
