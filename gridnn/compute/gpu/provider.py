"""Which kernels compute a convolution that is no matrix product, and how they cut it into blocks.

    | provider | file           | tile of a block | channels moved at once | computes                                |
    |----------|----------------|-----------------|------------------------|-----------------------------------------|
    | EXACT    | conv.cu        | 64 x 64         | 1                      | all: float32, float64, bfloat16         |
    | TENSOR   | conv_tensor.cu | 128 x 128       | 4                      | TF32 products of float32, float32 sums  |
    | NARROW   | conv_tensor.cu | 128 x 64        | 4                      | the same, where a product has few       |
    |          |                |                 |                        | columns                                 |
    | BF16...  | conv_tensor.cu | either          | 8                      | bfloat16 as stored, float32 sums        |

A choice follows from precision, dtype and shapes alone: it is the same in every run and asks no clock.  Ranks whose
blocks differ in channels may choose differently; the two agree within TF32's rounding of factors, 2^-11 of each.
Of bfloat16 both compute with the factors that are stored, so that they agree but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.gpu.engine import Engine, Precision
from gridnn.compute.gpu.view import BLOCK, TILE, Ints
from gridnn.compute.storage import BFLOAT16

WIDE_GROUP = 16
"""Channels and outputs of a group from which on tensor cores compute: a quarter of the narrower of their tiles.

With fewer most of a tile is zeros, and a depthwise convolution is nothing else.  An estimate; not yet measured.
"""
REACH = (1 << 31) - 128
"""Positions, and elements of a filled-up filter, that kernels of tensor cores can number: less than this."""


class Provider(NamedTuple):
    """Kernels of the three passes, all called alike.

    Parameters
    ----------
    file
        Of kernels/.
    tile
        Rows and columns of a block's product.
    vector
        Channels that are moved at once: those of a tap are filled up to a multiple of it.
    defines
        What the file is compiled with.
    """

    file: str
    tile: tuple[int, int] = (TILE, TILE)
    vector: int = 1
    defines: tuple[str, ...] = ()

    def filled(self, channels: int) -> int:
        """Return channels filled up to whole vectors."""
        return -(-channels // self.vector) * self.vector

    def launch(
        self, engine: Engine, kernel: str, blocks: Ints, arguments: Sequence[Any], dtype: DTypeLike
    ) -> None:  # fmt: skip
        """Start a pass."""
        engine.device.launch(self.file, kernel, blocks, BLOCK, arguments, dtype, defines=self.defines)


EXACT = Provider("conv")
TENSOR = Provider("conv_tensor", (128, 128), 4)
NARROW = Provider("conv_tensor", (128, 64), 4, ("COLUMNS=64",))
BF16, BF16_NARROW = TENSOR._replace(vector=8), NARROW._replace(vector=8)


def provider_of(
    precision: Precision, dtype: DTypeLike, w: Ints, groups: int, positions: int, columns: int
) -> Provider:  # fmt: skip
    """Return what computes a pass.

    Parameters
    ----------
    w
        Shape of the weights, (K, C / groups, *R).
    positions
        Of y or, in `backward_data`, of x.
    columns
        Of the product.
    """
    channels, outputs = w[1], w[0] // groups
    kind = np.dtype(dtype)
    if kind.name == BFLOAT16:
        broad, narrow = BF16, BF16_NARROW
    elif precision == "tf32" and kind == np.float32:
        broad, narrow = TENSOR, NARROW
    else:
        return EXACT
    if min(channels, outputs) < WIDE_GROUP:
        return EXACT
    if max(positions, prod(w[2:]) * broad.filled(max(channels, outputs))) >= REACH:
        return EXACT
    return narrow if columns <= narrow.tile[1] else broad
