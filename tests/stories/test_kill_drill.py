"""Ranks are killed, jobs go on: the course of a run does not tell how often it was interrupted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gridnn.train.checkpoint.folders import CHECKPOINTS, steps_in
from gridnn.train.checkpoint.whole import wrong_in
from tests.stories.drill import JOB, STEPS, Drill
from tests.stories.job import finish

DRILLS = [pytest.param(seed, marks=[] if seed < 3 else pytest.mark.sweep) for seed in range(51)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The loss of every step of the job, uninterrupted, on one rank."""
    folder = finish(0, tmp_path_factory.mktemp("reference"), "--set", *JOB)
    return [line["loss"] for line in _lines(folder)]


@pytest.mark.parametrize("seed", DRILLS)
def test_killed_and_resumed_the_curve_is_the_same(tmp_path: Path, reference: list[float], seed: int) -> None:
    drill = Drill(tmp_path / "run", random.Random(seed))
    drill.run()
    lines = _lines(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["loss"] for line in lines] == pytest.approx(reference, rel=1e-9, abs=1e-12)
    kept = steps_in(tmp_path / "run" / CHECKPOINTS)
    assert kept and not [words for folder in kept for words in wrong_in(folder)]


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
