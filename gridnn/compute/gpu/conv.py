"""Convolution of a block on a device: forward and both gradients, by own kernels or by a product of cuBLAS.

x (N, C, *S), w (K, C / groups, *R), y (N, K, *O); channels innermost in memory, weights K, R, C; one to three spatial
dims.  Transposed convolution is `backward_data` read forwards.

| computed by     | where                                    | memory                                         |
|-----------------|------------------------------------------|------------------------------------------------|
| matrix product  | a window of one element, stride 1, no    | x and dy dense; the result is copied to an     |
|                 | pads, one group, dense factors           | `out` with gaps                                |
| cuDNN           | what `choice` gives it                   | x, dy and `out` may have gaps, no parts        |
| matrix product  | a window of one element, any stride, no  | the positions that are read are copied         |
| of copied rows  | zeros around, one group, wide: `lattice` | together; no parts                             |
| conv_tensor.cu  | bfloat16; float32 on an engine of "tf32" | x, dy and `out` may have gaps; x or dy in      |
|                 | and groups that are wide (`provider`)    | parts as received, nothing copied together     |
| conv.cu         | everything else                          | the same                                       |

| kernel           | rows of a product | columns         | times          | depth           |
|------------------|-------------------|-----------------|----------------|-----------------|
| forward          | N O               | K of a group    | groups         | R, C of a group |
| backward_data    | N S               | C of a group    | groups         | R, K of a group |
| backward_weights | K of a group      | R C of a group  | groups, chunks | N O of a chunk  |

What cuBLAS computes in is CuPy's to say, for a whole process and from its environment (CUPY_TF32=1).  That is left
alone: without it matrix products are exact to float32 on an engine of any precision.

cuDNN may compute what is no matrix product, where it is installed and asked for: `choice` says when and how.

Where the weights are few the gradient by them is summed in chunks of positions, so that enough blocks are busy; their
number follows from the shapes alone, and chunks are added up in their order: the same bits every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from gridnn.compute.cpu.memory import is_dense
from gridnn.compute.cpu.window import Window
from gridnn.compute.gpu import lattice
from gridnn.compute.gpu.cudnn_engine import compute
from gridnn.compute.gpu.dense import plain as plain_vector
from gridnn.compute.gpu.device import Array
from gridnn.compute.gpu.engine import Engine
from gridnn.compute.gpu.lattice import rows
from gridnn.compute.gpu.linear import product, settle, share_of
from gridnn.compute.gpu.pointwise import add_bias
from gridnn.compute.gpu.provider import provider_of
from gridnn.compute.gpu.view import Ints, Parts, grid, output, points, readable, runs, shape, view
from gridnn.compute.storage import wide_of

BLOCKS = 512
"""Blocks that the gradient by the weights is cut into: some for each multiprocessor of a large device."""
LEAST = 256
"""Positions of a chunk, at least: shorter sums cost more to add up than they save."""
DEPTH = 16
"""Positions that a block takes at a time: chunks are a multiple of it."""


def forward(
    engine: Engine, x: Array | Parts, w: Array, window: Window, *, groups: int = 1, bias: Array | None = None,
    relu: bool = False, out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the convolution of x with w, plus bias (K,) if given, rectified if asked.

    Parameters
    ----------
    x
        An array, or an own block and halos in arrays of their own.
    out
        Where the result goes, of shape (N, K, *O); a new array if None.

    Raises
    ------
    ValueError
        If the shapes of x, w and `out` do not go together.
    """
    size = x.shape
    y = engine.empty((size[0], w.shape[0], *window.outs(size[2:])), x.dtype) if out is None else out
    _check(size, w.shape, y.shape, window, groups)
    if not y.size:
        return y
    x = readable(engine, x, x)
    plain = _plain(x, window, groups)
    w, target = engine.fitted(w, x), _target(engine, y, x.dtype, plain)
    if plain:
        product(engine, rows(x), rows(w).T, rows(target))
        add_bias(engine, target, bias, relu=relu)
    else:
        added = None if bias is None else plain_vector(engine, bias, wide_of(x.dtype))

        def own() -> None:
            where = lattice.find(engine, x, target, window, groups)
            if where is not None:
                return lattice.forward(engine, x, w, where, bias, relu, target)
            told, columns = shape(size[0], size[1], w.shape[0], groups, window, relu), w.shape[0] // groups
            provider = provider_of(engine.precision, x.dtype, w.shape, groups, points(y), columns)
            provider.launch(
                engine, "forward", grid(points(y), columns, groups, provider.tile),
                [view(engine.device, x), w, added, output(engine.device, target), told], x.dtype,
            )  # fmt: skip

        compute(engine, "forward", {"x": x, "w": w, "y": target, "bias": added}, window, own, relu)
    if target is not y:
        engine.copy(target, y)
    return y


def backward_data(
    engine: Engine, dy: Array | Parts, w: Array, window: Window, x_shape: tuple[int, ...], *, groups: int = 1,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """Return the gradient of `forward` by x: (N, C, *S); elements that no window touched get zero.

    Parameters
    ----------
    dy
        An array, or an own block and halos in arrays of their own.

    Raises
    ------
    ValueError
        If the shapes do not go together.
    """
    dx = engine.empty(x_shape, dy.dtype) if out is None else out
    _check(dx.shape, w.shape, dy.shape, window, groups)
    if not dx.size:
        return dx
    dy = readable(engine, dy, dy)
    plain = _plain(dy, window, groups)
    w, target = engine.fitted(w, dy), _target(engine, dx, dy.dtype, plain)
    if plain:
        product(engine, rows(dy), rows(w), rows(target))
    else:

        def own() -> None:
            where = lattice.find(engine, target, dy, window, groups)
            if where is not None:
                return lattice.backward_data(engine, dy, w, where, target)
            told = shape(dx.shape[0], dx.shape[1], w.shape[0], groups, window)
            provider = provider_of(engine.precision, dy.dtype, w.shape, groups, points(dx), w.shape[1])
            provider.launch(
                engine, "backward_data", grid(points(dx), w.shape[1], groups, provider.tile),
                [view(engine.device, dy), w, output(engine.device, target), told], dy.dtype,
            )  # fmt: skip

        if isinstance(dy, Parts):
            own()
        else:
            compute(engine, "backward_data", {"x": target, "w": w, "y": dy}, window, own)
    if target is not dx:
        engine.copy(target, dx)
    return dx


def backward_weights(
    engine: Engine, x: Array | Parts, dy: Array | Parts, window: Window, dw: Array, *, groups: int = 1,
    add: bool = True,
) -> None:  # fmt: skip
    """Add the gradient of `forward` by w to dw (K, C / groups, *R), or replace dw by it.

    Parameters
    ----------
    x
        An array, or an own block and halos in arrays of their own.
    dy
        Alike; what is summed is a sum over its positions, so regions are added one after the other.

    Raises
    ------
    ValueError
        If the shapes do not go together.
    """
    _check(x.shape, dw.shape, dy.shape, window, groups)
    if isinstance(dy, Parts):
        for region, moved in _regions(dy, window, x.shape[2:]):
            backward_weights(engine, x, region, moved, dw, groups=groups, add=add)
            add = True
        return
    if not dw.size:
        return
    if not dy.size:
        if not add:
            dw[...] = 0
        return
    x, share = readable(engine, x, x), share_of(engine, x, dw, add)
    if _plain(x, window, groups):
        product(engine, rows(engine.fitted(dy, x)).T, rows(x), rows(share))
    else:
        near = readable(engine, dy, x)
        arrays = {"x": x, "w": share, "y": near}
        compute(
            engine,
            "backward_weights",
            arrays,
            window,
            lambda: _weigh(engine, x, near, window, groups, share),
        )
    settle(engine, share, dw, add)


def chunk_of(positions: int, tiles: int) -> int:
    """Return how many positions are summed by one block, where the weights make `tiles` blocks."""
    chunks = max(1, min(BLOCKS // tiles, -(-positions // LEAST)))
    return -(-positions // (chunks * DEPTH)) * DEPTH


def _weigh(
    engine: Engine, x: Array | Parts, dy: Array, window: Window, groups: int, share: Array
) -> None:  # fmt: skip
    where = lattice.find(engine, x, dy, window, groups)
    if where is not None:
        return lattice.backward_weights(engine, x, dy, where, share)
    size, taps, positions = x.shape, prod(share.shape[2:]), points(dy)
    provider = provider_of(engine.precision, x.dtype, share.shape, groups, positions, prod(share.shape[1:]))
    width = taps * provider.filled(share.shape[1])
    tiles = grid(share.shape[0] // groups, width, groups, provider.tile)
    chunk = chunk_of(positions, prod(tiles))
    chunks = -(-positions // chunk)
    partial = share if chunks == 1 else engine.empty((chunks, share.size), share.dtype)
    told = shape(size[0], size[1], share.shape[0], groups, window)
    provider.launch(
        engine, "backward_weights", (*tiles[:2], groups * chunks),
        [view(engine.device, x), output(engine.device, dy), told, chunk, partial], x.dtype,
    )  # fmt: skip
    if chunks > 1:
        engine.walk(
            provider.file, "fold", share.size, [partial, chunks, share.size, share], x.dtype, provider.defines
        )


def _regions(dy: Parts, window: Window, space: Ints) -> Iterator[tuple[Array, Window]]:
    """Yield each region of an output and the window that gives it: pads that crop inputs of extents `space`."""
    before, own = dy.widths[0], tuple(dy.own.shape[2:])
    for side, region in dy.regions():
        lo, hi = list[int](), list[int]()
        for dim, (taps, stride, dilation, pad, _) in enumerate(zip(*window, strict=True)):
            begin = (0, before[dim], before[dim] + own[dim])[side[dim] + 1]
            reach = (region.shape[2 + dim] - 1) * stride + dilation * (taps - 1) + 1  # of all its windows
            lo.append(pad - begin * stride)
            hi.append(reach - space[dim] - lo[-1])
        yield region, window._replace(pad_lo=tuple(lo), pad_hi=tuple(hi))


def _plain(x: Array | Parts, window: Window, groups: int) -> bool:
    """Whether a convolution is one matrix product of what is dense in memory."""
    if isinstance(x, Parts) or groups > 1 or prod(window.kernel) > 1 or any(s > 1 for s in window.stride):
        return False
    return not any(window.pad_lo) and not any(window.pad_hi) and is_dense(x)


def _target(engine: Engine, y: Array, dtype: np.dtype[Any], dense: bool) -> Array:
    """Return y if a result can be written there, else an array to be copied from."""
    fits = y.dtype == dtype and (is_dense(y) if dense else runs(y))
    return y if fits else engine.empty(y.shape, dtype)


def _check(x: Ints, w: Ints, y: Ints, window: Window, groups: int) -> None:
    """Hold shapes to each other: a kernel would read and write wherever they say."""
    if x[1] % groups or w[0] % groups or tuple(w[1:]) != (x[1] // groups, *window.kernel):
        raise ValueError(
            f"w {tuple(w)} is given; x {tuple(x)}, {groups} groups and {window} do not go with it"
        )
    needed = (x[0], w[0], *window.outs(x[2:]))
    if tuple(y) != needed and 0 not in (*x, *y):  # where one is empty nothing is read: any window will do
        raise ValueError(f"an output {tuple(y)} is given; x {tuple(x)}, w {tuple(w)}, {window} need {needed}")
