"""Dropout on a device drops what it drops on the CPU, in every block of every grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gridnn.compute.gpu.pointwise import placed, stream_key
from gridnn.compute.random import Draw, dropout_mask
from tests.compute.gpu.conftest import Launch


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
    draw = Draw(seed, stream, shape, box, step, p)
    block, key = placed(shape, box), stream_key(draw)
    module("dropout", dtype).launch("dropout", (2,), (32,), [x, y, x.size, block, key, p])
    mask = dropout_mask(seed, stream, shape, box, step, p, dtype)
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1), np.moveaxis(x, -1, 1) * mask)
