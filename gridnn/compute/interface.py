"""What compute offers, one subject a protocol: plain functions whose first argument is an engine.

    subject      gridnn.compute.cpu          gridnn.compute.gpu
    conv         own kernels, oneDNN, NumPy  own kernels, cuDNN, cuBLAS for 1 x 1
    linear       BLAS, oneDNN                cuBLAS
    pool, norm,  own kernels, NumPy          kernels/*.cu
    pointwise,
    softmax,
    update
    layer_norm,  NumPy                       kernels/*.cu
    upsample

Layers ask `subjects_of` their engine and know no more: the modules of both folders are held to these protocols by the
type checker, and to each other by tests.  Arrays are (N, C, *S), channels innermost, where the engine has its memory;
what functions do is said in the CPU's modules.
"""

# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gridnn.compute.cpu import conv, layer_norm, linear, norm, pointwise, pool, softmax, update, upsample
from gridnn.compute.cpu.window import Window
from gridnn.compute.random import Draw

Array = NDArray[Any]
Shape = tuple[int, ...]


class Memory(Protocol):
    """Where arrays come from."""

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of logical shape (N, C, *S), channels innermost, of any content."""
        ...

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return zeros."""
        ...


class Engine(Protocol):
    """What computes on a rank, and where its arrays are."""

    where: str
    """ "cpu" or "gpu": the folder of its modules."""

    @property
    def memory(self) -> Memory:
        """Where its arrays come from."""
        ...

    @property
    def name(self) -> str:
        """What computes, in words."""
        ...

    def activations(self, dtype: DTypeLike) -> np.dtype[Any]:
        """Return the type of the arrays between layers whose parameters are of a dtype."""
        ...

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array from its memory."""
        ...

    def fitted(self, x: Array, like: Array | None = None) -> Array:
        """Return x, or a copy whose memory kernels read, of the dtype of `like`."""
        ...

    def copy(self, x: Array, y: Array) -> None:
        """Copy between arrays of one shape."""
        ...

    def take(self, array: Array) -> Array:
        """Return a host's array where the engine computes; on the CPU the array itself."""
        ...

    def give(self, array: Array) -> Array:
        """Return an array of the engine on the host, when it is computed; on the CPU the array itself."""
        ...

    def holds(self, array: Array) -> bool:
        """Return whether an array is on a device, so that the host sees copies of it only; on the CPU never."""
        ...

    def set_threads(self, threads: int) -> None:
        """Use that many threads of the host from now on."""
        ...


class Conv(Protocol):
    """Convolution."""

    def forward(
        self, engine: Any, x: Array, w: Array, window: Window, *, groups: int = 1, bias: Array | None = None,
        relu: bool = False, out: Array | None = None,
    ) -> Array:  # fmt: skip
        ...

    def backward_data(
        self, engine: Any, dy: Array, w: Array, window: Window, x_shape: Shape, *, groups: int = 1,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        ...

    def backward_weights(
        self,
        engine: Any,
        x: Array,
        dy: Array,
        window: Window,
        dw: Array,
        *,
        groups: int = 1,
        add: bool = True,
    ) -> None: ...


class Linear(Protocol):
    """Fully connected layers."""

    def forward(
        self, engine: Any, x: Array, w: Array, *, bias: Array | None = None, relu: bool = False
    ) -> Array: ...

    def backward_data(self, engine: Any, dy: Array, w: Array) -> Array: ...

    def backward_weights(self, engine: Any, x: Array, dy: Array, dw: Array, *, add: bool = True) -> None: ...


class Pool(Protocol):
    """Pooling over windows and over all of space."""

    def max_forward(
        self, engine: Any, x: Array, window: Window, out: Array | None = None
    ) -> tuple[Array, Array]: ...

    def max_backward(self, engine: Any, dy: Array, saved: Array, window: Window, x_shape: Shape) -> Array: ...

    def average_forward(
        self, engine: Any, x: Array, window: Window, *, count_pad: bool, out: Array | None = None
    ) -> Array: ...

    def average_backward(
        self, engine: Any, dy: Array, window: Window, x_shape: Shape, *, count_pad: bool
    ) -> Array: ...

    def sum_space(self, engine: Any, x: Array) -> Array: ...

    def spread_space(self, engine: Any, dy: Array, x_shape: Shape) -> Array: ...

    def max_space(self, engine: Any, x: Array) -> tuple[Array, Array]: ...

    def max_space_backward(self, engine: Any, dy: Array, local_index: Array, x_shape: Shape) -> Array: ...


class Upsample(Protocol):
    """Upsampling of a block, nearest and linear; all words but `out` are global integers, one a spatial dim."""

    def nearest_forward(
        self, engine: Any, x: Array, *, factor: Shape, out_start: Shape, in_start: Shape, out_extent: Shape,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        ...

    def nearest_backward(
        self, engine: Any, dy: Array, *, factor: Shape, out_start: Shape, in_start: Shape, in_extent: Shape
    ) -> Array: ...

    def linear_forward(
        self, engine: Any, x: Array, *, in_size: Shape, out_size: Shape, out_start: Shape, in_start: Shape,
        out_extent: Shape, out: Array | None = None,
    ) -> Array:  # fmt: skip
        ...

    def linear_backward(
        self, engine: Any, dy: Array, *, in_size: Shape, out_size: Shape, out_start: Shape, in_start: Shape,
        in_extent: Shape,
    ) -> Array:  # fmt: skip
        ...


class Norm(Protocol):
    """Batch norm, cut where statistics are summed over ranks."""

    def moments(self, engine: Any, x: Array, shift: Array) -> Array: ...

    def statistics(
        self, engine: Any, sums: Array, count: int, mean: Array, variance: Array, momentum: float, eps: float
    ) -> Any: ...

    def apply(
        self, engine: Any, x: Array, statistics: Any, gamma: Array, beta: Array, *, relu: bool = False,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        ...

    def backward_sums(
        self, engine: Any, x: Array, statistics: Any, dy: Array, y: Array | None = None
    ) -> Array: ...

    def backward_apply(
        self, engine: Any, x: Array, statistics: Any, gamma: Array, dy: Array, sums: Array, count: int,
        y: Array | None = None,
    ) -> Array:  # fmt: skip
        ...


class LayerNorm(Protocol):
    """Layer norm, cut where statistics are summed over ranks."""

    def moments(self, engine: Any, x: Array) -> Array: ...

    def statistics(self, engine: Any, sums: Array, count: int, eps: float) -> Any: ...

    def apply(
        self, engine: Any, x: Array, statistics: Any, gamma: Array, beta: Array, *, out: Array | None = None
    ) -> Array: ...

    def backward_sums(self, engine: Any, x: Array, statistics: Any, gamma: Array, dy: Array) -> Array: ...

    def backward_apply(
        self, engine: Any, x: Array, statistics: Any, gamma: Array, dy: Array, sums: Array, count: int
    ) -> Array: ...

    def parameter_gradients(
        self, engine: Any, x: Array, statistics: Any, dy: Array
    ) -> tuple[Array, Array]: ...


class Pointwise(Protocol):
    """Each element by itself, and bias."""

    @property
    def KEEPS(self) -> Mapping[str, str]:
        """What backward of each nonlinearity reads."""
        ...

    def activate(self, engine: Any, name: str, x: Array, *, out: Array | None = None) -> Array: ...

    def activate_backward(self, engine: Any, name: str, kept: Array, dy: Array) -> Array: ...

    def add(
        self, engine: Any, arrays: Sequence[Array], *, relu: bool = False, out: Array | None = None
    ) -> Array: ...

    def add_bias(self, engine: Any, y: Array, bias: Array | None, *, relu: bool = False) -> Array: ...

    def bias_gradient(self, engine: Any, dy: Array, db: Array, y: Array | None = None) -> Array: ...

    def dropout_forward(self, engine: Any, x: Array, draw: Draw) -> tuple[Array, Array | None]: ...

    def dropout_backward(self, engine: Any, dy: Array, kept: Array | None, draw: Draw) -> Array: ...


class Softmax(Protocol):
    """Softmax and cross-entropy, in pieces."""

    def block_max(self, engine: Any, x: Array) -> Array: ...

    def block_sums(self, engine: Any, x: Array, top: Array, labels: Array, k_start: int) -> Array: ...

    def losses(self, sums: Array, classes: int, smoothing: float) -> Array: ...

    def best_class(self, x: Array, top: Array, k_start: int) -> Array: ...

    def gradient(
        self, engine: Any, x: Array, top: Array, sum_exp: Array, labels: Array, k_start: int, classes: int,
        smoothing: float, weight: Array,
    ) -> Array:  # fmt: skip
        ...


class Rules(Protocol):
    """The update rules; each changes weights and state."""

    @property
    def sgd(self) -> Any:
        """Momentum SGD."""
        ...

    @property
    def adam(self) -> Any:
        """Adam."""
        ...

    @property
    def adamw(self) -> Any:
        """Adam with decoupled decay."""
        ...

    @property
    def lars(self) -> Any:
        """LARS."""
        ...


class Update(Protocol):
    """Updates of parameters."""

    def rules(self, engine: Any, dtype: DTypeLike) -> Rules: ...


@dataclass(frozen=True)
class Subjects:
    """The modules of one folder."""

    conv: Conv
    linear: Linear
    pool: Pool
    upsample: Upsample
    norm: Norm
    layer_norm: LayerNorm
    pointwise: Pointwise
    softmax: Softmax
    update: Update


CPU = Subjects(conv, linear, pool, upsample, norm, layer_norm, pointwise, softmax, update)


def subjects_of(engine: Engine) -> Subjects:
    """Return the modules that compute with an engine; those of a GPU are loaded where one is used."""
    if engine.where == "cpu":
        return CPU
    from gridnn.compute.gpu import conv, layer_norm, linear, norm, pointwise, pool, softmax, update, upsample

    return Subjects(conv, linear, pool, upsample, norm, layer_norm, pointwise, softmax, update)
