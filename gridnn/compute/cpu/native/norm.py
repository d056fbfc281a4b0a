"""Batch normalisation by the compiled kernels, cut where statistics are summed over ranks.

Blocks are (N, C, *S) that `fits`, all of one dtype; vectors are (C,) of any float dtype, statistics
are mean and 1 / standard deviation: two vectors, or one array (2, C).  The steps are those of the NumPy reference,
with the rectifier and the sum that often follow a batch norm in the same pass:

    forward    moments -> [sum over ranks] -> mean, inv_std -> apply [+ add] [relu]
    backward   backward_sums -> [sum over ranks] -> backward_apply        dy masked by y > 0 where y is given
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.native.library import Array, Library, array

Statistics = Array | tuple[Array, Array]


def moments(lib: Library, x: Array, shift: Array) -> Array:
    """Sums of x - shift and of its square over samples and space: float64 (2, C).

    `shift` (C,) is a guess of the mean, the same on every rank; it keeps the variance from cancelling.
    """
    sums = np.zeros((2, x.shape[1]))
    if x.size:
        about = np.ascontiguousarray(shift, np.float64)
        lib.kernel("norm_moments", x.dtype)(array(x), array(about), array(sums))
    return sums


def apply(
    lib: Library,
    x: Array,
    statistics: Statistics,
    gamma: Array,
    beta: Array,
    y: Array,
    add: Array | None = None,
    relu: bool = False,
) -> None:
    """Set y to (x - mean) inv_std gamma + beta, plus add if given, rectified if asked; y may be x or add."""
    if x.size:
        both = np.ascontiguousarray(statistics, np.float64)
        scale, shift = np.ascontiguousarray(gamma, x.dtype), np.ascontiguousarray(beta, x.dtype)
        lib.kernel("norm_apply", x.dtype)(
            array(x), array(add), array(y), array(both), array(scale), array(shift), relu
        )


def backward_sums(lib: Library, x: Array, y: Array | None, statistics: Statistics, dy: Array) -> Array:
    """Sums of dy and of dy xhat over samples and space, the gradients of beta and gamma: float64 (2, C).

    Where y, the rectified output, is given, dy counts only where y > 0.
    """
    sums = np.zeros((2, x.shape[1]))
    if x.size:
        both = np.ascontiguousarray(statistics, np.float64)
        lib.kernel("norm_backward_sums", x.dtype)(array(x), array(y), array(dy), array(both), array(sums))
    return sums


def backward_apply(
    lib: Library,
    x: Array,
    y: Array | None,
    statistics: Statistics,
    gamma: Array,
    dy: Array,
    sums: Array,
    count: int,
    dx: Array,
) -> None:
    """Set dx to the gradient by x; dx may be dy.

    Parameters
    ----------
    y : (N, C, *S) the rectified output, which masks dy, or None.
    sums : (2, C) `backward_sums` over all ranks; zeros where the statistics were constants.
    count : elements a channel over all ranks.
    """
    if x.size:
        both, totals = np.ascontiguousarray(statistics, np.float64), np.ascontiguousarray(sums, np.float64)
        scale = np.ascontiguousarray(gamma, x.dtype)
        lib.kernel("norm_backward_apply", x.dtype)(
            array(x), array(y), array(dy), array(dx), array(both), array(scale), array(totals), count
        )


def statistics(
    lib: Library, sums: Array, count: int, mean: Array, variance: Array, momentum: float, eps: float
) -> Array:
    """Return mean and 1 / standard deviation of the batch: (2, C); the running ones move in place.  All is float64."""
    assert sums.dtype == mean.dtype == variance.dtype == np.float64, (
        f"{sums.dtype}, {mean.dtype}, {variance.dtype}"
    )
    out = np.empty(sums.shape)
    lib.kernel("norm_statistics", sums.dtype)(
        array(sums), count, momentum, eps, array(mean), array(variance), array(out)
    )
    return out
