"""The digits shipped with the package: 5620 handwritten digits of 8 x 8 pixels, 0 to 16.

UCI's "Optical Recognition of Handwritten Digits" with its own split by writer: 3823 images of 30
people to train, 1797 of 13 others to test.  `digits.txt` beside this file has source and licence.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files

from gridnn.train.data.arrays import open_arrays
from gridnn.train.data.dataset import DataOptions, Dataset


def open_digits(split: str, options: DataOptions) -> Dataset:
    """One split of the digits, in memory."""
    with as_file(files("gridnn.train.data") / "digits.npz") as path:
        dataset = open_arrays(path, split, options)
    # The pixel counts of 4 x 4 blocks: 16 is full.
    return replace(dataset, name="digits", scale=1 / 16, target_scale=1 / 16)
