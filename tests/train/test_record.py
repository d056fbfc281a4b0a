"""The run folder: what is in it, and what it never overwrites."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import pytest

from gridnn.errors import InputError
from gridnn.train.folder import Record, open_folder, versions
from gridnn.train.record import SUMMARY as SUMMARY_FILE
from gridnn.train.record import (
    TRAFFIC,
    PipelineRecord,
    RunTraffic,
    StageRecord,
    Summary,
    TrafficRow,
    read_config,
    read_summary,
    read_traffic,
)
from gridnn.train.spans import SPANS

NOW = datetime(2025, 1, 31, 14, 22, 33)
SUMMARY = Summary(0.1 + 0.2, 0.98, 2, 0.5, 10, 10, "n2 k2", 4, {"compute": 1.5}, {"python": "3"})


def _step(record, number, **more):
    record.step(
        step=number,
        epoch=0,
        loss=0.5,
        lr=0.1,
        step_s=0.25,
        phases_s={"compute": 0.2},
        counted_bytes=7,
        **more,
    )


def test_a_run_from_start_to_summary(tmp_path):
    folder = open_folder(str(tmp_path / "a" / "b"), "net", NOW)
    with Record(folder, "c = 1\n", "{}\n") as record:
        _step(record, 1)
        assert (folder / "steps.jsonl").read_text().count("\n") == 1  # at once, not at the end
        _step(record, 2, norm=3.5)
        path = record.finish(SUMMARY)
    assert (folder / "config.toml").read_text() == "c = 1\n"
    assert (folder / "plan.json").read_text() == "{}\n"
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 1, "epoch": 0, "loss": 0.5, "lr": 0.1, "step_s": 0.25,
                        "phases_s": {"compute": 0.2}, "counted_bytes": 7}  # fmt: skip
    assert (lines[1]["step"], lines[1]["norm"]) == (2, 3.5)
    summary = json.loads(path.read_text())
    fixed = {"loss", "test_accuracy", "steps", "step_s", "predicted_bytes", "counted_bytes", "plan"}
    assert set(summary) == fixed | {
        "ranks", "phases_s", "versions", "record_version", "predicted_step_s", "memory_bytes", "predicted_memory_bytes",
        "pipeline",
    }  # fmt: skip
    assert summary["loss"] == 0.30000000000000004
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.toml",
        "plan.json",
        "steps.jsonl",
        "summary.json",
    ]


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    with Record(tmp_path, "", "") as record:
        record.step(
            step=1,
            epoch=0,
            loss=float("nan"),
            lr=0.1,
            step_s=1.0,
            phases_s={"x": float("inf")},
            counted_bytes=0,
        )
    line = json.loads((tmp_path / "steps.jsonl").read_text())
    assert (line["loss"], line["phases_s"]) == (None, {"x": None})


def test_a_finished_run_is_not_overwritten(tmp_path):
    with Record(open_folder(str(tmp_path), "net", NOW), "", "") as record:
        record.finish(SUMMARY)
    with pytest.raises(InputError, match=r"finished run .*--run-dir"):
        open_folder(str(tmp_path), "net", NOW)


def test_an_unfinished_run_is_replaced(tmp_path):
    with Record(open_folder(str(tmp_path), "net", NOW), "old", "") as record:
        _step(record, 1)
    with Record(open_folder(str(tmp_path), "net", NOW), "new", ""):
        pass
    assert (tmp_path / "config.toml").read_text() == "new"
    assert (tmp_path / "steps.jsonl").read_text() == ""


def test_a_folder_with_the_users_own_config_is_left_alone(tmp_path):
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(InputError, match=r"config\.toml that no run wrote"):
        open_folder(str(tmp_path), "net", NOW)
    assert (tmp_path / "config.toml").read_text() == "mine"


def test_automatic_folders_never_meet(tmp_path):
    names = [open_folder(None, "net", NOW, tmp_path / "runs").name for _ in range(3)]
    assert names == ["net-20250131-142233", "net-20250131-142233-2", "net-20250131-142233-3"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        open_folder(str(tmp_path / "file" / "run"), "net", NOW)
    with pytest.raises(InputError, match="cannot be made"):
        open_folder(str(tmp_path / "file"), "net", NOW)


def test_versions_can_be_added_to():
    found = versions(mpi="MPICH 4")
    assert {"python", "numpy", "gridnn", "machine", "mpi"} <= set(found)
    assert found["mpi"] == "MPICH 4"


ROW = TrafficRow("conv1", "forward", "halo", "h", 4, 4, 512, 512)
MOVED = RunTraffic(2, 1, (ROW, TrafficRow("loss", "forward", "allreduce", "all", 8, 8, 64, 64)))


def _finished(folder, traffic=MOVED):
    folder.mkdir(exist_ok=True)
    with Record(folder, "[train]\nbatch = 8\n", "{}\n") as record:
        if traffic is not None:
            record.traffic(traffic)
        record.finish(SUMMARY)
    return folder


def test_what_is_written_is_read(tmp_path):
    folder = _finished(tmp_path / "run")
    assert read_summary(folder) == SUMMARY
    assert read_traffic(folder) == MOVED
    assert read_config(folder) == {"train": {"batch": 8}}
    assert json.loads((folder / TRAFFIC).read_text()) == {
        "record_version": 1,
        "steps": 2,
        "evaluations": 1,
        "rows": [
            {
                "layer": "conv1", "direction": "forward", "collective": "halo", "axes": "h",
                "predicted_messages": 4, "counted_messages": 4, "predicted_bytes": 512, "counted_bytes": 512,
            },
            {
                "layer": "loss", "direction": "forward", "collective": "allreduce", "axes": "all",
                "predicted_messages": 8, "counted_messages": 8, "predicted_bytes": 64, "counted_bytes": 64,
            },
        ],
    }  # fmt: skip
    assert not list(folder.glob("*.part"))


STAGES = (StageRecord("conv1", 2, 1, 0.25, None, 100, 110), StageRecord("fc1", 1, 0, 0.0, 0.5, 90, 80))


def test_stages_are_read_as_they_were_written(tmp_path):
    summary = replace(SUMMARY, pipeline=PipelineRecord("delayed", "stash", 4, STAGES))
    with Record(tmp_path, "", "") as record:
        path = record.finish(summary)
    assert read_summary(tmp_path) == summary
    table = json.loads(path.read_text())
    for key, value in (("bubble", "half"), ("ranks", 1.5), ("first", None), ("predicted_bubble", 1)):
        stages = [{**table["pipeline"]["stages"][0], key: value}]
        path.write_text(json.dumps({**table, "pipeline": {**table["pipeline"], "stages": stages}}))
        with pytest.raises(InputError, match=f"cannot be read as part of a run's record: .*{key}"):
            read_summary(tmp_path)
    del table["pipeline"]  # an older gridnn
    path.write_text(json.dumps(table))
    assert read_summary(tmp_path) == SUMMARY


def test_a_loss_that_was_not_finite_is_read_as_none(tmp_path):
    with Record(tmp_path, "", "") as record:
        record.finish(replace(SUMMARY, loss=float("inf"), test_accuracy=None))
    found = read_summary(tmp_path)
    values: list[object] = [found.loss, found.test_accuracy]
    assert values == [None, None]


@pytest.mark.parametrize("read", [read_summary, read_traffic, read_config])
def test_folders_that_are_no_finished_run(tmp_path, read):
    with pytest.raises(InputError, match=r"no run folder .*nowhere; name one"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        read(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"no run: it has no summary\.json; name a folder that gridnn\.train"
    ):
        read(tmp_path / "empty")
    with Record(open_folder(str(tmp_path / "short"), "net", NOW), "", "") as record:
        _step(record, 1)
    with pytest.raises(InputError, match=r"not finished \(it has no summary\.json\)"):
        read(tmp_path / "short")


def test_a_run_of_an_older_gridnn(tmp_path):
    with pytest.raises(InputError, match=r"left no traffic\.json; an older gridnn"):
        read_traffic(_finished(tmp_path, traffic=None))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": 1}', '{"record_version": 1}', "\udcff"])
@pytest.mark.parametrize(("name", "read"), [(SUMMARY_FILE, read_summary), (TRAFFIC, read_traffic)])
def test_damaged_files(tmp_path, name, read, text):
    (_finished(tmp_path) / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=f"{name} cannot be read as part of a run's record: .*run it again"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "read", "key", "value"),
    [
        (SUMMARY_FILE, read_summary, "steps", "two"),
        (SUMMARY_FILE, read_summary, "step_s", None),
        (TRAFFIC, read_traffic, "rows", {}),
        (TRAFFIC, read_traffic, "rows", [[]]),
        (TRAFFIC, read_traffic, "rows", [{**ROW._asdict(), "counted_bytes": 1.5}]),
        (TRAFFIC, read_traffic, "rows", [{**ROW._asdict(), "layer": None}]),
        (TRAFFIC, read_traffic, "evaluations", True),
    ],
)
def test_values_of_another_kind(tmp_path, name, read, key, value):
    path = _finished(tmp_path) / name
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(("name", "read"), [(SUMMARY_FILE, read_summary), (TRAFFIC, read_traffic)])
def test_other_versions(tmp_path, name, read):
    path = _finished(tmp_path) / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "record_version": 9}))
    with pytest.raises(InputError, match=r"version 9, this gridnn reads 1; read it with"):
        read(tmp_path)


def test_a_config_that_is_no_toml(tmp_path):
    (_finished(tmp_path) / "config.toml").write_text("= 3")
    with pytest.raises(InputError, match=r"config\.toml cannot be read"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", [TRAFFIC, SPANS])
def test_what_is_left_of_an_unfinished_run_is_not_taken_for_the_next(tmp_path, name):
    """Cut short after its traffic was written; the next one keeps no spans."""
    with Record(open_folder(str(tmp_path), "net", NOW), "", "") as record:
        record.traffic(MOVED)
        (tmp_path / SPANS).write_bytes(b"old")
    assert (tmp_path / name).exists()
    with Record(open_folder(str(tmp_path), "net", NOW), "", "") as record:
        record.finish(SUMMARY)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", [TRAFFIC, SPANS])
def test_files_of_these_names_that_no_run_wrote_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"{name} that no run wrote"):
        open_folder(str(tmp_path), "net", NOW)
    assert (tmp_path / name).read_text() == "mine"
