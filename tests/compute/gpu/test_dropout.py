"""Dropout on a device drops what it drops on the CPU, in every block of every grid."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from gridnn.compute.random import dropout_mask
from tests.compute.gpu.conftest import Launch

BLOCK = np.dtype([("stride", np.int64, 5), ("lo", np.int32, 5), ("extent", np.int32, 5)], align=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((4, 6, 1, 5, 3), ((0, 4), (0, 6), (0, 1), (0, 5), (0, 3))),
        ((4, 6, 1, 5, 3), ((1, 3), (2, 5), (0, 1), (3, 5), (0, 2))),
        ((3, 10, 1, 1, 1), ((2, 3), (7, 10), (0, 1), (0, 1), (0, 1))),
    ],
)
def test_the_mask_belongs_to_global_indices(module: Launch, dtype: Any, shape: Any, box: Any) -> None:
    rng, (seed, stream, step, p) = np.random.default_rng(4), (11, "dropout:drop3", 5, 0.3)
    extent = tuple(hi - lo for lo, hi in box)
    n, c, *space = extent
    x = rng.standard_normal((n, *space, c)).astype(dtype)
    y = np.full_like(x, np.nan)
    block = np.zeros(1, BLOCK)
    block["stride"] = [int(np.prod(shape[d + 1 :])) for d in range(5)]
    block["lo"], block["extent"] = [lo for lo, _ in box], extent
    text = f"{seed}|{step}|{stream}".encode()
    key = np.frombuffer(hashlib.blake2b(text, digest_size=16, person=b"gridnn").digest(), "<u8")
    module("dropout", dtype).launch(
        "dropout", (2,), (32,), [x, y, x.size, block, int(key[0]), int(key[1]), p]
    )
    mask = dropout_mask(seed, stream, shape, box, step, p, dtype)
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1), np.moveaxis(x, -1, 1) * mask)
