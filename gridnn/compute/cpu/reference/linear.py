"""The linear layer of one process: x (N, C), w (K, C), y (N, K); bias as in `conv`.

An empty C gives zeros, an empty N a zero gradient: the product of empty matrices.
"""

from __future__ import annotations

import numpy as np

from gridnn.compute.cpu.reference.window import Array


def forward(x: Array, w: Array) -> Array:
    """The output x w^T: (N, K)."""
    return np.asarray(np.matmul(x, w.T))


def backward_data(dy: Array, w: Array) -> Array:
    """The gradient by x, dy w: (N, C)."""
    return np.asarray(np.matmul(dy, w))


def backward_weights(x: Array, dy: Array) -> Array:
    """The gradient by w, dy^T x: (K, C), summed over samples."""
    return np.asarray(np.matmul(dy.T, x))
