"""A run in compute.precision = "bf16" on the device of the tests: it learns as in float32, bytes are as predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gridnn.comm.world import World
from gridnn.compute.storage import UNIT
from gridnn.network import zoo
from gridnn.train import engine as engines
from tests.stories.test_device_runs import STEPS, curve, little, opened
from tests.support import shim

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not there; with it arrays are stored in bfloat16")
WORDS = ("train.dtype=float32", "train.optimizer=adamw", "train.clip_norm=0.5")


@pytest.fixture(autouse=True)
def in_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    if shim.CXX is None:
        pytest.skip("g++ is not there; with it kernels run on the CPU")
    monkeypatch.setitem(zoo._ZOO, "little", little)
    monkeypatch.setattr(engines, "open_device", opened)


@pytest.mark.ranks(2)
def test_a_run(comm: Any, shared_path: Path) -> None:
    """Uneven passes, halos, an optimizer whose state is cut, a checkpoint read back in the midst."""
    plan = "h2"
    words = (*WORDS, "train.cut_optimizer=true", "train.batch=9", "train.accumulate=2", "train.eval=false")
    with World(comm) as world:
        wanted = curve(world, shared_path / "float32", plan, "cpu", STEPS, *words)
    with World(comm) as world:
        whole = curve(world, shared_path / "whole", plan, "gpu", STEPS, *words, "compute.precision=bf16")
    with World(comm) as world:
        curve(world, shared_path / "halves", plan, "gpu", STEPS // 2, *words, "compute.precision=bf16")
    with World(comm) as world:
        halves = curve(world, shared_path / "halves", plan, "gpu", STEPS, *words, "compute.precision=bf16")
    assert len(whole) == STEPS and not np.array_equal(whole, wanted), "nothing was rounded"
    # Six layers round weights, outputs and their gradients: a walk of so many roundings, in each of the steps before.
    np.testing.assert_allclose(whole, wanted, rtol=STEPS * (4 * 6) ** 0.5 * UNIT)
    np.testing.assert_array_equal(halves, whole)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    "more_words", [(), ("plan.form=stash", "train.late=predict")], ids=["replay", "stash"]
)
def test_stages_with_late_weights(comm: Any, shared_path: Path, more_words: tuple[str, ...]) -> None:
    """Passes go backward with the weights of their forward: copies of them are made again."""
    found = []
    for device, more in (("cpu", ()), ("gpu", ("compute.precision=bf16",))):
        with World(comm) as world:
            words = (
                "train.dtype=float32",
                "train.accumulate=4",
                "train.eval=false",
                "plan.schedule=delayed",
                *more_words,
                *more,
            )
            found.append(curve(world, shared_path / device, "n1 | n1", device, STEPS, *words))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(found[1], found[0], rtol=STEPS * (4 * 6) ** 0.5 * UNIT)
