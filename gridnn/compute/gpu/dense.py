"""What kernels can read and write: dense arrays of the dtype that they declare.

A kernel is given an address and asks nothing, so every array goes through here or through `Engine.fitted` first:

    blocks (N, C, *S)                   channels innermost      Engine.fitted to read, `target` and `settled` to write
    vectors, labels, sums, positions    in the order of their   `plain`
                                        dims

Where there is no kernel, plain operations go over a `widened` array: nothing is computed in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from gridnn.compute.cpu.memory import is_dense
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.storage import wide_of


def target(engine: Engine, shape: Sequence[int], dtype: DTypeLike, out: Array | None) -> Array:
    """Return an array (N, C, *S) that a kernel can write: `out` if it is one, else a new one."""
    if out is not None and out.dtype == dtype and is_dense(out):
        return out
    return engine.empty(shape, dtype)


def settled(engine: Engine, y: Array, out: Array | None) -> Array:
    """Return what a kernel wrote into a `target` where it was to go: `out`, if one was given."""
    if out is None or y is out:
        return y
    engine.copy(y, out)
    return out


def widened(engine: Engine, x: Array) -> Array:
    """Return a block in the dtype that is computed in: itself, or of bfloat16 a copy in float32."""
    wide = wide_of(x.dtype)
    if x.dtype == wide:
        return x
    copy = engine.empty(x.shape, wide)
    engine.copy(x, copy)
    return copy


def blank(engine: Engine, shape: Sequence[int], dtype: DTypeLike) -> Array:
    """Return an array of any content in the order of its dims: no channels innermost."""
    return engine.device.empty(prod(shape), dtype).reshape(tuple(shape))


def plain(engine: Engine, array: Array, dtype: DTypeLike) -> Array:
    """Return an array, or a copy of it, in the order of its dims without gaps and of a dtype."""
    if array.dtype == np.dtype(dtype) and array.flags.c_contiguous:
        return array
    copy = blank(engine, array.shape, dtype)
    copy[...] = array
    return copy
