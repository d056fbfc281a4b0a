"""Section [data] of a configuration: what the network learns from."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gridnn.train.data.augment import Augment
from gridnn.train.data.dataset import DataOptions
from gridnn.train.section import (
    Count,
    Counts,
    Name,
    NonNegative,
    Numbers,
    Pair,
    Positive,
    Positives,
    Section,
    Whole,
    refuse,
)


class DataSection(Section):
    """What the network learns from."""

    name: Name = "digits"
    """digits (shipped), synthetic, or, with a path, a name of your own."""
    path: Name | None = None
    """File or folder; its format is recognised by looking."""
    target: Literal["class", "pixels", "image"] | None = None
    """What is learned: a class per sample or per pixel, or an image; left out, what the files hold."""
    classes: Count | None = None
    """Number of classes; left out, the largest training label + 1."""
    layout: Name | None = None
    """Dims of an input array in stored order, such as "NHWC"."""
    channels: Literal[1, 3] | None = None
    """1 or 3 for pictures; left out, as the first file has it."""
    size: Pair | None = None
    """Height and width to which pictures are scaled and cropped."""
    tile: Pair | None = None
    """Height and width of the pieces of large photographs."""
    tiles: Count | None = None
    """Random pieces a photograph; left out, all of a regular grid."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share held out for the test where the data have no test part of their own."""
    split_seed: Whole = 0
    """Seed of the part held out, and of synthetic data."""
    input_shape: Counts | None = None
    """Shape of one synthetic sample: channels, then space."""
    count: Count = 1000
    """Synthetic training samples."""
    test_count: Count = 200
    """Synthetic test samples."""
    target_channels: Count = 1
    """Channels of synthetic target images."""
    pad: Whole = 0
    """Zeros around training images before a random crop back to size."""
    flip: bool = False
    """Mirror half of the training images left to right."""
    scale: Positive | None = None
    """Factor on stored values; left out, the one that brings bytes to [0, 1]."""
    mean: Numbers = (0.0,)
    """Subtracted after scaling: one number, or one per channel."""
    std: Positives = (1.0,)
    """Divided by after subtracting: one number, or one per channel."""
    noise: NonNegative = 0.0
    """Standard deviation of the noise added to inputs."""

    @property
    def source(self) -> str:
        """What `open_data` is asked for: the path, the shipped set, or the synthetic set by its shape."""
        if self.path is not None:
            return self.path
        if self.name != "synthetic" or self.input_shape is None:
            return self.name
        return (
            "synthetic:" + "x".join(map(str, self.input_shape)) + (f":{self.classes}" if self.classes else "")
        )

    @property
    def options(self) -> DataOptions:
        """How the data are read."""
        return DataOptions(**{field.name: getattr(self, field.name) for field in fields(DataOptions)})

    @property
    def augment(self) -> Augment:
        """What is done to training samples."""
        return Augment(**{field.name: getattr(self, field.name) for field in fields(Augment)})

    @model_validator(mode="before")
    @classmethod
    def _name_follows_path(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("path"), str):
            return {"name": Path(given["path"]).name or given["path"]} | given
        return given

    @model_validator(mode="after")
    def _agree(self) -> DataSection:
        synthetic = self.name.split(":")[0] == "synthetic"
        return refuse(
            self,
            [
                (
                    self.path is not None and (synthetic or self.name == "digits"),
                    f'data.path is given, but data.name = "{self.name}" reads none of yours; leave one out',
                ),
                (
                    self.name == "synthetic" and self.input_shape is None,
                    'data.name = "synthetic" needs data.input_shape, such as [3, 32, 32]',
                ),
                (
                    self.name != "synthetic" and self.input_shape is not None,
                    'data.input_shape is only for data.name = "synthetic"; leave it out',
                ),
            ],
        )
