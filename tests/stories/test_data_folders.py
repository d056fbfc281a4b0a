"""MNIST's and CIFAR-10's own files, put in a folder, train by naming the folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.stories.job import finish, losses, summary

# In double precision: eight samples of noise make batch norm so sensitive that in single precision the second loss
# of one process already differs by 1e-4 between kernels.
BRIEF = ("train.batch=8", "train.steps=3", "train.dtype=float64")


def test_mnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 11)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        head = struct.pack(">4I", 0x803, count, 28, 28)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 0x801, count) + labels.tobytes()
        )
    trains(tmp_path, "lenet", 11)


def test_cifar(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        records = rng.integers(0, 256, (10, 1 + 3 * 32 * 32), np.uint8)
        records[:, 0] = np.arange(10)
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    trains(tmp_path, "resnet20", 10)


def trains(folder: Path, network: str, test_count: int) -> None:
    """Hold 2 processes, cut in the batch and in space, to the curve of one."""
    words = ("--set", "data.path=.", f"model.name={network}", *BRIEF)
    alone = finish(1, folder, *words, run_dir="alone")
    for plan in ("n2", "h2"):
        cut = finish(2, folder, *words, "--plan", plan, run_dir=plan)
        assert losses(cut) == pytest.approx(losses(alone), rel=1e-9)
        found = summary(cut)
        assert found["predicted_bytes"] == found["counted_bytes"] > 0
        right = json.loads((cut / "summary.json").read_text())["test_accuracy"] * test_count
        assert right == pytest.approx(round(right)), "an accuracy over all test samples, each once"
