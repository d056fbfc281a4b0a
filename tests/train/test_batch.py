"""What a run knows of its job."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from gridnn.train.batch import Allocation, parse_left, ranks_on_node, read_allocation, time_left, words

JOB = {"SLURM_JOB_ID": "712", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"}


def test_outside_of_a_job_there_is_no_allocation() -> None:
    assert read_allocation({}) is None
    assert read_allocation({"SLURM_JOB_ID": "", "SLURM_NTASKS": "4"}) is None


def test_a_job_is_read_from_its_environment() -> None:
    assert read_allocation(JOB) == Allocation(712, "712", None, 0, 4, 2, None)
    array = {"SLURM_ARRAY_JOB_ID": "700", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "2"}
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_END_TIME": "1800000000"}
    assert read_allocation(JOB | array | step) == Allocation(712, "700_3", 3, 2, 2, 1, 1.8e9)


def test_ranks_of_a_node_are_read_from_the_list() -> None:
    listed = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1"}
    found = [ranks_on_node(listed | {"SLURM_NODEID": str(node)}) for node in range(5)]
    assert found == [4, 4, 3, 1, None]
    assert ranks_on_node(listed) is None
    assert ranks_on_node({"SLURM_NODEID": "0"}) is None


@pytest.mark.parametrize("seconds", [0, 59, 60, 3599, 3600, 86399, 86400, 10 * 86400 + 3 * 3600 + 62])
def test_time_left_is_read_as_slurm_writes_it(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    hours, minutes, left = rest // 3600, rest // 60 % 60, rest % 60
    short = f"{minutes}:{left:02d}"
    text = (
        f"{days}-{hours:02d}:{minutes:02d}:{left:02d}" if days else f"{hours}:{short:0>5}" if hours else short
    )
    assert parse_left(f" {text}\n") == seconds


@pytest.mark.parametrize("text", ["", "UNLIMITED", "INVALID", "NOT_SET", "12", "1:2:3:4", "-1:00"])
def test_no_time_is_read_from_words(text: str) -> None:
    assert parse_left(text) is None


def test_slurm_is_asked_for_the_time_only_where_it_did_not_tell() -> None:
    asked: list[list[str]] = []

    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["timeout"] > 0, "a scheduler that is down must not hold the run"
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "1:02:03\n", "")

    told, silent = (Allocation(5, "5", None, 0, 1, 1, end_s) for end_s in (1060.0, None))
    assert time_left(told, answer, lambda: 1000.0) == 60.0
    assert not asked
    assert time_left(silent, answer) == 3723.0
    assert [command[0] for command in asked] == ["squeue"] and "--jobs=5" in asked[0]


def test_a_scheduler_without_an_answer_leaves_no_limit() -> None:
    silent = Allocation(5, "5", None, 0, 1, 1, None)

    def absent(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("squeue")

    def slow(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired("squeue", 5)

    def refusing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "1:00\n", "error")

    assert [time_left(silent, run) for run in (absent, slow, refusing)] == [None] * 3


def test_the_words_of_a_job() -> None:
    assert (
        words(Allocation(7, "7", None, 0, 1, 1, None), None) == "job 7: 1 rank on 1 node, no time limit known"
    )
    again = words(Allocation(8, "7_1", 1, 2, 8, 2, None), 1830.0)
    assert again == "job 7_1, restart 2: 8 ranks on 2 nodes, 30 min left"
