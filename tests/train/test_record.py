"""The run folder: what is in it, and what it never overwrites."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from gridnn.errors import InputError
from gridnn.train.record import Record, Summary, open_folder, versions

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
