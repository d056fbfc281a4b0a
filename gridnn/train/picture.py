"""Pictures of what an image network does: input, prediction and target side by side, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gridnn.comm.shard import Shard, gather
from gridnn.geometry.traffic import Traffic
from gridnn.layers.model import Model
from gridnn.train.data import Dataset, Loader


def save_pictures(
    model: Model, loader: Loader, dataset: Dataset, folder: Path | None, count: int
) -> list[Path]:
    """Write ``picture-<i>.png`` for the first `count` samples of a loader; collective, rank 0 writes.

    Works for networks whose output has two space dims: images of 1 or 3 channels, or classes a pixel.
    The whole first batch comes together on rank 0, and only there.
    """
    batch, world = loader.batch(0), model.world
    # A pass for the eye only: it is no part of the job, whose traffic was predicted.
    job, world.ledger = world.ledger, Traffic()
    model.forward(batch.x, batch.target, valid=batch.valid, train=False)
    need = model.loss.placed.placement.needs[0]
    part: Any = np.zeros((0,) * len(need.shape), model.dtype)
    if world.rank in need.scheme.ranks:
        assert model.output is not None, "a forward pass leaves its output"
        part = model.engine.give(model.output).astype(model.dtype, copy=False)
    model.settle()
    output = gather(world, Shard(part, need))
    world.ledger = job
    if folder is None or len(need.shape) != 4:
        return []
    whole = [
        tuple((0, e) for e in (loader.order.batch, *shape))
        for shape in (dataset.input_shape, dataset.target_shape)
    ]
    with Loader(
        dataset, loader.order, [(whole[0], whole[1])], loader.dtype, loader.augment, loader.seed
    ) as plain:
        full = plain.read(0)
    paths = []
    for i in range(min(count, full.valid)):
        if dataset.target == "pixels":
            shown = [
                _image(full.x[i]),
                _classes(output[i].argmax(axis=0), need.shape[1]),
                _classes(full.target[i], need.shape[1]),
            ]
        else:
            shown = [_image(full.x[i]), _image(output[i]), _image(full.target[i])]
        path = folder / f"picture-{i}.png"
        Image.fromarray(np.concatenate(shown, axis=1)).save(path)
        paths.append(path)
    return paths


def _image(array: Any) -> Any:
    """Return (C, H, W) numbers in [0, 1] as (H, W, 3) bytes; channels beyond three are left out."""
    grey = np.repeat(array[:1], 3, axis=0) if array.shape[0] < 3 else array[:3]
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def _classes(array: Any, classes: int) -> Any:
    """Return (H, W) class numbers as grey levels."""
    return np.repeat((array * (255 // max(1, classes - 1))).astype(np.uint8)[..., None], 3, axis=2)
