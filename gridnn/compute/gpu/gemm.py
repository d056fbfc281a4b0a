"""Matrix products of bfloat16 factors by cuBLAS, into bfloat16 or float32 (cublasGemmEx).

    rows of C = A B, as NumPy has them       C (m, n)      A (m, k)     B (k, n)
    columns of the same memory, as cuBLAS    C^T (n, m)  = B^T (n, k)   A^T (k, m)

CuPy's own product of two bfloat16 arrays is a bfloat16 array, whatever it is put into: a gradient by weights would be
rounded before it is a float32.  Here products and sums are float32 and what is written is rounded once, if at all:
where cuBLAS cuts k in parts (split-k), it may add these up in the type of the output unless its math mode forbids it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = Any

PLAIN, TRANSPOSED = 0, 1
"""Operations of cuBLAS on a factor."""
WIDE_SUMS = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, which CuPy has no name for; all else as in its default mode."""


class Factor(NamedTuple):
    """A matrix as cuBLAS takes the columns of its transpose: an operation, and elements from column to column."""

    operation: int
    pitch: int


def factor(matrix: Array) -> Factor:
    """Return how a matrix lies that is contiguous, or the transpose of one that is.

    Raises
    ------
    ValueError
        If it is neither: it would be read past its end.
    """
    rows, columns = matrix.shape
    if matrix.flags.c_contiguous:
        return Factor(PLAIN, max(1, columns))
    if matrix.flags.f_contiguous:
        return Factor(TRANSPOSED, max(1, rows))
    raise ValueError(f"a matrix {matrix.shape} with strides {matrix.strides} has gaps: copy it first")


def product(cupy: Any, a: Array, b: Array, out: Array) -> None:
    """Compute a b into `out` on CuPy's current stream.

    Parameters
    ----------
    cupy
        The package.
    a, b
        bfloat16 (m, k) and (k, n), contiguous or transposed; k > 0.
    out
        float32 or bfloat16 (m, n), contiguous.

    Raises
    ------
    ValueError
        If shapes or memory do not go together.
    """
    (m, k), n = a.shape, b.shape[1]
    if b.shape[0] != k or out.shape != (m, n) or not out.flags.c_contiguous:
        raise ValueError(f"a product of {a.shape} and {b.shape} does not go into {out.shape}, {out.strides}")
    blas, kinds = cupy.cuda.cublas, cupy.cuda.runtime
    first, second = factor(b), factor(a)
    written = kinds.CUDA_R_32F if out.dtype == np.float32 else kinds.CUDA_R_16BF
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)  # numbers that the host has
    handle = cupy.cuda.Device().cublas_handle
    blas.setMathMode(handle, WIDE_SUMS)
    blas.gemmEx(
        handle, first.operation, second.operation, n, m, k, one.ctypes.data,
        b.data.ptr, kinds.CUDA_R_16BF, first.pitch, a.data.ptr, kinds.CUDA_R_16BF, second.pitch, zero.ctypes.data,
        out.data.ptr, written, n, blas.CUBLAS_COMPUTE_32F, blas.CUBLAS_GEMM_DEFAULT,
    )  # fmt: skip
