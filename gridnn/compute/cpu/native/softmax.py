"""Softmax and cross-entropy of a block of classes by the compiled kernels.

Logits (N, K, *S) `fits`; what is known of a position is (N, *S), contiguous.  The steps and formulas are those of
the NumPy reference, whose `losses` and `best_class` serve both.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.native.library import Array, Library, array


def block_max(lib: Library, x: Array, top: Array) -> None:
    """Set top (N, *S) to the largest logit of the block, -inf if it has no class; a NaN is the largest."""
    if x.size:
        assert top.dtype == x.dtype and top.flags.c_contiguous, (
            "top is contiguous, of the dtype of the logits"
        )
        lib.kernel("softmax_max", x.dtype)(array(x), array(top))
    else:
        top[...] = -np.inf


def block_sums(lib: Library, x: Array, top: Array, labels: Array, k_start: int) -> Array:
    """What the loss needs of a block of classes.

    Parameters
    ----------
    x : (N, K, *S)
    top : (N, *S) largest logit over all classes
    labels : (N, *S) integers, global class ids
    k_start : first global class of the block

    Returns
    -------
    float64 (3, N, *S): sum of e^(x - top); x_label - top, or 0 if the label is elsewhere; sum of x - top.
    """
    sums = np.zeros((3, *labels.shape))
    if x.size:
        tops, ids = np.ascontiguousarray(top, x.dtype), np.ascontiguousarray(labels, np.int64)
        lib.kernel("softmax_sums", x.dtype)(array(x), array(tops), array(ids), k_start, array(sums))
    return sums


def gradient(
    lib: Library,
    x: Array,
    top: Array,
    sum_exp: Array,
    labels: Array,
    k_start: int,
    classes: int,
    smoothing: float,
    weight: Array,
    dx: Array,
) -> None:
    """Set dx (N, K, *S) to the gradient of sum(weight loss) by the logits of a block; dx may be x.

    Parameters
    ----------
    top, sum_exp : (N, *S) largest logit and sum of e^(x - top) over all classes
    labels : (N, *S) integers, global class ids
    k_start, classes : first global class of the block, and the number of all
    smoothing : weight of the uniform target, 0 to 1
    weight : (N, *S) of each position: one over their number for a mean, 0 to leave one out
    """
    if x.size:
        tops, ids = np.ascontiguousarray(top, x.dtype), np.ascontiguousarray(labels, np.int64)
        totals, weights = np.ascontiguousarray(sum_exp, np.float64), np.ascontiguousarray(weight, np.float64)
        lib.kernel("softmax_gradient", x.dtype)(
            array(x), array(tops), array(totals), array(ids), k_start, smoothing / classes, 1 - smoothing,
            array(weights), array(dx),
        )  # fmt: skip
