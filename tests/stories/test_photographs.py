"""The example of examples/photographs, made small: whole photographs cut in height and width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stories.job import finish, losses, summary
from tests.support.launch import ROOT

CONFIG = ROOT / "examples" / "photographs" / "denoise.toml"
HEIGHT, WIDTH = 37, 53  # prime, so that no two blocks are alike
SMALL = (
    f"data.size=[{HEIGHT},{WIDTH}]", "train.steps=2", "train.warmup_steps=0", "train.dtype=float64",
    "model.options.width=4", "run.pictures=1",
)  # fmt: skip


def photographs(folder: Path) -> Path:
    """Three coloured photographs of noise, of other sizes than the samples: two to train, one to test."""
    draw = np.random.default_rng(0)
    for i, split in enumerate(("train", "train", "test")):
        (folder / split).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / f"{i}.png")
    return folder


def test_photographs_cut_in_four_train_as_whole_ones(tmp_path: Path) -> None:
    """Four quarters with halos have the losses and the picture of one process."""
    photos = photographs(tmp_path / "photos")
    settings = [w for s in (*SMALL, f"data.path={photos}") for w in ("--set", s)]
    runs = {
        plan: finish(ranks, tmp_path, str(CONFIG), *settings, "--plan", plan, run_dir=plan.replace(" ", ""))
        for plan, ranks in (("n1", 1), ("h2 w2", 4))
    }
    assert losses(runs["h2 w2"]) == pytest.approx(losses(runs["n1"]), rel=1e-12)
    assert summary(runs["h2 w2"])["counted_bytes"] == summary(runs["h2 w2"])["predicted_bytes"] > 0
    pictures = {}
    for plan, folder in runs.items():
        with Image.open(folder / "picture-0.png") as picture:
            assert picture.size == (3 * WIDTH, HEIGHT)  # input, prediction, target
            pictures[plan] = np.asarray(picture).astype(int)
    # Rounding to bytes may fall on either side of a half.
    assert np.abs(pictures["h2 w2"] - pictures["n1"]).max() <= 1
    noisy, predicted, target = np.split(pictures["n1"], 3, axis=1)
    assert (noisy != target).any() and (predicted != noisy).any()
