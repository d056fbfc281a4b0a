"""What arrays between layers are stored in, computed in, and moved as.

    stored      computed, summed   a message
    float64     float64            as it is
    float32     float32            as it is
    bfloat16    float32            words of 16 bits, for MPI has no name for it; a sum over ranks float32

A bfloat16 is the upper half of a float32: its range, 8 bits of the 24.  NumPy and CuPy know it by `ml_dtypes`, which is
loaded only where somebody asks for it.  No element is computed in it here: kernels widen what they read and round what
they write, and plain operations go over arrays of `wide_of`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.errors import InputError

BFLOAT16 = "bfloat16"
"""Its name as a dtype."""
UNIT = 2.0**-8
"""Largest relative error of a number that is rounded to bfloat16 once: half of the last of 8 bits."""


def bfloat16() -> np.dtype[Any]:
    """Return the dtype.

    Raises
    ------
    InputError
        Without `ml_dtypes`.
    """
    try:
        from ml_dtypes import bfloat16 as found
    except ImportError as error:
        raise InputError(
            f'compute.precision = "bf16" needs ml_dtypes, which cannot be imported ({error}); pip install '
            '"gridnn[gpu]", or take compute.precision = "tf32" or "float32"'
        ) from None
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def wide_of(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype in which arrays of `dtype` are computed and summed: float32 for bfloat16, else itself."""
    own = np.dtype(dtype)
    return np.dtype(np.float32) if own.name == BFLOAT16 else own


def words(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as MPI can be told of it: of bfloat16 a view of its words, else itself."""
    return array.view(np.uint16) if array.dtype.name == BFLOAT16 else array
