"""The default job: what a newcomer starts first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stories.job import finish, losses, summary

KEYS = {"loss", "test_accuracy", "steps", "step_s", "predicted_bytes", "counted_bytes", "plan"}
FEW = ("--set", "train.steps=6", "train.eval=false")
PLANS = ("n4", "k4", "h4", "n2 k2", "n2 h2", "h2 w2", "c2 k2")


def reaches(folder: Path, ranks: int) -> None:
    """Hold a whole default job to 98 % and to its record."""
    run = finish(ranks, folder, timeout_s=280)
    found = summary(run)
    assert set(found) >= KEYS
    assert found["test_accuracy"] >= 0.98
    assert found["predicted_bytes"] == found["counted_bytes"]
    assert (found["counted_bytes"] > 0) == (ranks > 1)
    assert found["steps"] == len(losses(run)) and found["loss"] == losses(run)[-1]


def test_it_learns_on_two(tmp_path: Path) -> None:
    reaches(tmp_path, 2)


@pytest.mark.sweep
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_it_learns_on_any_number(tmp_path: Path, ranks: int) -> None:
    reaches(tmp_path, ranks)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The first losses on one process."""
    return losses(finish(1, tmp_path_factory.mktemp("alone"), *FEW))


@pytest.mark.parametrize("plan", PLANS)
def test_every_grid_has_the_same_losses(tmp_path: Path, alone: list[float], plan: str) -> None:
    same(finish(4, tmp_path, *FEW, "--plan", plan), alone)


def test_a_file_with_another_grid_for_every_layer(tmp_path: Path, alone: list[float]) -> None:
    run = finish(1, tmp_path, *FEW, run_dir="names")
    names = list(json.loads((run / "plan.json").read_text())["layers"])
    grids = (
        *PLANS,
        "w4",
        "k2 h2",
        "n2 c2",
        "k2 @2",
        "n3 @1",
        "h3",
        "c4",
        "n2 w2",
        "1 @3",
        "k3 @1",
        "w2 @1",
        "h2",
    )
    assert len(names) <= len(grids)
    layers = dict(zip(names, grids, strict=False))
    (tmp_path / "plan.json").write_text(json.dumps({"format": "gridnn-plan", "version": 1, "layers": layers}))
    same(finish(4, tmp_path, *FEW, "--plan", "plan.json"), alone)


def same(run: Path, alone: list[float]) -> None:
    """Float32 sums in another order, six steps long."""
    assert losses(run) == pytest.approx(alone, rel=2e-4)
    found = summary(run)
    assert found["predicted_bytes"] == found["counted_bytes"] > 0
