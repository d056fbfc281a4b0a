"""The timeline of a run as a Chrome trace: every span and every simulated task, on lanes of their own."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gridnn.analysis.runs import open_run
from gridnn.analysis.trace import LINKS, MEASURED, PREDICTED, RANKS, STEPS, lane_of, predicted_timeline, trace
from gridnn.commands.analyze.trace import main
from gridnn.cost.machine import Level, Machine
from gridnn.errors import InputError
from gridnn.train.spans import write_spans
from tests.analysis import folders

SLOW = replace(folders.FILE, name="slow", layer_s=2e-4)
NODES = replace(
    folders.FILE, name="nodes", levels=(Level("node", 2, 1e-5, 1e-9), Level("network", 0, 2e-5, 1e-8, 1))
)  # fmt: skip


def run(folder: Path, machine: Machine = folders.FILE, plan: str = "n2 h2") -> Path:
    return folders.write_run(folder / "run", plan, str(folders.machine_file(folder, machine)), noise=0.1)


def pieces(found: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """The durations of every lane, in the order of time."""
    lanes = defaultdict(list)
    for event in found["traceEvents"]:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append(event)
    return {at: sorted(lane, key=lambda e: e["ts"]) for at, lane in lanes.items()}


def names(found: dict[str, Any], what: str) -> dict[tuple[int, int], str]:
    meta = [e for e in found["traceEvents"] if e["ph"] == "M" and e["name"] == what]
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in meta}


@pytest.mark.parametrize("machine", [folders.FILE, NODES], ids=["one level", "two levels"])
def test_lanes_are_named_and_in_order(tmp_path: Path, machine: Machine) -> None:
    found = json.loads(trace(run(tmp_path, machine)))
    lanes, named = pieces(found), names(found, "thread_name")
    assert set(lanes) <= set(named) and len({tid for _, tid in named}) == len(named)
    assert names(found, "process_name") == {(RANKS, RANKS): "ranks", (LINKS, LINKS): "links (predicted)"}
    both = [(rank, lane) for rank in range(4) for lane in (MEASURED, PREDICTED)]
    of_ranks = [named[at] for at in sorted(lanes) if at[0] == RANKS]
    assert of_ranks[0] == "steps" and [name[:8] for name in of_ranks[1:]] == [
        f"rank {rank} {'mp'[lane]}" for rank, lane in both
    ]
    assert named[RANKS, lane_of(3, MEASURED)] == "rank 3 measured (host1)"
    assert named[RANKS, lane_of(3, PREDICTED)] == f"rank 3 predicted ({machine.name})"
    links = {name for (pid, _), name in named.items() if pid == LINKS}
    assert links and links <= set(predicted_timeline(open_run(tmp_path / "run")).program.devices)
    for lane in lanes.values():
        assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in lane)
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-6 for a, b in pairwise(lane))


def test_every_span_is_there(tmp_path: Path) -> None:
    folder = run(tmp_path)
    spans = open_run(folder).spans
    assert spans is not None
    lanes = pieces(json.loads(trace(folder)))
    for rank in range(4):
        lane = lanes[RANKS, lane_of(rank, MEASURED)]
        mine = spans.rank == rank
        assert len(lane) == mine.sum()
        assert sum(e["dur"] for e in lane) == pytest.approx(spans.duration_ns[mine].sum() / 1e3)
        assert {e["args"]["step"] for e in lane} == {2, 3, 4}
    shown = {e["name"]: e for lane in lanes.values() for e in lane}
    event = shown["conv1 forward: compute"]
    assert event["cat"] == "compute" and event["args"]["layers"] == ["conv1"]
    assert "data" in shown and any(" more backward: allreduce wait" in name for name in shown)


def test_predicted_steps_begin_with_the_measured_ones_and_last_as_simulated(tmp_path: Path) -> None:
    folder = run(tmp_path)  # predicted is quicker: there is room in every step
    opened = open_run(folder)
    spans, told = opened.spans, predicted_timeline(opened)
    assert spans is not None and opened.price.step_s < opened.summary.step_s
    found = json.loads(trace(folder))
    lanes = pieces(found)
    first_ns = spans.start_ns.min()
    for step in (2, 3, 4):
        tasks = [
            e
            for lane in lanes.values()
            for e in lane
            if e["cat"].startswith("predicted") and e["args"]["step"] == step
        ]
        start_us = (spans.start_ns[spans.step == step].min() - first_ns) / 1e3
        assert min(e["ts"] for e in tasks) == pytest.approx(start_us)
        assert max(e["ts"] + e["dur"] for e in tasks) - start_us == pytest.approx(told.makespan_ns / 1e3)
        busy = told.busy_ns()
        for rank in range(4):
            mine = sum(e["dur"] for e in lanes[RANKS, lane_of(rank, PREDICTED)] if e["args"]["step"] == step)
            assert mine == pytest.approx(busy[f"rank {rank}"] / 1e3)
    assert found["otherData"]["predicted_step_s"] == told.makespan_ns / 1e9


def test_steps_last_from_their_first_span_to_their_last(tmp_path: Path) -> None:
    folder = run(tmp_path)
    spans = open_run(folder).spans
    assert spans is not None
    late = spans.rank == 1  # ends a step when others have begun the next
    write_spans(folder, replace(spans, duration_ns=spans.duration_ns + late * 10**6))
    steps = pieces(json.loads(trace(folder)))[RANKS, STEPS]
    assert [e["name"] for e in steps] == ["step 2", "step 3", "step 4"] and steps[0]["ts"] == 0
    assert [a["ts"] + a["dur"] for a in steps[:2]] == pytest.approx([b["ts"] for b in steps[1:]])
    end_us = ((spans.start_ns + spans.duration_ns)[late].max() - spans.start_ns.min()) / 1e3 + 1e3
    assert steps[2]["ts"] + steps[2]["dur"] == pytest.approx(end_us)


def test_a_predicted_step_that_is_longer_waits_for_room(tmp_path: Path) -> None:
    folder = run(tmp_path)
    found = json.loads(trace(folder, replace(SLOW, layer_s=1e-3)))
    lane = pieces(found)[RANKS, lane_of(0, PREDICTED)]
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-6 for a, b in pairwise(lane))
    assert {e["args"]["step"] for e in lane} < {2, 3, 4} and lane[0]["args"]["step"] == 2


def test_ranks_that_were_not_looked_at_have_no_lane(tmp_path: Path) -> None:
    folder = run(tmp_path)
    spans = open_run(folder).spans
    assert spans is not None
    keep = spans.rank % 2 == 0
    columns = {
        n: getattr(spans, n)[keep] for n in ("rank", "step", "phase", "place", "start_ns", "duration_ns")
    }
    write_spans(
        folder,
        replace(spans, ranks=(0, 2), hosts=("a", "b"), offset_ns=(0, 0), uncertainty_ns=(0, 7), **columns),
    )
    found = json.loads(trace(folder))
    shown = [name for (pid, _), name in sorted(names(found, "thread_name").items()) if pid == RANKS]
    of_ranks = [
        f"rank {rank} {what}"
        for rank, host in ((0, "a"), (2, "b"))
        for what in (f"measured ({host})", "predicted (file)")
    ]
    assert shown == ["steps", *of_ranks]
    assert found["otherData"]["clock_uncertainty_us"] == 0.007


def test_times_begin_at_nothing_whoever_began(tmp_path: Path) -> None:
    folder = run(tmp_path)
    spans = open_run(folder).spans
    assert spans is not None
    write_spans(folder, replace(spans, start_ns=spans.start_ns - 12345))  # a rank that began before rank 0
    assert min(e["ts"] for e in json.loads(trace(folder))["traceEvents"] if "ts" in e) == 0


def test_the_command_writes_it(tmp_path: Path) -> None:
    said: list[str] = []
    folder, path = run(tmp_path), tmp_path / "trace.json"
    main([str(folder), "-o", str(path), "--machine", "h100"], said.append)
    assert json.loads(path.read_text())["otherData"]["machine"] == "h100"
    assert any(str(path) in line for line in said) and any("predicted on h100" in line for line in said)


def test_bad_input_is_told(tmp_path: Path) -> None:
    folder, path = run(tmp_path), tmp_path / "trace.json"
    (folder / "spans.npz").unlink()
    for words, what in (
        ([str(folder), "-o", str(path)], "run.trace_steps"),
        ([str(tmp_path), "-o", str(path)], "no run"),  # a folder of runs is none
        ([str(folder), "-o", str(tmp_path / "no" / "trace.json")], "no folder"),
    ):
        with pytest.raises(InputError, match=what):
            main(words, print)
    assert not path.exists()
    with pytest.raises(SystemExit):
        main([str(folder)], print)
